"""The full-size Edge-SD-SR on two ranks of this machine: it fits, and it learns."""

import json
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing

from pipelines.config.load import load_config
from pipelines.data.stream import Batch
from pipelines.training.worker import prepare_deepspeed
from tests.support.training import CPU, join

STEPS, CROP = 6, 128


def train(rank: int, folder: str, recipe: str) -> None:
    """Steps the joint stage on one and the same batch, a sample of it on each rank."""
    torch.set_num_threads(1)
    join(rank, 2, Path(folder) / "store")
    prepare_deepspeed(CPU)
    from pipelines.training.build import build_engine

    config = load_config(
        [f"recipe={recipe}", "train.workers=2", "train.batch_size=2", f"train.crop={CROP}",
         "train.zero_stage=2", "train.precision=fp32", "train.warmup_steps=0",
         "stages.joint.train.groups={}"],
    )  # fmt: skip
    engine, _ = build_engine(config, "joint", CPU)
    generator = torch.Generator().manual_seed(rank)
    x_h = torch.randint(0, 256, (1, 3, CROP, CROP), dtype=torch.uint8, generator=generator)
    batch = Batch(x_h[..., ::4, ::4].contiguous(), x_h, torch.tensor([rank]), [str(rank)])
    losses = []
    for step in range(STEPS):
        loss = engine.step(batch, step).losses["loss"].clone()
        dist.all_reduce(loss)
        losses.append(loss.item() / 2)
    if rank == 0:
        (Path(folder) / "losses.json").write_text(json.dumps(losses))


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["edge_sd_sr", "edge_sd_sr_lite"])
def test_the_loss_falls_on_a_fixed_batch(recipe: str, tmp_path: Path) -> None:
    torch.multiprocessing.spawn(train, (str(tmp_path), recipe), nprocs=2)
    losses = json.loads((tmp_path / "losses.json").read_text())
    print(recipe, losses)
    assert len(losses) == STEPS
    assert losses[-1] < 0.9 * losses[0]
    assert sorted(losses[1:], reverse=True) == losses[1:]
