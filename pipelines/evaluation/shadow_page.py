"""The page of a shadow report: each quantity over time, and the ticks as a table."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise

from pipelines.evaluation.page import render_page
from pipelines.evaluation.plots import over_time
from pipelines.evaluation.shadow_history import QUANTITIES, ShadowRecord, alike, sentence, shown

#: Ticks that the page shows, the newest ones.
_NUM_SHOWN = 100


@dataclass(frozen=True)
class _Drawing:
    svg: str
    caption: str


@dataclass(frozen=True)
class _Row:
    """A tick of the table; `cells` are text and whether it drifted."""

    time: str
    model: str
    new: int
    cells: list[tuple[str, bool]]


def render(records: Sequence[ShadowRecord], min_ticks: int) -> str:
    """Returns the page, with the ticks of the newest one's source and protocol.

    Args:
        records: all ticks, oldest first; at least one.
        min_ticks: as in `judged`.
    """
    newest = records[-1]
    records = [r for r in records if alike(r, newest)][-_NUM_SHOWN:]
    names = [name for name in QUANTITIES if any(name in record.figures for record in records)]
    return render_page(
        "shadow.html.j2",
        newest=newest,
        verdict=sentence(newest, min_ticks),
        drawings=[_drawing(name, records) for name in names],
        names=names,
        rows=[_row(record, names) for record in reversed(records)],
    )


def _drawing(name: str, records: Sequence[ShadowRecord]) -> _Drawing:
    found = [(record, record.figures[name]) for record in records if name in record.figures]
    changed = [
        _time(after) for before, after in pairwise(records) if before.identity != after.identity
    ]
    quantity = QUANTITIES[name]
    svg = over_time(
        [_time(record) for record, _ in found],
        [figure.mean for _, figure in found],
        [
            None if figure.low is None or figure.high is None else (figure.low, figure.high)
            for _, figure in found
        ],
        [figure.drift for _, figure in found],
        changed if quantity.of_model else [],
        f"{name}, {quantity.unit}" if quantity.unit else name,
    )
    return _Drawing(svg, quantity.title)


def _time(record: ShadowRecord) -> datetime:
    return datetime.fromisoformat(record.time)


def _row(record: ShadowRecord, names: Sequence[str]) -> _Row:
    return _Row(
        time=record.time[:16].replace("T", " "),
        model=record.model.version or record.model.reference,
        new=len(record.new),
        cells=[
            (shown(name, record.figures[name]), record.figures[name].drift)
            if name in record.figures
            else ("–", False)
            for name in names
        ],
    )
