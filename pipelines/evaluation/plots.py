"""The report's drawings, as SVG that reads on light and on dark ground."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from io import BytesIO
from typing import Any

_GRAY, _BLUE, _ORANGE, _GREEN = "#8a8f98", "#2f81f7", "#e8762c", "#1a9a6c"
_OTHERS = (_BLUE, "#8957e5", _GREEN, "#c9518b", _GRAY)


def loss_curve(points: Sequence[tuple[int, float]]) -> str:
    """Draws losses over steps, as they are and smoothed."""
    figure, axes = _axes((4.2, 2.4), "step", "loss")
    steps, losses = [step for step, _ in points], [loss for _, loss in points]
    axes.plot(steps, losses, color=_BLUE, linewidth=0.8, alpha=0.35)
    axes.plot(steps, _smooth(losses), color=_BLUE, linewidth=1.8)
    return _svg(figure)


def quality_over_latency(
    points: Mapping[str, tuple[float, float]], chosen: str, label: str, size: int
) -> str:
    """Draws a point for each method.

    Args:
        points: (milliseconds, score) by title.
        chosen: title of the point that stands out.
        label: label of the score's axis.
        size: side of the LR image, pixels.
    """
    figure, axes = _axes((5.4, 3.2), f"ms for an LR image of {size} px", label)
    axes.set_xscale("log")
    for title, (milliseconds, score) in points.items():
        color = _ORANGE if title == chosen else _BLUE
        axes.plot([milliseconds], [score], "o", color=color, markersize=8)
        axes.annotate(
            title, (milliseconds, score), xytext=(7, 5), textcoords="offset points",
            color=color, fontsize=9, parse_math=False,
        )  # fmt: skip
    axes.margins(0.25, 0.18)
    return _svg(figure)


def latency_over_size(
    lines: Mapping[str, Sequence[tuple[int, float, float, float]]], chosen: str
) -> str:
    """Draws a line for each method, as the figure of the Light F2SRGAN paper does.

    Args:
        lines: points (side of the LR image in pixels, median, low, high in ms) by title.
        chosen: title of the line that stands out.
    """
    figure, axes = _axes((5.4, 3.2), "side of the LR image, px", "ms")
    axes.set_yscale("log")
    for number, (title, points) in enumerate(lines.items()):
        sizes, medians, lows, highs = zip(*points, strict=True)
        color = _ORANGE if title == chosen else _OTHERS[number % len(_OTHERS)]
        axes.fill_between(sizes, lows, highs, color=color, alpha=0.2, linewidth=0)
        axes.plot(sizes, medians, "o-", color=color, markersize=4, linewidth=1.4)
        axes.annotate(
            title, (sizes[-1], medians[-1]), xytext=(7, -3), textcoords="offset points",
            color=color, fontsize=9, parse_math=False,
        )  # fmt: skip
    axes.set_xticks(sorted({point[0] for points in lines.values() for point in points}))
    # Room for the names.
    left, right = axes.get_xlim()
    axes.set_xlim(left, right + 0.3 * (right - left))
    return _svg(figure)


def paired_scores(pairs: Sequence[tuple[float, float]], titles: tuple[str, str], label: str) -> str:
    """Draws a point for each image: the first method's score over the second's, equal on the
    diagonal.

    Args:
        pairs: the two scores of each image.
        titles: titles of the two methods.
        label: label of the score.
    """
    figure, axes = _axes((3.4, 3.2), f"{label}, {titles[1]}", f"{label}, {titles[0]}")
    ends = [min(map(min, pairs)), max(map(max, pairs))]
    axes.plot(ends, ends, color=_GRAY, linewidth=1, linestyle="--")
    axes.scatter([x for _, x in pairs], [y for y, _ in pairs], s=14, color=_ORANGE, alpha=0.7)
    return _svg(figure)


def intervals(rows: Mapping[str, tuple[float, float, float, str]], label: str) -> str:
    """Draws a point with its interval for each row, and shaded from -1 to 1 what matters to nobody.

    Args:
        rows: (value, low, high, kind) by title. `better` is green, `worse` orange, others blue.
        label: label of the values.
    """
    figure, axes = _axes((5.4, 0.8 + 0.38 * len(rows)), label, "")
    axes.axvspan(-1, 1, color=_GRAY, alpha=0.2, linewidth=0)
    axes.axvline(0, color=_GRAY, linewidth=1)
    for place, (value, low, high, kind) in enumerate(rows.values()):
        color = {"better": _GREEN, "worse": _ORANGE}.get(kind, _BLUE)
        axes.plot([low, high], [place, place], color=color, linewidth=1.8)
        axes.plot([value], [place], "o", color=color, markersize=6)
    axes.set_yticks(range(len(rows)), list(rows), parse_math=False)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    return _svg(figure)


def over_time(
    times: Sequence[datetime],
    values: Sequence[float],
    bands: Sequence[tuple[float, float] | None],
    marked: Sequence[bool],
    changes: Sequence[datetime],
    label: str,
) -> str:
    """Draws a point for each tick, and shaded where earlier ones let expect it.

    Args:
        bands: low and high of each tick; None where nothing was expected yet.
        marked: True for the points that stand out.
        changes: times of the first tick of another model, which get a vertical line.
        label: label of the values.
    """
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter

    figure, axes = _axes((4.2, 2.4), "", label)
    told = [(time, *band) for time, band in zip(times, bands, strict=True) if band is not None]
    if told:
        when, low, high = zip(*told, strict=True)
        axes.fill_between(when, low, high, color=_GRAY, alpha=0.2, linewidth=0)
        axes.plot(when, low, ".", when, high, ".", color=_GRAY, markersize=2)
    for time in changes:
        axes.axvline(time, color=_GRAY, linewidth=1, linestyle="--")
    axes.plot(times, values, "-", color=_BLUE, linewidth=1)
    for chosen, color in ((False, _BLUE), (True, _ORANGE)):
        points = [p for p, m in zip(zip(times, values, strict=True), marked, strict=True)
                  if m is chosen]  # fmt: skip
        axes.plot([x for x, _ in points], [y for _, y in points], "o", color=color, markersize=4)
    locator = AutoDateLocator(minticks=3, maxticks=7)
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))
    axes.xaxis.get_offset_text().set_color(_GRAY)
    return _svg(figure)


def _smooth(values: Sequence[float], window: int = 9) -> list[float]:
    """Returns the running mean over `window` neighbours, fewer at the ends."""
    half = window // 2
    parts = [values[max(0, i - half) : i + half + 1] for i in range(len(values))]
    return [sum(part) / len(part) for part in parts]


def _axes(size: tuple[float, float], x: str, y: str) -> tuple[Any, Any]:
    import matplotlib
    from matplotlib.figure import Figure

    matplotlib.rcParams["svg.hashsalt"] = "srmill"
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.add_subplot()
    axes.set_xlabel(x, color=_GRAY, parse_math=False)
    axes.set_ylabel(y, color=_GRAY, parse_math=False)
    axes.tick_params(colors=_GRAY, which="both")
    axes.grid(color=_GRAY, alpha=0.25, linewidth=0.6)
    axes.set_facecolor("none")
    for name, spine in axes.spines.items():
        spine.set_visible(name in ("left", "bottom"))
        spine.set_color(_GRAY)
    return figure, axes


def _svg(figure: Any) -> str:
    buffer = BytesIO()
    # No metadata: it would name addresses, and the date would make equal reports differ.
    metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure.savefig(buffer, format="svg", transparent=True, metadata=metadata)
    svg = buffer.getvalue().decode()
    return svg[svg.index("<svg") :]
