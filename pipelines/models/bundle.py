"""Seals and loads bundles: weights, configuration, edge artifacts and the evidence for them.

`bundle.json` is written last, and lists every other file with its sha256 and size. A bundle holds
no pickles. Whatever loads a bundle verifies it first.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from safetensors.torch import load_file
from torch import Tensor

from pipelines.config.load import from_dict
from pipelines.config.schema import Config
from pipelines.errors import UserError
from pipelines.models.build import build_network
from pipelines.storage.digests import digest
from pipelines.storage.files import file_sha256, read_json, write_json
from srmodels.network import SRNetwork

SCHEMA_VERSION = 1

FILE_NAME = "bundle.json"

WEIGHTS = "model.safetensors"

#: Weights of networks that do not ship, but that a finetuning needs.
FINETUNING = "finetuning.safetensors"

CONFIG = "config.yaml"


@dataclass(frozen=True)
class Bundle:
    """A verified bundle on disk.

    Attributes:
        facts: the content of its `bundle.json`.
    """

    path: Path
    facts: dict[str, Any]

    @property
    def digest(self) -> str:
        """The bundle's identity: the digest of `bundle.json`."""
        return digest(self.facts)

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


def seal(directory: Path, facts: dict[str, Any]) -> None:
    """Writes `bundle.json`, which lists all files that are in `directory` already."""
    files = {
        path.relative_to(directory).as_posix(): {
            "sha256": file_sha256(path),
            "bytes": path.stat().st_size,
        }
        for path in sorted(directory.rglob("*"))
        if path.is_file() and path.name != FILE_NAME
    }
    write_json(directory / FILE_NAME, {"schema_version": SCHEMA_VERSION, "files": files} | facts)


def load_bundle(directory: Path) -> Bundle:
    """Loads the bundle in `directory`, and checks every file against its sha256.

    Raises:
        UserError: there is no bundle; it has another schema version; or a file is damaged, missing
            or not listed.
    """
    path = directory / FILE_NAME
    if not path.is_file():
        raise UserError(f"there is no bundle in {directory} (no {FILE_NAME}).")
    try:
        facts = read_json(path)
        version, files = facts["schema_version"], facts["files"]
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{path} is damaged: fetch or export the bundle again.") from None
    if version != SCHEMA_VERSION:
        raise UserError(
            f"{path} has schema version {version}, this SRMill reads {SCHEMA_VERSION}: use the "
            "SRMill that exported it, or export it again."
        )
    present = {
        p.relative_to(directory).as_posix()
        for p in directory.rglob("*")
        if p.is_file() and p.name != FILE_NAME
    }
    if unlisted := sorted(present - files.keys()):
        raise UserError(f"bundle {directory} holds files it does not list: {', '.join(unlisted)}.")
    for name, facts_of_file in files.items():
        file = directory / name
        if not file.is_file() or file_sha256(file) != facts_of_file["sha256"]:
            raise UserError(
                f"bundle {directory}: {name} is missing or damaged: fetch or export it again."
            )
    return Bundle(directory, facts)
