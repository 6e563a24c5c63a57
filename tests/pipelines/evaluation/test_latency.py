import numpy as np
import torch

from pipelines.config.load import load_config
from pipelines.config.reference import ModelReference
from pipelines.evaluation.latency import machine, measure_costs
from pipelines.evaluation.methods import Method, open_method
from srmodels.latency import num_threads, peak_bytes
from tests.conftest import SMALL


class Counted(Method):
    """Remembers what it was asked for."""

    reference = title = "counted"
    scale, parameters, file_bytes = 4, 3, 12

    def __init__(self) -> None:
        self.seen: list[tuple[int, int]] = []

    def __call__(self, lr: np.ndarray) -> np.ndarray:
        self.seen.append((lr.shape[0], self.threads))
        torch.zeros(8, 8) @ torch.zeros(8, 8)
        return lr


def test_every_size_is_timed_on_all_threads_after_a_warm_up() -> None:
    method, before = Counted(), torch.get_num_threads()
    seen = method.seen
    bicubic = open_method(ModelReference.parse("bicubic"), load_config([f"recipe={SMALL}"]))
    found = measure_costs([bicubic, method], [16, 24], runs=3)
    # Four of each size and one for its memory, and one to count.
    assert [size for size, _ in seen] == [16] * 5 + [24] * 5 + [16]
    assert {used for _, used in seen} == {num_threads()}
    assert method.threads == 1
    assert torch.get_num_threads() == before
    cost = found["counted"]
    assert (cost.parameters, cost.file_bytes) == (3, 12)
    assert cost.gmacs == 8**3 / 1e9
    assert [(latency.size, latency.runs) for latency in cost.latencies] == [(16, 3), (24, 3)]
    assert all(0 < x.low_ms <= x.median_ms <= x.high_ms for x in cost.latencies)
    assert found["bicubic"].gmacs is None
    assert measure_costs([method], [], runs=3)["counted"].latencies == []
    assert machine().endswith(f"{num_threads()} thread{'s' * (num_threads() > 1)}")


def test_peak_memory_is_what_a_call_takes_and_gives_back() -> None:
    """The call takes 40 MiB. The memory that it held before does not count."""
    held = np.ones(2**23)

    def call() -> float:
        return float((held[: 5 * 2**20] * 2).sum())

    for _ in range(2):
        peak = peak_bytes(call)
        assert peak is not None
        # The kernel counts pages in batches.
        assert 39 * 2**20 < peak < 48 * 2**20
    assert peak_bytes(lambda: None) < 4 * 2**20  # type: ignore[operator]
