"""Weights from outside: written once, and found again by the run that began with them."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from pipelines.config.load import load_config
from pipelines.config.schema import Config
from pipelines.runs.checkpoint import MODEL, Checkpoint
from pipelines.runs.names import run_checkpoints
from pipelines.runs.outside import keep_weights, kept_weights
from tests.conftest import SMALL
from tests.support.checkpoints import damage, write

NAME, USER = "small-joint-init", "small-joint"
ASKED = {"start": "models:/small@champion"}


@pytest.fixture(scope="module")
def config() -> Config:
    return load_config([f"recipe={SMALL}"])


def weights(value: float) -> Callable[[], dict[str, Tensor]]:
    return lambda: {"weight": torch.full((3,), value)}


def refused() -> dict[str, Tensor]:
    raise AssertionError("the weights are kept already")


def keep(config: Config, content: str, make: Callable[[], dict[str, Tensor]]) -> Checkpoint:
    return keep_weights(
        config, NAME, stage="joint", described_by=config, asked=ASKED, content=content, make=make
    )


def kept(config: Config, **asked: Any) -> Checkpoint | None:
    return kept_weights(config, NAME, used_by=USER, asked=ASKED | asked)


def test_equal_content_is_written_once_and_other_content_takes_its_place(config: Config) -> None:
    first = keep(config, "one", weights(1.0))
    assert keep(config, "one", refused).location == first.location
    other = keep(config, "two", weights(2.0))
    assert torch.equal(other.weights()["weight"], torch.full((3,), 2.0))
    [left] = run_checkpoints(config, NAME).complete()
    assert left.location == other.location


def test_damaged_weights_are_written_again(config: Config) -> None:
    damage(keep(config, "one", weights(1.0)), MODEL, "flip")
    again = keep(config, "one", weights(1.0))
    assert torch.equal(again.weights()["weight"], torch.ones(3))


def test_only_a_run_that_has_begun_stays_with_its_weights(config: Config) -> None:
    first = keep(config, "one", weights(1.0))
    assert kept(config) is None
    write(run_checkpoints(config, USER), "a", 2)
    begun = kept(config)
    assert begun is not None
    assert begun.location == first.location
    assert kept(config, start="models:/small/2") is None


def test_their_state_names_stage_and_networks(config: Config) -> None:
    state = keep(config, "one", weights(1.0)).state()
    assert (state.step, state.stage, state.identity) == (0, "joint", {"asked": ASKED})
    assert state.networks["decoder"]["channels"] == [8]


def test_an_attempt_that_failed_half_way_leaves_nothing_in_the_way(config: Config) -> None:
    def fail() -> dict[str, Tensor]:
        raise RuntimeError("the hub is away")

    with pytest.raises(RuntimeError, match="the hub is away"):
        keep(config, "half", fail)
    found = keep(config, "half", weights(2.0)).weights()["weight"]
    assert torch.equal(found, torch.full((3,), 2.0))
