"""Running a network over an image of any size, tile by tile, without seams."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice, product

import torch
import torch.nn.functional as F
from torch import Tensor

#: Most rows of a result that are finished at once, in HR pixels.
BAND = 128
#: For networks that take any size, in LR pixels: the longest side of an image in one piece, and the
#: tiles of larger ones. Larger tiles are slower, since their features leave the processor's cache.
WHOLE, TILE = 480, 256
#: What such tiles share, in LR pixels: more than a decoder of seventeen convolutions sees.
OVERLAP = 32
#: Reads the part (top, left, bottom, right) of an image, as `[1, 3, h, w]` in [0, 1].
Cut = Callable[[int, int, int, int], Tensor]


def tile_starts(length: int, tile: int, overlap: int) -> list[int]:
    """Returns where tiles start along one side so that neighbours share at least `overlap` pixels.

    512 px with tiles of 128 and an overlap of 32 give 5 starts, so 25 tiles for a square, as the
    Edge-SD-SR paper counts them. `length` must not be smaller than `tile`.
    """
    assert length >= tile > overlap >= 0
    stride = tile - overlap
    count = -(-(length - overlap) // stride)
    return [min(i * stride, length - tile) for i in range(count)]


@dataclass(frozen=True)
class Tiling:
    """How an image is cut into tiles, in LR pixels.

    Attributes:
        tile: side of a tile.
        overlap: what neighbours share at least, less than `tile`.
        multiple: None where all tiles are squares of that side. Else a tile is no larger than the
            image, and its sides are multiples of `multiple`, which `tile` is too.
        whole: an image whose sides are no longer is one tile; for `multiple` alone.
    """

    tile: int = 128
    overlap: int = 32
    multiple: int | None = None
    whole: int = 0

    @classmethod
    def for_tile(cls, tile: int) -> "Tiling":
        """Returns a tiling whose neighbours share a quarter of a tile: the Edge-SD-SR paper counts
        tiles that way."""
        return cls(tile, tile // 4)

    @classmethod
    def for_any_size(cls, multiple: int, whole: int = WHOLE, tile: int = TILE) -> "Tiling":
        """Returns the tiling for a network that takes images of any size: in one piece up to a
        side of `whole`, and larger ones in tiles of about `tile` px.

        Args:
            multiple: height and width of what the network takes are multiples of it.
        """
        return cls(tile // multiple * multiple, OVERLAP, multiple, whole)

    def sides(self, height: int, width: int) -> tuple["Side", "Side"]:
        """Returns the tiles along both sides of an image of this size."""
        whole = self.multiple is not None and max(height, width) <= self.whole
        return self._along(height, whole), self._along(width, whole)

    def _along(self, length: int, whole: bool) -> "Side":
        tile = self.tile
        if self.multiple is not None:
            fitting = -(-length // self.multiple) * self.multiple
            tile = fitting if whole else min(tile, fitting)
        overlap = min(self.overlap, tile - 1)
        full = max(length, tile)
        return Side(tile, overlap, full, tile_starts(full, tile, overlap))

    def count(self, height: int, width: int) -> int:
        """Returns how many tiles an image of this size is cut into."""
        down, right = self.sides(height, width)
        return len(down.starts) * len(right.starts)


@dataclass(frozen=True)
class Side:
    """The tiles along one side of an image.

    Attributes:
        tile: their length.
        overlap: what neighbours share at least.
        full: length of the side, or of a tile where that is longer.
        starts: where they start.
    """

    tile: int
    overlap: int
    full: int
    starts: list[int]


def blend_window(tile: int, overlap: int) -> Tensor:
    """Returns weights `[tile, tile]` in [0, 1] that fall linearly towards every border over
    `overlap` pixels."""
    return _window(_ramp(tile, overlap), _ramp(tile, overlap))


def _ramp(tile: int, overlap: int) -> Tensor:
    ramp = torch.ones(tile)
    if overlap:
        slope = (torch.arange(overlap) + 0.5) / overlap
        ramp[:overlap] = slope
        ramp[-overlap:] = torch.minimum(ramp[-overlap:], slope.flip(0))
    return ramp


def _window(down: Tensor, right: Tensor) -> Tensor:
    return down[:, None] * right[None, :]


def run_bands(
    network: Callable[[Tensor], Tensor],
    cut: Cut,
    size: tuple[int, int],
    *,
    scale: int,
    tiling: Tiling,
    batch_size: int = 1,
    on_tile: Callable[[int], None] = lambda done: None,
) -> Iterator[Tensor]:
    """Upscales an image tile by tile, blends where tiles overlap, and yields the result from top to
    bottom as soon as rows are finished.

    Args:
        network: maps tiles `[B, 3, h, w]` to `[B, 3, scale·h, scale·w]`.
        cut: reads a part of the LR image, so that the image need not be in memory as floats.
        size: height and width of the LR image; one smaller than a tile is mirrored up to it.
        scale: factor by which the network enlarges.
        batch_size: tiles that go through the network at once, at most.
        on_tile: called with the number of tiles after each time.

    Yields:
        `[1, 3, rows, scale·w]`, at most BAND rows. Memory does not depend on the height: about
        16·scale²·tile·w bytes, a few bands, and a batch of tiles.

    Raises:
        ValueError: the tiling's overlap is not smaller than its tile.
    """
    tile, overlap = tiling.tile, tiling.overlap
    if not 0 <= overlap < tile:
        raise ValueError(f"the overlap ({overlap}) must be at least 0 and less than {tile}.")
    height, width = size
    down, right = tiling.sides(height, width)
    outputs = _outputs(network, cut, size, down, right, batch_size, on_tile)
    like = cut(0, 0, 1, 1)
    ramps = (_ramp(side.tile * scale, side.overlap * scale) for side in (down, right))
    window = _window(*ramps).to(like)
    total = torch.zeros(1, 3, down.tile * scale, right.full * scale).to(like)
    weight = torch.zeros(1, 1, down.tile * scale, right.full * scale).to(like)
    for y, following in zip(down.starts, [*down.starts[1:], down.full], strict=True):
        for x in right.starts:
            at = slice(x * scale, (x + right.tile) * scale)
            total[..., at] += next(outputs)[None] * window
            weight[..., at] += window
        done = (following - y) * scale
        for top in range(0, min(done, (height - y) * scale), BAND):
            part = slice(top, min(top + BAND, done, (height - y) * scale))
            yield (total[:, :, part] / weight[:, :, part])[..., : width * scale]
        for buffer in (total, weight):
            rest = buffer[:, :, done:].clone()
            buffer.zero_()[:, :, : rest.shape[2]] = rest


def _outputs(
    network: Callable[[Tensor], Tensor],
    cut: Cut,
    size: tuple[int, int],
    down: Side,
    right: Side,
    batch_size: int,
    on_tile: Callable[[int], None],
) -> Iterator[Tensor]:
    """Yields the network's output `[3, scale·h, scale·w]` for each tile `[3, h, w]`, row by row."""
    height, width = size
    places = product(down.starts, right.starts)
    while batch := list(islice(places, batch_size)):
        parts = [
            cut(y, x, min(y + down.tile, height), min(x + right.tile, width)) for y, x in batch
        ]
        outputs = network(torch.cat([mirror_to(part, down.tile, right.tile) for part in parts]))
        assert len(outputs) == len(batch)
        on_tile(len(batch))
        yield from outputs


def run_tiled(
    network: Callable[[Tensor], Tensor],
    x_l: Tensor,
    *,
    scale: int,
    tiling: Tiling,
    batch_size: int = 1,
    on_tile: Callable[[int], None] = lambda done: None,
) -> Tensor:
    """Returns the bands of `run_bands` as one tensor.

    Args:
        x_l: `[1, 3, h, w]` of any size. The other arguments are those of `run_bands`.

    Returns:
        `[1, 3, scale·h, scale·w]`.

    Raises:
        ValueError: the tiling's overlap is not smaller than its tile.
    """
    height, width = x_l.shape[2:]
    result = torch.empty(1, 3, height * scale, width * scale).to(x_l)
    top = 0
    for band in run_bands(
        network,
        lambda top, left, bottom, right: x_l[:, :, top:bottom, left:right],
        (height, width),
        scale=scale,
        tiling=tiling,
        batch_size=batch_size,
        on_tile=on_tile,
    ):
        result[:, :, top : top + band.shape[2]] = band
        top += band.shape[2]
    return result


def mirror_to(x: Tensor, height: int, width: int) -> Tensor:
    """Mirrors `x` `[B, C, H, W]` at the lower and right border until the size is reached, however
    small `x` is."""
    while x.shape[2] < height or x.shape[3] < width:
        down = min(height - x.shape[2], max(x.shape[2] - 1, 0))
        right = min(width - x.shape[3], max(x.shape[3] - 1, 0))
        if down or right:
            x = F.pad(x, (0, right, 0, down), mode="reflect")
        else:  # one pixel wide or high: there is nothing to mirror, so repeat it
            x = F.pad(x, (0, width - x.shape[3], 0, height - x.shape[2]), mode="replicate")
    return x
