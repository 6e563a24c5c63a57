"""Reads the inputs that decide the result of each step, so that a step can say why it runs.

Nothing is written, and no large file is read. An input that is not there yet is None.
"""

import hashlib
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pipelines import tracking
from pipelines.config.reference import Kind, ModelReference
from pipelines.config.schema import Config
from pipelines.data import shard
from pipelines.data.dataset import dataset_exists, open_dataset
from pipelines.data.quality.benchmark import BenchmarkSets
from pipelines.data.set_files import VALIDATION
from pipelines.data.sources import find_entries
from pipelines.data.sources.find import as_list
from pipelines.data.sources.public import SETS
from pipelines.errors import UserError
from pipelines.evaluation import evaluate
from pipelines.evaluation.frozen import evaluated_names, open_set
from pipelines.evaluation.results import RESULTS
from pipelines.export import export
from pipelines.models import bundle
from pipelines.registry import register
from pipelines.runs.checkpoint import EMA, MODEL
from pipelines.runs.names import run_checkpoints, run_name
from pipelines.storage.digests import digest
from pipelines.storage.files import file_sha256
from pipelines.storage.paths import resolve
from pipelines.storage.store import open_store
from pipelines.training.plan import chosen_stage
from pipelines.training.stage_run import identity_of

#: Values by name, ready for JSON. The names are what people read: "runs: manifest changed".
Inputs = dict[str, Any]


def of_shard(config: Config) -> Inputs:
    """Returns the source's listing, the settings of the shards, their location, and the benchmark
    that no photo may show.

    Raises:
        UserError: the source or a set of the benchmark cannot be listed.
    """
    held_out = config.shard.val_source
    names = [*as_list(shard.source(config)), *(as_list(held_out) if held_out else ())]
    listings = [_listing(name, config) for name in names]
    place = {"source": digest(listings), "data": shard.output_location(config)}
    # Photos that show it are left out; of another one they may be trained on.
    benchmark = BenchmarkSets.of(config).identity if config.shard.quality else None
    return place | _settings("shard", config.shard) | {"benchmark": benchmark}


def of_stage(config: Config) -> Inputs:
    """Returns the manifest, the weights that the stage starts from, and the settings of its run."""
    name = chosen_stage(config)
    stage = config.stages[name]
    if not dataset_exists(config.data, config.stream):
        return {"manifest": None}
    try:
        dataset = open_dataset(config.data, config.stream)
        identity = identity_of(config, name, dataset)
    except ValueError as error:
        raise UserError(str(error)) from None
    # A run that has begun keeps the weights from outside that it began with, even if an alias has
    # moved on. So the request for the weights is the input, and not their digest.
    before: Any = stage.init_from or asdict(config.init)
    del identity["initial weights"], identity["replayed"]
    return {
        "manifest": identity.pop("data"),
        "start": _of_stage_or_model(config, before),
        **identity,
        "teacher": _of_stage_or_model(config, stage.teacher),
        "train.steps": stage.train.steps,
    }


def _of_stage_or_model(config: Config, named: Any) -> Any:
    """Returns the weights of a stage of the chain; any other name stands for itself."""
    if isinstance(named, str) and named in config.stages:
        return _weights(config, ModelReference(Kind.RUN, run_name(config, named)))
    return named


def of_evaluate(config: Config) -> Inputs:
    """Returns the weights of all models, the benchmark sets, the metrics, and the settings."""
    settings = _settings("evaluate", config.evaluate)
    del settings["evaluate.compare"], settings["evaluate.metrics"]
    metrics, _ = evaluate.choose_metrics(config.evaluate, config.crop_border)
    return {
        "model": _weights(config, evaluate.wanted(config)),
        "compared models": {
            name: _weights(config, ModelReference.parse(name)) for name in config.evaluate.compare
        },
        "benchmark": {n: _benchmark(n, config) for n in evaluated_names(config)},
        "metrics": {label: metric.protocol for label, metric in metrics.items()},
        "export.weights": config.export.weights,
        "output": config.output,
        **settings,
    }


def of_export(config: Config) -> Inputs:
    """Returns the weights, the settings of the export, and the evidence."""
    reference = export.model_reference(config)
    folder = evaluate.output_location(config.export.evidence, reference, config.benchmark)
    return {
        "model": _weights(config, reference),
        "evidence": _sha256_in(folder, RESULTS, config),
        "output": export.output_location(config),
        **_settings("export", config.export),
    }


def of_register(config: Config) -> Inputs:
    """Returns the bundle, the model's name, the registry, and the rule of promotion."""
    return {
        "bundle": _sha256_in(register.bundle_location(config), bundle.FILE_NAME, config),
        "mlflow.model": config.mlflow.model,
        "mlflow.uri": tracking.tracking_uri(config.mlflow),
        "register.promote": config.register.promote,
    }


def _settings(section: str, values: Any) -> Inputs:
    return {f"{section}.{name}": value for name, value in asdict(values).items()}


def _listing(name: str, config: Config) -> Any:
    """Returns a source's files by name and size.

    A public set may have to be fetched first; its name stands for it. For a source that is one
    local file, the listing is its path, size and time of change.
    """
    if name in SETS:
        return name
    if "://" not in name and (path := resolve(name)).is_file():
        stat = path.stat()
        return [str(path), stat.st_size, stat.st_mtime_ns]
    limit = config.shard.max_unpacked_gib
    entries = find_entries(name, config.mirror, config.stream.policy, limit)
    # Not the container's path: a submitted job lies in another folder each time.
    return [name, [[entry.label, entry.size] for entry in entries]]


def _weights(config: Config, reference: ModelReference) -> Any:
    """Returns the sha256 of a run's newest weights, or of a file; the rest stands for itself."""
    if reference.kind is Kind.BUNDLE:
        return _sha256_in(reference.name, bundle.FILE_NAME, config)
    if reference.is_file:
        return _sha256(resolve(reference.name))
    if reference.kind is not Kind.RUN:
        return str(reference)
    newest = run_checkpoints(config, reference.name).newest()
    return [newest.files[name].sha256 for name in (MODEL, EMA)] if newest else None


def _benchmark(name: str, config: Config) -> str | None:
    if name == VALIDATION and not dataset_exists(config.data, config.stream):
        return None
    if name.startswith("s3://"):  # the digest would read every image
        return digest(open_store(name, policy=config.stream.policy).sizes())
    return open_set(name, config).identity


def _sha256_in(location: str, name: str, config: Config) -> str | None:
    """Returns the sha256 of a small file in a directory or under an `s3://` prefix."""
    store = open_store(location, policy=config.stream.policy)
    return hashlib.sha256(store.read(name)).hexdigest() if store.size(name) is not None else None


def _sha256(path: Path) -> str | None:
    return file_sha256(path) if path.is_file() else None
