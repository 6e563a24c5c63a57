"""The stage that any network can be trained by: pixel for pixel, from LR to HR."""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields

import torch
import torch.nn.functional as F
from torch import Tensor

from srmodels.checks import check_not_negative, check_one_of, check_positive
from srmodels.compression.group_lasso import GroupLasso
from srmodels.network import SRNetwork
from srmodels.stage import ParameterGroup, Stage


class PixelStage(Stage):
    """Trains everything that ships on the difference between the network's result and x_h.

    Loss: the weighted sum of those of l1, charbonnier, l2 (the mean squared error) and fft whose
    weights are above 0; each is a mean over all elements. What a network has for training alone
    stays as it is.

    A group_lasso_weight adds as many times the penalty `GroupLasso`, which empties channels that a
    later stage of the kind `prune` removes. group_lasso_networks are the `networks` of that stage.

    Raises:
        ValueError: weights that are negative or all 0, an eps that is not above 0, or a group lasso
            of networks that cannot be pruned.
    """

    @dataclass
    class Options:
        l1_weight: float = 1.0
        charbonnier_weight: float = 0.0
        charbonnier_eps: float = 1e-3
        l2_weight: float = 0.0
        fft_weight: float = 0.0
        group_lasso_weight: float = 0.0
        group_lasso_networks: list[str] = field(default_factory=list)

    options: Options
    group_lasso: GroupLasso | None = None

    def __init__(self, network: SRNetwork, options: Options) -> None:
        check_positive("charbonnier_eps", options.charbonnier_eps)
        names = (field.name for field in fields(PixelStage.Options))
        weights = {name: getattr(options, name) for name in names if name.endswith("_weight")}
        for name, weight in weights.items():
            check_not_negative(name, weight)
        if weights.pop("group_lasso_weight"):
            _check_prunable(network, options.group_lasso_networks)
        if not any(weights.values()):
            raise ValueError(
                f"all weights are 0, so there is nothing to learn: set one of {', '.join(weights)}."
            )
        super().__init__(network, options)

    def parameter_groups(self) -> list[ParameterGroup]:
        """Returns a group for each module that ships, by its name."""
        groups = (
            ParameterGroup(name, list(module.parameters()))
            for name, module in self.network.inference_modules().items()
        )
        return [group for group in groups if group.parameters]

    def prepare(self) -> Sequence[str]:
        weight = self.options.group_lasso_weight
        if not weight:
            return []
        lasso = GroupLasso(self.network, self.options.group_lasso_networks)
        self.group_lasso = lasso
        units = f"{lasso.num_units} units of channels in {len(lasso.groups)} groups"
        return [f"Group lasso over {units}, with a weight of {weight:g}."]

    def forward(self, x_l: Tensor, x_h: Tensor, seeds: Tensor) -> dict[str, Tensor]:
        return self.with_group_lasso(self.distances(self.upscale(x_l, x_h), x_h))

    def with_group_lasso(self, losses: dict[str, Tensor]) -> dict[str, Tensor]:
        """Returns these losses, with the penalty `group_lasso` where it has a weight."""
        if self.group_lasso is None:
            return losses
        penalty = self.group_lasso(self.network)
        loss = losses["loss"] + self.options.group_lasso_weight * penalty
        return losses | {"loss": loss, "group_lasso": penalty}

    def upscale(self, x_l: Tensor, x_h: Tensor) -> Tensor:
        """Returns the network's images for x_l, `[B, 3, scale·h, scale·w]`, about [0, 1].

        Raises:
            ValueError: they have not the shape of x_h.
        """
        x: Tensor = self.network(x_l)
        if x.shape != x_h.shape:
            raise ValueError(
                f"the network makes {list(x.shape)} of x_l {list(x_l.shape)}, and x_h is "
                f"{list(x_h.shape)}"
            )
        return x

    def distances(self, x: Tensor, x_h: Tensor) -> dict[str, Tensor]:
        """Returns the distances that have a weight, by name, and their weighted sum `loss`.

        Args:
            x: the network's images `[B, 3, H, W]`, about [0, 1].
            x_h: what they should be, of the same shape.
        """
        options = self.options
        terms = {
            "l1": (options.l1_weight, lambda: F.l1_loss(x, x_h)),
            "charbonnier": (
                options.charbonnier_weight,
                lambda: charbonnier_loss(x, x_h, options.charbonnier_eps),
            ),
            "l2": (options.l2_weight, lambda: F.mse_loss(x, x_h)),
            "fft": (options.fft_weight, lambda: fft_loss(x, x_h)),
        }
        weights = {name: weight for name, (weight, _) in terms.items() if weight}
        losses = {name: terms[name][1]() for name in weights}
        loss = torch.stack([weights[name] * losses[name] for name in weights]).sum()
        return {"loss": loss} | losses


def _check_prunable(network: SRNetwork, names: Sequence[str]) -> None:
    network.check_compressible()
    if network.quantised:
        raise ValueError(
            "these networks are quantised already, and nothing can be pruned then: set "
            "group_lasso_weight to 0."
        )
    for name in names:
        check_one_of("group_lasso_networks", name, tuple(network.inference_modules()))


def charbonnier_loss(x: Tensor, x_h: Tensor, eps: float) -> Tensor:
    """Returns the mean of sqrt((x - x_h)² + eps²), a scalar: L1 that is smooth around 0 (Lai et
    al., arXiv 1704.03915, which has eps = 1e-3).

    Args:
        x, x_h: `[B, C, H, W]`, about [0, 1].
        eps: below which differences count as squares, in the images' units.
    """
    return torch.sqrt((x - x_h).square() + eps**2).mean()


def fft_loss(x: Tensor, x_h: Tensor) -> Tensor:
    """Returns the mean L1 distance between real and imaginary parts of the 2-D real Fourier
    transforms, orthonormal ones, a scalar: MIMO-UNet's loss in the frequency domain (Cho et al.,
    arXiv 2108.05054, Eq. 4). It weighs fine detail more than L1 does.

    Args:
        x, x_h: `[B, C, H, W]`, about [0, 1].
    """
    # There is no transform in bfloat16.
    one, other = (torch.view_as_real(torch.fft.rfft2(i.float(), norm="ortho")) for i in (x, x_h))
    return F.l1_loss(one, other)
