"""Each step's inputs change with what decides its result, and with nothing else."""

import shutil
from pathlib import Path

import pytest

from pipelines.config.load import load_config
from pipelines.registry.register import bundle_location
from pipelines.retrain import inputs
from pipelines.retrain.inputs import Inputs
from tests.conftest import SMALL
from tests.support.bundles import make_bundle


def differing(before: Inputs, after: Inputs) -> list[str]:
    assert before.keys() == after.keys()
    return [name for name in before if before[name] != after[name]]


def stage(dataset: Path, *arguments: str) -> Inputs:
    settings = [f"recipe={SMALL}", f"data={dataset}", "stage=joint", *arguments]
    return inputs.of_stage(load_config(settings))


def test_a_new_photo_and_a_new_setting_change_the_shards(photos: Path, tmp_path: Path) -> None:
    shutil.copytree(photos, tmp_path / "photos")

    def shard(*arguments: str) -> Inputs:
        settings = [f"recipe={SMALL}", f"source={tmp_path}/photos", *arguments]
        return inputs.of_shard(load_config(settings))

    before = shard()
    assert differing(before, shard("train.steps=9")) == []
    assert differing(before, shard("shard.effort=2")) == ["shard.effort"]
    held_out = shard(f"shard.val_source={photos}")
    assert differing(before, held_out) == ["source", "shard.val_source"]
    first = next((tmp_path / "photos").iterdir())
    shutil.copy(first, first.with_name("new.png"))
    assert differing(before, shard()) == ["source"]


def test_another_benchmark_changes_which_photos_may_be_trained_on(
    photos: Path, tmp_path: Path
) -> None:
    def shard(*arguments: str) -> Inputs:
        settings = [f"recipe={SMALL}", f"source={photos}", f"gate.benchmark={frozen}", *arguments]
        return inputs.of_shard(load_config(settings))

    frozen = tmp_path / "frozen"
    frozen.mkdir()
    names = sorted(photos.iterdir())
    shutil.copy(names[0], frozen)
    before = shard()
    assert differing(before, shard()) == []
    # jobs/evaluate.py would not notice: it measures on the sets of `benchmark` alone.
    assert differing(before, shard(f"benchmark={frozen}")) == []
    assert differing(before, shard(f"benchmark={photos}")) == ["benchmark"]
    assert differing(before, shard("gate.benchmark=[]")) == ["benchmark"]
    shutil.copy(names[1], frozen)
    assert differing(before, shard()) == ["benchmark"]
    # Where no photo is judged, none is compared.
    assert (
        differing(shard("shard.quality=false"), shard("shard.quality=false", "gate.benchmark=[]"))
        == []
    )


def test_a_public_set_is_not_downloaded_for_its_listing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inputs, "find_entries", lambda *_: pytest.fail("looked for photos"))
    assert inputs.of_shard(load_config([f"recipe={SMALL}", "source=div2k"]))["source"]


@pytest.mark.parametrize(
    ("argument", "changed"),
    [
        ("train.workers=2", []),
        ("stages.decoder.train.steps=9", []),
        ("train.steps=9", ["train.steps"]),
        ("seed=1", ["seed"]),
        ("stages.joint.init_from=models:/small@champion", ["start"]),
    ],
)
def test_what_shapes_a_stage_is_named(dataset: Path, argument: str, changed: list[str]) -> None:
    assert differing(stage(dataset), stage(dataset, argument)) == changed


def test_a_constant_rate_can_go_on_for_more_steps(dataset: Path) -> None:
    constant = "train.schedule=constant"
    found = differing(stage(dataset, constant), stage(dataset, constant, "train.steps=9"))
    assert found == ["train.steps"]


def test_a_stage_without_a_dataset_has_no_manifest_yet(tmp_path: Path) -> None:
    assert stage(tmp_path) == {"manifest": None}


def test_the_weights_that_a_stage_starts_from_are_not_there_yet(dataset: Path) -> None:
    found = stage(dataset)
    assert found["manifest"]
    assert found["start"] is None


def test_the_metrics_and_the_weights_decide_the_evaluation(dataset: Path) -> None:
    def evaluation(*arguments: str) -> Inputs:
        settings = [f"recipe={SMALL}", f"data={dataset}", "model=run:small-decoder", *arguments]
        return inputs.of_evaluate(load_config(["evaluate.metrics=[psnr_y]", *settings]))

    before = evaluation()
    assert before["model"] is None
    assert differing(before, evaluation("evaluate.metrics=[psnr_y,ssim_y]")) == ["metrics"]
    assert differing(before, evaluation("evaluate.crop_border=0")) == [
        "metrics", "evaluate.crop_border",
    ]  # fmt: skip
    assert differing(before, evaluation("degradation.preset=bsrgan")) == ["benchmark"]


def test_a_bundle_that_was_exported_again_is_another_input(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle")
    config = load_config([f"recipe={SMALL}", f"evaluate.compare=[{bundle.path}]"])
    before = inputs.of_evaluate(config)
    (bundle.path / "bundle.json").write_text("{}")
    assert differing(before, inputs.of_evaluate(config)) == ["compared models"]


def test_the_photos_and_not_their_place_decide_the_shards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for place in ("one", "two"):
        (tmp_path / place / "photos").mkdir(parents=True)
        (tmp_path / place / "photos" / "a.png").write_bytes(b"a photo")
        monkeypatch.setenv("SRMILL_HOME", str(tmp_path / place))
        settings = [f"recipe={SMALL}", "source=photos", f"data={tmp_path / 'data'}"]
        found.append(inputs.of_shard(load_config(settings)))
    assert differing(*found) == []


def test_the_evidence_decides_the_export(tmp_path: Path) -> None:
    config = load_config([f"recipe={SMALL}", f"export.evidence={tmp_path}", "model=run:small-x"])
    before = inputs.of_export(config)
    assert before["evidence"] is None
    (tmp_path / "small-x").mkdir()
    (tmp_path / "small-x" / "results.json").write_text("{}")
    assert differing(before, inputs.of_export(config)) == ["evidence"]


def test_the_bundle_and_the_rule_decide_the_registration(tmp_path: Path) -> None:
    config = load_config([f"recipe={SMALL}", f"bundle={tmp_path}/bundle"])
    before = inputs.of_register(config)
    assert before["bundle"] is None
    make_bundle(Path(bundle_location(config)))
    after = inputs.of_register(config)
    assert differing(before, after) == ["bundle"]
    config.register.promote = "never"
    assert differing(after, inputs.of_register(config)) == ["register.promote"]
