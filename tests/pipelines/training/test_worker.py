"""One rank of a run, in this process: its callbacks, its recorder, and where it goes on."""

import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import ninja
import pytest
import torch

from pipelines.config.load import to_dict
from pipelines.data.dataset import open_dataset
from pipelines.runs.checkpoint import Checkpoints
from pipelines.training.loop import Callback
from pipelines.training.preemption import Notice
from pipelines.training.stage_run import StageRun, Tracked
from pipelines.training.worker import PATIENCE_S, prepare_deepspeed, run_rank
from srmodels.weights import FOLDER
from tests.conftest import Runner
from tests.support.checkpoints import at
from tests.support.training import CPU, configure, join, recorded_in

STAGE = "autoencoder"


def test_a_rank_imports_deepspeed_without_mlflow(run_python: Runner) -> None:
    """MLflow's import takes longer than DeepSpeed's own; a rank that records makes it later."""
    code = (
        "import sys, torch; from pipelines.training.worker import prepare_deepspeed; "
        "prepare_deepspeed(torch.device('cpu')); import pipelines.training.build; "
        "print([name in sys.modules for name in ('deepspeed', 'mlflow')]); import mlflow"
    )
    done = run_python("-c", code)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "[True, False]\n"


def describe(dataset: Path, *settings: str) -> StageRun:
    join()
    config = configure(dataset, *settings)
    return StageRun.of(config, STAGE, open_dataset(config.data, config.stream), None, None)


def run(
    described: StageRun,
    notice: Notice = Notice.NONE,
    on_start: Callable[[int], None] = lambda step: None,
) -> Checkpoints:
    run_rank(described, notice=lambda: notice, on_start=on_start)
    return described.checkpoints


@pytest.fixture
def looped(monkeypatch: pytest.MonkeyPatch) -> list[Callback]:
    """The callbacks that reach the loop, which makes no step."""
    seen: list[Callback] = []

    def loop(engine: Any, stream: Any, callbacks: Sequence[Callback], **steps: int) -> None:
        seen.extend(callbacks)
        for callback in callbacks:
            callback.close()

    monkeypatch.setattr("pipelines.training.loop.train", loop)
    return seen


def names(callbacks: Sequence[Callback]) -> list[str]:
    return [type(callback).__name__ for callback in callbacks]


def test_what_measures_comes_before_what_saves(dataset: Path, looped: list[Callback]) -> None:
    run(describe(dataset))
    few = [
        "NonFiniteGuard", "EMACallback", "MetricsCallback", "CheckpointCallback",
        "PreemptionCallback", "ProgressCallback",
    ]  # fmt: skip
    assert names(looped) == few
    looped.clear()
    run(describe(dataset, "train.validate_every=2", "train.profile=[1,2]"))
    assert names(looped) == [*few[:3], "ValidationCallback", *few[3:], "ProfilerCallback"]


def test_a_run_without_mlflow_records_into_its_folder(dataset: Path) -> None:
    done = run(describe(dataset, "train.steps=2"))
    assert [step for step, _ in recorded_in(done.workspace)] == [1, 2]


def test_a_tracked_run_records_to_its_mlflow_run_and_closes_the_recorder(
    dataset: Path, looped: list[Callback], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[Any] = []

    class Recorder:
        def __init__(self, *arguments: Any, **named: Any) -> None:
            calls.append((arguments, named))

        def close(self) -> None:
            calls.append("closed")

    monkeypatch.setattr("pipelines.training.mlflow_recorder.MLflowRecorder", Recorder)
    run(replace(describe(dataset), tracked=Tracked("http://tracking", "id")))
    assert calls == [(("http://tracking", "id"), {"patience_s": PATIENCE_S}), "closed"]


def test_a_checkpoint_tells_its_run_and_stage(dataset: Path) -> None:
    described = describe(dataset, "train.steps=2", "networks.decoder.channels=[16]")
    state = at(run(described), 2).state()
    assert (state.stage, state.identity) == (STAGE, described.identity)
    assert state.config == to_dict(described.config)
    assert state.networks == asdict(described.config.stages[STAGE].networks)
    assert state.networks["decoder"]["channels"] == [16]
    assert (state.step, state.samples, state.world_size) == (2, 8, 1)
    assert state.manifest == described.dataset.manifest.digest


def test_a_stopped_run_goes_on_where_it_was(
    dataset: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    starts: list[int] = []
    stopped = describe(dataset)
    assert run(stopped, Notice.STOP, starts.append).steps() == [1]
    again = run(stopped, on_start=starts.append)
    assert starts == [0, 1]
    assert f"{STAGE}: resuming at step 1 of 4 from {again.location}/" in capsys.readouterr().out
    whole = run(describe(dataset, "run.name=whole"))
    one, other = at(again, 4).weights(), at(whole, 4).weights()
    assert one.keys() == other.keys()
    assert all(torch.equal(value, other[name]) for name, value in one.items())


def test_a_preempted_run_saves_itself_and_goes_on(dataset: Path) -> None:
    settings = ("train.keep_checkpoints=9", "train.checkpoint_every=9")
    assert run(describe(dataset, *settings), Notice.PREEMPTION).steps() == [1, 4]


def test_workers_find_the_drivers_pretrained_weights(
    dataset: Path, looped: list[Callback], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    described = describe(dataset)
    monkeypatch.setenv(FOLDER, "elsewhere")
    run(replace(described, weights_folder=None))
    assert os.environ[FOLDER] == "elsewhere"
    run(replace(described, weights_folder=tmp_path))
    assert os.environ[FOLDER] == str(tmp_path)


def test_deepspeed_finds_its_accelerator_and_ninja(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DS_ACCELERATOR", "none")
    monkeypatch.setenv("PATH", "/usr/bin")
    prepare_deepspeed(CPU)
    assert os.environ["DS_ACCELERATOR"] == "cpu"
    assert os.environ["PATH"] == f"{ninja.BIN_DIR}{os.pathsep}/usr/bin"
    monkeypatch.delenv("PATH")
    prepare_deepspeed(torch.device("cuda", 0))
    assert os.environ["DS_ACCELERATOR"] == "cuda"
