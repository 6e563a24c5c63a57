"""The report: one HTML file that needs no network, for a phone or a desk, light or dark."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

from pipelines import tracking
from pipelines.config.schema import Config
from pipelines.evaluation.measure import ImageResult
from pipelines.evaluation.methods import BICUBIC
from pipelines.evaluation.pictures import Pictures, encode
from pipelines.evaluation.plots import (
    latency_over_size,
    loss_curve,
    paired_scores,
    quality_over_latency,
)
from pipelines.evaluation.results import by_image, counted, rival, shown
from pipelines.evaluation.statistics import Comparison, judge
from pipelines.runs.names import run_name

#: (stage, [(step, loss)]) as it is drawn.
Curves = list[tuple[str, list[tuple[int, float]]]]


@dataclass(frozen=True)
class Example:
    """An image as every method shows it. `title` says why it is shown."""

    benchmark: str
    key: str
    title: str
    pictures: Pictures


def loss_curves(client: Any, config: Config) -> Curves:
    """The training losses of the recipe's stages that MLflow knows under this run name."""
    curves: Curves = []
    for stage in config.stages:
        run_id = tracking.find_run(client, config, run_name(config, stage))
        if run_id is None:
            continue
        history = client.get_metric_history(run_id, "train/loss")
        if history:
            curves.append((stage, sorted((m.step, m.value) for m in history)))
    return curves


def render(
    results: Mapping[str, Any],
    found: Sequence[ImageResult],
    examples: Sequence[Example],
    curves: Curves,
) -> str:
    """The page.

    Args:
        results: what `results.json` holds.
        found: scores by image.
        examples: what is shown.
        curves: training losses by stage.
    """
    from jinja2 import Environment

    template = resources.files("pipelines.evaluation").joinpath("report.html.j2").read_text()
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(template).render(
        results=results,
        advice=[_advice(results, name) for name in results["benchmarks"]],
        counts={name: counted(facts) for name, facts in results["benchmarks"].items()},
        tables={name: _rows(results, name) for name in results["benchmarks"]},
        costs=_cost_rows(results),
        tradeoff=_tradeoff(results),
        latency=_latency_over_size(results),
        scatters=_scatters(results, found),
        examples=[_figures(results, found, example) for example in examples],
        curves=[(stage, points, loss_curve(points)) for stage, points in curves],
    )


def _advice(results: Mapping[str, Any], benchmark: str) -> dict[str, Any]:
    """Which of model and rival to ship, by this benchmark, and why."""
    other = rival(results)
    title, metrics = results["titles"][other], results["metrics"]
    facts = results["benchmarks"][benchmark]
    comparisons = {
        label: Comparison(**values) for label, values in facts["comparisons"][other].items()
    }
    judgement = judge({n: c for n, c in comparisons.items() if metrics[n]["has_reference"]})
    sentence = {
        "better": "Ship the model: it is better than {}.",
        "worse": "Keep {}: the model is worse.",
        "trade-off": "A trade: the model is better than {} in one way and worse in another.",
        "equal": "It makes no difference: model and {} are equal.",
        "undecided": "These images cannot tell whether the model is better than {}.",
    }[judgement.outcome].format(title)
    reasons = [
        {"text": _reason(metrics[label], comparison), "verdict": comparison.verdict}
        for label, comparison in comparisons.items()
    ]
    return {
        "benchmark": benchmark,
        "outcome": judgement.outcome,
        "sentence": sentence,
        "reasons": reasons,
        "images": counted(facts),
    }


def _reason(metric: Mapping[str, Any], comparison: Comparison) -> str:
    digits, unit = metric["digits"], f" {metric['unit']}" if metric["unit"] else ""
    interval = ""
    if comparison.low is not None and comparison.high is not None:
        interval = f" (95 %: {comparison.low:+.{digits}f} … {comparison.high:+.{digits}f})"
    return (
        f"{metric['title']} {comparison.difference:+.{digits}f}{unit}{interval}, better on "
        f"{comparison.win_rate:.0%} of the images"
    )


def _rows(results: Mapping[str, Any], benchmark: str) -> list[dict[str, Any]]:
    """A row for each method, a cell for each metric, with what it has more than bicubic."""
    summary, metrics = results["benchmarks"][benchmark]["summary"], results["metrics"]
    best = {}
    for label, metric in metrics.items():
        values = [v[label] for v in summary.values() if v[label] is not None]
        best[label] = (max if metric["higher_is_better"] else min)(values, default=None)
    rows = []
    for method, values in summary.items():
        cells = []
        for label, metric in metrics.items():
            value, base = values[label], summary[BICUBIC][label]
            gain = None if value is None or base is None else value - base
            better = gain is not None and (gain > 0) == metric["higher_is_better"]
            cells.append(
                {
                    "value": shown(value, metric),
                    "best": value is not None and value == best[label],
                    "gain": None if not gain else f"{gain:+.{metric['digits']}f}",
                    "class": "good" if better else "bad",
                }
            )
        rows.append({"method": method, "title": results["titles"][method], "cells": cells})
    return rows


def _cost_rows(results: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [
        {
            "method": method,
            "title": results["titles"][method],
            "parameters": _scaled(cost["parameters"], 1e6, "M"),
            "gmacs": _scaled(cost["gmacs"], 1, "GMACs"),
            "size": _scaled(cost["file_bytes"], 2**20, "MiB"),
            "latencies": [
                latency | {"peak": _scaled(latency["peak_bytes"], 2**20, "MiB", digits=0)}
                for latency in cost["latencies"]
            ],
        }
        for method, cost in results["costs"].items()
    ]


def _scaled(value: float | None, by: float, unit: str, digits: int = 2) -> str:
    return "–" if value is None else f"{value / by:.{digits}f} {unit}"


def _tradeoff(results: Mapping[str, Any]) -> str | None:
    """The drawing of quality over latency, by the first metric of the first benchmark set."""
    label, metric = next(iter(results["metrics"].items()))
    facts, points = next(iter(results["benchmarks"].values())), {}
    for method, cost in results["costs"].items():
        score = facts["summary"][method][label]
        if cost["latencies"] and score is not None:
            title = results["titles"][method]
            points[title] = (cost["latencies"][0]["median_ms"], score)
    if not points:
        return None
    size = next(iter(results["costs"].values()))["latencies"][0]["size"]
    chosen = results["titles"][results["model"]]
    return quality_over_latency(points, chosen, _with_unit(metric), size)


def _latency_over_size(results: Mapping[str, Any]) -> str | None:
    """The drawing of latency over size, where there is more than one."""
    names = ("size", "median_ms", "low_ms", "high_ms")
    lines = {
        results["titles"][method]: [tuple(x[name] for name in names) for x in cost["latencies"]]
        for method, cost in results["costs"].items()
    }
    if any(len(points) < 2 for points in lines.values()):
        return None
    return latency_over_size(lines, results["titles"][results["model"]])


def _scatters(results: Mapping[str, Any], found: Sequence[ImageResult]) -> list[dict[str, str]]:
    """Model over rival, a point for each image, for every benchmark set and metric."""
    model, other = results["model"], rival(results)
    titles = results["titles"][model], results["titles"][other]
    drawn = []
    for benchmark in results["benchmarks"]:
        for label, metric in results["metrics"].items():
            ours, theirs = (by_image(found, benchmark, m, label) for m in (model, other))
            pairs = [(ours[key], theirs[key]) for key in ours if key in theirs]
            if pairs:
                better = "above" if metric["higher_is_better"] else "below"
                caption = f"{benchmark}: the model is better {better} the line"
                svg = paired_scores(pairs, titles, _with_unit(metric))
                drawn.append({"svg": svg, "caption": caption})
    return drawn


def _with_unit(metric: Mapping[str, Any]) -> str:
    return f"{metric['title']}, {metric['unit']}" if metric["unit"] else str(metric["title"])


def _figures(
    results: Mapping[str, Any], found: Sequence[ImageResult], example: Example
) -> dict[str, Any]:
    scores = {
        result.method: result.scores
        for result in found
        if result.benchmark == example.benchmark and result.key == example.key
    }
    pictures = [
        {
            "title": results["titles"].get(kind, kind),
            "score": " · ".join(
                f"{metric['title']} {shown(scores[kind][label], metric)}"
                for label, metric in results["metrics"].items()
                if label in scores[kind]
            )
            if kind in scores
            else "",
            "data": base64.b64encode(encode(image, "WEBP")).decode(),
        }
        for kind, image in example.pictures.items()
    ]
    # What the slider shows at first: the rival at the left, the model at the right.
    first = [results["titles"][rival(results)], results["titles"][results["model"]]]
    title = f"{example.benchmark}, {example.key}: {example.title}"
    return {"title": title, "pictures": pictures, "first": first}
