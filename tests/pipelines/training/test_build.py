"""Runs that go on with more ranks than they began with, and in bfloat16, by the real engine."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pipelines.config.load import load_config
from pipelines.data.dataset import open_dataset
from pipelines.training.preemption import Notice
from pipelines.training.stage_run import StageRun
from pipelines.training.worker import run_rank
from tests.conftest import ROOT
from tests.support.checkpoints import at
from tests.support.processes import run_ranks
from tests.support.training import join, recorded_in

RDSR = ROOT / "tests" / "recipes" / "small_rdsr.yaml"
STEPS = 4
#: (ZeRO stage, precision)
CASES = [(0, "fp32"), (1, "fp32"), (2, "fp32"), (3, "fp32"), (0, "bf16")]


def describe(dataset: str, name: str, zero_stage: int, precision: str) -> StageRun:
    """A run of RDSR's first stage, whose loss does not depend on the samples that share a rank."""
    config = load_config([
        f"recipe={RDSR}", f"data={dataset}", f"run.name={name}-{zero_stage}-{precision}",
        "train.workers=0", "train.checkpoint_every=9",
        f"train.zero_stage={zero_stage}", f"train.precision={precision}",
    ])  # fmt: skip
    return StageRun.of(config, "prior", open_dataset(config.data, config.stream), None, None)


def train_all(name: str, dataset: str, notice: Notice = Notice.NONE) -> None:
    for case in CASES:
        run_rank(describe(dataset, name, *case), notice=lambda: notice)


def train_as_one_of_two(rank: int, home: str, dataset: str) -> None:
    os.environ["SRMILL_HOME"] = home
    torch.set_num_threads(1)
    join(rank, 2, Path(home, "store"))
    train_all("whole", dataset)
    train_all("grown", dataset)


@pytest.fixture(scope="module")
def home(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The runs `whole`, of two ranks, and `grown`, of one rank for a step and then of two."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SRMILL_HOME", str(home))
        join()
        train_all("grown", str(dataset), Notice.STOP)
    run_ranks(train_as_one_of_two, (str(home), str(dataset)), 2)
    return home


@pytest.fixture
def ended(home: Path, dataset: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Returns a run's weights at its end, and its loss at each step."""
    monkeypatch.setenv("SRMILL_HOME", str(home))

    def found(name: str, *case: Any) -> tuple[dict[str, Tensor], list[float]]:
        run = describe(str(dataset), name, *case).checkpoints
        ranks = [at(run, step).state().world_size for step in run.steps()]
        assert ranks == ([1, 2] if name == "grown" else [2])
        losses = {step: values["train/loss"] for step, values in recorded_in(run.workspace)}
        assert list(losses) == list(range(1, STEPS + 1))
        return at(run, STEPS).weights(), list(losses.values())

    return found


@pytest.mark.parametrize(("zero_stage", "precision"), CASES)
def test_a_run_goes_on_with_more_ranks(ended: Any, zero_stage: int, precision: str) -> None:
    """It trains the same samples, so that it differs by rounding alone."""
    whole, losses = ended("whole", zero_stage, precision)
    grown, again = ended("grown", zero_stage, precision)
    rounding = 1e-6 if precision == "fp32" else 1e-2
    assert again == pytest.approx(losses, rel=rounding)
    assert grown.keys() == whole.keys()
    for name, weight in whole.items():
        torch.testing.assert_close(grown[name], weight, rtol=0, atol=rounding, msg=name)


def test_bfloat16_trains_about_the_same_with_weights_in_full_precision(ended: Any) -> None:
    _, losses = ended("whole", 0, "fp32")
    half, rounded = ended("whole", 0, "bf16")
    assert all(weight.dtype == torch.float32 for weight in half.values())
    assert rounded != losses
    assert rounded == pytest.approx(losses, rel=2e-2)
    # A weight in bfloat16 would end in 16 zero bits.
    assert any(bool((w.view(torch.int32) & 0xFFFF).any()) for w in half.values())
