"""Tests the witnesses of a run: its workers must find the folders that they use, and no others."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from pipelines.data.dataset import Dataset, open_dataset
from pipelines.errors import UserError
from pipelines.storage.store import open_store
from pipelines.training.stage_run import StageRun, Tracked
from pipelines.training.witnesses import witnesses
from tests.support.training import configure


def describe(dataset: Path, *settings: str, stage: str = "joint") -> StageRun:
    config = configure(dataset, f"stages.{stage}.init_from=null", *settings)
    return StageRun.of(config, stage, open_dataset(config.data, config.stream), None, None)


def test_a_worker_without_the_folder_of_checkpoints_is_refused(dataset: Path) -> None:
    run = describe(dataset)
    with witnesses(run) as seen:
        seen.check(rank=1)
        shutil.rmtree(run.checkpoints.location)
        with pytest.raises(UserError, match=r"folder .*small-joint .* set run\.storage to s3://"):
            seen.check(rank=1)


def test_a_worker_without_the_dataset_is_refused(dataset: Path, tmp_path: Path) -> None:
    shutil.copytree(dataset, tmp_path / "data")
    with witnesses(describe(tmp_path / "data")) as seen:
        (tmp_path / "data").rename(tmp_path / "elsewhere")
        with pytest.raises(UserError, match=r"folder .*/data .* copy the dataset to s3://"):
            seen.check(rank=1)


def test_photos_may_be_added_while_a_run_trains(dataset: Path, tmp_path: Path) -> None:
    shutil.copytree(dataset, tmp_path / "data")
    with witnesses(describe(tmp_path / "data")) as seen:
        (tmp_path / "data" / "manifest.json").write_text("another")
        seen.check(rank=1)


def test_only_rank_0_needs_the_database(dataset: Path, tmp_path: Path) -> None:
    tracked = Tracked(f"sqlite:///{tmp_path / 'mlflow' / 'mlflow.db'}", "0123")
    with witnesses(replace(describe(dataset), tracked=tracked)) as seen:
        seen.check(rank=0)
        shutil.rmtree(tmp_path / "mlflow")
        seen.check(rank=1)
        with pytest.raises(UserError, match=r"folder .*/mlflow .* start an MLflow server"):
            seen.check(rank=0)


def test_what_is_on_servers_needs_no_folder(dataset: Path) -> None:
    run = describe(dataset, "run.storage=s3://bucket/runs")
    data = Dataset(open_store("s3://bucket/data"), run.dataset.manifest, run.dataset.stream)
    tracked = Tracked("http://mlflow:5000", "0123")
    with witnesses(replace(run, dataset=data, tracked=tracked)) as seen:
        assert seen.all_ranks == seen.rank_zero == ()


def test_a_worker_without_the_weights_of_the_losses_is_refused(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "weights"
    folder.mkdir()
    for name in ("vgg16_features", "lpips_vgg_heads", "niqe_pristine"):
        (folder / f"{name}.safetensors").write_bytes(b"weights")
    monkeypatch.setenv("SRMILL_WEIGHTS", str(folder))
    run = describe(dataset, "stages.decoder.options.lpips_weight=1", stage="decoder")
    with witnesses(run) as seen:
        seen.check(rank=1)
        folder.rename(tmp_path / "elsewhere")
        with pytest.raises(UserError, match=r"/weights .* or unset \$SRMILL_WEIGHTS"):
            seen.check(rank=1)
