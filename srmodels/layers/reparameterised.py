"""Convolutions that train as a sum of branches and ship as the one convolution that equals it."""

from abc import ABC, abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

#: The kinds that `make_conv` knows.
CONVOLUTIONS = ("plain", "repvgg", "ecb")


class ReparameterisedConv(nn.Module, ABC):
    """Linear branches from `[B, in_channels, H, W]` to `[B, out_channels, H', W']` whose sum is one
    3x3 convolution with this stride and zero padding, borders included.

    Args:
        padding: zeros around x, pixels; with 1 and a stride of 1 the size stays.
        identity: whether x itself is a branch, where channels and stride allow it.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int = 1,
        padding: int = 1,
        identity: bool = True,
    ) -> None:
        super().__init__()
        self.in_channels, self.out_channels = in_channels, out_channels
        self.stride, self.padding = stride, padding
        self.identity = identity and in_channels == out_channels and stride == 1
        self.add_branches()

    @abstractmethod
    def add_branches(self) -> None:
        """Makes the layers of the branches."""

    @abstractmethod
    def branches(self, x: Tensor) -> list[Tensor]:
        """Returns what each branch says of x, `[B, out_channels, H', W']` each."""

    @abstractmethod
    def kernel(self) -> tuple[Tensor, Tensor]:
        """Returns weight `[out_channels, in_channels, 3, 3]` and bias `[out_channels]` of the
        convolution that equals the sum; with batch norms, as they are in eval mode."""

    def fused(self) -> nn.Conv2d:
        """Returns that convolution; its weights are computed in fp64."""
        dtype = next(self.parameters()).dtype
        weight, bias = self.double().kernel()
        self.to(dtype)
        channels = self.in_channels, self.out_channels
        conv = nn.Conv2d(*channels, 3, self.stride, self.padding).to(weight)
        with torch.no_grad():
            conv.weight.copy_(weight)
            conv.bias.copy_(bias)  # type: ignore[union-attr]
        return conv.to(dtype)

    def become(self, weight: Tensor, bias: Tensor) -> None:
        """Changes the branches so that they equal a convolution, such as the one that they were
        fused into: `[out_channels, in_channels, 3, 3]` and `[out_channels]`.

        Raises:
            ValueError: these branches cannot.
        """
        raise ValueError(
            f"the branches of {type(self).__name__} cannot be made again from the convolution that "
            "they were fused into."
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack(self.branches(x)).sum(0)

    def centre(self, x: Tensor) -> Tensor:
        """Returns what the middle of a 3x3 window sees: the input of a 1x1 branch, `[B, C, H', W']`
        once it is strided."""
        # A negative padding crops.
        return F.pad(x, [self.padding - 1] * 4)


class RepVGGConv(ReparameterisedConv):
    """3x3, 1x1 and identity, each with a batch norm of its own: RepVGG
    (Ding et al., arXiv 2101.03697, Fig. 4)."""

    def add_branches(self) -> None:
        channels = self.in_channels, self.out_channels
        self.conv3 = nn.Conv2d(*channels, 3, self.stride, self.padding, bias=False)
        self.norm3 = nn.BatchNorm2d(self.out_channels)
        self.conv1 = nn.Conv2d(*channels, 1, self.stride, bias=False)
        self.norm1 = nn.BatchNorm2d(self.out_channels)
        self.norm0 = nn.BatchNorm2d(self.out_channels) if self.identity else None

    def branches(self, x: Tensor) -> list[Tensor]:
        centre = self.centre(x)
        found = [self.norm3(self.conv3(x)), self.norm1(self.conv1(centre))]
        return [*found, self.norm0(centre)] if self.norm0 is not None else found

    def kernel(self) -> tuple[Tensor, Tensor]:
        kernels = [(self.conv3.weight, self.norm3), (_padded(self.conv1.weight), self.norm1)]
        if self.norm0 is not None:
            kernels.append((_identity(self.conv3.weight), self.norm0))
        weights, biases = zip(*(_normalised(*pair) for pair in kernels), strict=True)
        return torch.stack(weights).sum(0), torch.stack(biases).sum(0)


class ECBConv(ReparameterisedConv):
    """The edge-oriented convolution block of ECBSR (Zhang, Zeng and Zhang, ACM MM 2021, Sec. 3.2):
    3x3; 1x1 to `expansion` times the channels, then 3x3; 1x1, then Sobel in x, Sobel in y and
    Laplacian with a learned gain and bias per channel; and identity.

    Between a 1x1 and what follows it the border is the 1x1's bias, not zero: what it makes of a
    padded x. No branch is normalised, so the sum is computed as the one convolution it is, in
    training too (as SESR does, Bhardwaj et al., arXiv 2103.09404): a step costs what a plain
    convolution's costs.
    """

    expansion = 2

    def add_branches(self) -> None:
        wide = self.expansion * self.out_channels
        self.conv3 = nn.Conv2d(self.in_channels, self.out_channels, 3)
        self.expand = nn.Conv2d(self.in_channels, wide, 1)
        self.squeeze = nn.Conv2d(wide, self.out_channels, 3)
        # ECBSR starts all gains at 1e-3. Where nothing but the edges passes details on, they speak
        # from the start: a stack of these learns nothing but flat images for long otherwise.
        gain = 1e-3 if self.identity else 0.3
        self.edges = nn.ModuleList(
            _EdgeBranch(self.in_channels, self.out_channels, mask, gain) for mask in _EDGE_MASKS
        )

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = self.kernel()
        return F.conv2d(x, weight, bias, self.stride, self.padding)

    def branches(self, x: Tensor) -> list[Tensor]:
        x = F.pad(x, [self.padding] * 4)
        found = [
            F.conv2d(x, self.conv3.weight, self.conv3.bias, self.stride),
            F.conv2d(self.expand(x), self.squeeze.weight, self.squeeze.bias, self.stride),
        ]
        found += [edge(x, self.stride) for edge in self.edges]
        return [*found, x[:, :, 1:-1, 1:-1]] if self.identity else found

    @torch.no_grad()
    def become(self, weight: Tensor, bias: Tensor) -> None:
        """Lets the plain 3x3 make up for the other branches, which stay as they are."""
        assert self.conv3.bias is not None
        own_weight, own_bias = self.kernel()
        self.conv3.weight.add_(weight - own_weight)
        self.conv3.bias.add_(bias - own_bias)

    def kernel(self) -> tuple[Tensor, Tensor]:
        assert self.conv3.bias is not None
        assert self.squeeze.bias is not None
        weight, bias = _composed(self.expand, self.squeeze.weight)
        weight, bias = weight + self.conv3.weight, bias + self.squeeze.bias + self.conv3.bias
        for edge in self.edges:
            assert isinstance(edge, _EdgeBranch)
            edge_weight, edge_bias = edge.kernel()
            weight, bias = weight + edge_weight, bias + edge_bias
        if self.identity:
            weight = weight + _identity(weight)
        return weight, bias


#: The share that `start_near_identity` leaves of all but the identity.
_SMALL = 0.1
#: Sobel in x, Sobel in y, Laplacian.
_EDGE_MASKS = (
    ((1.0, 0.0, -1.0), (2.0, 0.0, -2.0), (1.0, 0.0, -1.0)),
    ((1.0, 2.0, 1.0), (0.0, 0.0, 0.0), (-1.0, -2.0, -1.0)),
    ((0.0, 1.0, 0.0), (1.0, -4.0, 1.0), (0.0, 1.0, 0.0)),
)


class _EdgeBranch(nn.Module):
    """1x1, then one fixed 3x3 mask per channel with a learned gain and bias."""

    mask: Tensor

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        mask: tuple[tuple[float, ...], ...],
        gain: float,
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 1)
        self.gain = nn.Parameter(gain * torch.randn(out_channels))
        self.bias = nn.Parameter(torch.zeros(out_channels))
        self.register_buffer("mask", torch.tensor(mask), persistent=False)

    def _masks(self) -> Tensor:
        """Returns the masks `[out_channels, 1, 3, 3]`."""
        return self.gain[:, None, None, None] * self.mask

    def forward(self, x: Tensor, stride: int) -> Tensor:
        """Returns the convolution of an x that is padded already."""
        x = self.conv1(x)
        return F.conv2d(x, self._masks(), self.bias, stride, groups=len(self.gain))

    def kernel(self) -> tuple[Tensor, Tensor]:
        assert self.conv1.bias is not None
        masks = self._masks()
        bias = masks.sum(dim=(1, 2, 3)) * self.conv1.bias + self.bias
        return masks * self.conv1.weight, bias


def make_conv(
    kind: str, in_channels: int, out_channels: int, *, identity: bool = True
) -> nn.Module:
    """Returns a 3x3 convolution that keeps the size, of a kind of `CONVOLUTIONS`: all cost the same
    once they are fused.

    Raises:
        ValueError: there is no such kind.
    """
    if kind == "plain":
        return nn.Conv2d(in_channels, out_channels, 3, padding=1)
    kinds = {"repvgg": RepVGGConv, "ecb": ECBConv}
    if kind not in kinds:
        raise ValueError(f"there is no convolution '{kind}': use {', '.join(CONVOLUTIONS)}.")
    return kinds[kind](in_channels, out_channels, identity=identity)


@torch.no_grad()
def start_near_identity(conv: nn.Module) -> None:
    """Makes a convolution of `make_conv` that keeps its channels pass x on, nearly unchanged, at
    first: a deep stack of them then begins as a shallow network, and learns from the first step."""
    if isinstance(conv, RepVGGConv):
        conv.norm3.weight.mul_(_SMALL)
        conv.norm1.weight.mul_(_SMALL)
    elif isinstance(conv, ECBConv):
        for part in (conv.conv3, conv.squeeze):
            part.weight.mul_(_SMALL)
            part.bias.zero_()  # type: ignore[union-attr]
    else:
        assert isinstance(conv, nn.Conv2d)
        conv.weight.mul_(_SMALL).add_(_identity(conv.weight))


def fuse(module: nn.Module) -> int:
    """Puts its one convolution in the place of every reparameterised one inside `module`; returns
    how many there were. Its other weights stay as they are."""
    count = 0
    for name, child in list(module.named_children()):
        if isinstance(child, ReparameterisedConv):
            setattr(module, name, child.fused())
            count += 1
        else:
            count += fuse(child)
    return count


def _padded(weight: Tensor) -> Tensor:
    """Returns a 1x1 weight `[O, I, 1, 1]` in the middle of a 3x3 one."""
    return F.pad(weight, [1] * 4)


def _identity(like: Tensor) -> Tensor:
    """Returns the 3x3 weight `[C, C, 3, 3]` that changes nothing."""
    one = torch.eye(len(like), dtype=like.dtype, device=like.device)
    return _padded(one[:, :, None, None])


def _normalised(weight: Tensor, norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Returns weight and bias of a convolution without bias followed by a batch norm in eval
    mode."""
    assert norm.running_var is not None
    assert norm.running_mean is not None
    gain = norm.weight / torch.sqrt(norm.running_var + norm.eps)
    return weight * gain[:, None, None, None], norm.bias - norm.running_mean * gain


def _composed(first: nn.Conv2d, second: Tensor) -> tuple[Tensor, Tensor]:
    """Returns weight and bias of a 1x1 convolution followed by a 3x3 one without bias."""
    assert first.bias is not None
    weight = torch.einsum("omhw,mi->oihw", second, first.weight[:, :, 0, 0])
    return weight, second.sum(dim=(2, 3)) @ first.bias
