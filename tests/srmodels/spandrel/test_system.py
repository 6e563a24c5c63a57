"""Tests spandrel's system where the library is not installed, as by default."""

import sys
from pathlib import Path

import pytest

from pipelines.config.load import load_config
from pipelines.errors import UserError
from srmodels.spandrel.config import SpandrelConfig
from srmodels.spandrel.initial import SpandrelInitialWeights
from srmodels.system import load_system

RECIPE = """\
system: spandrel
networks: {architecture: SPAN, options: {num_in_ch: 3, num_out_ch: 3}}
stages: {pixel: {}}
"""


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A recipe, and no spandrel."""
    monkeypatch.setitem(sys.modules, "spandrel", None)
    path = tmp_path / "span.yaml"
    path.write_text(RECIPE)
    return f"recipe={path}"


def test_a_library_that_is_not_there_is_named_with_the_command_that_gets_it(recipe: str) -> None:
    with pytest.raises(UserError) as error:
        load_config([recipe])
    assert str(error.value).startswith(
        "the networks cannot be built: the system spandrel needs the library spandrel, which "
        "cannot be imported ("
    )
    assert "pip install -e '.[spandrel]'" in str(error.value)


def test_the_system_is_there_all_the_same() -> None:
    system = load_system("spandrel")
    assert system.stage_kinds() == ["distill", "pixel", "prune", "quantize"]
    assert system.config is SpandrelConfig


def test_other_keys_than_options_are_checked_as_ever(recipe: str) -> None:
    with pytest.raises(UserError, match=r"unknown key 'networks.option.dim' .*did you mean"):
        load_config([recipe, "networks.option.dim=3"])
    with pytest.raises(UserError, match=r"networks.scale must be greater than 0"):
        load_config([recipe, "networks.scale=0"])
    with pytest.raises(UserError, match="library spandrel"):  # all keys are known
        load_config([recipe, "networks.options.feature_channels=8"])


def test_a_checkpoint_that_is_not_there(tmp_path: Path) -> None:
    assert SpandrelInitialWeights().files() == {}
    with pytest.raises(ValueError, match=r"^init.checkpoint: there is no file '.*no.pth'\.$"):
        SpandrelInitialWeights(str(tmp_path / "no.pth")).files()
