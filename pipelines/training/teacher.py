"""Finds the teacher of a stage on the driver, and brings it to every rank, frozen."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipelines.config.reference import PEERS, Kind, ModelReference
from pipelines.config.refusals import KEPT_TEACHER
from pipelines.config.schema import Config
from pipelines.errors import UserError
from pipelines.evaluation.methods import NetworkMethod, open_method
from pipelines.models.build import build_network, build_trained, network_on_meta, stage_on_meta
from pipelines.models.load import load_model, trained_config
from pipelines.runs.checkpoint import EMA, MODEL, Checkpoint
from pipelines.runs.names import run_name
from pipelines.runs.outside import keep_weights, kept_weights
from pipelines.storage.digests import digest
from pipelines.training.start import result_of_stage
from srmodels.network import SRNetwork


@dataclass(frozen=True)
class Teacher:
    """The teacher of a stage, as the driver hands it to every rank; can be pickled.

    Attributes:
        reference: the name of a stage or of a model.
        identity: digest of the teacher's weights.
        source: the checkpoint of its weights, or others' network itself.
        fused: True where the checkpoint holds the weights of fused networks.
    """

    reference: str
    identity: str
    source: Checkpoint | NetworkMethod
    fused: bool = False

    def load(self, device: torch.device) -> nn.Module:
        """Returns a module on `device` that maps x_l `[B, 3, h, w]` to `[B, 3, scale·h, scale·w]`,
        both in [0, 1]."""
        if isinstance(self.source, NetworkMethod):
            return _Foreign(self.source)
        trained_with = trained_config(self.source.state())
        weights = self.source.weights()
        if self.fused:
            return build_network(trained_with, weights).to(device)
        return build_trained(trained_with, weights).to(device)

    def on_meta(self) -> nn.Module:
        """Returns the module that `load` returns, with shapes and without values."""
        if isinstance(self.source, NetworkMethod):
            return _Enlarged(self.source.scale)
        return _network_on_meta(trained_config(self.source.state())).fuse()


class _Foreign(nn.Module):
    """Others' network as a module. It computes on the CPU; its result goes where its input is."""

    def __init__(self, method: NetworkMethod) -> None:
        super().__init__()
        self.method = method

    # The method is no child module, so nothing else freezes its parameters.
    @torch.no_grad()
    def forward(self, x_l: Tensor) -> Tensor:
        return self.method.run(x_l.detach().float().cpu()).to(x_l)


class _Enlarged(nn.Module):
    """A stand-in for others' network, whose cost is not known: only its shapes are right."""

    def __init__(self, scale: int) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, x_l: Tensor) -> Tensor:
        return F.interpolate(x_l, scale_factor=self.scale)


def find_teacher(config: Config, name: str, planned: Sequence[str] = ()) -> Teacher | None:
    """Finds the teacher of a stage; returns None where the stage has none.

    A run that has begun keeps its teacher. The model's source is not asked again: an alias may
    have moved on, and a bundle may be gone.

    Args:
        planned: stages that the same job runs before this one. None is returned for a teacher that
            is one of them.

    Raises:
        UserError: the stage that teaches is not complete, or does not train all that inference
            needs; the model does not exist, or has another scale.
    """
    text = config.stages[name].teacher
    if text is None:
        return None
    if text in config.stages:
        if not stage_on_meta(config, text).previews_inference:
            raise UserError(
                f"stage '{text}' cannot teach stage '{name}': it does not train all that inference "
                "needs. Name a later stage."
            )
        if text in planned:
            return None
        found = result_of_stage(config, name, text, needs="learns from")
        _check_scale(config, name, _network_on_meta(trained_config(found.state())).scale)
        return Teacher(text, _weights_digest(found), found)
    reference = ModelReference.parse(text)
    if not reference.is_model:
        method = _open_foreign(reference, config)
        _check_scale(config, name, method.scale)
        return Teacher(str(reference), method.identity, method)
    kept = _begun(config, name) or _written(config, name, reference)
    return Teacher(str(reference), _weights_digest(kept), kept, fused=True)


def teacher_on_meta(config: Config, name: str) -> nn.Module | None:
    """Returns the teacher that a stage is configured with, with shapes and without values.

    Returns:
        None where the stage has none.
    """
    text = config.stages[name].teacher
    if text is None:
        return None
    if text in config.stages:
        return network_on_meta(config.system, config.stages[text].networks).fuse()
    reference = ModelReference.parse(text)
    if not reference.is_model:
        return _Enlarged(config.networks.scale)
    kept = _begun(config, name)
    trained_with = trained_config(kept.state()) if kept else load_model(reference, config).config
    return _network_on_meta(trained_with).fuse()


def _network_on_meta(trained_with: Config) -> SRNetwork:
    return network_on_meta(trained_with.system, trained_with.networks)


def _weights_digest(checkpoint: Checkpoint) -> str:
    """Returns the identity of what `Checkpoint.weights` returns: live weights and averages."""
    return digest([checkpoint.files[name].sha256 for name in (MODEL, EMA)])


def _open_foreign(reference: ModelReference, config: Config) -> NetworkMethod:
    method = open_method(reference, config)
    if not isinstance(method, NetworkMethod) or reference.kind in (Kind.ARTIFACT, Kind.ONNX):
        raise UserError(
            f"'{reference}' cannot teach: name a stage of the recipe, a model, spandrel:FILE, or a "
            f"peer ({', '.join(PEERS)})."
        )
    return method


def _check_scale(config: Config, name: str, scale: int) -> None:
    if scale != config.networks.scale:
        raise UserError(
            f"stages.{name}.teacher enlarges by {scale} and the recipe by "
            f"{config.networks.scale}: name a teacher of the recipe's scale."
        )


def _teacher_name(config: Config, name: str) -> str:
    return f"{run_name(config, name)}{KEPT_TEACHER}"


def _asked(config: Config, name: str) -> dict[str, Any]:
    """Returns the setting that names the teacher, as the user wrote it."""
    return {"teacher": config.stages[name].teacher}


def _begun(config: Config, name: str) -> Checkpoint | None:
    """Returns the kept weights of a begun run's teacher, if the setting still names the same."""
    return kept_weights(
        config,
        _teacher_name(config, name),
        used_by=run_name(config, name),
        asked=_asked(config, name),
    )


def _written(config: Config, name: str, reference: ModelReference) -> Checkpoint:
    """Keeps the weights of a model in a run of their own."""
    model = load_model(reference, config)
    _check_scale(config, name, model.network.scale)
    weights = model.network.inference_state_dict()
    return keep_weights(
        config,
        _teacher_name(config, name),
        stage=name,
        described_by=model.config,
        asked=_asked(config, name),
        content=model.weights_sha256,
        parent_version=model.parent_version,
        make=lambda: weights,
    )
