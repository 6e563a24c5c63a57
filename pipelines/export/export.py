"""From trained weights to a bundle: edge artifacts that were run and compared, and the evidence."""

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from pipelines.config.load import config_digest, to_yaml
from pipelines.config.reference import Kind, ModelReference
from pipelines.config.schema import Config
from pipelines.errors import UserError, listing
from pipelines.export.artifacts import Exporter, MissedError
from pipelines.export.card import model_card
from pipelines.export.evidence import Evidence, find_evidence
from pipelines.export.images import tile_images
from pipelines.export.sbom import SBOM, bill_of_materials
from pipelines.models import bundle, pyfunc
from pipelines.models.cost import network_cost
from pipelines.models.facts import BundleFacts, EdgeArtifact
from pipelines.models.load import Model, at_precision, load_model
from pipelines.revision import git_commit
from pipelines.runs.names import run_name
from pipelines.storage.folders import new_folder
from pipelines.storage.ownership import check_replaceable
from pipelines.storage.paths import absolute_location
from pipelines.storage.retries import RetryPolicy
from pipelines.storage.store import Store, open_store
from pipelines.storage.tensors import save_tensors
from srmodels.edge.target import make_target

_DTYPES = {"fp32": torch.float32, "fp16": torch.float16}


def model_reference(config: Config) -> ModelReference:
    """Returns `model`, else the run of the recipe's last stage."""
    if config.model:
        return ModelReference.parse(config.model)
    return ModelReference(Kind.RUN, run_name(config, list(config.stages)[-1]))


def output_location(config: Config) -> str:
    """Returns where the bundle is written: a directory or an `s3://` prefix."""
    reference = model_reference(config)
    if reference.kind is Kind.SHIPPED:
        folder = absolute_location(config.output or "work/export")
        return f"{folder.rstrip('/')}/{reference.name}"
    return bundle.bundle_location(config.output, config.run)


def plan(config: Config) -> str:
    """Returns what would be exported, in words.

    Raises:
        UserError: files of somebody else are where the bundle goes, or a package that an artifact
            needs is not installed.
    """
    _check_output(open_store(output_location(config), policy=config.stream.policy))
    _check_targets(config)
    tile, artifacts = config.export.tile, listing(config.export.artifacts)
    return (
        f"export {model_reference(config)} as {artifacts or 'weights alone'} "
        f"(ONNX opset {config.export.opset}, LR tiles of {tile}x{tile} px) into the bundle "
        f"{output_location(config)}"
    )


def run(config: Config) -> str:
    """Writes the bundle, unless it is there already; returns its location.

    Raises:
        UserError: files of somebody else are where the bundle goes, the model was not evaluated,
            does not exist, or a package that an artifact needs is not installed; with
            `export.strict`, an artifact misses its threshold.
    """
    policy = config.stream.policy
    store = open_store(output_location(config), policy=policy)
    _check_output(store)
    _check_targets(config)
    model = at_precision(load_model(model_reference(config), config), config.export.weights)
    evidence = find_evidence(config.export, model, config.benchmark, policy)
    facts = _facts(config, model, evidence)
    if _is_exported(store, policy, facts):
        print(f"Nothing to do: {model.reference} is exported already, see {store.location}.")
        return store.location
    with new_folder(store, bundle.FILE_NAME, lambda: _check_output(store)) as new:
        edge, left_out = _export_artifacts(config, model, new)
        facts = replace(facts, edge=edge, left_out=left_out)
        _save(model.network.inference_state_dict(), facts.precision, new / bundle.WEIGHTS)
        if model.finetuning_weights:
            _save(model.finetuning_weights, facts.precision, new / bundle.FINETUNING)
        (new / bundle.CONFIG).write_text(to_yaml(model.config))
        for name, data in evidence.files.items():
            (new / name).write_bytes(data)
        card = model_card(model.config.description, model.config.degradation.preset, facts)
        (new / bundle.CARD).write_text(card)
        pyfunc.write_description(new)
        (new / SBOM).write_text(bill_of_materials(facts))
        bundle.seal(new, facts)
    print(f"Bundle: {store.location}")
    return store.location


def _check_output(store: Store) -> None:
    check_replaceable(store, bundle.FILE_NAME, bundle.owned)


def _check_targets(config: Config) -> None:
    for name in config.export.artifacts:
        try:
            make_target(name)
        except ValueError as error:
            raise UserError(str(error)) from None


def _is_exported(store: Store, policy: RetryPolicy, facts: BundleFacts) -> bool:
    """Returns True if an intact bundle is there that would not change."""
    if store.size(bundle.FILE_NAME) is None:
        return False
    try:
        known = bundle.load_bundle(bundle.local_bundle(store.location, policy)).facts
    except UserError as error:
        print(f"Exporting anew, since {error}")
        return False
    if known.left_out:  # another threshold may let it in
        return False
    # The next commit makes no other model of it.
    return replace(known, git_commit=facts.git_commit, edge={}, left_out={}, files={}) == facts


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


def _save(weights: dict[str, Tensor], precision: str, path: Path) -> None:
    dtype = _DTYPES[precision]
    save_tensors({n: w.to(dtype).contiguous() for n, w in weights.items()}, path)


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
