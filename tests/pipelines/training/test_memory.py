import os
import tempfile
from pathlib import Path
from typing import Any

import ninja
import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from pipelines.config import load_config
from pipelines.training.cost import crops, stage_on_meta
from pipelines.training.memory import checkpoint_bytes, parameter_counts, rank_memory
from srmodels.system import load_system


def test_a_hundred_parameters_that_all_learn_on_four_ranks() -> None:
    parts = [rank_memory(100, 100, zero_stage=zero, ranks=4).parts for zero in (0, 1, 2, 3)]
    assert [p["weights"] for p in parts] == [400, 400, 400, 100]
    assert [p["gradients"] for p in parts] == [400, 400, 100, 100]
    # Two moments; ZeRO 1 and 2 keep a copy of the rank's weights as a third.
    assert [p["optimizer"] for p in parts] == [800, 300, 300, 200]
    assert [p["EMA"] for p in parts] == [400, 400, 400, 100]
    assert [p["bucket"] for p in parts] == [0, 2_000_000_000, 2_000_000_000, 2_000_000_000]


def test_frozen_parameters_cost_their_weights_alone() -> None:
    memory = rank_memory(100, 10, zero_stage=0, ranks=1)
    assert (memory.weights, memory.gradients, memory.optimizer, memory.ema) == (400, 40, 80, 40)


def test_shares_that_do_not_come_out_even_are_rounded_up() -> None:
    memory = rank_memory(10, 9, zero_stage=3, ranks=4)
    assert (memory.weights, memory.gradients, memory.optimizer, memory.ema) == (12, 12, 24, 12)


def test_autocast_has_a_bucket_for_either_type_of_gradient() -> None:
    buckets = [
        rank_memory(1, 1, zero_stage=zero, ranks=1, precision="bf16").bucket for zero in (0, 2, 3)
    ]
    assert buckets == [0, 4_000_000_000, 3_000_000_000]


def test_a_checkpoint_holds_weights_twice_their_average_and_the_optimizer() -> None:
    # Ten parameters, four of them trained.
    sizes = [checkpoint_bytes(10, 4, zero_stage=zero) for zero in (0, 1, 2, 3)]
    assert sizes == [4 * 32, 4 * 36, 4 * 36, 4 * 32]


def unique_bytes(tensors: list[Tensor]) -> int:
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}
    return sum(storages.values())


def deepspeed_engine(zero_stage: int, monkeypatch: pytest.MonkeyPatch) -> Any:
    """One rank's engine on a stage of the tiny recipe, after a step."""
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    monkeypatch.setenv("PATH", f"{ninja.BIN_DIR}{os.pathsep}{os.environ['PATH']}")
    import deepspeed

    if not dist.is_initialized():
        os.environ.update(RANK="0", LOCAL_RANK="0", WORLD_SIZE="1")
        store = tempfile.NamedTemporaryFile()  # noqa: SIM115
        dist.init_process_group("gloo", init_method=f"file://{store.name}", rank=0, world_size=1)
    config = load_config([])
    system, settings = load_system(config.system), config.stages["joint"]
    stage = system.stages["joint"](system.build(config.networks), settings.options)
    groups = [{"params": list(group.parameters)} for group in stage.parameter_groups()]
    engine, *_ = deepspeed.initialize(
        model=stage,
        optimizer=torch.optim.AdamW(groups),
        config={
            "train_batch_size": 1,
            "zero_optimization": {"stage": zero_stage, "reduce_bucket_size": 10_000_000},
            "zero_allow_untested_optimizer": True,
        },
        dist_init_required=False,
    )
    engine.backward(engine(*crops(1, 64, 4))["loss"])
    engine.step()
    return engine


@pytest.mark.parametrize("zero_stage", [0, 1, 2, 3])
def test_deepspeed_keeps_and_saves_as_much(
    zero_stage: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = deepspeed_engine(zero_stage, monkeypatch)
    counts = parameter_counts(stage_on_meta(load_config([]), "joint"))
    expected = rank_memory(*counts, zero_stage=zero_stage, ranks=1)

    weights = [getattr(p, "ds_tensor", p) for p in engine.module.parameters()]
    assert unique_bytes(weights) == pytest.approx(expected.weights, rel=1e-3)
    optimizer = getattr(engine.optimizer, "optimizer", engine.optimizer)
    moments = [
        state[name] for state in optimizer.state.values() for name in ("exp_avg", "exp_avg_sq")
    ]
    own = {w.untyped_storage().data_ptr() for w in weights}
    copies = [
        p
        for group in optimizer.param_groups
        for p in group["params"]
        if p.numel() and p.untyped_storage().data_ptr() not in own
    ]
    assert unique_bytes(moments + copies) == pytest.approx(expected.optimizer, rel=1e-3)

    engine.save_checkpoint(str(tmp_path), tag="engine")
    written = sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file())
    # Weights and their average for readers are not the engine's to write.
    estimate = checkpoint_bytes(*counts, zero_stage=zero_stage) - 4 * sum(counts)
    assert written == pytest.approx(estimate, rel=0.02)
