import re
from pathlib import Path
from typing import Any

import pytest

from pipelines.config.load import load_config, recipe_names
from pipelines.errors import UserError
from pipelines.training.cost import training_cost
from pipelines.training.plan import plan_stages, stage_plan
from tests.conftest import SMALL, Runner


def small_plan(*arguments: str, stage: str = "joint") -> str:
    return stage_plan(load_config([f"recipe={SMALL}", *arguments]), stage)


def memory_rows(plan: str) -> list[dict[str, float]]:
    """The memory table by column, in MiB."""
    head, *rows = plan.partition("at once ")[2].splitlines()
    return [
        dict(zip(head.split(), map(float, row.split()[-len(head.split()) :]), strict=True))
        for row in rows
    ]


def _recipes() -> list[Any]:
    """All; the long proofs have those that differ from another by widths or steps alone."""
    slow = {
        "edge_sd_sr", "edge_sd_sr_lite", "edge_sd_sr_tiny_long", "f2srgan_student", "rdsr_large",
        "rdsr_small",
    }  # fmt: skip
    return [pytest.param(n, marks=[pytest.mark.slow] * (n in slow)) for n in recipe_names()]


@pytest.mark.parametrize("recipe", _recipes())
def test_every_stage_of_every_recipe_has_a_plan(recipe: str) -> None:
    config = load_config([f"recipe={recipe}"])
    for stage in config.stages:
        plan = stage_plan(config, stage)
        assert plan.startswith(f"stage {stage} ({recipe}, run {recipe}-{stage}):\n")
        for title in (
            "starts from",
            "parameters",
            "inference",
            "training",
            "steps",
            "learning rate",
            "memory",
        ):
            assert f"\n  {title} " in plan
        assert float(re.findall(r"([\d.]+) GFLOPs per sample", plan)[0]) > 0
        for row in memory_rows(plan):
            parts = [value for name, value in row.items() if name != "all"]
            assert row["all"] == pytest.approx(sum(parts), abs=0.5)
            assert min(parts) >= 0


def test_a_plan_has_the_flops_of_its_stage() -> None:
    told = re.findall(r"([\d.]+) GFLOPs per sample", small_plan())
    cost = training_cost(load_config([f"recipe={SMALL}"]), "joint")
    assert float(told[0]) == pytest.approx(cost.flops / 1e9, abs=1e-3)


def test_a_plan_says_what_learns_and_what_is_frozen() -> None:
    plan = small_plan()
    assert re.search(r"parameters +hr_encoder +0\.016 M  frozen\n", plan)
    assert re.search(r"\n +unet +0\.045 M  trained\n", plan)
    assert re.search(r"\n +all +0\.081 M  0\.049 M trained\n", plan)


def test_a_plan_multiplies_a_samples_flops_by_the_stages_samples() -> None:
    plan = small_plan("train.steps=1000000", "train.batch_size=50")
    assert "0.010 GFLOPs per sample, forward and backward; 0.484 PFLOPs in all" in plan
    assert "1000000 of 50 samples on 1 worker = 50000000 samples" in plan


def test_a_plan_counts_the_epochs_of_its_dataset(dataset: Path) -> None:
    plan = small_plan(f"data={dataset}", "train.steps=100")
    assert re.search(r"= 400 samples = [\d.]+ epochs of \d+ shards, \d+ training tiles\n", plan)


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (
            (),
            "0.001 (unet), 0.001 (lr_encoder): linear warm-up over 20 steps, "
            "cosine to zero at step 4",
        ),
        (
            ("train.warmup_steps=0", "train.schedule=constant"),
            "0.001 (unet), 0.001 (lr_encoder): no warm-up, constant",
        ),
        (
            ("stages.joint.train.groups.lr_encoder.learning_rate=1e-4", "train.steps=9"),
            "0.001 (unet), 0.0001 (lr_encoder): linear warm-up over 20 steps, "
            "cosine to zero at step 9",
        ),
        (
            (
                "stages.joint.train.groups.lr_encoder.schedule=step",
                "stages.joint.train.groups.lr_encoder.warmup_steps=0",
                "train.decay_steps=[2,3]",
            ),
            "0.001 (unet): linear warm-up over 20 steps, cosine to zero at step 4\n"
            "                 0.001 (lr_encoder): no warm-up, times 0.5 at 2, 3",
        ),
    ],
)
def test_a_plan_tells_each_groups_learning_rate(arguments: tuple[str, ...], line: str) -> None:
    assert f"\n  learning rate  {line}\n" in small_plan(*arguments)


def test_a_plan_tells_how_many_checkpoints_are_kept_and_how_large_they_are() -> None:
    assert re.search(
        r"\n  checkpoints +every 3 steps, about 1\.0 MiB each; 2 of 4 kept = 2\.1 MiB\n",
        small_plan("train.steps=10", "train.checkpoint_every=3"),
    )
    assert "1 of 1 kept" in small_plan("train.steps=10", "train.checkpoint_every=50")


def test_a_range_of_workers_has_a_row_for_each_end() -> None:
    config = load_config(["train.workers=[1,4]", "train.batch_size=9", "train.zero_stage=2"])
    plan = stage_plan(config, "joint")
    assert "1200 of 9 samples on 1 to 4 workers = 10800 samples" in plan
    assert "\n                 1 x 9 samples " in plan
    assert "\n                 4 x 3 samples " in plan  # ranks of two and of three samples
    alone, shared = memory_rows(plan)
    assert shared["optimizer"] < alone["optimizer"]
    assert shared["activations"] < alone["activations"]
    assert shared["weights"] == alone["weights"]


def test_a_micro_batch_needs_the_memory_of_its_samples_alone() -> None:
    (whole,) = memory_rows(small_plan("train.batch_size=64"))
    plan = small_plan("train.batch_size=64", "train.micro_batch_size=16")
    (part,) = memory_rows(plan)
    assert "1 x 16 samples" in plan
    assert part["activations"] == pytest.approx(whole["activations"] / 4, abs=0.1)
    assert "1 x 1 sample " in small_plan("train.batch_size=1", "train.micro_batch_size=16")


def test_every_zero_stage_has_a_plan_and_each_spares_memory() -> None:
    totals = []
    for zero_stage in (1, 2, 3):
        config = load_config(["train.workers=4", f"train.zero_stage={zero_stage}"])
        plan = stage_plan(config, "joint")
        assert f"(ZeRO {zero_stage}, fp32)" in plan
        totals.append(memory_rows(plan)[0]["all"])
    assert totals == sorted(totals, reverse=True)
    assert len(set(totals)) == 3


def test_recomputed_activations_are_said_to_be() -> None:
    plan = small_plan("train.activation_checkpointing=true", "train.precision=bf16")
    assert "(ZeRO 0, bf16, activations recomputed)" in plan


def test_a_stage_whose_shapes_do_not_fit_has_no_plan() -> None:
    config = load_config([f"recipe={SMALL}"])
    config.stages["joint"].train.crop = 72
    with pytest.raises(UserError, match="stage 'joint' cannot train on x_l"):
        plan_stages(config, config.stage1)


def test_a_job_prints_the_plans_of_its_stages(run_python: Runner) -> None:
    done = run_python(
        "jobs/stage1.py", "train.workers=[1,4]", "train.zero_stage=3",
        "train.activation_checkpointing=true", "train.micro_batch_size=2", "--dry-run",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    plans = done.stdout.partition("Plan: ")[2]
    assert re.findall(r"^stage (\w+) ", plans, re.M) == ["autoencoder", "joint"]
    assert plans.count("\n                 4 x 2 samples ") == 2
