"""Writes docs/results.md from stored results; nobody types it by hand.

    jobs/evaluate.py model=edge_sd_sr_tiny benchmark=sets/Set5,sets/BSD100
    cp work/evaluate/edge_sd_sr_tiny-Set5-BSD100/results.json docs/results/edge_sd_sr_tiny.json
    python -m docs.tools.results_page

`published.yaml` beside them holds the published rows.
"""

import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from pipelines.evaluation.benchmarks import PairedFiles
from pipelines.evaluation.results import EvaluationResults, counted, rival, shown
from pipelines.evaluation.statistics import Comparison
from pipelines.models.facts import MetricFacts
from pipelines.storage.paths import ROOT
from pipelines.storage.typed import read_typed

STORED = ROOT / "docs" / "results"
PAGE = ROOT / "docs" / "results.md"
#: The metrics that published rows have.
PSNR, SSIM = "psnr_y_crop4", "ssim_y_crop4"
#: Prose lines of the page are not longer than this.
WIDTH = 110
HEAD = """# Results

`make results` writes this page from the results of `jobs/evaluate.py` (docs/results/*.json) \
and from published figures (docs/results/published.yaml).

- [evaluation.md](evaluation.md) defines the metrics and the intervals.
- [shipped_weights.md](shipped_weights.md) says how the shipped weights were trained.
"""
FOOT = """*Published* rows are the papers' own figures, by the same protocol on the same LR \
images. We measured nothing else of these networks.

A latency is the median for one LR image of that size, on the machine named above.

A comparison gives the mean difference, image by image, its 95 % interval, and the verdict.
"""


def main() -> None:
    PAGE.write_text(page(STORED))
    print(f"Page: {PAGE}")


def page(stored: Path) -> str:
    """Returns the whole page, from all results in the folder `stored`."""
    published = yaml.safe_load((stored / "published.yaml").read_text())
    parts = [HEAD]
    for path in sorted(stored.glob("*.json")):
        results = read_typed(EvaluationResults, path.read_bytes(), str(path))
        parts.append(f"## {path.stem}\n\nMeasured on {results.date}, {results.machine}.\n")
        for name in results.benchmarks:
            parts.append(
                "\n".join([*_table(results, name, published), "", *_verdicts(results, name)])
            )
    return "\n".join(map(_wrapped, "\n".join([*parts, FOOT]).split("\n")))


def _wrapped(line: str) -> str:
    """Returns the line, wrapped to `WIDTH` unless it belongs to a table or is a heading."""
    if line.startswith(("|", "#")):
        return line
    return textwrap.fill(line, WIDTH, break_long_words=False, break_on_hyphens=False)


def _table(
    results: EvaluationResults, benchmark: str, published: Mapping[str, Any]
) -> Iterator[str]:
    """Yields the lines of a table: the measured methods, then the published ones."""
    found, metrics, scale = results.benchmarks[benchmark], results.metrics, results.scale
    timed = next(iter(results.costs.values())).latencies
    titles = [f"{m.title} {'↑' if m.higher_is_better else '↓'}" for m in metrics.values()]
    columns = ["parameters", *titles, *(f"{latency.size} px" for latency in timed)]
    yield f"### {benchmark}, {counted(found)}, ×{scale}, LR {found.degradation}\n"
    yield f"| | {' | '.join(columns)} |"
    yield f"|{'---|' * (len(columns) + 1)}"
    for method, values in found.summary.items():
        cost = results.costs[method]
        title = f"**{method}**" if method == results.model else results.titles[method]
        cells = [_millions(cost.parameters)]
        cells += [shown(values[label], metric) for label, metric in metrics.items()]
        cells += [f"{latency.median_ms:.1f} ms" for latency in cost.latencies]
        yield f"| {title} | {' | '.join(cells)} |"
    # Papers measured at x4, on the LR images that the sets carry.
    same_protocol = scale == 4 and found.degradation == PairedFiles.degradation
    for title, row in published.items():
        if benchmark in row and same_protocol:
            scores = dict(zip((PSNR, SSIM), row[benchmark], strict=True))
            cells = [_millions(row["parameters"])]
            cells += [shown(scores.get(label), metric) for label, metric in metrics.items()]
            yield f"| *{title}, published* | {' | '.join(cells + ['–'] * len(timed))} |"


def _verdicts(results: EvaluationResults, benchmark: str) -> Iterator[str]:
    """Compares the model with bicubic and with its rival, by every metric."""
    for other in dict.fromkeys(["bicubic", rival(results)]):
        comparisons = results.benchmarks[benchmark].comparisons[other]
        told = [
            f"{metric.title} {_interval(comparisons[label], metric)}"
            for label, metric in results.metrics.items()
            if label in comparisons
        ]
        yield f"{results.model} compared with {results.titles[other]}: {'; '.join(told)}.\n"


def _interval(comparison: Comparison, metric: MetricFacts) -> str:
    digits = metric.digits
    found = f"{comparison.difference:+.{digits}f}"
    if comparison.low is not None and comparison.high is not None:
        found += f" ({comparison.low:+.{digits}f} … {comparison.high:+.{digits}f})"
    return f"{found}, {comparison.verdict}"


def _millions(parameters: float | None) -> str:
    return "–" if not parameters else f"{parameters / 1e6:.3g} M"


if __name__ == "__main__":
    main()
