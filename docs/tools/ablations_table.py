"""Writes the tables of ablations, and a figure of latencies, from what was measured.

    python -m tests.benchmarks.ablations edge_sd_sr     # trains, measures, and keeps the scores
    python -m docs.tools.ablations_table edge_sd_sr

Differences are paired, image by image; their intervals hold for other images, and with several
seeds for other runs too.
"""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipelines.evaluation.plots import latency_over_size
from pipelines.storage.files import read_json, write_json
from pipelines.storage.paths import ROOT
from srmodels.latency import Latency
from srmodels.metrics.suite import METRICS

PAGES = {
    "edge_sd_sr": ROOT / "docs" / "ablations.md",
    "rdsr": ROOT / "docs" / "rdsr.md",
    "light_f2srgan": ROOT / "docs" / "light_f2srgan.md",
}
IMAGES = ROOT / "docs" / "images"
#: The table stands between these lines of its page.
BEGIN, END = "<!-- table -->", "<!-- end of table -->"


@dataclass(frozen=True)
class Row:
    """One arm: its title, and its scores `[seeds, images, metrics]`."""

    title: str
    scores: NDArray[np.float64]


@dataclass(frozen=True)
class Scores:
    """The measured arms of a grid.

    Attributes:
        metrics: names of metrics, in the order of the scores.
        bicubic: scores `[images, metrics]` of bicubic.
        rows: the arms; the others are compared with the first.
        latencies: latencies of the arms that were timed, over the size of the image, by title.
        machine: where they were timed.
    """

    metrics: tuple[str, ...]
    bicubic: NDArray[np.float64]
    rows: tuple[Row, ...]
    latencies: Mapping[str, Sequence[Latency]] = field(default_factory=dict)
    machine: str = ""

    def save(self, path: Path) -> None:
        """Writes the scores as JSON."""
        rows = [{"title": row.title, "scores": row.scores.tolist()} for row in self.rows]
        latencies = {title: list(map(asdict, found)) for title, found in self.latencies.items()}
        values = {
            "metrics": self.metrics,
            "bicubic": self.bicubic.tolist(),
            "rows": rows,
            "latencies": latencies,
            "machine": self.machine,
        }
        write_json(path, values)


def scores_file(grid: str) -> Path:
    """Returns the path of the file with the scores of a grid."""
    return ROOT / "work" / "ablations" / f"{grid}.json"


def load_scores(path: Path) -> Scores:
    """Reads what `Scores.save` wrote."""
    found = read_json(path)
    rows = tuple(Row(row["title"], np.array(row["scores"])) for row in found["rows"])
    latencies = {
        title: [Latency(**latency) for latency in one]
        for title, one in found.get("latencies", {}).items()
    }
    bicubic = np.array(found["bicubic"])
    return Scores(tuple(found["metrics"]), bicubic, rows, latencies, found.get("machine", ""))


def interval(differences: NDArray[np.float64]) -> tuple[float, float]:
    """Returns the 95 % interval of the mean of `[seeds, images]`, by a bootstrap over both."""
    generator = np.random.default_rng(0)
    seeds, count = differences.shape
    means = [
        differences[
            generator.integers(seeds, size=(seeds, 1)), generator.integers(count, size=count)
        ].mean()
        for _ in range(5000)
    ]
    low, high = np.quantile(means, (0.025, 0.975))
    return float(low), float(high)


def table(scores: Scores) -> str:
    """Returns the Markdown table: bicubic first, then a row for each arm."""
    titles = [METRICS[name].title for name in scores.metrics]
    lines = [
        f"| | {' | '.join(titles)} |",
        f"|{'---|' * (1 + len(titles))}",
        f"| bicubic | {' | '.join(f'{value:.4f}' for value in scores.bicubic.mean(0))} |",
    ]
    base = scores.rows[0]
    for row in scores.rows:
        cells = []
        for column in range(len(titles)):
            cell = f"{row.scores[..., column].mean():.4f}"
            if row is not base:
                low, high = interval(row.scores[..., column] - base.scores[..., column])
                cell += f" ({low:+.4f} … {high:+.4f})"
            cells.append(cell)
        lines.append(f"| {row.title} | {' | '.join(cells)} |")
    return "\n".join(lines)


def figure(scores: Scores) -> str:
    """Returns the drawing of the latencies, as SVG; the last arm stands out."""
    lines = {
        title.replace("`", ""): [
            (one.size, one.median_ms, one.low_ms, one.high_ms) for one in found
        ]
        for title, found in scores.latencies.items()
    }
    return latency_over_size(lines, chosen=list(lines)[-1])


def write(path: Path, content: str) -> None:
    """Puts the content where the page has its last table of this kind."""
    before, _, rest = path.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    path.write_text(f"{before}{BEGIN}\n{content}\n{END}{after}")


def main() -> None:
    """Writes the table, and the figure, of the grid that the command line names."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("grid", choices=PAGES, help="the system")
    grid = parser.parse_args().grid
    stored = scores_file(grid)
    if not stored.is_file():
        raise SystemExit(f"error: {stored} is not there: run `make ablations GRID={grid}` first.")
    scores = load_scores(stored)
    content = table(scores)
    if scores.latencies:
        picture = IMAGES / f"{grid}_latency.svg"
        picture.write_text(figure(scores))
        caption = f"Milliseconds over the side of the LR image, in ONNX Runtime on {scores.machine}"
        content += f"\n\n![{caption}](images/{picture.name})"
        print(f"Figure: {picture}")
    write(PAGES[grid], content)
    print(f"Table: {PAGES[grid]}")


if __name__ == "__main__":
    main()
