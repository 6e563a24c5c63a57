"""Declares single keys of the schema: what they mean, and the values that they take."""

from dataclasses import field
from enum import Enum
from typing import Any


class Place(Enum):
    """The addresses that a key takes."""

    #: A path.
    LOCAL = "local"
    #: Paths with commas between.
    SEVERAL = "several"
    #: A path, or `s3://bucket/prefix`.
    ANY = "any"
    #: `http(s)://HOST/…`.
    WEB = "web"
    #: MLflow's server or database.
    TRACKING = "tracking"
    #: A model reference.
    MODEL = "model"
    #: `NAME@HOST`.
    MAIL = "mail"
    #: `smtp://HOST` or `smtps://HOST`, with a user, a password and a port where needed.
    SMTP = "smtp"


#: Bounds that no training comes near, so that a slip of the keyboard is found before it starts.
MAX_STEPS = 1_000_000_000
MAX_BATCH = 1_000_000
MAX_PROCESSES = 10_000
#: Three years. The system's clocks cannot hold more than 300.
MAX_SECONDS = 1e8
MAX_PICTURES = 1000
#: The largest side of an image, pixels.
MAX_SIDE = 65_536


def key(
    default: Any,
    help: str,
    *,
    minimum: float | None = None,
    above: float | None = None,
    maximum: float | None = None,
    choices: tuple[Any, ...] | None = None,
    place: Place | None = None,
) -> Any:
    """Declares a configuration key.

    Args:
        help: the line that `--help` prints.
        minimum: the smallest value that is allowed.
        above: a bound that the value must exceed.
        maximum: the largest value that is allowed.
        choices: the only values that are allowed.
        place: the addresses that are allowed.
    """
    metadata = {
        "help": help,
        "minimum": minimum,
        "above": above,
        "maximum": maximum,
        "choices": choices,
        "place": place,
    }
    if isinstance(default, list | dict):
        return field(default_factory=lambda: type(default)(default), metadata=metadata)
    return field(default=default, metadata=metadata)


def section(cls: type, *, secret: bool = False) -> Any:
    """Declares a section: a key whose value is a dataclass of keys.

    Args:
        secret: leaves the section out of the configuration's text, of which Ray keeps some.
    """
    return field(default_factory=cls, repr=not secret)
