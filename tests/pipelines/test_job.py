import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import ROOT, SMALL, Runner
from tests.support.jobs import Done, RunHere

JOBS = sorted(path.stem for path in (ROOT / "jobs").glob("*.py"))


def test_the_nine_jobs_are_there_and_executable() -> None:
    assert JOBS == [
        "evaluate", "export", "register", "retrain", "shadow", "shard", "stage1", "stage2", "train",
    ]  # fmt: skip
    for job in JOBS:
        path = ROOT / "jobs" / f"{job}.py"
        assert os.access(path, os.X_OK)
        assert path.read_text().startswith("#!/usr/bin/env python3\n")
        assert "\ninterrupts.end_quietly(__name__)\n\nfrom pipelines" in path.read_text()


Job = Callable[..., Done]


@pytest.fixture
def run_job(run_here: RunHere) -> Job:
    """Runs a job by its name, in this process."""
    return lambda job, *arguments: run_here(ROOT / "jobs" / f"{job}.py", *arguments)


@pytest.mark.parametrize("job", JOBS)
def test_dry_run_prints_configuration_and_plan_and_starts_nothing(
    job: str,
    run_job: Job,
    photos: Path,
    dataset: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    arguments = [f"recipe={SMALL}", f"source={photos}", "run.name=x"]
    arguments += [f"data={dataset}"] if job not in ("shard", "retrain") else []
    arguments += ["stage=joint"] if job == "train" else []
    # An address where nothing listens: a dry run must not care.
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    short = run_job(job, *arguments, "--dry-run")
    assert short.stdout.startswith("Plan: "), short.stderr
    done = run_job(job, *arguments, "--dry-run=full")
    assert done.returncode == 0, done.stderr
    assert "system: edge_sd_sr" in done.stdout
    assert done.stdout.endswith(f"\n{short.stdout}")
    if job in ("stage1", "train", "retrain"):
        assert "GMACs" in done.stdout
        assert "4 of 4 samples on 1 worker = 16 samples" in done.stdout
    assert not (tmp_path / "home").exists()


def test_help_lists_the_keys_with_their_meaning(run_python: Runner) -> None:
    done = run_python("jobs/stage1.py", "--help")
    assert done.returncode == 0
    assert "usage: jobs/stage1.py [key=value ...] [--dry-run[=full]] [--help]" in done.stdout
    assert "train.steps=" in done.stdout
    assert "optimizer steps of the stage" in done.stdout
    assert "bundle=" not in done.stdout


def test_help_shows_the_recipes_values_beside_the_defaults(run_job: Job) -> None:
    said = run_job("train", "--help", f"recipe={SMALL}", "train.crop=64").stdout
    rows = {line.split("=")[0].strip(): line for line in said.splitlines() if "=" in line}
    assert rows["train.crop"].endswith(" [64]")
    assert rows["train.steps"].endswith(" [4]")
    assert "[" not in rows["train.gradient_clip"]
    wrong = run_job("train", "--help", "train.crpo=64")
    assert wrong.returncode == 2
    assert "did you mean 'train.crop'?" in wrong.stderr


def test_help_ends_quietly_when_its_reader_does(run_python: Runner) -> None:
    code = (
        "import os, sys; from pipelines.job import main\n"
        "read, write = os.pipe(); os.dup2(write, 1); os.close(read); os.close(write)\n"
        "main('x', '', ['train'], None, None, arguments=['--help'])"
    )
    done = run_python("-c", code)
    assert (done.returncode, done.stderr) == (128 + 13, "")


def test_a_cluster_that_does_not_answer_is_told_at_once(run_forked: Runner, photos: Path) -> None:
    start = time.monotonic()
    done = run_forked(
        "jobs/shard.py", f"recipe={SMALL}", f"source={photos}", RAY_ADDRESS="127.0.0.1:1"
    )
    assert done.returncode == 2
    assert "the Ray cluster at RAY_ADDRESS=127.0.0.1:1 does not answer" in done.stderr
    assert time.monotonic() - start < 60  # Ray alone tries for more than three minutes


#: Where no MLflow is. It is asked for a second.
GONE = ("mlflow.uri=http://127.0.0.1:9", "mlflow.retry_seconds=1")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["stage1", "train.stpes=5"], "did you mean 'train.steps'?"),
        (["stage1", "recipe=nosuch"], "there is no recipe 'nosuch'"),
        (["stage1"], "there is no dataset in"),
        (["train"], "which stage? Set stage= to one of autoencoder, joint, decoder."),
        (["train", "stage=joint", "data={dataset}"], "starts from stage 'autoencoder'"),
        (["stage1", "data={dataset}", *GONE], "does not answer"),
        (["shard", "source=/nonexistent"], "does not exist (/nonexistent): give a folder, a zip"),
        (["shard", "source=[a,3]"], "source must be a name or a list"),
        (["shard", "verify=true", "output={empty}"], "there is no dataset in"),
        (["shard", "source={empty}"], "holds no photo"),
        (["evaluate", "data={dataset}", "model=nosuch"], "there is no model 'nosuch'"),
        (["evaluate", "data={dataset}", "model=run:nosuch"], "there is no run behind"),
        (
            ["evaluate", "data={dataset}", "model=models:/nosuch@champion"],
            "has no model 'models:/nosuch@",
        ),
        (["evaluate", "data={dataset}", *GONE], "does not answer"),
        (["evaluate", "data={dataset}", "mlflow.uri=ftp://x"], "is not of the form"),
        (["export", "data={dataset}"], "there is no run behind 'run:small-decoder'"),
        (["register", "bundle=/nonexistent"], "there is no bundle in /nonexistent"),
        (["retrain", "source={empty}"], "holds no photo"),
    ],
)
def test_wrong_input_gets_one_sentence_and_exit_code_2(
    arguments: list[str], message: str, run_job: Job, dataset: Path, tmp_path: Path
) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    job, *rest = (a.format(dataset=dataset, empty=empty) for a in arguments)
    recipe = [] if any(a.startswith("recipe=") for a in rest) else [f"recipe={SMALL}"]
    check_refusal(run_job(job, *recipe, *rest), message)


def test_a_mistake_that_a_ray_task_finds_is_told_the_same_way(
    run_forked: Runner, tmp_path: Path
) -> None:
    (tmp_path / "note.png").write_text("not a picture")
    done = run_forked("jobs/shard.py", f"recipe={SMALL}", f"source={tmp_path}")
    found = Done(done.returncode, done.stdout, done.stderr)
    check_refusal(found, "1 of 1 photo files are broken, more than shard.max_failures")


def check_refusal(done: Done, message: str) -> None:
    """One sentence, and a code that scripts understand."""
    assert done.returncode == 2, done.stdout + done.stderr
    assert message in done.stderr
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert "Traceback" not in done.stderr


INTERRUPTED = """
import os, runpy, signal, sys

module, program = sys.argv[1:3]

class Interrupt:
    def find_spec(self, name, *_):
        if name == module:
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Interrupt())
del sys.argv[:2]
if program.endswith(".py"):
    runpy.run_path(program, run_name="__main__")
else:
    runpy.run_module(program, run_name="__main__")
"""
NOTHING = "interrupted: nothing has begun yet.\n"


@pytest.mark.parametrize(
    ("module", "program", "message"),
    [
        ("torch", "jobs/shard.py", NOTHING),
        ("torch", "infra.local", NOTHING),
        ("PIL", "pipelines.cli", NOTHING),
        ("torch", "pipelines.cli", NOTHING),
        ("torch", "pipelines.training", NOTHING),
        ("pipelines.job", "pipelines.training", NOTHING),
        ("srmodels.edge_sd_sr.system", "pipelines.cli models", "interrupted: finished files are"),
        ("srmodels.edge_sd_sr.system", "pipelines.training", "interrupted: start the same command"),
    ],
)
def test_an_interrupt_in_the_first_seconds_ends_without_a_traceback(
    run_python: Runner, module: str, program: str, message: str
) -> None:
    done = run_python("-c", INTERRUPTED, module, *program.split())
    assert done.returncode == 128 + signal.SIGINT, done.stderr
    assert done.stdout == ""
    assert done.stderr.startswith(message)
    assert done.stderr.count("\n") == 1


def test_a_process_of_multiprocessing_is_interrupted_without_a_word(run_python: Runner) -> None:
    """A loader process runs the job's file as `__mp_main__`. The job itself says what happened."""
    code = (
        "import os, runpy, signal\n"
        "import pipelines.job\n"
        "pipelines.job.main = lambda *_, **__: None\n"
        "runpy.run_path('jobs/train.py', run_name='__mp_main__')\n"
        "os.kill(os.getpid(), signal.SIGINT)"
    )
    done = run_python("-c", code)
    assert (done.returncode, done.stderr) == (-signal.SIGINT, "")
