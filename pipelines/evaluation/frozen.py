"""The gate's frozen benchmark: sets that a recipe names, may pin by digest, and never trains on."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from pipelines.config.reference import Kind, ModelReference
from pipelines.config.schema import Config, GateConfig
from pipelines.data.set_files import VALIDATION, parse_names
from pipelines.errors import UserError
from pipelines.evaluation.benchmarks import Benchmark, open_benchmark
from pipelines.evaluation.measure import ImageResult, measure
from pipelines.evaluation.methods import BICUBIC, ModelMethod, open_method
from pipelines.models.load import Model
from pipelines.storage.paths import resolve
from srmodels.metrics.suite import Metric


def frozen_names(settings: GateConfig) -> list[str]:
    """Returns the sets that `gate.benchmark` names; none for [].

    Raises:
        UserError: it names a set twice, or the validation split; or `gate.digest` pins more or
            fewer sets.
    """
    names = parse_names(settings.benchmark) if settings.benchmark != [] else []
    if VALIDATION in names:
        raise UserError(
            "gate.benchmark names the validation split, which changes with the training set: name "
            "embedded or a folder, or [] for all sets that the champion was measured on."
        )
    pinned = _pinned(settings)
    if pinned and len(pinned) != len(names):
        raise UserError(
            f"gate.digest pins {len(pinned)} sets, and gate.benchmark names {len(names)}: give one "
            "digest for each, in the same order."
        )
    return names


def evaluated_names(config: Config) -> list[str]:
    """Returns the sets that jobs/evaluate.py measures on: those that `benchmark` names; without
    it, the validation split and the gate's sets.

    Raises:
        UserError: a key names nothing, or two sets of one name.
    """
    if config.benchmark is None:
        return [VALIDATION, *frozen_names(config.gate)]
    return parse_names(config.benchmark)


def open_set(name: str, config: Config) -> Benchmark:
    """Returns the benchmark set that `benchmark` or `gate.benchmark` names.

    A set of the gate does not depend on `seed` and `evaluate.preset`: photos are taken whole, and
    the recipe's degradation draws the same for each training.

    Raises:
        UserError: as `open_benchmark`; or the set is not the one that `gate.digest` pins.
    """
    names = frozen_names(config.gate)
    if name not in names:
        return open_benchmark(name, config)
    plain = replace(config.evaluate, preset="plain")
    opened = open_benchmark(name, replace(config, seed=0, evaluate=plain))
    for pinned in _pinned(config.gate)[names.index(name) :][:1]:
        if pinned != opened.identity:
            raise UserError(
                f"gate.benchmark {name} has the digest {opened.identity}, and gate.digest pins "
                f"{pinned}: bring its images and the degradation back, or pin the new digest."
            )
    return opened


def open_frozen(config: Config) -> list[Benchmark]:
    """Returns the gate's sets; raises as `open_set`."""
    return [open_set(name, config) for name in frozen_names(config.gate)]


def measure_model(
    config: Config, model: Model, benchmarks: Sequence[Benchmark], metrics: Mapping[str, Metric]
) -> list[ImageResult]:
    """Returns the scores of a model and of bicubic on every image, as Ray tasks.

    Scores that an interrupted job left in `run.scratch` are used again.

    Args:
        metrics: the metrics by label.

    Raises:
        UserError: the model enlarges by another scale than the recipe, a metric's weights are
            missing, or Ray or storage fails.
    """
    bicubic = open_method(ModelReference(Kind.INTERPOLATION, BICUBIC), config)
    methods = [bicubic, ModelMethod(model)]
    if methods[1].scale != config.networks.scale:
        raise UserError(
            f"'{model.reference}' enlarges by {methods[1].scale}, the recipe by "
            f"{config.networks.scale}: set recipe= to the model's own."
        )
    scores = {label: metric.create(config.crop_border) for label, metric in metrics.items()}
    protocols = {label: metric.protocol for label, metric in metrics.items()}
    folder = resolve(config.run.scratch) / "measured"
    images, _ = measure(benchmarks, methods, scores, protocols, folder)
    return images


def _pinned(settings: GateConfig) -> list[str]:
    """Returns the digests of `gate.digest`, in the order of its sets."""
    digests = settings.digest if isinstance(settings.digest, list) else [settings.digest]
    return [str(digest) for digest in digests if digest is not None]
