"""Results of an evaluation that never took place."""

from typing import Any

from pipelines.evaluation.results import BenchmarkResults, EvaluationResults
from pipelines.evaluation.statistics import Comparison
from pipelines.models.facts import MetricFacts

METRIC = MetricFacts(
    protocol="p", title="PSNR", unit="dB", digits=2, margin=0.02,
    higher_is_better=True, has_reference=True,
)  # fmt: skip
COMPARISON = Comparison(
    difference=1.0, low=0.5, high=1.5, gain=1.0, win_rate=1.0, num_images=2,
    worst=["a"], best=["b"], verdict="better",
)  # fmt: skip
BENCHMARK = BenchmarkResults(
    identity="i", degradation="bicubic", num_images=2, num_photos=2,
    summary={"bicubic": {"psnr": 28.0}, "m": {"psnr": 29.0}},
    comparisons={"bicubic": {"psnr": COMPARISON}}, failures=[],
)  # fmt: skip


def make_results(**changes: Any) -> EvaluationResults:
    """Results of the model `m` beside bicubic on one benchmark set, with other values for some."""
    values: dict[str, Any] = {
        "model": "m", "recipe": "small", "weights_sha256": "w", "scale": 4,
        "lineage": {"recipe": "small"}, "titles": {"bicubic": "bicubic", "m": "model"},
        "metrics": {"psnr": METRIC}, "benchmarks": {"Set5": BENCHMARK}, "identity": "i",
        "date": "2026-01-01", "machine": "a machine", "latency_runs": 3, "costs": {},
    }  # fmt: skip
    return EvaluationResults(**values | changes)
