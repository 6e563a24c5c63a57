"""The photos that edge artifacts are calibrated and judged on: the dataset's, or those embedded."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from random import Random

import numpy as np
from PIL import Image
from torch import Tensor

from pipelines.config.schema import Config, ShardConfig
from pipelines.data.dataset import Dataset, dataset_exists, open_dataset
from pipelines.data.images import decode_photo
from pipelines.data.manifest import Sample
from pipelines.data.sources import find_entries, read
from pipelines.evaluation.pictures import Pixels
from pipelines.evaluation.protocol import low_resolution
from pipelines.models.load import Model
from srmodels.upscale import to_tensor

#: Pairs on which an artifact is judged.
NUM_PAIRS = 16


@dataclass(frozen=True)
class Pair:
    """A tile to upscale, and what it was made from.

    Attributes:
        x_l: the LR tile `[1, 3, tile, tile]` in [0, 1], degraded as the model's recipe does.
        hr: the HR tile `[scale·tile, scale·tile, 3]`.
        photo: names the photo that it is a part of.
    """

    x_l: Tensor
    hr: Pixels
    photo: str


@dataclass(frozen=True)
class TileImages:
    """The images that artifacts of one tile size are calibrated on, and judged on.

    Attributes:
        calibration: LR tiles, as `Pair.x_l`.
        origin: the origin of the pairs, in words.
    """

    calibration: Sequence[Tensor]
    pairs: Sequence[Pair]
    origin: str


def tile_images(config: Config, model: Model) -> TileImages:
    """Returns the tiles for an export: calibration from the training split, pairs from the
    validation split. A bundle needs no dataset: where there is none, its tiles are parts of the
    photos that SRMill embeds, every other photo for each purpose.

    Raises:
        UserError: there is no dataset for a run.
    """
    tile = config.export.tile
    count, random = config.export.calibration_images, Random(config.seed)
    calibration: Iterable[tuple[str, Pixels]]
    judged: Iterable[tuple[str, Pixels]]
    if model.bundle is not None and not dataset_exists(config.data, config.stream):
        photos = _embedded_photos()
        side = tile * model.network.scale
        calibration = islice(_crops(photos[::2], side, random), count)
        judged = islice(_crops(photos[1::2], side, random), NUM_PAIRS)
        origin = "crops of the embedded photos"
    else:
        dataset = open_dataset(config.data, config.stream)
        train = dataset.manifest.split("train")
        calibration = _tiles(dataset, random.sample(train, min(count, len(train))))
        val = dataset.manifest.split("val")
        judged = _tiles(dataset, val[:: max(1, len(val) // NUM_PAIRS)][:NUM_PAIRS])
        origin = "validation tiles"
    return TileImages(
        [pair.x_l for pair in _pairs(model.config, tile, calibration)],
        list(_pairs(model.config, tile, judged)),
        origin,
    )


def _tiles(dataset: Dataset, samples: Iterable[Sample]) -> Iterator[tuple[str, Pixels]]:
    """Yields each tile with its photo's key."""
    for sample in samples:
        yield sample.key.rpartition("-")[0], dataset.tile(sample)


def _embedded_photos() -> list[tuple[str, Pixels]]:
    settings = ShardConfig()
    return [
        (
            entry.label,
            decode_photo(read(entry, settings.max_file_mib << 20), settings.max_megapixels),
        )
        for entry in find_entries("sample")
    ]


def _crops(
    photos: Sequence[tuple[str, Pixels]], side: int, random: Random
) -> Iterator[tuple[str, Pixels]]:
    """Yields crops of the photos in turn, without an end."""
    while True:
        for name, photo in photos:
            top, left = (random.randint(0, max(0, size - side)) for size in photo.shape[:2])
            yield name, photo[top : top + side, left : left + side]


def _pairs(config: Config, tile: int, parts: Iterable[tuple[str, Pixels]]) -> Iterator[Pair]:
    """Yields a pair of each part of a photo, which is resized where it has another size."""
    side = tile * config.networks.scale
    for number, (photo, part) in enumerate(parts):
        hr = part
        if part.shape[:2] != (side, side):
            hr = np.asarray(Image.fromarray(part).resize((side, side), Image.Resampling.BICUBIC))
        yield Pair(to_tensor(low_resolution(config, hr, f"{photo}-{number}")), hr, photo)
