"""Exports the artifacts of one model, or of several to choose the best of them."""

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pipelines.config.load import config_digest
from pipelines.config.reference import ModelReference
from pipelines.config.schema import Config, ExportConfig
from pipelines.errors import UserError
from pipelines.export.artifacts import Exporter, MissedError
from pipelines.export.choice import best_within, comparable_psnr_y, points_of, too_slow
from pipelines.export.evidence import Evidence, find_evidence
from pipelines.export.images import tile_images
from pipelines.models.cost import network_cost
from pipelines.models.facts import BundleFacts, EdgeArtifact
from pipelines.models.load import Model, at_precision, load_model
from pipelines.revision import git_commit
from srmodels.edge.target import make_target


@dataclass(frozen=True)
class Candidate:
    """A model that may be exported.

    Attributes:
        facts: those of its bundle; without artifacts until they are made.
    """

    model: Model
    evidence: Evidence
    facts: BundleFacts

    @property
    def name(self) -> str:
        """The model's reference."""
        return str(self.model.reference)


@dataclass(frozen=True)
class Chosen:
    """The model that is exported, with its artifacts.

    Attributes:
        best: its best artifact within the budget, for people; empty without a budget.
    """

    candidate: Candidate
    best: str = ""


def find_candidate(config: Config, reference: ModelReference) -> Candidate:
    """Loads a model and finds its evidence.

    Raises:
        UserError: there is no such model, or it was not evaluated.
    """
    model = at_precision(load_model(reference, config), config.export.weights)
    evidence = find_evidence(config.export, model, config.benchmark, config.stream.policy)
    return Candidate(model, evidence, _facts(config, model, evidence))


def check_candidates(candidates: Sequence[Candidate]) -> dict[str, float]:
    """Returns the PSNR-Y that candidates are compared by, by name, dB; 0 for one alone.

    Raises:
        UserError: they cannot be compared.
    """
    if len(candidates) == 1:
        return {candidates[0].name: 0.0}
    return comparable_psnr_y({one.name: one.evidence.metrics for one in candidates})


def export_best(config: Config, candidates: Sequence[Candidate], directory: Path) -> Chosen:
    """Makes the artifacts of all candidates, and puts those of the best one into `directory`: of
    the model with the best artifact within `export.latency_budget_ms`, those within it.

    Args:
        candidates: the only one, or several and a budget.

    Raises:
        UserError: there is a budget and no artifact within it; with `export.strict`, an artifact
            misses its threshold.
    """
    scores = check_candidates(candidates)
    with tempfile.TemporaryDirectory(prefix="srmill-") as folder:
        made: dict[str, Candidate] = {}
        for number, one in enumerate(candidates):
            if len(candidates) > 1:
                print(f"Candidate {one.name}:", flush=True)
            place = Path(folder, str(number))
            place.mkdir()
            edge, left_out = _export_artifacts(config, one.model, place)
            made[one.name] = replace(one, facts=replace(one.facts, edge=edge, left_out=left_out))
        chosen = _choose(config.export, made, scores)
        place = Path(folder, str(list(made).index(chosen.candidate.name)))
        _copy_artifacts(chosen.candidate.facts, place, directory)
    return chosen


def _choose(
    settings: ExportConfig, made: Mapping[str, Candidate], scores: Mapping[str, float]
) -> Chosen:
    """Returns the best of the candidates, without its artifacts that are too slow."""
    budget = settings.latency_budget_ms
    if budget is None:
        [only] = made.values()
        return Chosen(only)
    points = [
        point
        for name, one in made.items()
        for point in points_of(name, one.facts.edge, scores[name])
    ]
    if not points:
        reasons = [why for one in made.values() for why in one.facts.left_out.values()]
        reasons.append(
            "only a simulator ran what is there, and it has no latency: name others in "
            "export.artifacts, too."
        )
        raise UserError(f"no artifact is left for export.latency_budget_ms: {reasons[0]}")
    point = best_within(budget, points)
    best = f"within {budget:g} ms: {point}"
    print(f"The best {best}.", flush=True)
    return Chosen(_without_slow(settings, made[point.model]), best)


def _without_slow(settings: ExportConfig, one: Candidate) -> Candidate:
    slow = too_slow(settings.latency_budget_ms, one.facts.edge)
    for why in slow.values():
        if settings.strict:
            raise MissedError(why)
        print(f"  left out: {why}", flush=True)
    edge = {name: artifact for name, artifact in one.facts.edge.items() if name not in slow}
    return replace(one, facts=replace(one.facts, edge=edge, left_out=one.facts.left_out | slow))


def _copy_artifacts(facts: BundleFacts, source: Path, directory: Path) -> None:
    for name in facts.edge:
        for file in make_target(name).files:
            path = Path("edge", file)
            (directory / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / path, directory / path)


def _export_artifacts(
    config: Config, model: Model, directory: Path
) -> tuple[dict[str, EdgeArtifact], dict[str, str]]:
    """Returns the artifacts, and why others were left out, by target."""
    settings, network = config.export, model.network
    edge: dict[str, EdgeArtifact] = {}
    left_out: dict[str, str] = {}
    if settings.artifacts:
        images = tile_images(config, model)
        exporter = Exporter(settings, network, images, directory)
        for name in settings.artifacts:
            try:
                edge[name] = exporter.export(name)
            except MissedError as error:
                if settings.strict:
                    raise
                left_out[name] = str(error)
                print(f"  left out: {error}", flush=True)
    return edge, left_out


def _facts(config: Config, model: Model, evidence: Evidence) -> BundleFacts:
    cost = network_cost(model.config.system, model.config.networks, model.config.export.tile)
    assert config.mlflow.model is not None
    return BundleFacts(
        name=model.bundle.facts.name if model.bundle else config.mlflow.model,
        system=model.config.system,
        recipe=model.config.recipe,
        scale=model.network.scale,
        tile=config.export.tile,
        opset=config.export.opset,
        artifacts=tuple(config.export.artifacts),
        precision=config.export.weights,
        parent_version=model.parent_version,
        weights_sha256=model.weights_sha256,
        manifest=model.provenance.manifest,
        config_digest=config_digest(model.config),
        git_commit=git_commit(),
        parameters=cost.total_parameters,
        gmacs=round(cost.total_gmacs, 3),
        metrics=evidence.metrics,
    )
