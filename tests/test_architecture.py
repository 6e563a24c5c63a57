"""The layers of pipelines are held by a contract that sees every import, late ones too."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

LINTER = Path(sys.executable).parent / "lint-imports"


def lint(tree: Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [str(LINTER), "--no-cache"], cwd=tree, capture_output=True, text=True, check=False
    )


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of the packages and of their contracts."""
    for package in ("pipelines", "srmodels", "infra"):
        shutil.copytree(
            ROOT / package,
            tmp_path / package,
            ignore=shutil.ignore_patterns("*.safetensors", "*.jpg"),
        )
    shutil.copyfile(ROOT / "pyproject.toml", tmp_path / "pyproject.toml")
    return tmp_path


@pytest.mark.parametrize(
    ("module", "added"),
    [
        ("data/order.py", "pipelines.training.launch"),
        ("runs/names.py", "pipelines.models.load"),
        ("registry/gate.py", "pipelines.training.ema"),
    ],
)
def test_an_import_that_runs_upwards_or_sideways_breaks_the_contract(
    tree: Path, module: str, added: str
) -> None:
    path = tree / "pipelines" / module
    path.write_text(f"{path.read_text()}\n\ndef late() -> None:\n    import {added}\n")
    done = lint(tree)
    assert done.returncode == 1, done.stdout + done.stderr
    name = f"pipelines.{module.removesuffix('.py').replace('/', '.')}"
    assert f"{name} -> {added} (l." in done.stdout
