"""Finds the teacher of a stage on the driver, and brings it to every rank, frozen."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipelines.config.reference import PEERS, Kind, ModelReference
from pipelines.config.schema import Config
from pipelines.errors import UserError
from pipelines.evaluation.methods import NetworkMethod, open_method
from pipelines.models.build import build_network, build_trained, network_on_meta, stage_on_meta
from pipelines.models.load import load_model, trained_config, weights_sha256
from pipelines.runs.checkpoint import MODEL, Checkpoint
from pipelines.runs.names import run_name
from pipelines.runs.outside import keep_weights
from pipelines.training.start import result_of_stage


@dataclass(frozen=True)
class Teacher:
    """Where a rank gets a stage's teacher from; can be pickled.

    Attributes:
        reference: a stage's name, or of a model.
        identity: digest of what it computes.
        checkpoint: of its weights; None for others' networks, which each rank opens by itself.
        fused: whether these are weights of fused networks.
    """

    reference: str
    identity: str
    checkpoint: Checkpoint | None
    fused: bool = False

    def load(self, config: Config, device: torch.device) -> nn.Module:
        """Returns a module that maps x_l `[B, 3, h, w]` to `[B, 3, scale·h, scale·w]`, both in
        [0, 1], on `device`."""
        if self.checkpoint is None:
            return _Foreign(_open_foreign(ModelReference.parse(self.reference), config))
        trained_with = trained_config(self.checkpoint.state())
        weights = self.checkpoint.weights()
        if self.fused:
            return build_network(trained_with, weights).to(device)
        return build_trained(trained_with, weights).to(device)


class _Foreign(nn.Module):
    """Others' network as a module; it computes on the CPU, wherever its input is."""

    def __init__(self, method: NetworkMethod) -> None:
        super().__init__()
        self.method = method

    def forward(self, x_l: Tensor) -> Tensor:
        return self.method.run(x_l.detach().float().cpu()).to(x_l)


class _Enlarged(nn.Module):
    """Stands for others' network where only shapes count: its cost is not known."""

    def __init__(self, scale: int) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, x_l: Tensor) -> Tensor:
        return F.interpolate(x_l, scale_factor=self.scale)


def find_teacher(config: Config, name: str, planned: Sequence[str] = ()) -> Teacher | None:
    """Finds the teacher of a stage; None where it has none, or where it is a stage of `planned`,
    which the same job is going to run first.

    Raises:
        UserError: the stage that teaches is not complete, or does not train all that inference
            needs; the model is not there, or has another scale.
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
        found = result_of_stage(config, name, text)
        return Teacher(text, found.files[MODEL].sha256, found)
    reference = ModelReference.parse(text)
    if not reference.is_model:
        method = _open_foreign(reference, config)
        _check_scale(config, name, method.scale)
        return Teacher(str(reference), method.identity, None)
    return _kept(config, name, reference)


def teacher_on_meta(config: Config, name: str) -> nn.Module | None:
    """Returns the teacher of a stage with shapes and without values; None where it has none."""
    text = config.stages[name].teacher
    if text is None:
        return None
    if text in config.stages:
        return network_on_meta(config.system, config.stages[text].networks).fuse()
    reference = ModelReference.parse(text)
    if not reference.is_model:
        return _Enlarged(config.networks.scale)
    trained_with = load_model(reference, config).config
    return network_on_meta(trained_with.system, trained_with.networks).fuse()


def _open_foreign(reference: ModelReference, config: Config) -> NetworkMethod:
    method = open_method(reference, config)
    if not isinstance(method, NetworkMethod) or reference.kind is Kind.ONNX:
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


def _kept(config: Config, name: str, reference: ModelReference) -> Teacher:
    """Keeps the weights of a model in a run of their own: an alias may move on."""
    model = load_model(reference, config)
    _check_scale(config, name, model.network.scale)
    weights = model.network.inference_state_dict()
    identity = weights_sha256(weights)
    kept = keep_weights(
        config,
        f"{run_name(config, name)}-teacher",
        stage=name,
        described_by=model.config,
        asked={"teacher": str(reference)},
        content=identity,
        make=lambda: weights,
    )
    return Teacher(str(reference), identity, kept, fused=True)
