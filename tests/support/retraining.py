"""Chains whose bundle is there already, so that tests see registry, gate and records alone."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from pipelines.config.load import load_config
from pipelines.config.schema import Config
from pipelines.registry import register
from pipelines.retrain import Step, chain, work
from tests.conftest import SMALL
from tests.support.bundles import make_bundle

TAUGHT = SMALL.with_name("taught.yaml")


def only_register(
    monkeypatch: pytest.MonkeyPatch, shard: Callable[[], object] = lambda: None
) -> None:
    """Lets the steps of a chain do nothing, without Ray; the last one registers.

    Args:
        shard: does the work of the first step.
    """
    monkeypatch.setattr(work, "connect", nullcontext)
    monkeypatch.setattr(work, "check_sources", lambda *_: None)

    def do(step: Step, *_: object) -> Any:
        if step.job == "shard":
            shard()
        return register.run(step.config) if step.job == "register" else None

    monkeypatch.setattr(work, "run_here", do)


def with_bundle(arguments: Sequence[str], psnr: float) -> Config:
    """Returns the configuration of a chain, once the bundle of its end is there with this score."""
    config = load_config(list(arguments))
    place = Path(register.bundle_location(chain(config)[-1].config))
    if not place.exists():
        make_bundle(place, TAUGHT, psnr=psnr)
    return config
