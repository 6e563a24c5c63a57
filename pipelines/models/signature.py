"""Signs bundles, and checks signatures: detached ed25519, in a file beside `bundle.json`.

`bundle.json` lists every other file with its sha256, so its signature stands for all of them.
"""

import os
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key

from pipelines.errors import UserError
from pipelines.models.bundle import FILE_NAME, SIGNATURE
from pipelines.storage.files import local_files, write_bytes

#: Variables of the environment that hold a key, as PEM.
PRIVATE_KEY = "SRMILL_SIGNING_KEY"
PUBLIC_KEY = "SRMILL_PUBLIC_KEY"
_MAX_KEY_BYTES = 1 << 14
#: Of a signature, bytes.
_LENGTH = 64


def sign(directory: Path, key: bytes) -> Path:
    """Writes the signature of a bundle, in place of an older one; returns its path.

    Args:
        directory: a verified bundle, see `load_bundle`.
        key: a private key, PEM (PKCS #8) without a password.

    Raises:
        UserError: `key` is no such key, or the file system refuses.
    """
    try:
        found = load_pem_private_key(key, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        found = None
    if not isinstance(found, Ed25519PrivateKey):
        raise UserError(
            "the key is no private ed25519 key in PEM without a password: make one with openssl "
            "genpkey -algorithm ed25519 -out private.pem."
        )
    path = directory / SIGNATURE
    with local_files(directory):
        write_bytes(path, found.sign((directory / FILE_NAME).read_bytes()))
    return path


def check_signature(directory: Path, key: bytes) -> None:
    """Checks that a bundle is signed by the owner of a key.

    Args:
        directory: a bundle.
        key: a public key, PEM (SubjectPublicKeyInfo).

    Raises:
        UserError: `key` is no such key, there is no signature, or it is another's or of other
            content.
    """
    try:
        found = load_pem_public_key(key)
    except (ValueError, UnsupportedAlgorithm):
        found = None
    if not isinstance(found, Ed25519PublicKey):
        raise UserError(
            "the key is no public ed25519 key in PEM: make it with openssl pkey -in private.pem "
            "-pubout -out public.pem."
        )
    with local_files(directory):
        if not (directory / SIGNATURE).is_file():
            raise UserError(
                f"bundle {directory} is not signed: its maker signs it with srmill sign."
            )
        with (directory / SIGNATURE).open("rb") as file:
            signature = file.read(_LENGTH + 1)
        content = (directory / FILE_NAME).read_bytes()
    try:
        found.verify(signature, content)
    except InvalidSignature:
        raise UserError(
            f"bundle {directory} was not signed with this key, or was changed since: fetch it "
            "again from where its maker publishes it."
        ) from None


def read_key(file: str | None, variable: str) -> bytes | None:
    """Returns the key of a file, else that of the environment; None if there is neither.

    Args:
        file: path of a file.
        variable: name of the variable that holds a key.

    Raises:
        UserError: the file cannot be read, or is too large for a key.
    """
    if file is None:
        text = os.environ.get(variable)
        return text.encode() if text else None
    path = Path(file).expanduser()
    with local_files(path):
        if not path.is_file():
            raise UserError(f"there is no file {path}: name the file of a key.")
        if path.stat().st_size > _MAX_KEY_BYTES:
            raise UserError(f"{path} is too large for a key: name a PEM file.")
        return path.read_bytes()
