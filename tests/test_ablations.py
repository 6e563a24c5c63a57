"""The arms of the ablation grid are configurations that can be trained."""

import pytest

from pipelines.config import load_config
from pipelines.training.plan import plan_stages
from tests.benchmarks.ablations import ARMS, BEGIN, END, settings
from tests.conftest import ROOT


@pytest.mark.parametrize("name", ARMS)
def test_every_arm_has_a_plan_and_the_same_budget(name: str) -> None:
    config = load_config(settings(name, ARMS[name], seed=0))
    assert plan_stages(config, ARMS[name].stages)
    steps = {stage: config.stages[stage].train.steps for stage in ARMS[name].stages}
    assert steps.pop("autoencoder") == 600
    if name != "no-finetune":
        assert steps.pop("decoder") == 500
    assert sum(steps.values()) == 1500


def test_the_page_has_a_place_for_the_table() -> None:
    page = (ROOT / "docs" / "ablations.md").read_text()
    assert page.count(BEGIN) == page.count(END) == 1
