"""The demo submits the steps of the chain, and nothing else."""

import os
from pathlib import Path

import pytest

from infra.local import demo as module
from infra.local.platform import Platform
from pipelines.config.load import load_config
from pipelines.retrain import Step, chain


@pytest.fixture
def submitted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Step]:
    """The steps that a demo submits; the platform is none that runs."""
    found: list[Step] = []
    platform = Platform(str(tmp_path), "127.0.0.1:1", "http://127.0.0.1:2", "http://m")
    for name in (
        "SRMILL_HOME",
        *platform.environment(),
    ):  # The demo sets them; the end restores them.
        monkeypatch.setenv(name, os.environ.get(name, ""))
    monkeypatch.setattr(module, "up", lambda home, full: platform)
    monkeypatch.setattr(module, "run_job", lambda _, step: found.append(step))
    monkeypatch.setattr(module, "_summary", lambda *_: None)
    module.demo(tmp_path)
    return found


def test_the_demo_submits_the_steps_of_the_chain(submitted: list[Step]) -> None:
    config = load_config([f"recipe={module.RECIPE}", *module.SETTINGS])
    expected = chain(config, module.SETTINGS)
    jobs = [(step.name, step.job, step.arguments) for step in expected]
    assert [(step.name, step.job, step.arguments) for step in submitted] == jobs
    assert [step.name for step in submitted] == [
        "shard", "stage joint", "stage decoder", "evaluate", "export", "register",
    ]  # fmt: skip
    for step in submitted:
        assert load_config(step.arguments) == step.config


def test_the_demo_finetunes_what_ships_and_measures_it_beside(submitted: list[Step]) -> None:
    evaluated = submitted[3].config
    assert evaluated.model == f"run:{module.RECIPE}-decoder"
    assert evaluated.evaluate.compare == [module.MODEL, f"run:{module.RECIPE}-joint"]
    assert submitted[0].config.source == "sample"
    assert submitted[0].config.preview == module.PREVIEW


def test_it_tells_where_the_last_steps_write(submitted: list[Step], tmp_path: Path) -> None:
    report, bundle = module.results(submitted)
    assert (
        Path(report) == tmp_path / "work" / "evaluate" / f"{module.RECIPE}-decoder" / "report.html"
    )
    assert Path(bundle) == tmp_path / "work" / "export" / module.RECIPE


def test_the_headings_are_those_of_retrain(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], submitted: list[Step]
) -> None:
    capsys.readouterr()
    module.demo(tmp_path)
    told = [line for line in capsys.readouterr().out.splitlines() if line.startswith("── ")]
    assert [line.partition(":")[0] for line in told] == [
        f"── {number}/6 {step.name}" for number, step in enumerate(submitted[:6], 1)
    ]
    assert all("same inputs as before (" in line for line in told)


def test_inputs_are_read_where_the_platform_writes(submitted: list[Step], tmp_path: Path) -> None:
    assert submitted
    assert os.environ["SRMILL_HOME"] == str(tmp_path)
    assert os.environ["MLFLOW_TRACKING_URI"] == "http://m"
    assert (tmp_path / "work" / "retrain" / module.RECIPE / "shard.json").is_file()
