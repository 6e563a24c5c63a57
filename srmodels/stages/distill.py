"""The stage by which any network learns from what a teacher answers, and from how it gets there."""

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from srmodels.checks import check_not_negative, check_one_of, check_positive
from srmodels.compression.features import (
    AttentionBasedDistillation,
    ChannelWiseDistillation,
    attention_transfer,
    chosen_layers,
    watched,
)
from srmodels.network import SRNetwork
from srmodels.stage import ParameterGroup
from srmodels.stages.pixel import PixelStage

#: The ways to compare features, each with the weight that its paper gives it; that of `kl` is in
#: its authors' code.
FEATURES = {"none": 0.0, "at": 1e3, "afd": 200.0, "kl": 50.0}


class DistillStage(PixelStage):
    """Trains everything that ships on the teacher's image as well as on x_h.

    A teacher's image is easier to learn than x_h: it holds no detail that x_l does not tell.
    Response distillation, as Hinton et al. (arXiv 1503.02531) do it, with PixelStage's distances in
    place of the cross-entropy.

    Loss: `teacher_weight` times the distances to the teacher's image (`taught_l1` and so on) and
    `1 - teacher_weight` times those to x_h (`l1` and so on). `features` adds how differently both
    networks look at the image on the way (`features`), `features_weight` times: `at` layer by layer
    (`attention_transfer`), `afd` all layers with all, in proportions that are learned
    (`AttentionBasedDistillation`), `kl` channel by channel (`ChannelWiseDistillation`).

    Options: student_layers and teacher_layers name the convolutions that are compared; without
    names a few that stand evenly in each network. features_weight: that of the method's paper where
    it is not set. kl_temperature: that of `kl`.

    Raises:
        ValueError: a teacher_weight outside [0, 1], one of 0 without features, other impossible
            options, or as PixelStage.
    """

    takes_teacher = True

    @dataclass
    class Options(PixelStage.Options):
        teacher_weight: float = 0.5
        features: str = "none"
        features_weight: float | None = None
        kl_temperature: float = 4.0
        student_layers: list[str] = field(default_factory=list)
        teacher_layers: list[str] = field(default_factory=list)

    options: Options

    def __init__(self, network: SRNetwork, options: Options) -> None:
        weight = options.teacher_weight
        check_one_of("features", options.features, tuple(FEATURES))
        taught = options.features != "none"
        if not 0 <= weight <= 1 or (weight == 0 and not taught):
            raise ValueError(
                f"teacher_weight must be above 0 and at most 1, not {weight}: without a teacher, "
                "take a stage of the kind 'pixel'."
            )
        given = options.features_weight
        self.features_weight = FEATURES[options.features] if given is None else given
        check_not_negative("features_weight", self.features_weight)
        check_positive("kl_temperature", options.kl_temperature)
        super().__init__(network, options)
        self.comparison: nn.Module | None = None
        self.student_layers: list[str] = []
        self.teacher_layers: list[str] = []

    def learn_from(self, teacher: nn.Module) -> None:
        """Gives the stage its teacher, and finds the layers that are compared.

        Raises:
            ValueError: there are no such layers, or not as many of the student as of the teacher
                for `at` and `kl`.
        """
        super().learn_from(teacher)
        options = self.options
        if options.features == "none":
            return
        student = chosen_layers(self.network, options.student_layers, "student")
        taught = chosen_layers(teacher, options.teacher_layers, "teacher")
        self.student_layers, self.teacher_layers = list(student), list(taught)
        if options.features != "afd" and len(student) != len(taught):
            raise ValueError(
                f"features={options.features} compares layer by layer, but {len(student)} of the "
                f"student and {len(taught)} of the teacher are named: name as many."
            )
        widths = list(student.values()), list(taught.values())
        with torch.device(next(self.network.parameters()).device):
            if options.features == "afd":
                self.comparison = AttentionBasedDistillation(*widths)
            elif options.features == "kl":
                self.comparison = ChannelWiseDistillation(*widths, options.kl_temperature)

    def parameter_groups(self) -> list[ParameterGroup]:
        """Returns a group for each module that ships, and one for what the comparison learns of its
        own, called as `features`."""
        groups = super().parameter_groups()
        comparison: nn.Module | None = getattr(self, "comparison", None)
        if comparison is not None and (own := list(comparison.parameters())):
            groups.append(ParameterGroup(self.options.features, own))
        return groups

    def forward(self, x_l: Tensor, x_h: Tensor, seeds: Tensor) -> dict[str, Tensor]:
        assert self.teacher is not None
        with torch.no_grad(), watched(self.teacher, self.teacher_layers) as shown:
            told = self.teacher(x_l)
        with watched(self.network, self.student_layers) as seen:
            x = self.upscale(x_l, x_h)
        from_teacher, from_x_h = self.distances(x, told), self.distances(x, x_h)
        weight = self.options.teacher_weight
        loss = torch.lerp(from_x_h.pop("loss"), from_teacher.pop("loss"), weight)
        losses = from_x_h | {f"taught_{name}": value for name, value in from_teacher.items()}
        if self.options.features != "none":
            compare = self.comparison or attention_transfer
            losses["features"] = compare(seen, shown)
            loss = loss + self.features_weight * losses["features"]
        return self.with_group_lasso({"loss": loss} | losses)
