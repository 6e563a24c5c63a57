"""Seals and loads bundles: weights, configuration, edge artifacts and the evidence for them.

`bundle.json` is written last, and lists every other file with its sha256 and size. A bundle holds
no pickles. Whatever loads a bundle verifies it first.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml
from omegaconf.errors import OmegaConfBaseException
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from pipelines.config.load import from_dict
from pipelines.config.refusals import check_values
from pipelines.config.schema import Config, RunConfig
from pipelines.errors import UserError, listing, told
from pipelines.models.build import build_network
from pipelines.models.facts import BundleFacts, FileFacts
from pipelines.storage.digests import digest
from pipelines.storage.files import (
    MissingFileError,
    file_sha256,
    local_files,
    process_directory,
    write_bytes,
)
from pipelines.storage.folders import fetch_folder
from pipelines.storage.ownership import Owns, files_in
from pipelines.storage.paths import absolute_location
from pipelines.storage.retries import RetryPolicy
from pipelines.storage.store import LocalStore, open_store
from pipelines.storage.typed import check_depth, read_typed, to_dict, to_json
from srmodels.network import SRNetwork
from srmodels.system import leads_into

FILE_NAME = "bundle.json"

#: The signature of `bundle.json`, where the bundle is signed.
SIGNATURE = "bundle.json.sig"

WEIGHTS = "model.safetensors"

#: Weights of networks that do not ship, but that a finetuning needs.
FINETUNING = "finetuning.safetensors"

CONFIG = "config.yaml"

#: Scores by image, for those who want to look closer, and for the gate.
IMAGES = "images.csv"
#: The facts of the bundle, for people.
CARD = "MODEL_CARD.md"
#: A note of its name and version, which MLflow adds to a model that it downloads.
_DOWNLOADED = "registered_model_meta"

#: The largest `bundle.json` or configuration, bytes; ours have some ten thousand.
_LARGEST = 2**25

# The errors of YAML, OmegaConf and our schema for a text that is no configuration of ours.
_NO_CONFIG = (
    yaml.YAMLError, OmegaConfBaseException, ValueError, LookupError, TypeError, AttributeError,
    RecursionError, OSError,
)  # fmt: skip


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
        """Returns the configuration that the model was trained with.

        Raises:
            UserError: it is damaged, or another SRMill wrote it.
        """
        path = self.path / CONFIG
        try:
            values = check_depth(yaml.safe_load(_read(path)))
            if leads_into(str(values["system"]), self.path):
                raise ValueError("its system would be code that lies in the bundle")
            config = from_dict(values)
        except UserError:
            raise
        except _NO_CONFIG as error:
            raise _damaged(path, error) from None
        try:
            check_values(config)
        except UserError as error:
            raise _damaged(path, error) from None
        return config

    def network(self) -> SRNetwork:
        """Returns the networks that ship, fused, in eval mode.

        Raises:
            UserError: configuration or weights are damaged, or do not fit each other.
        """
        return build_network(self.config(), _load(self.path / WEIGHTS))

    def finetuning_weights(self) -> dict[str, Tensor]:
        """Returns the weights of `FINETUNING` in fp32; empty where the bundle has none.

        Raises:
            UserError: they are damaged.
        """
        path = self.path / FINETUNING
        return {n: w.float() for n, w in _load(path).items()} if path.is_file() else {}


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


def load_bundle(directory: Path, check: Callable[[Bundle], object] = lambda bundle: None) -> Bundle:
    """Loads the bundle in `directory`, and checks every file against its sha256.

    Args:
        check: is called before the files are read, of which `bundle.json` tells, and may raise.

    Raises:
        UserError: there is no bundle; it has another schema version; or a file is damaged, missing
            or not listed.
    """
    path = directory / FILE_NAME
    if not path.is_file():
        raise _no_bundle(directory)
    facts = read_typed(BundleFacts, _read(path), str(path))
    needed = {WEIGHTS, CONFIG, IMAGES}
    for artifact in facts.edge.values():
        needed |= {artifact.file, *artifact.others}
    if absent := sorted(needed - facts.files.keys()):
        raise UserError(
            f"bundle {directory} is incomplete (its {FILE_NAME} lists no {listing(absent)}): fetch "
            "or export it again."
        )
    check(Bundle(directory, facts))
    with local_files(directory):
        present = _files(directory)
    if unlisted := sorted(present.keys() - facts.files.keys()):
        raise UserError(
            f"bundle {directory} holds files it does not list: {listing(unlisted)}: remove them."
        )
    for name, listed in facts.files.items():
        if name not in present or not _is_intact(present[name], listed):
            raise UserError(
                f"bundle {directory}: {name} is missing or damaged: fetch or export it again."
            )
    return Bundle(directory, facts)


def _is_intact(path: Path, listed: FileFacts) -> bool:
    with local_files(path):
        # A pipe would wait for a writer for ever, and a file with holes may have any size.
        known = path.is_file() and path.stat().st_size == listed.bytes
        return known and file_sha256(path) == listed.sha256


def _read(path: Path) -> bytes:
    with local_files(path), path.open("rb") as file:
        content = file.read(_LARGEST + 1)
    if len(content) > _LARGEST:
        raise _damaged(path, ValueError(f"it has more than {_LARGEST} bytes"))
    return content


def _load(path: Path) -> dict[str, Tensor]:
    try:
        with local_files(path):
            return load_file(path)
    except UserError:
        raise
    except (SafetensorError, ValueError) as error:
        raise _damaged(path, error) from None


def _damaged(path: Path, error: Exception) -> UserError:
    return UserError(f"{path} is damaged ({told(error)}): fetch the bundle or export it again.")


def owned(document: dict[str, Any]) -> Owns | None:
    """Returns which files belong to a bundle of any version, given the content of `bundle.json`."""
    files = document.get("files")
    if not isinstance(document.get(BundleFacts.VERSION_KEY), int) or not isinstance(files, dict):
        return None
    return {*files, SIGNATURE}.__contains__


def _no_bundle(location: object) -> UserError:
    return UserError(
        f"there is no bundle in {location} (no {FILE_NAME}): correct the path, or export one "
        "with jobs/export.py."
    )


def _files(directory: Path) -> dict[str, Path]:
    """Returns every file of a bundle that `bundle.json` lists, by its path in there, sorted."""
    found = files_in(directory)
    beside = (FILE_NAME, SIGNATURE, _DOWNLOADED)
    return {name: path for name, path in found.items() if name not in beside}
