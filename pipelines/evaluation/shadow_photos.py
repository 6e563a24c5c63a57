"""Fresh photos of a shadow report: which ones are new, and what is measured of each."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from pipelines.config.schema import Config
from pipelines.data.images import UnusableError, decode_photo
from pipelines.data.order import sample_seed
from pipelines.data.sources import Entry, find_entries, read
from pipelines.data.sources.find import as_list
from pipelines.evaluation.methods import Method
from pipelines.evaluation.pictures import Pixels
from pipelines.evaluation.shadow_history import QUANTITIES, Figure, ShadowRecord
from pipelines.progress import progress
from pipelines.storage.digests import digest
from srmodels.metrics.fidelity import NoScoreError
from srmodels.metrics.suite import Score

#: Digits of a key: among a billion photos, two get the same key once in forty.
_DIGITS = 16


@dataclass(frozen=True)
class Fresh:
    """The photo files of a source.

    Attributes:
        num_files: number of all of them.
        new: those that no earlier tick has seen, by key.
    """

    num_files: int
    new: dict[str, Entry]

    def drawn(self, count: int, seed: int) -> dict[str, Entry]:
        """Returns at most `count` of the new ones: a draw that depends on their keys and on the
        seed."""
        keys = sorted(self.new, key=lambda key: sample_seed(seed, key, 0))[:count]
        return {key: self.new[key] for key in keys}


def find_fresh(config: Config, source: str | list[str], earlier: Iterable[ShadowRecord]) -> Fresh:
    """Lists the photo files of a source; opens none.

    A file is known by its name and size, so that a copy of the checkout lists the same.

    Raises:
        UserError: as `find_entries`.
    """
    seen = {key for record in earlier for key in record.new}
    where = config.mirror, config.stream.policy, config.shard.max_unpacked_gib
    found = {
        digest([name, entry.label, entry.size])[:_DIGITS]: entry
        for name in as_list(source)
        for entry in find_entries(name, *where)
    }
    return Fresh(len(found), {key: entry for key, entry in found.items() if key not in seen})


def measure_photos(
    config: Config, method: Method, niqe: Score, drawn: dict[str, Entry]
) -> dict[str, Figure]:
    """Returns the figures over photos, by the names in `QUANTITIES`, without a verdict.

    Raises:
        UserError: object storage does not answer.
    """
    values: dict[str, list[float]] = {name: [] for name in QUANTITIES}
    with progress("shadow", total=len(drawn), unit="photo") as bar:
        for key, entry in drawn.items():
            for name, value in _measure(config, method, niqe, key, entry).items():
                values[name].append(value)
            bar.update(1)
    return {
        name: Figure(float(np.mean(found)), float(np.std(found, ddof=len(found) > 1)), len(found))
        for name, found in values.items()
        if found
    }


def _measure(
    config: Config, method: Method, niqe: Score, key: str, entry: Entry
) -> dict[str, float]:
    """Returns what can be measured of one file."""
    try:
        data = read(entry, config.shard.max_file_mib * 2**20)
        photo = decode_photo(data, config.shard.max_megapixels)
    except UnusableError as error:
        print(f"Note: {entry.label} gives no photo ({error.reason}).", flush=True)
        return {"broken": 1.0}
    values = {"broken": 0.0, **of_photo(photo)}
    picture = method(photo[part(photo.shape, config.shadow.crop, sample_seed(config.seed, key, 1))])
    try:
        values["niqe"] = niqe(picture, picture)
    except NoScoreError as error:
        print(f"Note: {entry.label} has no NIQE: {error}", flush=True)
    return values


def of_photo(photo: Pixels) -> dict[str, float]:
    """Returns sharpness, brightness, contrast (8-bit levels of luma) and megapixels of a photo
    `[H, W, 3]` uint8.

    Sharpness is the standard deviation of the Laplacian (Pech-Pacheco et al., "Diatom
    autofocusing", 2000, take its square).
    """
    luma = cv2.cvtColor(photo, cv2.COLOR_RGB2GRAY)
    mean, deviation = (float(found.item()) for found in cv2.meanStdDev(luma))
    _, sharpness = cv2.meanStdDev(cv2.Laplacian(luma, cv2.CV_16S))
    return {
        "sharpness": float(sharpness.item()),
        "brightness": mean,
        "contrast": deviation,
        "megapixels": luma.size / 1e6,
    }


def part(shape: Sequence[int], side: int, seed: int) -> tuple[slice, slice]:
    """Returns a window of `side` px at a random place of a photo; all of a smaller photo."""
    draw = np.random.default_rng(seed)
    top, left = (int(draw.integers(max(length - side, 0) + 1)) for length in shape[:2])
    return slice(top, top + side), slice(left, left + side)
