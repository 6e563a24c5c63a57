"""The arms of the ablation grids are configurations that can be trained."""

import pytest

from docs.tools.ablations_table import BEGIN, END, PAGES
from pipelines.config.load import load_config
from pipelines.training.plan import plan_stages
from tests.benchmarks.ablations import settings
from tests.benchmarks.grids import GRIDS

#: The base of each grid; the other arms, whose plans cost seconds each, are long proofs.
ARMS = [
    pytest.param(grid, name, marks=[pytest.mark.slow] * (name != "base"))
    for grid in GRIDS
    for name, arm in GRIDS[grid].arms.items()
    if arm.stages
]


@pytest.mark.parametrize(("grid", "name"), ARMS)
def test_every_arm_can_be_trained_and_has_the_same_budget(grid: str, name: str) -> None:
    arm = GRIDS[grid].arms[name]
    config = load_config(settings(GRIDS[grid], name, seed=0))
    assert plan_stages(config, arm.stages)
    before = [arm.start[1]] if arm.start else []
    steps = {stage: config.stages[stage].train.steps for stage in (*before, *arm.stages)}
    if grid == "edge_sd_sr":
        assert (steps["autoencoder"], steps.get("decoder", 500)) == (600, 500)
    # The decoder's finetuning is an idea of its own: the arm without it is trained for less.
    assert sum(steps.values()) == GRIDS[grid].steps - (500 if name == "no-finetune" else 0)


@pytest.mark.parametrize("grid", GRIDS)
def test_the_page_has_a_place_for_the_table(grid: str) -> None:
    page = PAGES[grid].read_text()
    assert page.count(BEGIN) == page.count(END) == 1
