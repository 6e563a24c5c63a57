"""`python -m pipelines.training`: the same training without Ray and MLflow."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from pipelines.config.load import load_config
from pipelines.errors import UserError
from pipelines.runs.checkpoint import Checkpoint
from pipelines.runs.names import run_checkpoints
from pipelines.training.__main__ import train_stage
from pipelines.training.launch import run_stages
from tests.conftest import ROOT, SMALL, Runner
from tests.support.jobs import RunHere

MAIN = ROOT / "pipelines" / "training" / "__main__.py"


def arguments(dataset: Path, *more: str) -> list[str]:
    return [f"recipe={SMALL}", f"data={dataset}", "stage=autoencoder", *more]


def newest(*settings: str) -> Checkpoint:
    found = run_checkpoints(
        load_config([f"recipe={SMALL}", *settings]), "small-autoencoder"
    ).newest()
    assert found is not None
    return found


def test_one_process_trains_what_the_job_trains_without_ray_and_mlflow(
    dataset: Path, run_python: Runner, tmp_path: Path
) -> None:
    blocker = tmp_path / "sitecustomize.py"
    blocker.write_text("import sys\nsys.modules['ray'] = sys.modules['mlflow'] = None\n")
    home = tmp_path / "plain"
    done = run_python(
        "-m", "pipelines.training", *arguments(dataset),
        SRMILL_HOME=str(home), PYTHONPATH=str(tmp_path),
        OMP_NUM_THREADS=str(torch.get_num_threads()),  # another number sums in another order
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    lines = (home / "work/runs/small-autoencoder/metrics.jsonl").read_text().splitlines()
    assert [entry["step"] for entry in map(json.loads, lines)] == [1, 2, 3, 4]

    config = load_config([*arguments(dataset), "train.workers=0"])
    (expected,) = run_stages(config, ["autoencoder"])
    there = newest(f"run.storage={home}/work/runs").weights()
    assert all(torch.equal(value, there[name]) for name, value in expected.weights().items())


def test_a_mistake_is_told_in_a_sentence(dataset: Path, run_here: RunHere) -> None:
    done = run_here(MAIN, *arguments(dataset)[:2])
    assert done.returncode == 2
    assert done.stderr.startswith("error: which stage?")
    help_text = run_here(MAIN, "--help").stdout
    assert "usage: python -m pipelines.training [key=value ...]" in help_text


def test_a_gpu_that_is_asked_for_must_be_there(
    dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    config = load_config(arguments(dataset, "train.accelerator=cuda"))
    with pytest.raises(UserError, match=r"needs a GPU, but PyTorch sees none here"):
        train_stage(config)


def test_more_ranks_than_samples_are_refused(
    dataset: Path, run_here: RunHere, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "9")
    done = run_here(MAIN, *arguments(dataset))
    assert done.returncode == 2
    assert "must be at least train.workers=9" in done.stderr


def test_weights_that_cannot_be_had_end_a_run_before_it_starts(
    dataset: Path, run_here: RunHere, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SRMILL_WEIGHTS", str(tmp_path / "none"))
    done = run_here(MAIN, *arguments(dataset))
    assert done.returncode == 2
    assert done.stderr.startswith("error: stage 'autoencoder' cannot start: $SRMILL_WEIGHTS is")
    for name in ("SRMILL_WEIGHTS", "TORCH_HOME"):
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    lpips = (
        "stage=decoder",
        "stages.decoder.init_from=null",
        "stages.decoder.options.lpips_weight=1",
    )
    done = run_here(MAIN, *arguments(dataset, *lpips))
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "stage 'decoder' cannot start: the weights 'vgg16_features' cannot be had" in done.stderr
    assert not (Path(os.environ["SRMILL_HOME"]) / "work/runs/small-decoder").exists()


def test_what_a_killed_attempt_left_is_removed(dataset: Path, run_forked: Runner) -> None:
    left = Path(os.environ["SRMILL_HOME"]) / "work/runs/small-autoencoder/step-000009-dead"
    left.mkdir(parents=True)
    (left / "model.safetensors").write_bytes(b"half")
    assert run_forked("-m", "pipelines.training", *arguments(dataset)).returncode == 0
    assert not left.exists()


def test_two_processes_that_are_terminated_save_their_work_for_one(
    dataset: Path, run_forked: Runner
) -> None:
    long = arguments(
        dataset, "train.steps=100000", "train.schedule=constant", "train.zero_stage=2",
        "train.checkpoint_every=100000", "train.log_every=1",
    )  # fmt: skip
    command = [
        sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2",
        "-m", "pipelines.training", *long,
    ]  # fmt: skip
    with subprocess.Popen(
        command, cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        for line in process.stdout:
            if "autoencoder   0%" in line:
                break
        process.send_signal(signal.SIGTERM)
        log = process.stdout.read()
    assert "terminated: small-autoencoder is saved at step" in log, log
    stopped = newest().state()
    assert stopped.world_size == 2
    assert 0 < stopped.step < 100000
    steps = f"train.steps={stopped.step + 2}"
    done = run_forked("-m", "pipelines.training", *long, steps)
    assert f"resuming at step {stopped.step} of {stopped.step + 2}" in done.stdout
    assert newest().state().world_size == 1
    assert newest().step == stopped.step + 2


def test_a_dry_run_tells_the_plan(dataset: Path, run_here: RunHere) -> None:
    done = run_here(MAIN, *arguments(dataset), "--dry-run")
    assert done.returncode == 0
    assert "stage autoencoder" in done.stdout
