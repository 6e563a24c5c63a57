"""Model references: what `model=` and `--model` accept, and the network behind one."""

import atexit
import hashlib
import shutil
import tempfile
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor

from pipelines import tracking
from pipelines.config.load import from_dict
from pipelines.config.schema import Config
from pipelines.config.shipped import SHIPPED, shipped_models
from pipelines.errors import UserError
from pipelines.models.build import build_network
from pipelines.models.bundle import load_bundle
from pipelines.models.facts import Provenance
from pipelines.storage.paths import resolve
from srmodels.network import SRNetwork, weights_of
from srmodels.system import load_system


@dataclass(frozen=True)
class Model:
    """A model that a reference led to. `config` is the one it was trained with; the network is
    fused.

    finetuning_weights: of the networks that do not ship, but that training goes on with.
    trained_weights: what training goes on with, all of it; empty for a fused bundle.
    """

    reference: str
    config: Config
    network: SRNetwork
    provenance: Provenance
    finetuning_weights: dict[str, Tensor]
    trained_weights: dict[str, Tensor]

    @cached_property
    def weights_sha256(self) -> str:
        """The identity of the model: sha256 of the weights that ship, as safetensors."""
        return weights_sha256(self.network.inference_state_dict())


def weights_sha256(weights: dict[str, Tensor]) -> str:
    return hashlib.sha256(save({n: w.contiguous() for n, w in weights.items()})).hexdigest()


def champion(config: Config) -> str:
    """The reference of the recipe's champion."""
    return f"models:/{config.mlflow.model}@champion"


def absolute(reference: str) -> str:
    """The reference as another process in another directory understands it."""
    if reference.startswith(("models:/", "run:")) or reference in shipped_models():
        return reference
    path = resolve(reference)
    return str(path) if path.is_dir() else reference


def load_model(reference: str, config: Config, *, to_train: bool = False) -> Model:
    """The model that a reference names.

    Args:
        reference: a bundle directory, `models:/NAME@ALIAS` or `models:/NAME/VERSION`, `run:NAME`
            (the newest checkpoint of a training run), or a shipped model's name.
        config: where runs are stored and which MLflow server to ask.
        to_train: whether weights are wanted to train on, as they are after any stage; inference
            needs one that trains it.

    Raises:
        UserError: there is no such model, what was found is damaged, or cannot infer yet.
    """
    if reference.startswith("models:/"):
        return _from_bundle(reference, fetch(reference, config))
    if reference.startswith("run:"):
        return _from_run(reference, config, to_train=to_train)
    return _from_bundle(reference, find_bundle(reference))


def find_bundle(reference: str) -> Path:
    """The directory of a bundle that is shipped or named by its path.

    Raises:
        UserError: there is none.
    """
    if reference in shipped_models():
        return SHIPPED / reference
    path = resolve(reference)
    if path.is_dir():
        return path
    shipped = ", ".join(shipped_models()) or "none yet"
    raise UserError(
        f"there is no model '{reference}': give a bundle directory, models:/NAME@ALIAS, "
        f"run:NAME, or the name of a shipped model ({shipped})."
    )


def fetch(reference: str, config: Config) -> Path:
    """Downloads a registered bundle into a folder that lives as long as this process.

    Raises:
        UserError: the registry has no such model, version or alias.
    """
    import mlflow
    from mlflow.exceptions import MlflowException

    name, alias, version = _parse_models_uri(reference)
    client = tracking.connect(config, create=False)
    if alias is not None:
        found = tracking.lookup(client.get_model_version_by_alias, name, alias)
    else:
        found = tracking.lookup(client.get_model_version, name, str(version))
    if found is None:
        raise UserError(
            f"the registry at {tracking.tracking_uri(config)} has no model '{reference}': "
            "register one with jobs/register.py, or see the names in the MLflow UI."
        )
    uri = f"models:/{name}/{found.version}"
    try:
        target = tempfile.mkdtemp(prefix="srmill-bundle-")
        atexit.register(shutil.rmtree, target, ignore_errors=True)
        return Path(mlflow.artifacts.download_artifacts(uri, dst_path=target))
    except (MlflowException, OSError) as error:
        raise UserError(f"the bundle of {uri} cannot be fetched: {error}") from None


def at_precision(model: Model, precision: str) -> Model:
    """The model as a bundle of this precision (`export.weights`) has it; its weights stay fp32."""
    if precision == "fp32":
        return model
    rounded = {n: w.half().float() for n, w in model.network.inference_state_dict().items()}
    network = build_network(model.config, rounded)
    kept = {n: w.half().float() for n, w in model.finetuning_weights.items()}
    provenance = replace(model.provenance, precision=precision)
    return replace(model, network=network, finetuning_weights=kept, provenance=provenance)


def _parse_models_uri(reference: str) -> tuple[str, str | None, str | None]:
    body = reference.removeprefix("models:/")
    name, at, alias = body.partition("@")
    if at and name and alias:
        return name, alias, None
    name, slash, version = body.rpartition("/")
    if slash and name and version.isdigit():
        return name, None, version
    raise UserError(f"'{reference}' is not of the form models:/NAME@ALIAS or models:/NAME/VERSION.")


def _from_bundle(reference: str, path: Path) -> Model:
    bundle = load_bundle(path)
    network, kept = bundle.network(), bundle.finetuning_weights()
    trained = {} if network.fused else network.inference_state_dict() | kept
    return Model(reference, bundle.config(), network, bundle.facts.provenance, kept, trained)


def _from_run(reference: str, config: Config, *, to_train: bool) -> Model:
    from pipelines.runs.checkpoint import RESULT
    from pipelines.runs.names import run_checkpoints

    run = run_checkpoints(config, reference.removeprefix("run:"))
    newest = run.newest_intact(RESULT)
    if newest is None:
        raise UserError(
            f"there is no run behind '{reference}' (no complete checkpoint in {run.location}): "
            "train it first, or set run.storage."
        )
    state = newest.state()
    config = from_dict(state.config)
    if not to_train:
        _check_infers(reference, config)
    weights = newest.weights()
    with torch.device("meta"):
        modules = load_system(config.system).build(config.networks)
    shipped = weights_of(modules.inference_modules(), weights)
    trained = shipped | weights_of(modules.finetuning_modules(), weights)
    network = build_network(config, shipped, fused=False)
    kept = weights_of(network.finetuning_modules(), weights)
    provenance = Provenance(state.manifest, step=state.step)
    return Model(reference, config, network, provenance, kept, trained)


def _check_infers(reference: str, config: Config) -> None:
    """Refuses the run of a stage after which networks that inference needs are still random."""
    from pipelines.models.build import stage_on_meta

    stage = reference.removeprefix(f"run:{config.run.name}-")
    if stage in config.stages and not stage_on_meta(config, stage).previews_inference:
        raise UserError(
            f"{reference} cannot be used yet: stage '{stage}' does not train all that inference "
            "needs. Use the run of a later stage."
        )
