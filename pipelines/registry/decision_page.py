"""The page of a decision: what the gate compared, drawn and as a table."""

from dataclasses import dataclass

from pipelines.evaluation.page import render_page
from pipelines.evaluation.plots import intervals
from pipelines.evaluation.statistics import Comparison
from pipelines.models.facts import MetricFacts
from pipelines.registry.gate import Decision
from pipelines.registry.measured import FOLDER

#: The page's name among the artifacts of the version's run.
PAGE = f"{FOLDER}/decision.html"


@dataclass(frozen=True)
class _Row:
    title: str
    difference: str
    interval: str
    margin: str
    won: str
    verdict: str
    worst: str


def render(name: str, version: str, decision: Decision) -> str:
    """Returns the page of a decision about a version of the registered model `name`."""
    drawn = {
        title: drawn
        for title, found in decision.compared.items()
        if (drawn := _in_margins(*found)) is not None
    }
    return render_page(
        "decision.html.j2",
        name=name,
        version=version,
        decision=decision,
        drawing=intervals(drawn, "gain, in margins of the metric") if drawn else None,
        rows=[_row(title, *found) for title, found in decision.compared.items()],
    )


def _in_margins(
    facts: MetricFacts, comparison: Comparison
) -> tuple[float, float, float, str] | None:
    """Returns the gain, and its interval, as multiples of what matters to nobody; None without an
    interval."""
    if comparison.low is None or comparison.high is None:
        return None
    sign = 1 if facts.higher_is_better else -1
    low, high = sorted(sign * end / facts.margin for end in (comparison.low, comparison.high))
    return comparison.gain / facts.margin, low, high, comparison.verdict


def _row(title: str, facts: MetricFacts, comparison: Comparison) -> _Row:
    def text(value: float, sign: str = "+") -> str:
        unit = f" {facts.unit}" if facts.unit else ""
        return f"{value:{sign}.{facts.digits + 1}f}{unit}"

    low, high = comparison.low, comparison.high
    return _Row(
        title=title,
        difference=text(comparison.difference),
        interval="none" if low is None or high is None else f"{text(low)} … {text(high)}",
        margin=text(facts.margin, ""),
        won=f"{comparison.win_rate:.0%} of {comparison.num_images}",
        verdict=comparison.verdict,
        worst=", ".join(comparison.worst[:2]),
    )
