"""The content-addressed list of a dataset's shards and samples: `manifest.json`."""

from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pipelines.errors import UserError
from pipelines.storage import digest, file_sha256, read_json, write_json

VERSION = 1
FILE_NAME = "manifest.json"


@dataclass(frozen=True)
class Shard:
    """One tar: its name beside the manifest, its digest and its size."""

    path: str
    sha256: str
    bytes: int


@dataclass(frozen=True)
class Sample:
    """Where one sample's tar members lie: `size` bytes at `offset` of shard number `shard`."""

    key: str
    shard: int
    offset: int
    size: int
    split: str


@dataclass(frozen=True)
class Manifest:
    """A dataset. `settings` and `source` are what it was made with and from."""

    settings: dict[str, Any]
    source: str
    shards: tuple[Shard, ...]
    samples: tuple[Sample, ...]

    @cached_property
    def digest(self) -> str:
        """The identity of the dataset: sha256 of everything the manifest says."""
        return digest(asdict(self) | {"version": VERSION})

    def split(self, name: str) -> list[Sample]:
        """The samples of `train` or `val`, in the manifest's order."""
        return [sample for sample in self.samples if sample.split == name]

    def save(self, directory: Path) -> None:
        write_json(
            directory / FILE_NAME, {"version": VERSION, "digest": self.digest} | asdict(self)
        )

    @staticmethod
    def load(directory: Path) -> "Manifest":
        """The manifest in `directory`.

        Raises:
            UserError: there is none, it was edited, or a shard is missing or of the wrong size.
        """
        path = directory / FILE_NAME
        if not path.is_file():
            raise UserError(
                f"there is no dataset in {directory} (no {FILE_NAME}): "
                f"make one with `jobs/shard.py output={directory}`, or set data=."
            )
        try:
            raw = read_json(path)
            manifest = Manifest(
                settings=raw["settings"],
                source=raw["source"],
                shards=tuple(Shard(**shard) for shard in raw["shards"]),
                samples=tuple(Sample(**sample) for sample in raw["samples"]),
            )
            intact = raw["version"] == VERSION and raw["digest"] == manifest.digest
        except (ValueError, KeyError, TypeError):
            intact = False
        if not intact:
            raise UserError(
                f"{path} is damaged or of another version: make the dataset again with "
                "jobs/shard.py, into an empty folder."
            )
        for shard in manifest.shards:
            file = directory / shard.path
            if not file.is_file() or file.stat().st_size != shard.bytes:
                raise UserError(
                    f"shard {file} is missing or truncated: delete {path} and run jobs/shard.py."
                )
        return manifest

    def damaged_shards(self, directory: Path) -> list[str]:
        """Names of shards whose bytes are not what the manifest says."""
        return [s.path for s in self.shards if file_sha256(directory / s.path) != s.sha256]
