"""The stage by which any network learns from what a teacher answers."""

from dataclasses import dataclass

import torch
from torch import Tensor

from srmodels.network import SRNetwork
from srmodels.stages.pixel import PixelStage


class DistillStage(PixelStage):
    """Trains everything that ships on the teacher's image as well as on x_h.

    A teacher's image is easier to learn than x_h: it holds no detail that x_l does not tell.
    Response distillation, as Hinton et al. (arXiv 1503.02531) do it, with PixelStage's distances in
    place of the cross-entropy.

    Loss: `teacher_weight` times the distances to the teacher's image (`taught_l1` and so on) and
    `1 - teacher_weight` times those to x_h (`l1` and so on).

    Raises:
        ValueError: a teacher_weight outside (0, 1], or as PixelStage.
    """

    takes_teacher = True

    @dataclass
    class Options(PixelStage.Options):
        teacher_weight: float = 0.5

    options: Options

    def __init__(self, network: SRNetwork, options: Options) -> None:
        weight = options.teacher_weight
        if not 0 < weight <= 1:
            raise ValueError(
                f"teacher_weight must be above 0 and at most 1, not {weight}: without a teacher, "
                "take a stage of the kind 'pixel'."
            )
        super().__init__(network, options)

    def forward(self, x_l: Tensor, x_h: Tensor, seeds: Tensor) -> dict[str, Tensor]:
        assert self.teacher is not None
        with torch.no_grad():
            told = self.teacher(x_l)
        x, weight = self.upscale(x_l, x_h), self.options.teacher_weight
        from_teacher, from_x_h = self.distances(x, told), self.distances(x, x_h)
        loss = torch.lerp(from_x_h.pop("loss"), from_teacher.pop("loss"), weight)
        taught = {f"taught_{name}": value for name, value in from_teacher.items()}
        return {"loss": loss} | from_x_h | taught
