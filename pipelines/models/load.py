"""Loads the network behind a model reference."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from safetensors.torch import save
from torch import Tensor

from pipelines import tracking
from pipelines.config.load import from_dict
from pipelines.config.reference import SHIPPED, Kind, ModelReference, shipped_models
from pipelines.config.schema import Config, MlflowConfig
from pipelines.errors import UserError, listing
from pipelines.models.build import build_network, build_trained, network_on_meta, stage_on_meta
from pipelines.models.bundle import Bundle, load_bundle, local_bundle
from pipelines.models.facts import Provenance
from pipelines.runs.checkpoint import RESULT, RunState
from pipelines.runs.names import run_checkpoints
from pipelines.storage.files import process_directory
from pipelines.storage.paths import resolve
from pipelines.storage.retries import RetryPolicy
from srmodels.network import SRNetwork, weights_of

#: The alias of the version of a registered model that is in use.
CHAMPION = "champion"


@dataclass(frozen=True)
class Model:
    """A loaded model.

    Attributes:
        reference: the reference that names it.
        config: the configuration that it was trained with; its `networks` describe `network`.
        network: the networks that ship, fused, in eval mode.
        provenance: the origin of the weights, from `bundle.json` or from the run's checkpoint.
        finetuning_weights: weights of the networks that do not ship, but that a finetuning needs.
        trained_weights: every weight that a finetuning starts from; empty for a fused bundle, whose
            branches are made again (`SRNetwork.load_fused_state_dict`).
        version: the version of the registry that it is, even where an alias names it; None for
            other models.
        bundle: the bundle that it was loaded from; None for a run.
    """

    reference: ModelReference
    config: Config
    network: SRNetwork
    provenance: Provenance
    finetuning_weights: dict[str, Tensor]
    trained_weights: dict[str, Tensor]
    version: ModelReference | None = None
    bundle: Bundle | None = None

    @property
    def parent_version(self) -> str | None:
        """The registered version that new weights descend from if they start from this model."""
        return str(self.version) if self.version else self.provenance.parent_version

    @cached_property
    def weights_sha256(self) -> str:
        """The model's identity: sha256 of the weights that ship, as safetensors."""
        return weights_sha256(self.network.inference_state_dict())


def weights_sha256(weights: dict[str, Tensor]) -> str:
    """Returns the sha256 of weights in the format of safetensors."""
    return hashlib.sha256(save({n: w.contiguous() for n, w in weights.items()})).hexdigest()


def champion(settings: MlflowConfig) -> ModelReference:
    """Returns the reference of the recipe's champion."""
    assert settings.model is not None
    return ModelReference(Kind.REGISTRY, settings.model, alias=CHAMPION)


def load_model(
    reference: ModelReference,
    config: Config,
    *,
    to_train: bool = False,
    check: Callable[[Bundle], object] = lambda bundle: None,
) -> Model:
    """Loads the model that a reference names; for a run, its newest checkpoint.

    Args:
        config: says where runs are stored and which MLflow server to ask.
        to_train: True if a stage will start from the weights. Then any run will do, even one that
            leaves some networks of inference untrained.
        check: see `load_bundle`.

    Raises:
        UserError: there is no such model; the reference names something that is no model; or the
            model is damaged or cannot infer yet.
    """
    if reference.kind is Kind.REGISTRY:
        version = registered_version(reference, config.mlflow)
        return replace(_from_bundle(reference, _download(version), check), version=version)
    if reference.kind is Kind.RUN:
        return _from_run(reference, config, to_train=to_train)
    return _from_bundle(reference, find_bundle(reference, config.stream.policy), check)


def find_bundle(reference: ModelReference, policy: RetryPolicy = RetryPolicy()) -> Path:
    """Returns the directory of a bundle that ships, or that is named by its path or `s3://` prefix.

    A bundle from s3:// is fetched first, see `local_bundle`.

    Raises:
        UserError: there is no such bundle.
    """
    if is_in_s3(reference):
        return local_bundle(reference.name, policy)
    if reference.kind is Kind.SHIPPED:
        return SHIPPED / reference.name
    if reference.kind is Kind.BUNDLE and (path := resolve(reference.name)).is_dir():
        return path
    shipped = listing(shipped_models()) or "none yet"
    raise UserError(
        f"there is no model '{reference}': give a bundle directory, models:/NAME@ALIAS, "
        f"run:NAME, or the name of a shipped model ({shipped})."
    )


def is_in_s3(reference: ModelReference) -> bool:
    """Returns True for a bundle that is named by its `s3://` prefix."""
    return reference.kind is Kind.BUNDLE and reference.name.startswith("s3://")


def fetch(reference: ModelReference, settings: MlflowConfig) -> Path:
    """Downloads a registered bundle into a folder that lives as long as this process.

    Raises:
        UserError: the registry has no such model, version or alias.
    """
    return _download(registered_version(reference, settings))


def registered_version(reference: ModelReference, settings: MlflowConfig) -> ModelReference:
    """Returns the reference of the version that an alias means now, or that is named itself.

    Raises:
        UserError: the registry has no such model, version or alias.
    """
    client = tracking.connect(settings, create=False)
    if reference.alias is not None:
        found = tracking.lookup(client.get_model_version_by_alias, reference.name, reference.alias)
    else:
        found = tracking.lookup(client.get_model_version, reference.name, str(reference.version))
    if found is None:
        raise UserError(
            f"the registry at {tracking.tracking_uri(settings)} has no model '{reference}': "
            "register one with jobs/register.py, or see the names in the MLflow UI."
        )
    return replace(reference, alias=None, version=str(found.version))


def _download(version: ModelReference) -> Path:
    import mlflow
    from mlflow.exceptions import MlflowException

    try:
        target = str(process_directory())
        return Path(mlflow.artifacts.download_artifacts(str(version), dst_path=target))
    except (MlflowException, OSError) as error:
        raise UserError(f"the bundle of {version} cannot be fetched: {error}") from None


def at_precision(model: Model, precision: str) -> Model:
    """Returns the model with its weights rounded as a bundle of this precision holds them.

    Args:
        precision: "fp32" or "fp16", the setting `export.weights`. The tensors stay fp32.
    """
    if precision == "fp32":
        return model
    rounded = {n: w.half().float() for n, w in model.network.inference_state_dict().items()}
    network = build_network(model.config, rounded)
    kept = {n: w.half().float() for n, w in model.finetuning_weights.items()}
    provenance = replace(model.provenance, precision=precision)
    trained = {} if network.fused else rounded | kept
    return replace(
        model,
        network=network,
        finetuning_weights=kept,
        trained_weights=trained,
        provenance=provenance,
    )


def _from_bundle(reference: ModelReference, path: Path, check: Callable[[Bundle], object]) -> Model:
    bundle = load_bundle(path, check)
    network, kept = bundle.network(), bundle.finetuning_weights()
    trained = {} if network.fused else network.inference_state_dict() | kept
    provenance = bundle.facts.provenance
    return Model(reference, bundle.config(), network, provenance, kept, trained, bundle=bundle)


def _from_run(reference: ModelReference, config: Config, *, to_train: bool) -> Model:
    run = run_checkpoints(config, reference.name)
    newest = run.newest_intact(RESULT)
    if newest is None:
        raise UserError(
            f"there is no run behind '{reference}' (no complete checkpoint in {run.location}): "
            "train it first, or set run.storage."
        )
    state = newest.state()
    trained_with = trained_config(state)
    if not to_train:
        _check_infers(reference, trained_with, state.stage)
    weights = newest.weights()
    network = build_trained(trained_with, weights)
    kept = weights_of(network.finetuning_modules(), weights)
    unfused = network_on_meta(trained_with.system, trained_with.networks)
    modules = unfused.inference_modules() | unfused.finetuning_modules()
    trained = weights_of(modules, weights)
    provenance = Provenance(state.manifest, step=state.step, parent_version=state.parent_version)
    return Model(reference, trained_with, network, provenance, kept, trained)


def trained_config(state: RunState) -> Config:
    """Returns the configuration of a run; its `networks` are those that the weights fit."""
    return from_dict(state.config | {"networks": state.networks})


def _check_infers(reference: ModelReference, config: Config, stage: str) -> None:
    """Refuses a run whose stage leaves some networks of inference untrained."""
    if stage in config.stages and not stage_on_meta(config, stage).previews_inference:
        raise UserError(
            f"{reference} cannot be used yet: stage '{stage}' does not train all that inference "
            "needs. Use the run of a later stage."
        )
