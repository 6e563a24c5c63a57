"""Names of runs, and the place of their checkpoints."""

from pathlib import Path

import pytest

from pipelines.config.load import load_config
from pipelines.runs.names import run_checkpoints, run_name
from pipelines.storage.s3 import S3Store


def test_a_stage_has_a_run_of_its_own_under_a_fixed_name() -> None:
    config = load_config(["run.name=night"])
    assert run_name(config, "joint") == run_name(config, "joint") == "night-joint"
    assert run_name(config, "decoder") == "night-decoder"


def test_a_run_is_named_after_the_recipe_where_nothing_else_is_set() -> None:
    assert run_name(load_config(["recipe=edge_sd_sr"]), "joint") == "edge_sd_sr-joint"


@pytest.mark.parametrize("storage", ["runs", "runs/"])
def test_checkpoints_lie_below_the_storage_and_scratch_on_the_node(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, storage: str
) -> None:
    monkeypatch.setenv("SRMILL_HOME", str(tmp_path))
    run = run_checkpoints(load_config([f"run.storage={storage}", "run.scratch=node"]), "a-joint")
    assert (run.name, run.directory) == ("a-joint", tmp_path / "runs" / "a-joint")
    assert run.scratch.path == tmp_path / "node"
    assert list(tmp_path.iterdir()) == [], "nothing is made before something is written"


def test_checkpoints_in_object_storage_wait_in_a_folder_of_their_own(tmp_path: Path) -> None:
    def run(bucket: str) -> tuple[str, Path]:
        config = load_config([f"run.storage=s3://{bucket}/runs/", f"run.scratch={tmp_path}"])
        found = run_checkpoints(config, "a-joint")
        assert isinstance(found.store, S3Store)
        assert (found.name, found.directory) == ("a-joint", None)
        return found.location, found.workspace

    (location, here), (_, there) = run("one"), run("two")
    assert location == "s3://one/runs/a-joint"
    assert here.parent == there.parent == tmp_path
    assert here != there
