"""Running a network of fixed tile size over an image of any size, without seams."""

from collections.abc import Callable, Iterable, Iterator
from itertools import islice, product

import torch
import torch.nn.functional as F
from torch import Tensor

#: Most rows of a result that are finished at once, in HR pixels.
BAND = 128
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


def blend_window(tile: int, overlap: int) -> Tensor:
    """Returns weights `[tile, tile]` in [0, 1] that fall linearly towards every border over
    `overlap` pixels."""
    ramp = torch.ones(tile)
    if overlap:
        slope = (torch.arange(overlap) + 0.5) / overlap
        ramp[:overlap] = slope
        ramp[-overlap:] = torch.minimum(ramp[-overlap:], slope.flip(0))
    return ramp[:, None] * ramp[None, :]


def run_bands(
    network: Callable[[Tensor], Tensor],
    cut: Cut,
    size: tuple[int, int],
    *,
    scale: int,
    tile: int,
    overlap: int,
    batch_size: int = 1,
    on_tile: Callable[[int], None] = lambda done: None,
) -> Iterator[Tensor]:
    """Upscales an image tile by tile, blends where tiles overlap, and yields the result from top to
    bottom as soon as rows are finished.

    Args:
        network: maps `[B, 3, tile, tile]` to `[B, 3, scale·tile, scale·tile]`.
        cut: reads a part of the LR image, so that the image need not be in memory as floats.
        size: height and width of the LR image; one smaller than a tile is mirrored up to it.
        scale: factor by which the network enlarges.
        tile: side of a tile in LR pixels.
        overlap: LR pixels that neighbouring tiles share, less than `tile`.
        batch_size: tiles that go through the network at once, at most.
        on_tile: called with the number of tiles after each time.

    Yields:
        `[1, 3, rows, scale·w]`, at most BAND rows. Memory does not depend on the height: about
        16·scale²·tile·w bytes, a few bands, and a batch of tiles.

    Raises:
        ValueError: `overlap` is not smaller than `tile`.
    """
    if not 0 <= overlap < tile:
        raise ValueError(f"the overlap ({overlap}) must be at least 0 and less than {tile}.")
    height, width = size
    full_height, full_width = max(height, tile), max(width, tile)
    rows, columns = (tile_starts(side, tile, overlap) for side in (full_height, full_width))
    outputs = _outputs(network, cut, size, tile, product(rows, columns), batch_size, on_tile)
    like = cut(0, 0, 1, 1)
    window = blend_window(tile * scale, overlap * scale).to(like)
    total = torch.zeros(1, 3, tile * scale, full_width * scale).to(like)
    weight = torch.zeros(1, 1, tile * scale, full_width * scale).to(like)
    for y, following in zip(rows, [*rows[1:], full_height], strict=True):
        for x in columns:
            at = slice(x * scale, (x + tile) * scale)
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
    tile: int,
    places: Iterable[tuple[int, int]],
    batch_size: int,
    on_tile: Callable[[int], None],
) -> Iterator[Tensor]:
    """Yields the network's output `[3, scale·tile, scale·tile]` for the tile at each place."""
    height, width = size
    places = iter(places)
    while batch := list(islice(places, batch_size)):
        parts = [cut(y, x, min(y + tile, height), min(x + tile, width)) for y, x in batch]
        outputs = network(torch.cat([mirror_to(part, tile, tile) for part in parts]))
        assert len(outputs) == len(batch)
        on_tile(len(batch))
        yield from outputs


def run_tiled(
    network: Callable[[Tensor], Tensor],
    x_l: Tensor,
    *,
    scale: int,
    tile: int,
    overlap: int,
    batch_size: int = 1,
    on_tile: Callable[[int], None] = lambda done: None,
) -> Tensor:
    """Returns the bands of `run_bands` as one tensor.

    Args:
        x_l: `[1, 3, h, w]` of any size. The other arguments are those of `run_bands`.

    Returns:
        `[1, 3, scale·h, scale·w]`.

    Raises:
        ValueError: `overlap` is not smaller than `tile`.
    """
    height, width = x_l.shape[2:]
    result = torch.empty(1, 3, height * scale, width * scale).to(x_l)
    top = 0
    for band in run_bands(
        network,
        lambda top, left, bottom, right: x_l[:, :, top:bottom, left:right],
        (height, width),
        scale=scale,
        tile=tile,
        overlap=overlap,
        batch_size=batch_size,
        on_tile=on_tile,
    ):
        result[:, :, top : top + band.shape[2]] = band
        top += band.shape[2]
    return result


def count_tiles(height: int, width: int, tile: int, overlap: int) -> int:
    """Returns how many tiles `run_tiled` sends through the network."""
    rows = tile_starts(max(height, tile), tile, overlap)
    return len(rows) * len(tile_starts(max(width, tile), tile, overlap))


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
