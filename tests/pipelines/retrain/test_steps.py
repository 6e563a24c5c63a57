"""The chain of a recipe: its steps, and arguments that lead to the same configurations."""

import dataclasses

import pytest

from pipelines.config.load import load_config
from pipelines.errors import UserError
from pipelines.retrain import Step, chain
from tests.conftest import SMALL


def steps_of(*arguments: str) -> list[Step]:
    return chain(load_config([f"recipe={SMALL}", *arguments]), arguments)


def step(name: str, *arguments: str) -> Step:
    return next(step for step in steps_of(*arguments) if step.name == name)


ENDS = ["evaluate", "export", "register"]


@pytest.mark.parametrize(
    ("arguments", "stages"),
    [
        ((), ["autoencoder", "joint", "decoder"]),
        (("stage1=[joint]",), ["joint", "decoder"]),
        (("stage1=[]", "stage2=[]"), ["autoencoder", "joint", "decoder"]),
        (("stage1=[]",), ["decoder"]),
        (("stage1=[joint]", "stage2=[]"), ["joint"]),
    ],
)
def test_each_stage_is_a_step_of_its_own(arguments: tuple[str, ...], stages: list[str]) -> None:
    found = steps_of(*arguments)
    assert [s.name for s in found] == ["shard", *(f"stage {s}" for s in stages), *ENDS]
    assert [s.job for s in found] == ["shard", *["train"] * len(stages), *ENDS]
    assert [s.config.stage for s in found[1:-3]] == stages
    for last in found[-3:-1]:
        assert last.config.model == f"run:small-{stages[-1]}"


def test_one_key_lets_all_stages_replay() -> None:
    stages = [s for s in steps_of("retrain.replay=0.5", "train.replay=0.1") if s.job == "train"]
    for found in stages:
        assert found.config.stages[str(found.config.stage)].train.replay == 0.5
        others = [s for name, s in found.config.stages.items() if name != found.config.stage]
        assert {other.train.replay for other in others} == {0.1}
    assert step("stage joint", "train.replay=0.1").config.stages["joint"].train.replay == 0.1


@pytest.mark.parametrize("output", [(), ("output=a, b/out", "retrain.replay=0.25")])
def test_the_arguments_of_a_step_lead_to_its_configuration(output: tuple[str, ...]) -> None:
    for found in steps_of("source=photos", "seed=3", "evaluate.compare=[lanczos]", *output):
        assert found.arguments[0] == f"recipe={SMALL}"
        assert load_config(found.arguments) == found.config


def test_the_last_earlier_stage_that_can_infer_is_compared() -> None:
    assert step("evaluate").config.evaluate.compare == ["run:small-joint"]
    both = step("evaluate", "evaluate.compare=[lanczos]")
    assert both.config.evaluate.compare == ["lanczos", "run:small-joint"]
    # The autoencoder leaves the UNet untrained.
    alone = ("stage1=[autoencoder]", "stage2=[joint]")
    assert step("evaluate", *alone).config.evaluate.compare == []


def test_a_chain_that_ends_before_inference_works_is_refused() -> None:
    with pytest.raises(UserError, match="ends with stage 'autoencoder', which does not train all"):
        steps_of("stage1=[autoencoder]", "stage2=[]")


def test_other_models_than_its_own_are_refused() -> None:
    settings = ("export.candidates=[run:a,run:b]", "export.latency_budget_ms=20")
    with pytest.raises(UserError, match="a retraining exports the model that it trained"):
        steps_of(*settings)


@pytest.mark.parametrize("place", ["/out", "s3://bucket/out"])
def test_results_go_under_output(place: str) -> None:
    output = (f"output={place}",)
    assert step("shard", *output).config.output is None
    assert step("evaluate", *output).config.output == f"{place}/evaluate"
    assert step("export", *output).config.export.evidence == f"{place}/evaluate"
    assert step("export", *output).config.output == f"{place}/export"
    assert step("register", *output).config.bundle == f"{place}/export/small"


def test_a_step_cannot_be_changed() -> None:
    config = load_config([f"recipe={SMALL}"])
    with pytest.raises(dataclasses.FrozenInstanceError):
        chain(config)[0].name = "x"  # type: ignore[misc]
    assert config.evaluate.compare == []
