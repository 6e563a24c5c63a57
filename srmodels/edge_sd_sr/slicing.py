"""Slices a Stable Diffusion UNet by channel to the widths of ours.

Each tensor keeps its leading channels. Some channels have a meaning by their place: the two halves
of a GEGLU, the parts of a concatenated input, and the sinusoids of the timestep. There the channels
with the same meaning are kept. Heads are as wide as `networks.unet.head_channels`, whatever their
width in the source. A tensor without a counterpart stays as it was initialised. The choice of
channels is a reconstruction: the paper starts from Stable Diffusion and does not say how.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from srmodels.edge_sd_sr.unet import UNet

Index = Tensor
_BLOCK = re.compile(r"(down|up)_blocks\.(\d+)\.(resnets|attentions|resample)(?:\.(\d+))?\.(.+)")
_MID = {"0": "resnets.0", "1": "attentions.0", "2": "resnets.1"}


@dataclass(frozen=True)
class _Layout:
    """The widths of a UNet from fine to coarse, and its number of resnets per level.

    The number holds on the way down. Each level has one more on the way up.
    """

    widths: Sequence[int]
    num_layers: int

    @classmethod
    def of(cls, weights: Mapping[str, Tensor]) -> "_Layout":
        found = re.compile(r"down_blocks\.(\d+)\.resnets\.(\d+)\.conv1\.weight")
        places = {(int(m[1]), int(m[2])): n for n in weights if (m := found.fullmatch(n))}
        if not places or "conv_in.weight" not in weights:
            raise ValueError("it is no UNet in diffusers' layout")
        levels = 1 + max(level for level, _ in places)
        widths = [weights[places[level, 0]].shape[0] for level in range(levels)]
        return cls(widths, 1 + max(layer for _, layer in places))

    def up_inputs(self, level: int, layer: int) -> tuple[int, int]:
        """Returns the channels of the two parts of an upward resnet's input: of the result so far,
        and of the skip."""
        own, above = self.widths[level], min(level + 1, len(self.widths) - 1)
        current = self.widths[above] if layer == 0 else own
        skip = own if layer < self.num_layers else self.widths[max(level - 1, 0)]
        return current, skip


def slice_unet(unet: UNet, source: Mapping[str, Tensor]) -> list[str]:
    """Fills `unet` from the weights of a diffusers `UNet2DConditionModel`.

    Returns:
        the names of `unet`'s tensors that have no counterpart, and stay as they were.

    Raises:
        ValueError: `source` is no such model, or narrower, or shorter than `unet`.
    """
    own = unet.state_dict()
    ours, theirs = _Layout.of(own), _Layout.of(source)
    too_small = len(theirs.widths) < len(ours.widths) or theirs.num_layers < ours.num_layers
    if too_small or any(a > b for a, b in zip(ours.widths, theirs.widths, strict=False)):
        raise ValueError(
            f"it is smaller than networks.unet: levels of {list(theirs.widths)} channels with "
            f"{theirs.num_layers} blocks each, for {list(ours.widths)} with {ours.num_layers}"
        )
    new = []
    for name, weight in own.items():
        given = source.get(_their_name(name, ours, theirs))
        if given is None:
            new.append(name)
            continue
        if weight.ndim == 4 and given.ndim == 2:
            given = given[:, :, None, None]  # proj_in and proj_out of SD 2 are linear
        _check_size(name, weight, given)
        index = _outputs(name, weight, given, ours, theirs)
        weight.copy_(_with_inputs(name, weight, given[index], ours, theirs))
    return new


def _their_name(name: str, ours: _Layout, theirs: _Layout) -> str:
    if name.startswith("mid_block."):
        _, number, rest = name.split(".", 2)
        return f"mid_block.{_MID[number]}.{rest}"
    match = _BLOCK.fullmatch(name)
    if match is None:
        return name
    way, block, kind, layer, rest = match.groups()
    if way == "up":
        level = len(ours.widths) - 1 - int(block)
        block = str(len(theirs.widths) - 1 - level)
    if kind == "resample":
        return f"{way}_blocks.{block}.{way}samplers.0.conv.{rest}"
    if way == "up" and int(layer) == ours.num_layers:
        layer = str(theirs.num_layers)  # the last of a level sees the level below
    return f"{way}_blocks.{block}.{kind}.{layer}.{rest}"


def _check_size(name: str, weight: Tensor, given: Tensor) -> None:
    ends = name.startswith("conv_out.")
    wider = [a > b for a, b in zip(weight.shape, given.shape, strict=True)]
    if name == "conv_in.weight":
        wider[1] = weight.shape[1] != 2 * given.shape[1]
    if any(wider) or (ends and weight.shape[0] != given.shape[0]):
        raise ValueError(
            f"{name} is {_shape(given)} there, which cannot be sliced to {_shape(weight)}"
        )


def _outputs(name: str, weight: Tensor, given: Tensor, ours: _Layout, theirs: _Layout) -> Index:
    """Returns the indices of the output channels (the first dimension) that are kept."""
    size, of = weight.shape[0], given.shape[0]
    if ".ff.net.0.proj." in name:
        return _segments((size // 2, size // 2), (of // 2, of // 2))
    if ".norm1." in name and (parts := _concatenated(name, ours, theirs)):
        return _segments(*parts)
    return torch.arange(size)


def _with_inputs(
    name: str, weight: Tensor, given: Tensor, ours: _Layout, theirs: _Layout
) -> Tensor:
    """Returns the tensor with only the input channels (its second dimension) that are kept."""
    if weight.ndim == 1:
        return given
    if name == "conv_in.weight":
        # z_t goes where the noise latent went; z_l is new to the network, and starts unseen.
        kept = given[:, : weight.shape[1] // 2]
        return torch.cat([kept, torch.zeros_like(kept)], dim=1)
    size, of = weight.shape[1], given.shape[1]
    if name == "time_embedding.linear_1.weight":
        # The sinusoids with the nearest frequencies: cosines first, then sines.
        nearest = (torch.arange(size // 2) * (of / size)).round().long().clamp(max=of // 2 - 1)
        return given[:, torch.cat([nearest, nearest + of // 2])]
    if parts := _concatenated(name, ours, theirs):
        return given[:, _segments(*parts)]
    return given[:, :size]


def _concatenated(
    name: str, ours: _Layout, theirs: _Layout
) -> tuple[tuple[int, int], tuple[int, int]] | None:
    """Returns the channels of the two parts of an upward resnet's input, in our UNet and in theirs.

    Returns None for a tensor that does not depend on these channels.
    """
    match = _BLOCK.fullmatch(name)
    if match is None or match[1] != "up" or match[3] != "resnets":
        return None
    if match[5].partition(".")[0] not in ("norm1", "conv1", "conv_shortcut"):
        return None
    if match[5] in ("conv1.bias", "conv_shortcut.bias"):
        return None
    level, layer = len(ours.widths) - 1 - int(match[2]), int(match[4])
    their_layer = theirs.num_layers if layer == ours.num_layers else layer
    # The coarsest level of ours may lie in the middle of theirs.
    return ours.up_inputs(level, layer), theirs.up_inputs(level, their_layer)


def _segments(sizes: Sequence[int], of: Sequence[int]) -> Index:
    """Returns the indices of the leading `sizes` channels of adjacent parts, `of` channels long."""
    starts = [sum(of[:number]) for number in range(len(of))]
    return torch.cat(
        [torch.arange(start, start + n) for start, n in zip(starts, sizes, strict=True)]
    )


def _shape(weight: Tensor) -> str:
    return "x".join(map(str, weight.shape))
