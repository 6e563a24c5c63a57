import os
import time
from pathlib import Path

import pytest

from tests.conftest import ROOT, SMALL, Runner

JOBS = sorted(path.stem for path in (ROOT / "jobs").glob("*.py"))


def test_the_eight_jobs_are_there_and_executable() -> None:
    assert JOBS == [
        "evaluate", "export", "register", "retrain", "shard", "stage1", "stage2", "train",
    ]  # fmt: skip
    for job in JOBS:
        path = ROOT / "jobs" / f"{job}.py"
        assert os.access(path, os.X_OK)
        assert path.read_text().startswith("#!/usr/bin/env python3\n")


@pytest.mark.parametrize("job", JOBS)
def test_dry_run_prints_configuration_and_plan_and_starts_nothing(
    job: str, run_python: Runner, photos: Path, dataset: Path, tmp_path: Path
) -> None:
    arguments = [f"recipe={SMALL}", f"source={photos}", "run.name=x"]
    arguments += [f"data={dataset}"] if job not in ("shard", "retrain") else []
    arguments += ["stage=joint"] if job == "train" else []
    # An address where nothing listens: a dry run must not care.
    done = run_python(
        f"jobs/{job}.py", *arguments, "--dry-run", RAY_ADDRESS="127.0.0.1:1",
        MLFLOW_TRACKING_URI="http://127.0.0.1:1",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "system: edge_sd_sr" in done.stdout
    assert "Plan: " in done.stdout
    if job in ("stage1", "train", "retrain"):
        assert "GMACs" in done.stdout
        assert "4 of 4 samples on 1 worker = 16 samples" in done.stdout
    assert not (tmp_path / "home").exists()


def test_help_lists_the_keys_with_their_meaning(run_python: Runner) -> None:
    done = run_python("jobs/stage1.py", "--help")
    assert done.returncode == 0
    assert "usage: jobs/stage1.py [key=value ...] [--dry-run] [--help]" in done.stdout
    assert "train.steps=" in done.stdout
    assert "optimizer steps of the stage" in done.stdout
    assert "bundle=" not in done.stdout


def test_a_cluster_that_does_not_answer_is_told_at_once(run_python: Runner, photos: Path) -> None:
    start = time.monotonic()
    done = run_python(
        "jobs/shard.py", f"recipe={SMALL}", f"source={photos}", RAY_ADDRESS="127.0.0.1:1"
    )
    assert done.returncode == 2
    assert "the Ray cluster at RAY_ADDRESS=127.0.0.1:1 does not answer" in done.stderr
    assert time.monotonic() - start < 60  # Ray alone tries for more than three minutes


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["stage1", "train.stpes=5"], "did you mean 'train.steps'?"),
        (["stage1", "recipe=nosuch"], "there is no recipe 'nosuch'"),
        (["stage1"], "there is no dataset in"),
        (["train"], "which stage? Set stage= to one of autoencoder, joint, decoder."),
        (["train", "stage=joint", "data={dataset}"], "starts from stage 'autoencoder'"),
        (["stage1", "data={dataset}", "mlflow.uri=http://127.0.0.1:9"], "does not answer"),
        (["shard", "source=/nonexistent"], "does not exist (/nonexistent): give a folder, a zip"),
        (["shard", "source=[a,3]"], "source must be a name or a list"),
        (["shard", "verify=true", "output={empty}"], "there is no dataset in"),
        (["shard", "source={empty}"], "holds no photo"),
        (["shard", "source={text}"], "1 of 1 photo files are broken, more than shard.max_failures"),
        (["evaluate", "data={dataset}", "model=nosuch"], "there is no model 'nosuch'"),
        (["evaluate", "data={dataset}", "model=run:nosuch"], "there is no run behind"),
        (
            ["evaluate", "data={dataset}", "model=models:/nosuch@champion"],
            "has no model 'models:/nosuch@",
        ),
        (["evaluate", "data={dataset}", "mlflow.uri=http://127.0.0.1:9"], "does not answer"),
        (["evaluate", "data={dataset}", "mlflow.uri=ftp://x"], "is not of the form"),
        (["export", "data={dataset}"], "there is no run behind 'run:small-decoder'"),
        (["register", "bundle=/nonexistent"], "there is no bundle in /nonexistent"),
        (["retrain", "source={empty}"], "holds no photo"),
    ],
)
def test_wrong_input_gets_one_sentence_and_exit_code_2(
    arguments: list[str], message: str, run_python: Runner, dataset: Path, tmp_path: Path
) -> None:
    text, empty = tmp_path / "text", tmp_path / "empty"
    text.mkdir()
    empty.mkdir()
    (text / "note.png").write_text("not a picture")
    job, *rest = (a.format(dataset=dataset, empty=empty, text=text) for a in arguments)
    recipe = [] if any(a.startswith("recipe=") for a in rest) else [f"recipe={SMALL}"]
    done = run_python(f"jobs/{job}.py", *recipe, *rest)
    assert done.returncode == 2, done.stdout + done.stderr
    assert message in done.stderr
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert "Traceback" not in done.stderr
