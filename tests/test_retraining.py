"""Retrainings as users start them, on a real cluster: two at once, and one with a budget."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from infra.local.platform import Platform
from pipelines.config.load import load_config
from pipelines.job import BUDGET_SPENT, BUSY
from pipelines.retrain.history import Retraining, Retrainings, Verdict, model_store
from pipelines.runs.names import run_checkpoints
from tests.conftest import ROOT, SMALL

pytestmark = pytest.mark.slow
#: One stage, which starts from random weights.
CHAIN = [
    f"recipe={SMALL}", "stage1=[joint]", "stage2=[]", "stages.joint.init_from=null",
    "benchmark=validation", "evaluate.metrics=[psnr_y]", "evaluate.latency_sizes=[16]",
    "evaluate.latency_runs=1", "evaluate.num_pictures=0", "export.artifacts=[]",
]  # fmt: skip


@pytest.fixture(scope="module")
def environment(cluster: Platform) -> dict[str, str]:
    return os.environ | {
        "SRMILL_HOME": cluster.home,
        "MLFLOW_TRACKING_URI": cluster.mlflow,
        "RAY_ADDRESS": cluster.ray_address,
    }


def start(environment: dict[str, str], *arguments: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "jobs/retrain.py", *CHAIN, *arguments],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def ended(process: "subprocess.Popen[str]") -> tuple[int, str]:
    said, _ = process.communicate(timeout=500)
    return process.returncode, said


def records(cluster: Platform, model: str) -> list[Retraining]:
    place = f"retrain.records={cluster.home}/work/retrain"
    return Retrainings(
        model_store(load_config([f"recipe={SMALL}", f"mlflow.model={model}", place]))
    ).all()


def test_of_two_that_are_started_at_once_one_is_left(
    cluster: Platform, environment: dict[str, str], photos: Path
) -> None:
    both = {
        name: start(
            environment, f"source={photos}", f"run.name={name}", f"data=work/{name}",
            "mlflow.model=twins", "train.steps=2",
        )
        for name in ("castor", "pollux")
    }  # fmt: skip
    outcomes = {name: ended(process) for name, process in both.items()}
    (won,) = [name for name, (code, _) in outcomes.items() if code == 0]
    (lost,) = both.keys() - {won}
    code, said = outcomes[lost]
    assert code == BUSY, said
    assert f"run.name={won}) since 20" in said
    (record,) = records(cluster, "twins")
    assert (record.run, record.verdict, record.registered) == (won, Verdict.PROMOTED, "1")
    assert (record.photos_added, record.steps) == (6, 2)
    assert record.cost.cpu_hours > 0
    # Once it has ended, the other one gets its turn.
    again = start(
        environment, f"source={photos}", f"run.name={lost}", f"data=work/{lost}",
        "mlflow.model=twins", "train.steps=2", "register.promote=never",
    )  # fmt: skip
    assert ended(again)[0] == 0
    second, first = records(cluster, "twins")
    assert first == record
    assert (second.run, second.verdict, second.against) == (lost, Verdict.REGISTERED, "1")


def test_a_budget_stops_a_training_of_workers_at_a_checkpoint(
    cluster: Platform, environment: dict[str, str], photos: Path
) -> None:
    fixed = [
        f"source={photos}", "run.name=thrifty", "data=work/thrifty", "mlflow.model=thrifty",
        "train.schedule=constant", "train.checkpoint_every=1000000",
    ]  # fmt: skip
    code, said = ended(start(environment, *fixed, "train.steps=1000000", "retrain.max_hours=0.015"))
    assert code == BUDGET_SPENT, said
    config = load_config([f"recipe={SMALL}", f"run.storage={cluster.home}/work/runs"])
    newest = run_checkpoints(config, "thrifty-joint").newest()
    assert newest is not None
    told = f"thrifty-joint is saved at step {newest.step} of 1000000: start it again with a larger"
    assert said.splitlines()[-1].startswith("stopped: retrain.max_hours=0.015 is spent (0.0")
    assert told in said
    (record,) = records(cluster, "thrifty")
    assert (record.verdict, record.step) == (Verdict.STOPPED, "stage joint")
    assert record.steps == newest.step
    assert 0 < record.cost.cpu_hours < record.cost.wall_hours
    assert record.cost.gpu_hours == 0
    enough = f"train.steps={newest.step + 2}"
    code, said = ended(start(environment, *fixed, enough, "retrain.max_hours=1"))
    assert code == 0, said
    assert f"joint: resuming at step {newest.step}" in said
    assert records(cluster, "thrifty")[0].verdict == Verdict.PROMOTED
    assert records(cluster, "thrifty")[0].photos_added == 6
