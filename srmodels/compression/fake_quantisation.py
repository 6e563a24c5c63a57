"""Computes products as integers would, in floating point, so that networks learn to bear it.

Rounding has no useful gradient, so the backward pass takes it for the identity (straight-through
estimation, Bengio et al., arXiv 1308.3432). The ranges of activations are learned with the weights
(in the spirit of LSQ+, Bhalgat et al., arXiv 2004.09576); those of weights are their extremes.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from srmodels.layers import fuse

#: The number of bits of activations, by precision. Weights have 8 in all of them.
QUANTISED = {"int8": 8, "a16w8": 16}
#: Weights lie from -127 to 127 steps, so that zero is one of them and the steps are symmetric.
WEIGHT_LEVELS = 127
#: Ends of ranges are kept divided by it. An optimizer like Adam, whose steps do not depend on the
#: size of a gradient, moves them so many times as fast as the weights, which are far smaller.
_HASTE = 10
#: An end that nothing reaches.
_ANYTHING = 1e30


class Range(nn.Module):
    """Rounds activations to 2^bits levels between two learned ends, `[...]` → `[...]`.

    The ends are low ≤ 0 ≤ high, so that zero is exact, which padding needs.
    """

    def __init__(self, bits: int) -> None:
        super().__init__()
        self.bits = bits
        # Not scalars: DeepSpeed sends parameters as bytes, which it cannot see in those.
        self.low = nn.Parameter(torch.zeros(1))
        self.high = nn.Parameter(torch.ones(1) / _HASTE)

    def set_ends(self, low: float, high: float) -> None:
        """Sets both ends."""
        with torch.no_grad():
            self.low.fill_(low / _HASTE)
            self.high.fill_(high / _HASTE)

    def ends(self) -> tuple[Tensor, Tensor]:
        """Returns low and high, `[1]` each."""
        low, high = _HASTE * self.low.float(), _HASTE * self.high.float()
        return low.clamp(max=0.0), high.clamp(min=0.0)

    def steps(self) -> tuple[Tensor, Tensor]:
        """Returns the size of a step, above 0, and the level of zero, a whole number: `[1]`."""
        low, high = self.ends()
        step = (high - low).clamp(min=1e-8) / (2**self.bits - 1)
        return step, round_through(-low / step)

    def clip(self, x: Tensor) -> Tensor:
        """Returns x between the ends: what rounding does to it, but for the rounding."""
        low, high = (end.to(x.dtype) for end in self.ends())
        return torch.minimum(torch.maximum(x, low), high)

    def forward(self, x: Tensor) -> Tensor:
        step, zero = self.steps()
        levels = (round_through(x.float() / step) + zero).clamp(0, 2**self.bits - 1)
        return ((levels - zero) * step).to(x.dtype)


class _Rounding(nn.Module):
    """A layer that can round its input and its weights.

    Attributes:
        input_range: the range of its input.
        rounds: True where `forward` rounds. In training mode it always does. Where it does not, it
            clips its input to the range all the same: that is the function that was trained.
    """

    input_range: Range
    rounds: bool

    def rounded_weight(self) -> Tensor:
        """Returns the weights as integers hold them, in floating point."""
        return round_weight(cast(Tensor, self.weight))

    def operands(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Returns input and weights as the layer multiplies them now."""
        if self.training or self.rounds:
            return self.input_range(x), self.rounded_weight()
        return self.input_range.clip(x), cast(Tensor, self.weight)


class RoundingConv2d(nn.Conv2d, _Rounding):
    """A convolution that can compute as int8 products do."""

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self._conv_forward(*self.operands(x), self.bias)
        return y


class RoundingLinear(nn.Linear, _Rounding):
    """A linear layer that can compute as int8 products do."""

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(*self.operands(x), self.bias)


#: What takes the place of a layer: the layer itself, as another class, so that its name stays.
_ROUNDING: dict[type[nn.Module], type[_Rounding]] = {
    nn.Conv2d: RoundingConv2d,
    nn.Linear: RoundingLinear,
}


def quantise_layers(modules: Iterable[nn.Module], precision: str) -> None:
    """Lets the convolutions and linear layers of `modules` round, with ranges yet to be found.

    Reparameterised convolutions become the convolution that they equal: what ships is rounded, not
    its branches.

    Args:
        precision: a key of QUANTISED.
    """
    for module in modules:
        fuse(module)
        for layer in module.modules():
            if type(layer) in _ROUNDING:
                device = next(layer.parameters()).device
                layer.__class__ = _ROUNDING[type(layer)]
                layer.rounds = False  # type: ignore[assignment]
                layer.input_range = Range(QUANTISED[precision]).to(device)


def rounding_layers(network: nn.Module) -> dict[str, RoundingConv2d | RoundingLinear]:
    """Returns the layers that can round, by name."""
    return {
        name: module
        for name, module in network.named_modules()
        if isinstance(module, RoundingConv2d | RoundingLinear)
    }


@contextmanager
def rounding(network: nn.Module, on: bool = True) -> Iterator[None]:
    """Lets a network in eval mode compute as its int8 artifact does; others stay as they are."""
    layers = list(rounding_layers(network).values())
    before = [layer.rounds for layer in layers]
    for layer in layers:
        layer.rounds = on
    try:
        yield
    finally:
        for layer, was in zip(layers, before, strict=True):
            layer.rounds = was


@torch.no_grad()
def keep_rounded_weights(network: nn.Module) -> None:
    """Puts the weights that integers hold in the place of those that training moves between them:
    only the former were ever multiplied. It changes nothing the second time."""
    for layer in rounding_layers(network).values():
        layer.weight.copy_(layer.rounded_weight())


@torch.no_grad()
def find_ranges(network: nn.Module, images: Sequence[Tensor]) -> None:
    """Sets each range to the extremes of its layer's input over the images.

    Args:
        network: maps `[1, 3, h, w]`; it computes in floating point and in eval mode.
        images: what it sees; at least one.
    """
    assert images
    layers = rounding_layers(network)
    for layer in layers.values():
        layer.input_range.set_ends(-_ANYTHING, _ANYTHING)
    was_training = network.training
    network.eval()
    try:
        with rounding(network, on=False), watched_inputs(layers) as extremes:
            for image in images:
                network(image)
    finally:
        network.train(was_training)
    for name, layer in layers.items():
        layer.input_range.set_ends(*extremes[name])


@contextmanager
def watched_inputs(layers: Mapping[str, nn.Module]) -> Iterator[dict[str, tuple[float, float]]]:
    """Keeps the extremes of what layers see, by name: the lowest value, at most 0, and the highest,
    at least 0."""
    extremes = dict.fromkeys(layers, (0.0, 0.0))

    def watch(name: str) -> Callable[[nn.Module, Any], None]:
        def hook(_: nn.Module, inputs: tuple[Tensor]) -> None:
            low, high = extremes[name]
            found = inputs[0].aminmax()
            extremes[name] = (min(low, found.min.item()), max(high, found.max.item()))

        return hook

    handles = [layer.register_forward_pre_hook(watch(name)) for name, layer in layers.items()]
    try:
        yield extremes
    finally:
        for handle in handles:
            handle.remove()


def weight_steps(weight: Tensor) -> Tensor:
    """Returns the size of a step of each output channel's weights, `[out_channels]`, above 0."""
    return weight.flatten(1).abs().amax(1).clamp(min=1e-12).float() / WEIGHT_LEVELS


def round_weight(weight: Tensor) -> Tensor:
    """Returns weights `[out_channels, ...]` rounded to int8, per output channel and symmetric."""
    steps = weight_steps(weight.detach()).view(-1, *[1] * (weight.dim() - 1))
    return (round_through(weight.float() / steps) * steps).to(weight.dtype)


def round_through(x: Tensor) -> Tensor:
    """Returns x rounded to whole numbers, halves to even; its gradient is that of x."""
    return x + (x.round() - x).detach()
