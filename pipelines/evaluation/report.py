"""The report: one HTML file that needs no network, for a phone or a desk, light or dark."""

import base64
from importlib import resources
from io import BytesIO
from typing import Any

from pipelines import tracking
from pipelines.evaluation.pictures import Pictures, to_png
from pipelines.schema import Config
from pipelines.training.runs import run_name

#: (stage, [(step, loss)]) as it is drawn.
Curves = list[tuple[str, list[tuple[int, float]]]]


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


def render(results: dict[str, Any], pictures: dict[str, Pictures], curves: Curves) -> str:
    """The page.

    Args:
        results: what `results.json` holds.
        pictures: pixels by image and by kind (`LR`, the methods, `HR`), in drawing order.
        curves: training losses by stage.
    """
    from jinja2 import Environment

    template = resources.files("pipelines.evaluation").joinpath("report.html.j2").read_text()
    baseline = results["summary"]["bicubic"]
    rows = [
        {
            "method": method,
            "values": values,
            "gains": {name: values[name] - baseline[name] for name in values},
        }
        for method, values in results["summary"].items()
    ]
    scores = {(r["key"], r["method"]): r for r in results["images"]}
    figures = [
        [
            {
                "kind": kind,
                "title": "model" if kind == results["model"] else kind,
                "score": scores.get((key, kind)),
                "data": base64.b64encode(to_png(image)).decode(),
            }
            for kind, image in kinds.items()
        ]
        for key, kinds in pictures.items()
    ]
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(template).render(
        results=results,
        rows=rows,
        figures=figures,
        curves=[(stage, points, _draw(points)) for stage, points in curves],
    )


def _smooth(values: list[float], window: int = 9) -> list[float]:
    """Running mean over up to `window` neighbours, fewer at the ends."""
    half = window // 2
    parts = [values[max(0, i - half) : i + half + 1] for i in range(len(values))]
    return [sum(part) / len(part) for part in parts]


def _draw(points: list[tuple[int, float]]) -> str:
    """A loss curve as SVG that reads on light and dark ground."""
    import matplotlib
    from matplotlib.figure import Figure

    matplotlib.rcParams["svg.hashsalt"] = "srforge"
    gray, line = "#8a8f98", "#2f81f7"
    figure = Figure(figsize=(4.2, 2.4), layout="constrained")
    axes = figure.add_subplot()
    steps, losses = [step for step, _ in points], [loss for _, loss in points]
    axes.plot(steps, losses, color=line, linewidth=0.8, alpha=0.35)
    axes.plot(steps, _smooth(losses), color=line, linewidth=1.8)
    axes.set_xlabel("step", color=gray)
    axes.set_ylabel("loss", color=gray)
    axes.tick_params(colors=gray)
    axes.grid(color=gray, alpha=0.25, linewidth=0.6)
    axes.set_facecolor("none")
    for name, spine in axes.spines.items():
        spine.set_visible(name in ("left", "bottom"))
        spine.set_color(gray)
    buffer = BytesIO()
    # No metadata: it would name addresses, and the date would make equal reports differ.
    metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure.savefig(buffer, format="svg", transparent=True, metadata=metadata)
    svg = buffer.getvalue().decode()
    return svg[svg.index("<svg") :]
