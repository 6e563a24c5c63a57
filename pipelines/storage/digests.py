"""Turns a JSON value into its sha256. Every digest of a value is made here."""

import hashlib
import json
from typing import Any


def canonical(value: Any) -> str:
    """Returns a value as JSON in canonical form: sorted keys, no spaces, ASCII."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def digest(value: Any) -> str:
    """Returns the sha256 of a JSON value in canonical form, as 64 hexadecimal digits."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()
