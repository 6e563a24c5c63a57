"""The evidence of a bundle's quality at the gate: scores of the model and of bicubic, by image."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from pipelines.evaluation.measure import ImageResult
from pipelines.evaluation.methods import BICUBIC
from pipelines.evaluation.results import by_image, from_csv
from pipelines.models.bundle import IMAGES, Bundle
from pipelines.models.facts import BundleFacts, MetricFacts


@dataclass(frozen=True)
class Evidence:
    """The scores of a model on the benchmark sets that decide.

    Attributes:
        metrics: facts of each metric, by label.
        sets: the identity of each set, by its name, see `Benchmark.identity`.
        model: the model's name in `images`.
        images: the scores of the model, and of bicubic, on each image.
    """

    metrics: Mapping[str, MetricFacts]
    sets: Mapping[str, str]
    model: str
    images: Sequence[ImageResult]

    @classmethod
    def of(cls, bundle: Bundle) -> "Evidence":
        """Returns all that was measured before the bundle was exported."""
        metrics = bundle.facts.metrics
        sets = {name: found.identity for name, found in metrics.benchmarks.items()}
        return cls(metrics.by, sets, metrics.reference, from_csv(bundle.path / IMAGES))

    def covers(self, identities: Collection[str], metrics: Mapping[str, MetricFacts]) -> bool:
        """Returns True where these sets were measured, by each of these metrics with a reference
        and by its protocol."""
        known = {label: self.metrics[label].protocol for label in self.deciding_labels()}
        needed = {label: m.protocol for label, m in metrics.items() if m.has_reference}
        return set(identities) <= set(self.sets.values()) and needed.items() <= known.items()

    def on(self, identities: Collection[str]) -> "Evidence":
        """Returns the part of it on the sets of these identities."""
        return replace(self, sets={n: i for n, i in self.sets.items() if i in identities})

    def deciding_labels(self) -> list[str]:
        """Returns the metrics with a reference: others cannot tell detail from invention."""
        return [label for label, facts in self.metrics.items() if facts.has_reference]

    def find(self, identity: str) -> str | None:
        """Returns the name of the set with these images; None where it was not measured."""
        return next((name for name, found in self.sets.items() if found == identity), None)

    def scores(self, benchmark: str, label: str) -> dict[str, float]:
        """Returns the model's scores on a set, by image."""
        return by_image(self.images, benchmark, self.model, label)

    def scores_of_bicubic(self, benchmark: str, label: str) -> dict[str, float]:
        """Returns the scores of bicubic on a set, by image."""
        return by_image(self.images, benchmark, BICUBIC, label)

    def groups(self, benchmark: str) -> dict[str, str]:
        """Returns the photo that each image of a set is a part of."""
        return {found.key: found.group for found in self.images if found.benchmark == benchmark}


@dataclass(frozen=True)
class Contender:
    """A bundle before the gate.

    Attributes:
        evidence: its scores on the sets that decide.
    """

    facts: BundleFacts
    evidence: Evidence

    @classmethod
    def of(cls, bundle: Bundle) -> "Contender":
        """Returns a bundle with the evidence that it carries."""
        return cls(bundle.facts, Evidence.of(bundle))
