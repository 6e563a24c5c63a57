"""docs/your_own_network.md and docs/compression.md, run as they stand there: files written,
commands executed, in order."""

import os
import re
import sys
from pathlib import Path

import pytest

from infra.local.platform import Platform
from pipelines.config.load import load_config
from pipelines.config.reference import ModelReference
from pipelines.models.bundle import load_bundle
from pipelines.models.load import load_model
from tests.conftest import ROOT
from tests.docs.commands import run_shell

PAGE = ROOT / "docs" / "your_own_network.md"
#: The page that makes the same network smaller.
SMALLER = ROOT / "docs" / "compression.md"


def blocks(language: str, page: Path = PAGE) -> list[str]:
    """The page's code blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)


def write_files(folder: Path) -> None:
    [network], [recipe] = blocks("python"), blocks("yaml")
    (folder / "my_sr").mkdir()
    (folder / "my_sr" / "network.py").write_text(network)
    (folder / "espcn.yaml").write_text(recipe)
    [smaller] = blocks("yaml", SMALLER)
    (folder / "light.yaml").write_text(smaller)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder with the page's files, the current one."""
    folder = tmp_path / "own"
    folder.mkdir()
    write_files(folder)
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delenv("SRMILL_HOME")
    return folder


def test_it_is_as_short_as_the_page_says() -> None:
    [network], [recipe] = blocks("python"), blocks("yaml")
    assert len([line for line in network.splitlines() if line]) <= 33
    assert len(recipe.splitlines()) <= 10
    [smaller] = blocks("yaml", SMALLER)
    assert len(smaller.splitlines()) <= 20


def run(folder: Path, commands: str, *, timeout: int = 300, **environment: str) -> str:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    settings = os.environ | {"PATH": path, "JOBS": str(ROOT / "jobs")} | environment
    return run_shell(commands, folder, settings, timeout=timeout)


def test_the_plan_of_the_recipe(folder: Path) -> None:
    """The page's second command as a dry run, which starts nothing."""
    [commands] = blocks("sh")
    told = run(folder, f"{commands.splitlines()[1]} --dry-run")
    assert "body" in told
    assert "300 of 8 samples in this process" in told


def test_the_plan_of_the_smaller_recipe(folder: Path) -> None:
    [first, second, *_] = blocks("sh", SMALLER)[0].splitlines()
    assert "pixel" in run(folder, f"{first} --dry-run")
    told = run(folder, f"{second} --dry-run")
    assert all(f"{stage}" in told for stage in ("prune", "taught", "quantize"))


@pytest.mark.slow
def test_the_smaller_page_ends_in_an_int8_artifact_with_trained_ranges(
    folder: Path, cluster: Platform
) -> None:
    shards = blocks("sh")[0].splitlines()[0]
    commands = f"{shards}\n{blocks('sh', SMALLER)[0]}"
    told = run(folder, commands, timeout=590, RAY_ADDRESS=cluster.ray_address)
    assert "channels removed by lamp" in told
    bundle = load_bundle(folder / "work" / "export" / "light")
    assert bundle.config().networks.widths
    assert bundle.facts.edge["onnx_int8"].made["ranges"] == "trained"


@pytest.mark.slow
def test_the_page_ends_in_a_promoted_bundle(folder: Path, cluster: Platform) -> None:
    """The Ray is the session's. The registry is the page's own, a local database."""
    [commands] = blocks("sh")
    told = run(folder, commands, RAY_ADDRESS=cluster.ray_address)
    assert "Trained espcn-pixel: loss" in told
    assert "Promoted: espcn@champion is version 1" in told
    model = load_model(
        ModelReference.parse("models:/espcn@champion"), load_config(["recipe=espcn.yaml"])
    )
    assert model.config.system == "my_sr.network"
    for path in re.findall(r"`(work/[^`]+)`", PAGE.read_text()):
        assert (folder / path).exists(), path
