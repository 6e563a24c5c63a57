from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pipelines.config.load import load_config
from pipelines.data.stream import Batch
from pipelines.models.build import stage_on_meta
from pipelines.training.footprint import checkpoint_bytes, parameter_counts, rank_memory
from pipelines.training.local import join_group
from pipelines.training.worker import prepare_deepspeed


def test_a_hundred_parameters_that_all_learn_on_four_ranks() -> None:
    parts = [rank_memory(100, 100, zero_stage=zero, ranks=4).amounts for zero in (0, 1, 2, 3)]
    assert [p["weights"] for p in parts] == [400, 400, 400, 100]
    assert [p["gradients"] for p in parts] == [400, 400, 100, 100]
    # Two moments; ZeRO 1 and 2 keep a copy of the rank's weights as a third.
    assert [p["optimizer"] for p in parts] == [800, 300, 300, 200]
    assert [p["EMA"] for p in parts] == [400, 400, 400, 100]
    assert [p["bucket"] for p in parts] == [0, 400, 400, 400]


def test_frozen_parameters_cost_their_weights_alone() -> None:
    memory = rank_memory(100, 10, zero_stage=0, ranks=1)
    assert (memory.weights, memory.gradients, memory.optimizer, memory.ema) == (400, 40, 80, 40)


def test_shares_that_do_not_come_out_even_are_rounded_up() -> None:
    memory = rank_memory(10, 9, zero_stage=3, ranks=4)
    assert (memory.weights, memory.gradients, memory.optimizer, memory.ema) == (12, 12, 24, 12)


def test_autocast_has_a_bucket_for_either_type_of_gradient() -> None:
    buckets = [
        rank_memory(9, 9, zero_stage=zero, ranks=1, precision="bf16").bucket for zero in (0, 2, 3)
    ]
    assert buckets == [0, 72, 54]
    # DeepSpeed's own default is the most that it is given.
    assert rank_memory(10**10, 10**10, zero_stage=2, ranks=1).bucket == 2_000_000_000


def test_a_checkpoint_holds_weights_their_average_and_the_engines_files() -> None:
    # Ten parameters, four of them trained.
    sizes = [checkpoint_bytes(10, 4, zero_stage=zero) for zero in (0, 1, 2, 3)]
    assert sizes == [4 * 26, 4 * 30, 4 * 30, 4 * 26]


def test_an_optimizer_of_one_moment_takes_as_much_less() -> None:
    sizes = [
        rank_memory(100, 100, zero_stage=zero, ranks=4, optimizer="lion").optimizer
        for zero in (0, 1, 2, 3)
    ]
    assert sizes == [400, 200, 200, 100]
    sizes = [checkpoint_bytes(10, 4, zero_stage=zero, optimizer="sgd") for zero in (0, 1, 2, 3)]
    assert sizes == [4 * 22, 4 * 26, 4 * 26, 4 * 22]
    assert rank_memory(9, 9, zero_stage=0, ranks=1, optimizer="adam").optimizer == 72


def unique_bytes(tensors: list[Tensor]) -> int:
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}
    return sum(storages.values())


def stepped(zero_stage: int, optimizer: str) -> Any:
    """One rank's engine on a stage of the tiny recipe, after a step."""
    join_group(cuda=False)
    prepare_deepspeed(torch.device("cpu"))
    from pipelines.training.build import build_engine

    settings = [f"train.zero_stage={zero_stage}", f"train.optimizer={optimizer}"]
    config = load_config([*settings, "train.batch_size=2"])
    engine, _ = build_engine(config, "joint", torch.device("cpu"))
    x_l, x_h = (torch.zeros(2, 3, side, side, dtype=torch.uint8) for side in (16, 64))
    engine.step(Batch(x_l, x_h, torch.arange(2), ["a", "b"]), 0)
    return engine


@pytest.mark.parametrize(
    ("zero_stage", "optimizer"),
    [(0, "adamw"), (1, "adamw"), (2, "adamw"), (3, "adamw"), (1, "lion"), (3, "sgd")],
)
def test_deepspeed_keeps_and_saves_as_much(zero_stage: int, optimizer: str, tmp_path: Path) -> None:
    stepped_engine = stepped(zero_stage, optimizer)
    engine = stepped_engine.turns[""].engine
    counts = parameter_counts(stage_on_meta(load_config([]), "joint"))
    expected = rank_memory(*counts, zero_stage=zero_stage, ranks=1, optimizer=optimizer)

    weights = [getattr(p, "ds_tensor", p) for p in engine.module.parameters()]
    assert unique_bytes(weights) == pytest.approx(expected.weights, rel=1e-3)
    stepping = getattr(engine.optimizer, "optimizer", engine.optimizer)
    names = ("exp_avg", "exp_avg_sq", "momentum_buffer")
    moments = [state[n] for state in stepping.state.values() for n in names if n in state]
    own = {w.untyped_storage().data_ptr() for w in weights}
    copies = [
        p
        for group in stepping.param_groups
        for p in group["params"]
        if p.numel() and p.untyped_storage().data_ptr() not in own
    ]
    assert unique_bytes(moments + copies) == pytest.approx(expected.optimizer, rel=1e-3)

    stepped_engine.save(tmp_path)
    written = sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file())
    # Weights and their average for readers are not the engine's to write.
    estimate = checkpoint_bytes(*counts, zero_stage=zero_stage, optimizer=optimizer)
    estimate -= 4 * sum(counts)
    assert written == pytest.approx(estimate, rel=0.02)
