"""A network of spandrel's as a network of ours."""

from typing import Any, Self

import torch
from torch import Tensor, nn

from srmodels.network import SRNetwork
from srmodels.spandrel.architectures import architecture
from srmodels.spandrel.config import SpandrelConfig


class SpandrelNetwork(SRNetwork):
    """One of spandrel's classes, from LR to HR.

    `size_multiple` is what spandrel says of the architecture; 1 where it cannot tell.

    Raises:
        ValueError: spandrel is not installed, the options are not the class's, or it does not
            enlarge RGB images by `networks.scale`.
    """

    def __init__(self, config: SpandrelConfig) -> None:
        super().__init__()
        self.config = config
        self.scale, self.size_multiple = config.scale, 1
        made = architecture(config.architecture)
        body = made.build(config.scale, config.options)
        about = made.description(body)
        if about is not None:
            self.size_multiple = about.size_requirements.multiple_of
            found = about.scale, about.input_channels, about.output_channels
            if found != (config.scale, 3, 3):
                raise ValueError(
                    f"networks.architecture={config.architecture} with these options makes "
                    f"{found[2]} channels of {found[1]}, {found[0]} times as large, not 3 of 3, "
                    f"{config.scale} times: change networks.scale or networks.options."
                )
        self.body: nn.Module = body.to(torch.get_default_device())

    def inference_modules(self) -> dict[str, nn.Module]:
        return {"body": self.body}

    def fuse(self) -> Self:
        if _fuse_branches(self.body):
            self.fused = True
        return super().fuse()

    def forward(self, x_l: Tensor) -> Tensor:
        """Returns `[B, 3, scale·h, scale·w]` for x_l `[B, 3, h, w]` in [0, 1]: in [0, 1] in eval
        mode, about [0, 1] in training, where a clamp would cut gradients off."""
        x: Tensor = self.body(x_l)
        return x if self.training else x.clamp(0.0, 1.0)


def _fuse_branches(module: nn.Module) -> int:
    """Puts the one convolution of every `Conv3XC` (SPAN's, by whatever name) in its place; returns
    how many there were. spandrel computes that convolution anew in each forward, from weights that
    no exporter can trace."""
    count = 0
    child: Any
    for name, child in list(module.named_children()):
        if hasattr(child, "update_params") and hasattr(child, "eval_conv"):
            child.update_params()
            activation = nn.LeakyReLU(0.05) if child.has_relu else nn.Identity()
            setattr(module, name, nn.Sequential(child.eval_conv, activation))
            count += 1
        else:
            count += _fuse_branches(child)
    return count
