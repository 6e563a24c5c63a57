"""Fixtures that the tests of the pipelines share."""

from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from pipelines.evaluation import measure as module
from pipelines.evaluation.benchmarks import Benchmark
from pipelines.evaluation.measure import measure_images
from pipelines.evaluation.methods import Method


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, list[str]]]:
    """The tasks that are measured, in this process instead of by Ray."""
    seen: list[tuple[str, list[str]]] = []

    def run(
        todo: Sequence[tuple[Benchmark, list[tuple[str, list[str]]]]],
        methods: Sequence[Method],
        scores: Any,
    ) -> Iterator[list[Any]]:
        for benchmark, tasks in todo:
            for task in tasks:
                seen.append(task)
                yield measure_images(benchmark, {m.reference: m for m in methods}, scores, [task])

    monkeypatch.setattr(module, "_run", run)
    return seen
