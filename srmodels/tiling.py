"""Running a network of fixed tile size over an image of any size, without seams."""

from collections.abc import Callable
from itertools import islice, product

import torch
import torch.nn.functional as F
from torch import Tensor


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
    """Upscales `x_l` tile by tile and blends where tiles overlap.

    Args:
        network: maps `[B, 3, tile, tile]` to `[B, 3, scale·tile, scale·tile]`.
        x_l: `[1, 3, h, w]` of any size; images smaller than a tile are mirrored up to one.
        scale: factor by which the network enlarges.
        tile: side of a tile in LR pixels.
        overlap: LR pixels that neighbouring tiles share, less than `tile`.
        batch_size: tiles that go through the network at once, at most.
        on_tile: called with the number of tiles after each time.

    Returns:
        `[1, 3, scale·h, scale·w]`. Takes about 16 bytes of memory per output pixel.

    Raises:
        ValueError: `overlap` is not smaller than `tile`.
    """
    if not 0 <= overlap < tile:
        raise ValueError(f"the overlap ({overlap}) must be at least 0 and less than {tile}.")
    height, width = x_l.shape[2:]
    padded = mirror_to(x_l, max(height, tile), max(width, tile))
    full_height, full_width = padded.shape[2:]
    window = blend_window(tile * scale, overlap * scale).to(x_l)
    total = torch.zeros(1, 3, full_height * scale, full_width * scale).to(x_l)
    weight = torch.zeros(1, 1, full_height * scale, full_width * scale).to(x_l)
    starts = product(
        tile_starts(full_height, tile, overlap), tile_starts(full_width, tile, overlap)
    )
    while places := list(islice(starts, batch_size)):
        tiles = torch.cat([padded[:, :, y : y + tile, x : x + tile] for y, x in places])
        for (y, x), output in zip(places, network(tiles), strict=True):
            rows = slice(y * scale, (y + tile) * scale)
            columns = slice(x * scale, (x + tile) * scale)
            total[:, :, rows, columns] += output * window
            weight[:, :, rows, columns] += window
        on_tile(len(places))
    return total.div_(weight)[:, :, : height * scale, : width * scale]


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
