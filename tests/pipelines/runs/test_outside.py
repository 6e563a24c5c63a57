"""Weights from outside, kept as the checkpoint of a run of their own."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pipelines.config.load import load_config, to_dict
from pipelines.config.schema import Config
from pipelines.runs.checkpoint import EMA, MODEL, STATE, Checkpoint
from pipelines.runs.outside import keep_weights
from tests.support.checkpoints import damage

# One is not contiguous, as the slice of a larger weight is not.
WEIGHTS = {"unet.a": torch.rand(3, 4).T, "decoder.b": torch.rand(2)}


class Source:
    """Weights that lie outside, and how often they were asked for."""

    def __init__(self, weights: dict[str, Tensor]) -> None:
        self.weights, self.asked = weights, 0

    def __call__(self) -> dict[str, Tensor]:
        self.asked += 1
        return self.weights


@pytest.fixture(params=["local", "s3"])
def config(request: pytest.FixtureRequest, tmp_path: Path) -> Config:
    """Both kinds of store keep the same promises."""
    where = tmp_path / "runs" if request.param == "local" else request.getfixturevalue("s3_url")
    return load_config([f"run.storage={where}", f"run.scratch={tmp_path / 'scratch'}", "seed=7"])


def keep(
    config: Config, source: Source, *, content: Any = "1", asked: str = "a bundle"
) -> Checkpoint:
    return keep_weights(
        config,
        "start",
        stage="joint",
        described_by=config,
        asked={"model": asked},
        content=content,
        make=source,
    )


def test_the_checkpoint_holds_the_weights_and_says_what_they_are(config: Config) -> None:
    checkpoint = keep(config, Source(WEIGHTS))
    for found in (checkpoint.weights(), checkpoint.live_weights()):
        assert found.keys() == WEIGHTS.keys()
        assert all(torch.equal(found[name], weight) for name, weight in WEIGHTS.items())
    assert checkpoint.ema() == {}
    assert (checkpoint.run.name, checkpoint.step) == ("start", 0)
    assert checkpoint.run.newest_intact() == checkpoint
    state = checkpoint.state()
    assert (state.step, state.samples, state.stage, state.seed) == (0, 0, "joint", 7)
    assert state.identity == {"asked": {"model": "a bundle"}}
    assert state.networks == to_dict(config)["networks"]


def test_equal_content_is_made_and_written_once(config: Config) -> None:
    first, second = Source(WEIGHTS), Source({})
    kept = keep(config, first)
    before = kept.marker.encode()
    assert keep(config, second).location == kept.location
    assert (first.asked, second.asked) == (1, 0)
    assert keep(config, second).marker.encode() == before
    assert len(kept.run.complete()) == 1


@pytest.mark.parametrize("other", [{"content": "2"}, {"asked": "another bundle"}])
def test_other_weights_become_another_checkpoint(config: Config, other: dict[str, str]) -> None:
    first = keep(config, Source(WEIGHTS))
    changed = {name: weight + 1 for name, weight in WEIGHTS.items()}
    second = keep(config, Source(changed), **other)
    assert second.attempt != first.attempt
    assert torch.equal(second.weights()["decoder.b"], changed["decoder.b"])


@pytest.mark.parametrize("name", [MODEL, EMA, STATE])
@pytest.mark.parametrize("kind", ["flip", "delete"])
def test_damaged_weights_are_written_again(config: Config, name: str, kind: str) -> None:
    damage(keep(config, Source(WEIGHTS)), name, kind)
    again = Source(WEIGHTS)
    kept = keep(config, again)
    assert again.asked == 1
    assert kept.state().stage == "joint"
    assert torch.equal(kept.weights()["unet.a"], WEIGHTS["unet.a"])


def test_an_attempt_that_failed_half_way_leaves_nothing_in_the_way(config: Config) -> None:
    def fail() -> dict[str, Tensor]:
        raise RuntimeError("the hub is away")

    with pytest.raises(RuntimeError, match="the hub is away"):
        keep_weights(
            config,
            "start",
            stage="joint",
            described_by=config,
            asked={},
            content="1",
            make=fail,
        )
    source = Source(WEIGHTS)
    keep(config, source)
    assert source.asked == 1
