import math
from pathlib import Path
from typing import Any

import pytest
import torch

from pipelines.training.callbacks.metrics import MetricsCallback
from tests.support.training import (
    configure,
    join,
    make_engine,
    recorded_in,
    recorder_in,
    result,
)


@pytest.fixture(scope="module")
def engine(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SRMILL_HOME", str(tmp_path_factory.mktemp("home")))
        join()
        return make_engine(configure(dataset, "train.zero_stage=1"))


def test_losses_are_means_over_the_steps_since_the_last_record(engine: Any, tmp_path: Path) -> None:
    metrics = MetricsCallback(recorder_in(tmp_path), engine, every=3, batch_size=4, steps=7)
    for step in range(1, 8):
        metrics.after_step(result(step, loss=float(step), l1=0.5))
    values = recorded_in(tmp_path)
    assert [(step, v["train/loss"]) for step, v in values] == [(3, 2), (6, 5), (7, 7)]
    last = values[-1][1]
    assert last["train/l1"] == 0.5
    assert set(engine.learning_rates) == {"hr_encoder", "decoder"}
    assert last["learning_rate/decoder"] == engine.learning_rates["decoder"]
    assert last["train/gradient_norm"] == engine.gradient_norms[""] > 0
    assert last["memory/resident_gib"] > 0.01
    assert last["steps/skipped"] == 0
    assert "speed/mfu" not in last
    assert metrics.last == last


def test_skipped_steps_are_counted_and_left_out_of_the_means(engine: Any, tmp_path: Path) -> None:
    metrics = MetricsCallback(
        recorder_in(tmp_path), engine, every=2, batch_size=4, steps=6, skipped=5
    )
    metrics.after_step(result(1, loss=3.0))
    metrics.after_step(result(2, loss=math.nan, applied=False))
    metrics.after_step(result(3, loss=math.inf, applied=False))
    assert metrics.last["steps/skipped"] == 7  # what a checkpoint between two records needs
    metrics.after_step(result(4, loss=math.nan, applied=False))
    metrics.after_step(result(5, loss=1.0))
    metrics.after_step(result(6, loss=2.0))
    (_, one), (_, two), (_, three) = recorded_in(tmp_path)
    assert (one["train/loss"], one["steps/skipped"]) == (3.0, 6)
    assert "train/gradient_norm" not in one
    assert "train/loss" not in two
    assert (three["train/loss"], three["steps/skipped"]) == (1.5, 8)


def test_speeds_follow_from_one_clock(engine: Any, tmp_path: Path) -> None:
    metrics = MetricsCallback(
        recorder_in(tmp_path),
        engine,
        every=2,
        batch_size=8,
        steps=4,
        flops_per_sample=1e9,
        peak_flops=4e9,
    )
    for step in range(1, 5):
        metrics.after_step(result(step, loss=0.0))
    first = recorded_in(tmp_path)[0][1]
    # The first record's clock starts one step, here one second, before the first call.
    assert 0 < first["speed/samples_per_second"] <= 16
    assert first["speed/mfu"] == pytest.approx(first["speed/samples_per_second"] / 4)
    seconds = 16 / first["speed/samples_per_second"]
    assert first["speed/data_wait_share"] == pytest.approx(0.5 / seconds)


def test_nothing_is_read_from_the_device_between_records(engine: Any) -> None:
    """On the meta device there is nothing to read: whoever tries fails."""
    metrics = MetricsCallback(None, engine, every=10, batch_size=4, steps=10)
    step = result(1, loss=1.0)
    step.losses["loss"] = torch.empty((), device="meta")
    metrics.after_step(step)
    with pytest.raises(RuntimeError, match=r"meta"):
        step.losses["loss"].item()
