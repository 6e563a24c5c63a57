"""The facts of a model: the types of `bundle.json` and of the origin of weights."""

import hashlib
from dataclasses import dataclass, field
from typing import ClassVar

from pipelines.storage.forms import NonNegativeInt, PositiveInt, RelativePath, Sha256
from pipelines.storage.typed import Document
from srmodels.edge.target import Parity
from srmodels.latency import Latency
from srmodels.tiling import Tiling

#: Scores by metric label; None where a metric could not judge any image.
Scores = dict[str, float | None]


@dataclass(frozen=True)
class Provenance:
    """The origin of a model's weights. A fact that is not known is None.

    Attributes:
        manifest: digest of the dataset that they were trained on.
        precision: precision of the stored weights, fp32 or fp16.
        step: step of the checkpoint, for a model that is a run.
        git_commit: commit of the code that exported the bundle.
        parent_version: the registered version that they descend from, as models:/NAME/VERSION; None
            where training began from scratch, or from weights that no registry holds.
    """

    manifest: str
    precision: str = "fp32"
    step: int | None = None
    git_commit: str | None = None
    parent_version: str | None = None


@dataclass(frozen=True)
class MetricFacts:
    """The facts of a metric that readers of its scores need.

    Attributes:
        protocol: the description that somebody needs to repeat the measurement.
        title, unit: its name and unit in tables.
        digits: number of decimals in tables.
        margin: a difference that does not matter to anybody.
        has_reference: True where the metric looks at HR.
    """

    protocol: str
    title: str
    unit: str
    digits: int
    margin: float
    higher_is_better: bool
    has_reference: bool


@dataclass(frozen=True)
class BenchmarkFacts:
    """The means of a model on one benchmark set.

    Attributes:
        identity: digest of its images and their degradation; equal for equal pairs.
        degradation: the origin of its LR images, in words.
        model, bicubic: mean scores by metric label.
    """

    identity: str
    degradation: str
    num_images: int
    model: Scores
    bicubic: Scores


@dataclass(frozen=True)
class BundleMetrics:
    """The scores of a model on every benchmark set that it was measured on.

    Attributes:
        by: facts of each metric, by label.
        reference: the model's name in `images.csv`.
        benchmarks: the means by the name of the set, in the order of the evaluation.
    """

    by: dict[str, MetricFacts]
    reference: str
    benchmarks: dict[str, BenchmarkFacts]

    def means(self) -> dict[str, float]:
        """Returns the model's mean scores by "SET/LABEL"; those that do not exist are left out."""
        return {
            f"{name}/{label}": score
            for name, found in self.benchmarks.items()
            for label, score in found.model.items()
            if score is not None
        }


@dataclass(frozen=True)
class TensorSpec:
    """An input or output of an edge artifact: RGB images in [0, 1].

    Attributes:
        shape: `(1, 3, height, width)`, for ncnn `(3, height, width)`; None for sides of any length.
        multiple: height and width are multiples of it.
    """

    name: str
    shape: tuple[int | None, ...]
    range: tuple[float, float] = (0.0, 1.0)
    order: str = "RGB"
    multiple: int = 1


@dataclass(frozen=True)
class QualityLoss:
    """The quality that an artifact costs, beside PyTorch on the same pairs of tiles.

    Attributes:
        metric: label of the metric.
        loss: mean over the pairs of what PyTorch's score is better than the artifact's, in the
            metric's unit; below 0 where the artifact is better.
        low, high: 95 % interval of that mean for other photos; None where one photo is too few.
        images: the origin of the pairs, in words.
    """

    metric: str
    loss: float
    low: float | None
    high: float | None
    num_images: int
    images: str


@dataclass(frozen=True)
class EdgeArtifact:
    """A file, or a few that belong together, that one runtime executes, with the evidence for it.

    Attributes:
        file: its path in the bundle.
        others: paths of the files that belong to it, such as ncnn's `.bin`; of parts, in the order
            in which they run.
        parity: its difference from PyTorch, on real images.
        quality: what it costs in PSNR-Y.
        other_losses: what it costs in SSIM-Y, and in LPIPS where its weights were at hand.
        latency: latency of one tile, on `machine`; None where it ran in a simulator.
        latency_ratio: the median's ratio to PyTorch's, both by turns on the same threads; None
            where there is no latency.
        made: choices of the export and versions of its tools, by name.
    """

    file: RelativePath
    input: TensorSpec
    output: TensorSpec
    parity: Parity
    quality: QualityLoss
    latency: Latency | None
    latency_ratio: float | None
    machine: str
    made: dict[str, str]
    other_losses: list[QualityLoss] = field(default_factory=list)
    others: list[RelativePath] = field(default_factory=list)

    @property
    def tiling(self) -> Tiling:
        """How images are cut for it."""
        side = self.input.shape[-1]
        return Tiling.for_any_size(self.input.multiple) if side is None else Tiling.for_tile(side)


@dataclass(frozen=True)
class FileFacts:
    """The content of one file of a bundle."""

    sha256: Sha256
    bytes: NonNegativeInt


@dataclass(frozen=True)
class BundleFacts(Document):
    """The content of `bundle.json`.

    Attributes:
        name: name of the registered model.
        system: the system of the networks, see `srmodels.system`.
        tile: side of the edge artifacts' LR input, pixels.
        artifacts: names of the edge targets that the recipe asked for.
        precision: precision of the stored weights, fp32 or fp16.
        parent_version: see `Provenance`.
        weights_sha256: identity of the weights that ship, see `Model.weights_sha256`.
        manifest: digest of the dataset that the model was trained on.
        gmacs: multiply-adds for an LR tile, 10⁹.
        edge: artifacts by target.
        left_out: why an artifact that was asked for is not there, by target.
        files: every other file of the bundle, by path; `seal` fills it in.
    """

    VERSION: ClassVar[int] = 4
    VERSION_KEY: ClassVar[str] = "schema_version"
    REMEDY: ClassVar[str] = "export it again"

    name: str
    system: str
    recipe: str
    scale: PositiveInt
    tile: PositiveInt
    opset: int
    artifacts: tuple[str, ...]
    precision: str
    parent_version: str | None
    weights_sha256: str
    manifest: str
    config_digest: str
    git_commit: str | None
    parameters: int
    gmacs: float
    metrics: BundleMetrics
    edge: dict[str, EdgeArtifact] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    files: dict[RelativePath, FileFacts] = field(default_factory=dict)

    def files_of(self, target: str) -> list[FileFacts]:
        """Returns the files of an artifact, the main one first."""
        artifact = self.edge[target]
        names = [artifact.file, *artifact.others]
        stem, _, ending = artifact.file.rpartition(".")
        weights = f"{stem}.bin"
        if ending in ("param", "xml") and weights in self.files:  # bundles of before `others`
            names.append(weights)
        return [self.files[name] for name in dict.fromkeys(names)]

    def digest_of(self, target: str) -> str:
        """Returns the sha256 of an artifact; of one of several files, that of their digests."""
        digests = [file.sha256 for file in self.files_of(target)]
        if len(digests) == 1:
            return digests[0]
        return hashlib.sha256("".join(digests).encode()).hexdigest()

    @property
    def provenance(self) -> Provenance:
        """The origin of the weights."""
        return Provenance(
            self.manifest,
            precision=self.precision,
            git_commit=self.git_commit,
            parent_version=self.parent_version,
        )
