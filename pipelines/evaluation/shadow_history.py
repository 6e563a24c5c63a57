"""The history of shadow reports: one document for each tick, which no other tick touches.

So no tick loses the record of another one, wherever the history lies: not every S3 server can write
an object on a condition.
"""

import re
import statistics
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import datetime
from math import sqrt
from typing import Annotated, ClassVar

from pydantic import AfterValidator, Field, StringConstraints
from scipy.special import stdtrit

from pipelines.errors import listing
from pipelines.evaluation.side_by_side import Subject
from pipelines.evaluation.statistics import CONFIDENCE
from pipelines.storage.digests import digest
from pipelines.storage.forms import PositiveInt
from pipelines.storage.ownership import not_ours
from pipelines.storage.store import Store
from pipelines.storage.typed import Document, read_typed, to_json

#: The page that is drawn of the history.
PAGE = "shadow.html"
#: Earlier ticks that count, the newest ones: a month of daily ticks.
_WINDOW = 30
_THREADS = 8
_RECORD = re.compile(r"records/[0-9a-f]{16}\.json")


@dataclass(frozen=True)
class Quantity:
    """A quantity that is measured of each photo.

    Attributes:
        of_model: True if it depends on the model; False if it is of the photo alone.
        margin: a difference that does not matter to anybody.
    """

    title: str
    unit: str
    digits: int
    margin: float
    of_model: bool = False


#: The quantities of a tick, by name.
QUANTITIES = {
    "niqe": Quantity("NIQE of the upscaled photos", "", 2, 0.05, of_model=True),
    "sharpness": Quantity("sharpness (deviation of the Laplacian of luma)", "levels", 2, 0.5),
    "brightness": Quantity("brightness (mean of luma)", "levels", 1, 2.0),
    "contrast": Quantity("contrast (deviation of luma)", "levels", 1, 1.0),
    "megapixels": Quantity("size of a photo", "", 2, 0.05),
    "broken": Quantity("share of files that give no photo", "", 2, 0.1),
}


def _check_time(text: str) -> str:
    datetime.fromisoformat(text)
    return text


def _check_quantity(name: str) -> str:
    if name not in QUANTITIES:
        raise ValueError("no quantity of this name")
    return name


#: A moment of this century in UTC, as 2026-11-29T08:00:00.000Z.
Time = Annotated[
    str,
    StringConstraints(pattern=r"^20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$"),
    AfterValidator(_check_time),
]
#: A name in `QUANTITIES`.
Name = Annotated[str, AfterValidator(_check_quantity)]
#: A number that can be squared, and drawn.
Number = Annotated[float, Field(ge=-1e12, le=1e12, allow_inf_nan=False)]


@dataclass(frozen=True)
class Figure:
    """A quantity of one tick.

    Attributes:
        mean, deviation: mean and standard deviation over the photos.
        count: number of photos that have it.
        low, high: where the earlier ticks let expect the mean, see `expected`; None where they are
            too few.
        drift: True if the mean lies outside, by a difference that matters.
    """

    mean: Number
    deviation: Number
    count: PositiveInt
    low: Number | None = None
    high: Number | None = None
    drift: bool = False


@dataclass(frozen=True)
class ShadowRecord(Document):
    """The record of a tick.

    Attributes:
        source: where the photos came from.
        protocol: what a reader needs to repeat the measurement.
        identity: digest of the model; equal for models with equal results.
        new: keys of all photos that no earlier tick has seen; not all of them need be measured.
        figures: the figures by the names in `QUANTITIES`.
    """

    VERSION: ClassVar[int] = 1
    REMEDY: ClassVar[str] = "delete it, and the other ticks stay"

    time: Time
    source: str
    protocol: str
    model: Subject
    identity: str
    new: list[str]
    figures: dict[Name, Figure]

    @property
    def drifted(self) -> list[str]:
        """The names of the figures that drifted."""
        return [name for name, figure in self.figures.items() if figure.drift]


@dataclass(frozen=True)
class History:
    """The records in a store, beside the page."""

    store: Store

    def read(self) -> list[ShadowRecord]:
        """Returns all records, oldest first.

        Raises:
            UserError: the store fails, holds files of somebody else, or a record is damaged.
        """
        names = self.store.names()
        if foreign := [name for name in names if name != PAGE and not _RECORD.fullmatch(name)]:
            raise not_ours(self.store, foreign)
        with ThreadPoolExecutor(_THREADS) as threads:
            records = list(threads.map(self._read, (name for name in names if name != PAGE)))
        return sorted(records, key=lambda record: (record.time, record.new))

    def _read(self, name: str) -> ShadowRecord:
        return read_typed(ShadowRecord, self.store.read(name), f"{self.store.location}/{name}")

    def add(self, record: ShadowRecord) -> None:
        """Writes a record. Two ticks that measure the same at the same time write one record."""
        measured = [record.source, record.protocol, record.identity, sorted(record.new)]
        self.store.write(f"records/{digest(measured)[:16]}.json", to_json(record))


def alike(first: ShadowRecord, second: ShadowRecord) -> bool:
    """Returns True if two ticks measured photos of one source by one protocol."""
    return (first.source, first.protocol) == (second.source, second.protocol)


def judged(
    found: Mapping[str, Figure], now: ShadowRecord, earlier: Sequence[ShadowRecord], min_ticks: int
) -> dict[str, Figure]:
    """Returns the figures with what the earlier ticks let expect, and whether they drifted.

    Ticks of the same source by the same protocol count, without figures that drifted themselves:
    drift is told until somebody acts. Quantities of the model are compared for the same model only.
    All intervals together hold with a confidence of 95 % (Bonferroni).

    Args:
        now: gives source, protocol and model.
        min_ticks: earlier ticks below which nothing is told.
    """
    before = {
        name: [
            record.figures[name]
            for record in earlier
            if alike(record, now)
            and name in record.figures
            and not record.figures[name].drift
            and (record.identity == now.identity or not QUANTITIES[name].of_model)
        ][-_WINDOW:]
        for name in found
    }
    told = [name for name, known in before.items() if len(known) >= min_ticks]
    figures = dict(found)
    for name in told:
        figure, confidence = found[name], 1 - (1 - CONFIDENCE) / len(told)
        low, high = expected(before[name], figure.count, confidence)
        outside = not low <= figure.mean <= high
        drift = outside and abs(figure.mean - (low + high) / 2) > QUANTITIES[name].margin
        figures[name] = replace(figure, low=low, high=high, drift=drift)
    return figures


def expected(before: Sequence[Figure], count: int, confidence: float) -> tuple[float, float]:
    """Returns the interval in which the mean of one more tick lies with this confidence, if the
    tick is like these.

    It is the prediction interval of a normal distribution (Hahn and Meeker, "Statistical
    Intervals", 1991, section 4.8), whatever makes ticks differ: other photos, a weekend. A tick of
    fewer photos than these has a wider one, by the variance that fewer photos add.

    Args:
        before: at least two ticks.
        count: photos of the one more.
    """
    ticks = len(before)
    variance = statistics.variance(figure.mean for figure in before) * (1 + 1 / ticks)
    degrees = sum(figure.count - 1 for figure in before)
    within = sum((figure.count - 1) * figure.deviation**2 for figure in before) / max(degrees, 1)
    fewer = 1 / count - statistics.fmean(1 / figure.count for figure in before)
    half = stdtrit(ticks - 1, (1 + confidence) / 2) * sqrt(variance + within * max(fewer, 0.0))
    middle = statistics.fmean(figure.mean for figure in before)
    return float(middle - half), float(middle + half)


def sentence(record: ShadowRecord, min_ticks: int) -> str:
    """Returns the verdict of a tick in one sentence."""
    told = {name: figure for name, figure in record.figures.items() if figure.low is not None}
    if not told:
        return (
            f"No verdict on drift yet: it takes {min_ticks} earlier ticks of this source and model."
        )
    if drifted := record.drifted:
        return f"Drift: {_listed(record, drifted)}."
    later = [name for name in record.figures if name not in told]
    untold = f"; {listing(later, ' and ')} cannot be told before {min_ticks} ticks" if later else ""
    return f"No drift: {_listed(record, told)}{untold}."


def _listed(record: ShadowRecord, names: Iterable[str]) -> str:
    return listing(f"{name} is {shown(name, record.figures[name], 'expected ')}" for name in names)


def shown(name: str, figure: Figure, word: str = "") -> str:
    """Returns a figure as people read it.

    In brackets, after a word, stands what earlier ticks let expect, if that can be told.
    """
    digits = QUANTITIES[name].digits
    value = f"{figure.mean:.{digits}f}"
    if figure.low is None or figure.high is None:
        return value
    return f"{value} ({word}{figure.low:.{digits}f} … {figure.high:.{digits}f})"
