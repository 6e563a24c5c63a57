"""Seals and loads bundles: weights, configuration, edge artifacts and the evidence for them.

`bundle.json` is written last, and lists every other file with its sha256 and size. A bundle holds
no pickles. Whatever loads a bundle verifies it first.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml
from safetensors.torch import load_file
from torch import Tensor

from pipelines.config.load import from_dict
from pipelines.config.schema import Config, RunConfig
from pipelines.errors import UserError, listing
from pipelines.models.build import build_network
from pipelines.models.facts import BundleFacts, FileFacts
from pipelines.storage.digests import digest
from pipelines.storage.files import (
    MissingFileError,
    file_sha256,
    process_directory,
    write_bytes,
)
from pipelines.storage.folders import fetch_folder
from pipelines.storage.ownership import Owns, files_in
from pipelines.storage.paths import absolute_location
from pipelines.storage.retries import RetryPolicy
from pipelines.storage.store import LocalStore, open_store
from pipelines.storage.typed import read_typed, to_dict, to_json
from srmodels.network import SRNetwork

FILE_NAME = "bundle.json"

WEIGHTS = "model.safetensors"

#: Weights of networks that do not ship, but that a finetuning needs.
FINETUNING = "finetuning.safetensors"

CONFIG = "config.yaml"

#: Scores by image, for those who want to look closer, and for the gate.
IMAGES = "images.csv"


@dataclass(frozen=True)
class Bundle:
    """A verified bundle on disk.

    Attributes:
        facts: the content of its `bundle.json`.
    """

    path: Path
    facts: BundleFacts

    @property
    def digest(self) -> str:
        """The bundle's identity: sha256 of everything that `bundle.json` says."""
        return digest(to_dict(self.facts))

    def config(self) -> Config:
        """Returns the configuration that the model was trained with."""
        return from_dict(yaml.safe_load((self.path / CONFIG).read_text()))

    def network(self) -> SRNetwork:
        """Returns the networks that ship, fused, in eval mode."""
        return build_network(self.config(), load_file(self.path / WEIGHTS))

    def finetuning_weights(self) -> dict[str, Tensor]:
        """Returns the weights of `FINETUNING` in fp32; empty where the bundle has none."""
        path = self.path / FINETUNING
        return {n: w.float() for n, w in load_file(path).items()} if path.is_file() else {}


def bundle_location(folder: str | None, run: RunConfig) -> str:
    """Returns where the bundle of a run is: in `folder`, else in work/export, by the run's name.

    Args:
        folder: a directory or an `s3://` prefix.
    """
    assert run.name is not None
    return f"{absolute_location(folder or 'work/export').rstrip('/')}/{run.name}"


def check_bundle(location: str, policy: RetryPolicy = RetryPolicy()) -> None:
    """Checks that there is a bundle in a directory or under an `s3://` prefix; fetches nothing.

    Raises:
        UserError: there is none, or the store fails.
    """
    if open_store(location, policy=policy).size(FILE_NAME) is None:
        raise _no_bundle(location)


def local_bundle(location: str, policy: RetryPolicy = RetryPolicy()) -> Path:
    """Returns a directory with the files of a bundle, which `load_bundle` verifies.

    Args:
        location: a directory, which is returned as it is; or an `s3://` prefix. Its files are
            fetched into a directory of this node that lives as long as this process.

    Raises:
        UserError: there is no bundle under the prefix, or the store fails.
    """
    store = open_store(location, policy=policy)
    if isinstance(store, LocalStore):
        return store.directory
    directory = process_directory()
    try:
        fetch_folder(store, FILE_NAME, directory)
    except MissingFileError:
        raise _no_bundle(location) from None
    return directory


def seal(directory: Path, facts: BundleFacts) -> None:
    """Writes `bundle.json`, which lists all files that are in `directory` already."""
    files = {
        name: FileFacts(file_sha256(path), path.stat().st_size)
        for name, path in _files(directory).items()
    }
    write_bytes(directory / FILE_NAME, to_json(replace(facts, files=files)))


def load_bundle(directory: Path) -> Bundle:
    """Loads the bundle in `directory`, and checks every file against its sha256.

    Raises:
        UserError: there is no bundle; it has another schema version; or a file is damaged, missing
            or not listed.
    """
    path = directory / FILE_NAME
    if not path.is_file():
        raise _no_bundle(directory)
    facts = read_typed(BundleFacts, path.read_bytes(), str(path))
    if absent := sorted({WEIGHTS, CONFIG, IMAGES} - facts.files.keys()):
        raise UserError(
            f"bundle {directory} is incomplete (its {FILE_NAME} lists no {listing(absent)}): fetch "
            "or export it again."
        )
    present = _files(directory)
    if unlisted := sorted(present.keys() - facts.files.keys()):
        raise UserError(
            f"bundle {directory} holds files it does not list: {listing(unlisted)}: remove them."
        )
    for name, listed in facts.files.items():
        if name not in present or file_sha256(present[name]) != listed.sha256:
            raise UserError(
                f"bundle {directory}: {name} is missing or damaged: fetch or export it again."
            )
    return Bundle(directory, facts)


def owned(document: dict[str, Any]) -> Owns | None:
    """Returns which files belong to a bundle of any version, given the content of `bundle.json`."""
    files = document.get("files")
    if not isinstance(document.get(BundleFacts.VERSION_KEY), int) or not isinstance(files, dict):
        return None
    return files.__contains__


def _no_bundle(location: object) -> UserError:
    return UserError(
        f"there is no bundle in {location} (no {FILE_NAME}): correct the path, or export one "
        "with jobs/export.py."
    )


def _files(directory: Path) -> dict[str, Path]:
    """Returns every file of a bundle but its `bundle.json`, by its path in there, sorted."""
    found = files_in(directory)
    return {name: path for name, path in found.items() if name != FILE_NAME}
