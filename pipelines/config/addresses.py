"""Checks the addresses among the values of a configuration by their form alone.

No message repeats an address, which may hold a password.
"""

import re
import urllib.parse
from collections.abc import Callable, Sequence
from typing import Any

from pipelines.config.keys import Place
from pipelines.config.reference import ModelReference, is_bucket
from pipelines.config.wording import shown
from pipelines.errors import UserError
from pipelines.storage.paths import check_path

#: The beginning of the address of a local database.
SQLITE = "sqlite:///"
_S3 = "s3://"


def check_place(name: str, value: Any, place: Place) -> None:
    """Checks the address that a key holds, or each one of its list.

    Raises:
        UserError: a value is no text, or an address that the key does not take.
    """
    for address in value if isinstance(value, list) else [value]:
        if isinstance(address, bool) or not isinstance(address, str | int):
            raise UserError(
                f"{name} must be a name or a list of names such as [a,b], not {shown(value)}."
            )
        _CHECKS[place](name, str(address))


def check_tracking(name: str, address: str) -> None:
    """Checks the address of an MLflow server or database.

    Raises:
        UserError: it is of no form that MLflow's client understands.
    """
    if address.startswith(SQLITE):
        _check_path(name, address.removeprefix(SQLITE))
    elif not _is_server(address):
        raise UserError(
            f"{name} is not of the form http(s)://HOST:PORT or sqlite:///path: correct it, or "
            "MLFLOW_TRACKING_URI."
        )


def _check_local(name: str, address: str) -> None:
    if "://" in address:
        raise UserError(f"{name} must be a local folder, not {_kind(address)}.")
    _check_path(name, address)


def _check_several(name: str, addresses: str) -> None:
    for address in addresses.split(","):
        _check_local(name, address)


def _check_any(name: str, address: str) -> None:
    if "://" not in address:
        return _check_path(name, address)
    if not address.startswith(_S3):
        raise UserError(f"{name} must be a path or s3://bucket/prefix, not {_kind(address)}.")
    bucket = address.removeprefix(_S3).partition("/")[0]
    if not bucket:
        raise UserError(f"{name} names no bucket: write s3://bucket/prefix.")
    if not is_bucket(bucket):
        raise UserError(
            f"{name} names a user before the bucket: write s3://bucket/prefix, and set "
            "AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY."
        )
    return None


def _check_web(name: str, address: str) -> None:
    if not _is_server(address):
        raise UserError(f"{name} is not of the form http(s)://HOST/FOLDER: correct it.")


def _check_mail(name: str, address: str) -> None:
    if not re.fullmatch(r"[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]+@[A-Za-z0-9.-]+", address):
        raise UserError(f"{name} is not of the form NAME@HOST: give one address.")


def _check_smtp(name: str, address: str) -> None:
    if not _is_server(address, ("smtp", "smtps")):
        raise UserError(
            f"{name} is not of the form smtp://HOST:PORT or smtps://USER:PASSWORD@HOST: correct it."
        )


def _check_model(name: str, address: str) -> None:
    try:
        ModelReference.parse(address)
    except UserError as error:
        raise UserError(f"{name}: {error}") from None


def _check_path(name: str, path: str) -> None:
    try:
        check_path(path)
    except UserError as error:
        raise UserError(f"{name}: {error}") from None


def _is_server(address: str, schemes: Sequence[str] = ("http", "https")) -> bool:
    """Returns True for the address of a server; without other schemes, of a web server."""
    try:
        parts = urllib.parse.urlsplit(address)
        is_port = parts.port is None or parts.port > 0
    except ValueError:
        return False
    is_one = parts.scheme in schemes and bool(parts.hostname)
    # An '@' after the host would be the end of a password that holds '/', '?' or '#'.
    is_whole = "@" not in parts.path + parts.query + parts.fragment
    return is_one and is_port and is_whole and address.isprintable() and " " not in address


def _kind(address: str) -> str:
    """Names the scheme of an address, if it has one that can be shown."""
    scheme = address.partition("://")[0]
    known = re.fullmatch(r"[A-Za-z][A-Za-z0-9+.-]{0,19}", scheme)
    return f"an address of '{scheme}://'" if known else "another address"


_CHECKS: dict[Place, Callable[[str, str], None]] = {
    Place.LOCAL: _check_local,
    Place.SEVERAL: _check_several,
    Place.ANY: _check_any,
    Place.WEB: _check_web,
    Place.TRACKING: check_tracking,
    Place.MODEL: _check_model,
    Place.MAIL: _check_mail,
    Place.SMTP: _check_smtp,
}
