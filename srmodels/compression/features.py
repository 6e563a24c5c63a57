"""Compares what two networks see on the way to their images: distillation of features."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from srmodels.layers import ReparameterisedConv

#: Side of the LR image that layers are looked for with, pixels.
_PROBE = 16
#: Layers of each network that are compared where none are named.
_NUM_LAYERS = 4
#: Width of AFD's queries and keys, d.
_ATTENTION_WIDTH = 128


@contextmanager
def watched(module: nn.Module, layers: Sequence[str]) -> Iterator[list[Tensor]]:
    """Collects what these layers of a module return while it runs, in the order of their names."""
    found: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[[nn.Module, Any, Tensor], None]:
        def hook(_: nn.Module, inputs: Any, output: Tensor) -> None:
            found[name] = output

        return hook

    handles = [module.get_submodule(name).register_forward_hook(keep(name)) for name in layers]
    results: list[Tensor] = []
    try:
        yield results
    finally:
        for handle in handles:
            handle.remove()
    results.extend(found[name] for name in layers)


def widths_at_lr(module: nn.Module) -> dict[str, int]:
    """Returns the convolutions that return features of x_l's height and width, by name in the order
    of their calls, with their number of channels.

    Args:
        module: maps `[1, 3, h, w]`.
    """
    found: dict[str, int] = {}

    def watch(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(_: nn.Module, inputs: Any, output: Any) -> None:
            if isinstance(output, Tensor) and output.shape[2:] == (_PROBE, _PROBE):
                found[name] = output.shape[1]

        return hook

    convs = (nn.Conv2d, ReparameterisedConv)
    layers = {name: layer for name, layer in module.named_modules() if isinstance(layer, convs)}
    # The convolutions inside a branched one are called where it is not computed as one.
    layers = {name: layer for name, layer in layers.items() if not _is_branch(name, layers)}
    handles = [layer.register_forward_hook(watch(name)) for name, layer in layers.items()]
    place = next(module.parameters())
    was_training = module.training
    module.eval()
    try:
        with torch.no_grad():
            module(torch.zeros(1, 3, _PROBE, _PROBE, device=place.device, dtype=place.dtype))
    finally:
        module.train(was_training)
        for handle in handles:
            handle.remove()
    return found


def _is_branch(name: str, layers: Mapping[str, nn.Module]) -> bool:
    parents = (name[:end] for end, letter in enumerate(name) if letter == ".")
    return any(isinstance(layers.get(parent), ReparameterisedConv) for parent in parents)


def chosen_layers(module: nn.Module, named: Sequence[str], whose: str) -> dict[str, int]:
    """Returns the layers to compare, with their channels: the named ones, else a few that stand
    evenly between the first and the last.

    Args:
        whose: "student" or "teacher", for messages.

    Raises:
        ValueError: a name is that of no convolution that returns features of x_l's size, or there
            are none.
    """
    found = widths_at_lr(module)
    if not found:
        raise ValueError(
            f"the {whose} has no convolutions of the LR image's size whose features could be "
            "compared: set features=none."
        )
    for name in named:
        if name not in found:
            raise ValueError(
                f"'{name}' is no convolution of the {whose} that returns features of the LR "
                f"image's size: use some of {', '.join(found)}."
            )
    if named:
        return {name: found[name] for name in named}
    names, count = list(found), min(_NUM_LAYERS, len(found))
    places = (round((number + 1) * len(names) / count) - 1 for number in range(count))
    return {names[place]: found[names[place]] for place in places}


def attention(features: Tensor) -> Tensor:
    """Returns where a layer looks, `[B, h·w]` of length 1: the mean square of its channels.

    Zagoruyko and Komodakis, arXiv 1612.03928, Sec. 3.1.

    Args:
        features: `[B, C, h, w]`.
    """
    return F.normalize(features.float().square().mean(1).flatten(1), dim=1)


def attention_transfer(student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
    """Returns how differently two networks look, layer by layer, a scalar (AT, arXiv 1612.03928).

    Args:
        student, teacher: features `[B, C, h, w]` of as many layers each; C may differ.
    """
    pairs = zip(student, teacher, strict=True)
    return torch.stack([F.mse_loss(attention(s), attention(t)) for s, t in pairs]).mean()


class AttentionBasedDistillation(nn.Module):
    """Compares all layers of a student with all of its teacher, and learns which belong together.

    AFD (Ji, Heo and Park, AAAI 2021): α_{t,s} is the softmax over s of
    (q_t · k_{t,s} + p_t · p_s) / √d, with d = 128; the loss is
    Σ α_{t,s} · mean (φ(h_t) − φ(h_s))², φ being `attention`. Queries and keys are linear in the
    mean of a layer's features over the image. That they have neither batch norm nor ReLU is a
    reconstruction. The parameters are learned with the student's.

    Args:
        student, teacher: the channels of the layers.
    """

    def __init__(self, student: Sequence[int], teacher: Sequence[int]) -> None:
        super().__init__()
        width = _ATTENTION_WIDTH
        self.queries = nn.ModuleList(nn.Linear(channels, width) for channels in teacher)
        self.keys = nn.ModuleList(nn.Linear(channels, width) for channels in student)
        self.weighing = nn.ModuleList(nn.Linear(width, width, bias=False) for _ in teacher)
        self.teacher_places = nn.Parameter(0.1 * torch.randn(len(teacher), width))
        self.student_places = nn.Parameter(0.1 * torch.randn(len(student), width))

    def forward(self, student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
        """Returns the loss, a scalar.

        Args:
            student, teacher: features `[B, C, h, w]` of the layers.
        """
        weights = self.weights(student, teacher)
        looks = torch.stack([attention(h) for h in student], 1)
        distances = [(attention(h)[:, None] - looks).square().mean(-1) for h in teacher]
        return (weights * torch.stack(distances, 1)).sum((1, 2)).mean()

    def weights(self, student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
        """Returns α, `[B, teacher layers, student layers]`; the last sums to 1."""
        keys = [key(h.mean((2, 3))) for key, h in zip(self.keys, student, strict=True)]
        queries = [query(h.mean((2, 3))) for query, h in zip(self.queries, teacher, strict=True)]
        keyed = torch.stack([torch.stack([w(k) for k in keys], 1) for w in self.weighing], 1)
        match = torch.einsum("btd,btsd->bts", torch.stack(queries, 1), keyed)
        places = self.teacher_places @ self.student_places.T
        weights: Tensor = ((match + places) / _ATTENTION_WIDTH**0.5).softmax(dim=-1)
        return weights


class ChannelWiseDistillation(nn.Module):
    """Compares where each channel of a student's layer is large with its teacher's.

    Channel-wise distillation (Shu et al., ICCV 2021, arXiv 2011.13256, Sec. 3.2): the softmax over
    the image of a channel, divided by a temperature T, is a distribution over places. The loss is
    T² / C · Σ_c KL(teacher_c ‖ student_c), layer by layer. Where a student's layer has fewer or
    more channels, a 1x1 convolution makes as many as the teacher's of them; it is learned with the
    student.

    Args:
        student, teacher: the channels of the layers, as many layers of each.
        temperature: T; the higher, the more places count.
    """

    def __init__(
        self, student: Sequence[int], teacher: Sequence[int], temperature: float = 4.0
    ) -> None:
        super().__init__()
        self.temperature = temperature
        self.widened = nn.ModuleList(
            nn.Identity() if mine == theirs else nn.Conv2d(mine, theirs, 1)
            for mine, theirs in zip(student, teacher, strict=True)
        )

    def forward(self, student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
        """Returns the loss, a scalar.

        Args:
            student, teacher: features `[B, C, h, w]` of the layers.
        """
        seen = [widen(h) for widen, h in zip(self.widened, student, strict=True)]
        pairs = zip(seen, teacher, strict=True)
        return torch.stack([self._divergence(s, t) for s, t in pairs]).mean()

    def _divergence(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Returns the mean over samples and channels, a scalar."""
        s, t = (
            (h.float() / self.temperature).flatten(2).log_softmax(-1) for h in (student, teacher)
        )
        each = F.kl_div(s, t, reduction="none", log_target=True).sum(-1)
        return self.temperature**2 * each.mean()
