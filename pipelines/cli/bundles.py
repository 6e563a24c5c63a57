"""Fetches, signs and verifies bundles: what stands between the registry and a phone's app."""

import argparse
import shutil
from typing import Any

from pipelines.config.load import load_config
from pipelines.config.reference import Kind, ModelReference
from pipelines.errors import UserError, listing, printable, told
from pipelines.models.bundle import FILE_NAME, SIGNATURE, Bundle, load_bundle, owned
from pipelines.models.load import fetch, find_bundle
from pipelines.models.signature import PRIVATE_KEY, PUBLIC_KEY, check_signature, read_key, sign
from pipelines.storage.files import local_files
from pipelines.storage.folders import new_folder
from pipelines.storage.ownership import check_replaceable
from pipelines.storage.paths import check_path
from pipelines.storage.store import open_store

_REF = "a bundle's directory or s3:// prefix, models:/NAME@ALIAS, or a shipped model's name"


def add_commands(commands: Any) -> None:
    """Adds `fetch`, `sign` and `verify` to the command line."""
    fetches = commands.add_parser(
        "fetch",
        help="copy a model's bundle into a folder",
        description="Copies a model's bundle into a folder, with its edge artifacts, and verifies "
        "each file. A bundle that is there already is replaced; other files never are.",
    )
    fetches.add_argument("model", metavar="REF", help=_REF)
    fetches.add_argument("directory", metavar="DIR", help="the folder to write")
    add_signature_options(fetches)
    fetches.set_defaults(run=_fetch)
    signs = commands.add_parser(
        "sign",
        help="sign a bundle with an ed25519 key",
        description=f"Writes {SIGNATURE} into a bundle. Sign before you register it.",
    )
    signs.add_argument("directory", metavar="DIR", help="the bundle's directory")
    signs.add_argument(
        "--key",
        metavar="FILE",
        help=f"private ed25519 key, PEM (default: the text in ${PRIVATE_KEY})",
    )
    signs.set_defaults(run=_sign)
    verifies = commands.add_parser(
        "verify",
        help="verify each file of a bundle, and its signature",
        description="Checks every file of a bundle against the sha256 that bundle.json lists, and "
        "the signature where a public key is given.",
    )
    verifies.add_argument("model", metavar="REF", help=_REF)
    add_signature_options(verifies)
    verifies.set_defaults(run=_verify)


def add_signature_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options that `check_options` reads."""
    parser.add_argument(
        "--require-signature", action="store_true", help="refuse a bundle that is not signed"
    )
    parser.add_argument(
        "--public-key",
        metavar="FILE",
        help=f"public ed25519 key of the signature, PEM (default: the text in ${PUBLIC_KEY})",
    )


def check_options(bundle: Bundle | None, parsed: argparse.Namespace) -> None:
    """Checks a bundle's signature as the command line asks.

    Args:
        bundle: None for a model that is none.

    Raises:
        UserError: a signature is required, and there is none, no key, or it is wrong.
    """
    key = read_key(parsed.public_key, PUBLIC_KEY)
    if not _asks(parsed):
        return
    if key is None:
        raise UserError(f"--require-signature needs a key: give --public-key or set ${PUBLIC_KEY}.")
    if bundle is None:
        raise UserError("a run has no signature: export it and sign the bundle.")
    check_signature(bundle.path, key)


def _asks(parsed: argparse.Namespace) -> bool:
    return parsed.require_signature or parsed.public_key is not None


def _open(parsed: argparse.Namespace) -> Bundle:
    """Returns the verified bundle that a reference names, after the check of its signature."""
    config, reference = load_config([]), ModelReference.parse(parsed.model)
    if not reference.is_model or reference.kind is Kind.RUN:
        raise UserError(f"'{reference}' is no bundle: give {_REF}.")
    if reference.kind is Kind.REGISTRY:
        directory = fetch(reference, config.mlflow)
    else:
        directory = find_bundle(reference, config.stream.policy)
    return load_bundle(directory, lambda bundle: check_options(bundle, parsed))


def _fetch(parsed: argparse.Namespace) -> int:
    directory = check_path(parsed.directory).absolute()
    store = open_store(str(directory))

    def check() -> None:
        check_replaceable(store, FILE_NAME, owned)

    check()
    bundle = _open(parsed)
    names = [*bundle.facts.files, FILE_NAME]
    if (bundle.path / SIGNATURE).is_file():
        names.append(SIGNATURE)
    with local_files(directory), new_folder(store, FILE_NAME, check) as new:
        for name in names:
            (new / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(bundle.path / name, new / name)
        load_bundle(new)
    print(f"{told(bundle.facts.name)}: {directory}")
    for target, artifact in bundle.facts.edge.items():
        print(printable(f"  {target}: {directory / artifact.file}"))
    return 0


def _sign(parsed: argparse.Namespace) -> int:
    key = read_key(parsed.key, PRIVATE_KEY)
    if key is None:
        raise UserError(f"there is no key: give --key or set ${PRIVATE_KEY}.")
    directory = check_path(parsed.directory)
    print(f"Signed: {sign(load_bundle(directory).path, key)}")
    return 0


def _verify(parsed: argparse.Namespace) -> int:
    bundle = _open(parsed)
    files, edge = bundle.facts.files, bundle.facts.edge
    print(
        f"{told(bundle.facts.name)}: all {len(files)} files are as {FILE_NAME} lists them; "
        f"{'the signature is right' if _asks(parsed) else 'no signature was asked for'}."
    )
    print(f"Edge artifacts: {printable(listing(edge)) or 'none'}")
    return 0
