"""Benchmark sets: LR/HR pairs of a validation split, of files with both, or of HR alone."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from pipelines.config.schema import Config, DegradationConfig
from pipelines.data.dataset import Dataset, open_dataset
from pipelines.data.images import decode_photo
from pipelines.data.order import sample_seed
from pipelines.data.set_files import (
    EMBEDDED,
    VALIDATION,
    ImageFile,
    find_files,
    sha256_of,
    title_of,
    where_is,
    witness_of,
)
from pipelines.errors import UserError
from pipelines.evaluation.layouts import find_pairs
from pipelines.evaluation.pictures import Pixels
from pipelines.evaluation.protocol import low_resolution
from pipelines.storage.digests import digest
from pipelines.storage.probe import Witness
from srmodels.degradation import PRESETS
from srmodels.degradation.resize import bicubic


class Benchmark(ABC):
    """Pairs of images by key. Unpickled on another node that has its files, it reads the same.

    Attributes:
        name: the name of the set in results.
        keys: the names of its images.
        identity: digest of the images; equal for equal pairs.
        degradation: the origin of the LR images, in words.
        missing: (key, why) of each image without its partner.
        witness: a file by which a node knows that it has the images; None where no disk holds them.
    """

    name: str
    keys: Sequence[str]
    identity: str
    degradation: str
    missing: Sequence[tuple[str, str]] = ()
    witness: Witness | None = None

    def check_node(self) -> None:
        """Checks that this node has the images.

        Raises:
            UserError: it does not have them.
        """
        if self.witness is not None:
            self.witness.check()

    @abstractmethod
    def load(self, key: str) -> tuple[Pixels, Pixels]:
        """Returns LR `[h, w, 3]` and HR `[scale·h, scale·w, 3]`, both uint8.

        Raises:
            ValueError: a file is corrupt, or the sizes do not fit.
        """

    def group(self, key: str) -> str:
        """Returns the photo that an image is a part of: parts of one photo are not independent."""
        return key


def open_benchmark(location: str, config: Config) -> Benchmark:
    """Returns the benchmark set in a folder or under an `s3://` prefix; for `validation`, the
    validation split of `data`; for `embedded`, the set that comes with SRMill.

    Files in pairs (see `find_pairs`) bring LR. Else the images are HR, and the recipe's degradation
    makes LR.

    Raises:
        UserError: there is no such folder; it holds no image, two files for one image, or LR
            images that belong to no HR image; it brings LR images, but `evaluate.preset` makes
            them; or the store fails.
    """
    if location == VALIDATION:
        return ValidationSplit(open_dataset(config.data, config.stream), config)
    files = find_files(location, config.stream.policy)
    if location == EMBEDDED:
        return EmbeddedCrops(EMBEDDED, files, config)
    name, where = title_of(location), where_is(location)
    pairs = find_pairs(where, files, config.networks.scale)
    if pairs is None:
        return PhotoFiles(name, files, config)
    if config.evaluate.preset != "plain":
        raise UserError(
            f"{where} brings its own LR images, and evaluate.preset="
            f"{config.evaluate.preset} makes them: name the folder with HR alone."
        )
    return PairedFiles(
        name,
        pairs.hr,
        pairs.lr,
        scale=config.networks.scale,
        max_megapixels=config.shard.max_megapixels,
        enlarged=pairs.enlarged,
    )


class ValidationSplit(Benchmark):
    """The tiles that `jobs/shard.py` held out, with LR by the recipe's degradation."""

    name = VALIDATION

    def __init__(self, dataset: Dataset, config: Config) -> None:
        self.dataset, self.config = dataset, config
        self.samples = {sample.key: sample for sample in dataset.manifest.split("val")}
        self.keys = list(self.samples)
        self.degradation = config.degradation.preset
        self.witness = dataset.witness()
        # Of these tiles alone: a dataset that grows by training photos still has them.
        images = sorted([sample.key, sample.size, sample.crc32] for sample in self.samples.values())
        self.identity = digest([images, _degradation(config)])

    def load(self, key: str) -> tuple[Pixels, Pixels]:
        hr = self.dataset.tile(self.samples[key])
        return low_resolution(self.config, hr, key), hr

    def group(self, key: str) -> str:
        return key.partition("-")[0]


class PairedFiles(Benchmark):
    """LR and HR as somebody made them.

    Args:
        hr, lr: files by key.
        max_megapixels: larger images count as failures.
        enlarged: True if LR may be as large as HR, as in RealSR's own files. Such an LR shows no
            more than an image of its true size; MATLAB's bicubic reduces it to that.
    """

    degradation = "as the set carries it"

    def __init__(
        self,
        name: str,
        hr: Mapping[str, ImageFile],
        lr: Mapping[str, ImageFile],
        *,
        scale: int,
        max_megapixels: float,
        enlarged: bool = False,
    ) -> None:
        self.name, self.hr, self.lr, self.scale = name, hr, lr, scale
        self.max_megapixels, self.enlarged = max_megapixels, enlarged
        if enlarged:
            self.degradation = "as the set carries it, reduced where it is as large as HR"
        self.keys = sorted(hr.keys() & lr.keys())
        without = [(key, "has no LR image") for key in hr.keys() - lr.keys()]
        self.missing = sorted(without + [(k, "has no HR image") for k in lr.keys() - hr.keys()])
        files = [[k, sha256_of(hr[k]), sha256_of(lr[k])] for k in self.keys]
        self.identity = digest(files)
        self.witness = witness_of(hr.values())

    def load(self, key: str) -> tuple[Pixels, Pixels]:
        lr = _read(self.lr[key], self.max_megapixels, "LR: ")
        hr = _read(self.hr[key], self.max_megapixels, "HR: ")
        scale = self.scale
        if self.enlarged and lr.shape == hr.shape:
            height, width = (side // scale * scale for side in lr.shape[:2])
            lr = bicubic(np.ascontiguousarray(lr[:height, :width]), scale)
        height, width = (side * scale for side in lr.shape[:2])
        over = hr.shape[0] - height, hr.shape[1] - width
        # Some sets keep the rows and columns that are too few for another LR pixel.
        if not all(0 <= extra < scale for extra in over):
            raise ValueError(
                f"LR is {lr.shape[1]}x{lr.shape[0]} px and HR {hr.shape[1]}x{hr.shape[0]} px, "
                f"which is not {scale} times as large"
            )
        return lr, hr[:height, :width]


@dataclass(frozen=True)
class _Preset:
    """A way to make a benchmark of HR images. Without `crop` they are taken whole; without
    `degradation` the recipe's is applied."""

    crop: int = 0
    crops_per_image: int = 1
    degradation: str | None = None


_PRESETS = {
    "plain": _Preset(),
    # 3000 crops of DIV2K's validation photos (Wang et al., arXiv 2305.07015), 128 to 512 px; theirs
    # are a download, these are drawn anew.
    "stablesr": _Preset(512, 30, "realsr_diffusion"),
}


class PhotoFiles(Benchmark):
    """HR images, whole or in crops; LR is made of them, the same for the same name."""

    def __init__(self, name: str, files: Mapping[str, ImageFile], config: Config) -> None:
        preset = _PRESETS[config.evaluate.preset]
        self.name, self.files, self.crop = name, files, preset.crop
        if preset.degradation is not None:
            options = PRESETS[preset.degradation]()
            degradation = DegradationConfig(preset.degradation, options)
            config = replace(config, degradation=degradation)
        self.config, self.degradation = config, config.degradation.preset
        self.keys = [
            f"{file}#{number}" if preset.crop else file
            for file in sorted(files)
            for number in range(preset.crops_per_image)
        ]
        self.witness = witness_of(files.values())
        made_by = [asdict(preset), _degradation(config)]
        self.identity = digest([[(f, sha256_of(p)) for f, p in sorted(files.items())], made_by])

    def load(self, key: str) -> tuple[Pixels, Pixels]:
        hr = _read(self.files[self._file(key)], self.config.shard.max_megapixels)
        scale = self.config.networks.scale
        if self.crop:
            hr = _random_crop(hr, self.crop, sample_seed(self.config.seed, key, 1))
        height, width = (side // scale * scale for side in hr.shape[:2])
        if not height or not width:
            raise ValueError(f"it is only {hr.shape[1]}x{hr.shape[0]} px")
        hr = np.ascontiguousarray(hr[:height, :width])
        return low_resolution(self.config, hr, key), hr

    def group(self, key: str) -> str:
        return self._file(key)

    def _file(self, key: str) -> str:
        """Returns the name of the file that an image is cut from."""
        return key.rpartition("#")[0] if self.crop else key


class EmbeddedCrops(PhotoFiles):
    """The crops that come with SRMill; NAME-1.webp and NAME-2.webp are of one photo."""

    def group(self, key: str) -> str:
        return key.rpartition("-")[0]


def _read(file: ImageFile, max_megapixels: float, which: str = "") -> Pixels:
    """Returns an image `[H, W, 3]` uint8.

    Raises:
        UserError: the file cannot be read.
        ValueError: it is no photo, or too large; `which` stands before the reason.
    """
    try:
        return decode_photo(file.read_bytes(), max_megapixels)
    except OSError as error:
        raise UserError(f"{file} cannot be read ({error.strerror}).") from None
    except UserError:
        raise  # storage that fails says nothing of the image
    except ValueError as error:
        raise ValueError(f"{which}{error}") from None


def _random_crop(image: Pixels, side: int, seed: int) -> Pixels:
    height, width = image.shape[:2]
    if min(height, width) < side:
        raise ValueError(f"it is only {width}x{height} px, smaller than crops of {side} px")
    generator = np.random.Generator(np.random.Philox(key=seed))
    top, left = (int(generator.integers(length - side + 1)) for length in (height, width))
    return image[top : top + side, left : left + side]


def _degradation(config: Config) -> Any:
    return [config.networks.scale, config.seed, asdict(config.degradation)]
