"""Finds the layers of a network that int8 must spare, so that it costs little quality."""

from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from srmodels.compression.fake_quantisation import round_weight, watched_inputs
from srmodels.edge.target import Calibration, Cost

#: A good number of images for `rank_layers`: each layer takes a pass over them.
_NUM_RANKED = 4


def spare_if_needed(
    module: nn.Module, cost: Callable[[Sequence[str]], Cost], calibration: Calibration
) -> list[str]:
    """Makes an artifact in int8, and returns the layers that it spares: none, where that is good
    enough, else those that `rank_layers` puts first, as few as are enough.

    Args:
        module: the module that is exported, see `rank_layers`.
        cost: as for `spare_fewest`; its last call makes the artifact that stays.
    """
    lost = cost([])
    calibration.on_trial(f"all products in int8: {lost}")
    if lost.is_small:
        return []
    order = rank_layers(module, calibration.images[:_NUM_RANKED])
    spared = spare_fewest(order, cost, calibration)
    cost(spared)
    return spared


def spare_fewest(
    order: Sequence[str], cost: Callable[[Sequence[str]], Cost], calibration: Calibration
) -> list[str]:
    """Returns the layers to leave in fp32: the first of `order`, as few as are enough.

    Returns all layers but the last if that is never enough.

    Args:
        order: all layers, the one that int8 harms most first.
        cost: makes an artifact that spares these layers, and returns what it costs.
    """

    def enough(count: int) -> bool:
        lost = cost(order[:count])
        calibration.on_trial(f"with {count} layers spared: {lost}")
        return lost.is_small

    return list(order[: bisect_left(range(len(order) - 1), True, lo=1, key=enough)])


@torch.no_grad()
def rank_layers(module: nn.Module, images: Sequence[Tensor]) -> list[str]:
    """Returns the names of a module's convolutions and linear layers, the one that int8 harms most
    first: the one whose rounding alone changes the module's output most (mean squared error).

    Rounded are the weights, per channel and symmetric, and the input, to 8 bits between its
    extremes over the images.

    Args:
        module: maps `[1, 3, h, w]` to an image; it is not changed.
        images: inputs of the module.
    """
    layers = {n: m for n, m in module.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)}
    with watched_inputs(layers) as extremes:
        exact = [module(image) for image in images]

    def error(name: str) -> float:
        with _rounded(layers[name], *extremes[name]):
            return sum(
                float((module(image) - expected).square().mean())
                for image, expected in zip(images, exact, strict=True)
            )

    errors = {name: error(name) for name in layers}
    return sorted(layers, key=lambda name: errors[name], reverse=True)


@contextmanager
def _rounded(layer: nn.Conv2d | nn.Linear, low: float, high: float) -> Iterator[None]:
    """Rounds a layer's weights and its input, which lies between `low` and `high`."""
    step = max(high - low, 1e-12) / 255
    zero = min(255, max(0, round(-low / step)))

    def hook(_: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
        return (torch.fake_quantize_per_tensor_affine(inputs[0], step, zero, 0, 255),)

    weight = layer.weight.data
    handle = layer.register_forward_pre_hook(hook)
    try:
        layer.weight.data = round_weight(weight)
        yield
    finally:
        layer.weight.data = weight
        handle.remove()
