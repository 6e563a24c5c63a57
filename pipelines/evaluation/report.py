"""The report: one HTML file that needs no network, for a phone or a desk, light or dark."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pipelines import tracking
from pipelines.config.schema import Config
from pipelines.evaluation.measure import ImageResult
from pipelines.evaluation.methods import BICUBIC
from pipelines.evaluation.page import embedded, render_page
from pipelines.evaluation.pictures import Pictures
from pipelines.evaluation.plots import (
    latency_over_size,
    loss_curve,
    paired_scores,
    quality_over_latency,
)
from pipelines.evaluation.results import EvaluationResults, by_image, counted, rival, shown
from pipelines.evaluation.statistics import Comparison, judge
from pipelines.models.facts import MetricFacts
from pipelines.runs.names import run_name
from srmodels.latency import Latency

#: Training losses: (stage, [(step, loss)]).
Curves = list[tuple[str, list[tuple[int, float]]]]


@dataclass(frozen=True)
class Example:
    """The same part of an image as every method shows it; `title` says why this image."""

    benchmark: str
    key: str
    title: str
    pictures: Pictures


@dataclass(frozen=True)
class _Reason:
    """A metric's comparison with the rival, in words."""

    text: str
    verdict: str


@dataclass(frozen=True)
class _Advice:
    """Advice on which of model and rival to ship, by one benchmark set; see `judge`."""

    benchmark: str
    images: str
    outcome: str
    sentence: str
    reasons: list[_Reason]


@dataclass(frozen=True)
class _Cell:
    """A score and its difference from bicubic's; `kind` is a class of the style sheet."""

    value: str
    best: bool
    gain: str | None
    kind: str


@dataclass(frozen=True)
class _Row:
    method: str
    title: str
    cells: list[_Cell]


@dataclass(frozen=True)
class _CostRow:
    """A method's costs; each latency with the memory that it takes."""

    method: str
    title: str
    parameters: str
    gmacs: str
    size: str
    latencies: list[tuple[Latency, str]]


@dataclass(frozen=True)
class _Picture:
    """A picture in base64, with its scores as text."""

    title: str
    score: str
    data: str


@dataclass(frozen=True)
class _Figure:
    """An example's pictures; the slider lays `left` and `right` over each other at first."""

    title: str
    pictures: list[_Picture]
    left: str
    right: str


@dataclass(frozen=True)
class _Scatter:
    svg: str
    caption: str


def loss_curves(client: Any, config: Config) -> Curves:
    """Returns the training losses of the recipe's stages that MLflow has under this run name."""
    curves: Curves = []
    for stage in config.stages:
        run_id = tracking.find_run(client, config.mlflow, run_name(config, stage))
        if run_id is None:
            continue
        history = client.get_metric_history(run_id, "train/loss")
        if history:
            curves.append((stage, sorted((m.step, m.value) for m in history)))
    return curves


def render(
    results: EvaluationResults,
    found: Sequence[ImageResult],
    examples: Sequence[Example],
    curves: Curves,
) -> str:
    """Returns the page.

    Args:
        found: scores by image.
        examples: images to show.
        curves: training losses by stage.
    """
    return render_page(
        "report.html.j2",
        results=results,
        advice=[_advice(results, name) for name in results.benchmarks],
        counts={name: counted(benchmark) for name, benchmark in results.benchmarks.items()},
        tables={name: _rows(results, name) for name in results.benchmarks},
        costs=_cost_rows(results),
        tradeoff=_tradeoff(results),
        latency=_latency_over_size(results),
        scatters=_scatters(results, found),
        examples=[_figure(results, found, example) for example in examples],
        curves=[(stage, points, loss_curve(points)) for stage, points in curves],
    )


def _advice(results: EvaluationResults, name: str) -> _Advice:
    other, metrics, benchmark = rival(results), results.metrics, results.benchmarks[name]
    comparisons = benchmark.comparisons[other]
    judgement = judge({n: c for n, c in comparisons.items() if metrics[n].has_reference})
    sentence = {
        "better": "Ship the model: it is better than {}.",
        "worse": "Keep {}: the model is worse.",
        "trade-off": "A trade: the model is better than {} in one way and worse in another.",
        "equal": "It makes no difference: model and {} are equal.",
        "undecided": "These images cannot tell whether the model is better than {}.",
    }[judgement.outcome]
    return _Advice(
        benchmark=name,
        images=counted(benchmark),
        outcome=judgement.outcome,
        sentence=sentence.format(results.titles[other]),
        reasons=[
            _Reason(_reason(metrics[label], comparison), comparison.verdict)
            for label, comparison in comparisons.items()
        ],
    )


def _reason(metric: MetricFacts, comparison: Comparison) -> str:
    digits, unit = metric.digits, f" {metric.unit}" if metric.unit else ""
    interval = ""
    if comparison.low is not None and comparison.high is not None:
        interval = f" (95 %: {comparison.low:+.{digits}f} … {comparison.high:+.{digits}f})"
    return (
        f"{metric.title} {comparison.difference:+.{digits}f}{unit}{interval}, better on "
        f"{comparison.win_rate:.0%} of the images"
    )


def _rows(results: EvaluationResults, name: str) -> list[_Row]:
    """Returns a row for each method, with a cell for each metric."""
    summary, metrics = results.benchmarks[name].summary, results.metrics
    best = {}
    for label, metric in metrics.items():
        values = [score for v in summary.values() if (score := v[label]) is not None]
        best[label] = (max if metric.higher_is_better else min)(values, default=None)
    return [
        _Row(
            method,
            results.titles[method],
            [
                _cell(metric, scores[label], summary[BICUBIC][label], best[label])
                for label, metric in metrics.items()
            ],
        )
        for method, scores in summary.items()
    ]


def _cell(
    metric: MetricFacts, score: float | None, bicubic: float | None, best: float | None
) -> _Cell:
    gain = None if score is None or bicubic is None else score - bicubic
    better = gain is not None and (gain > 0) == metric.higher_is_better
    return _Cell(
        value=shown(score, metric),
        best=score is not None and score == best,
        gain=None if not gain else f"{gain:+.{metric.digits}f}",
        kind="good" if better else "bad",
    )


def _cost_rows(results: EvaluationResults) -> list[_CostRow]:
    return [
        _CostRow(
            method=method,
            title=results.titles[method],
            parameters=_scaled(cost.parameters, 1e6, "M"),
            gmacs=_scaled(cost.gmacs, 1, "GMACs"),
            size=_scaled(cost.file_bytes, 2**20, "MiB"),
            latencies=[
                (latency, _scaled(latency.peak_bytes, 2**20, "MiB", digits=0))
                for latency in cost.latencies
            ],
        )
        for method, cost in results.costs.items()
    ]


def _scaled(value: float | None, by: float, unit: str, digits: int = 2) -> str:
    return "–" if value is None else f"{value / by:.{digits}f} {unit}"


def _tradeoff(results: EvaluationResults) -> str | None:
    """Draws quality over latency, by the first metric of the first benchmark set."""
    label, metric = next(iter(results.metrics.items()))
    benchmark, points = next(iter(results.benchmarks.values())), {}
    for method, cost in results.costs.items():
        score = benchmark.summary[method][label]
        if cost.latencies and score is not None:
            points[results.titles[method]] = (cost.latencies[0].median_ms, score)
    if not points:
        return None
    size = next(iter(results.costs.values())).latencies[0].size
    chosen = results.titles[results.model]
    return quality_over_latency(points, chosen, _with_unit(metric), size)


def _latency_over_size(results: EvaluationResults) -> str | None:
    """Draws latency over size, where there is more than one size."""
    lines = {
        results.titles[method]: [(x.size, x.median_ms, x.low_ms, x.high_ms) for x in cost.latencies]
        for method, cost in results.costs.items()
    }
    if any(len(points) < 2 for points in lines.values()):
        return None
    return latency_over_size(lines, results.titles[results.model])


def _scatters(results: EvaluationResults, found: Sequence[ImageResult]) -> list[_Scatter]:
    """Draws model over rival, a point for each image, for every benchmark set and metric."""
    model, other = results.model, rival(results)
    titles = results.titles[model], results.titles[other]
    drawn = []
    for benchmark in results.benchmarks:
        for label, metric in results.metrics.items():
            ours, theirs = (by_image(found, benchmark, m, label) for m in (model, other))
            pairs = [(ours[key], theirs[key]) for key in ours if key in theirs]
            if pairs:
                better = "above" if metric.higher_is_better else "below"
                svg = paired_scores(pairs, titles, _with_unit(metric))
                drawn.append(_Scatter(svg, f"{benchmark}: the model is better {better} the line"))
    return drawn


def _with_unit(metric: MetricFacts) -> str:
    return f"{metric.title}, {metric.unit}" if metric.unit else metric.title


def _figure(results: EvaluationResults, found: Sequence[ImageResult], example: Example) -> _Figure:
    scores = {
        result.method: result.scores
        for result in found
        if result.benchmark == example.benchmark and result.key == example.key
    }
    pictures = [
        _Picture(
            title=results.titles.get(kind, kind),
            score=" · ".join(
                f"{metric.title} {shown(scores[kind][label], metric)}"
                for label, metric in results.metrics.items()
                if label in scores.get(kind, {})
            ),
            data=embedded(image),
        )
        for kind, image in example.pictures.items()
    ]
    return _Figure(
        title=f"{example.benchmark}, {example.key}: {example.title}",
        pictures=pictures,
        left=results.titles[rival(results)],
        right=results.titles[results.model],
    )
