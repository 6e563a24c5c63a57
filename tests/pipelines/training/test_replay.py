"""Runs that replay what their first weights were trained on, beside newer photos."""

import shutil
from itertools import islice
from pathlib import Path

import pytest
import torch

from pipelines.config.schema import Config
from pipelines.data.dataset import open_dataset
from pipelines.data.stream import CropSettings, TrainingStream
from pipelines.runs.checkpoint import Checkpoint
from pipelines.training.launch import run_stages
from pipelines.training.stage_run import StageRun
from pipelines.training.start import start_checkpoint
from tests.conftest import SAMPLE, write_dataset
from tests.support.training import configure

STAGE = "autoencoder"


@pytest.fixture
def grown(tmp_path: Path) -> tuple[Path, str, set[str]]:
    """A dataset that has grown after a run `first` was trained on it, the digest of what it was
    then, and the keys of the training samples that it had."""
    photos = sorted(SAMPLE.glob("*.jpg"))
    folder, data = tmp_path / "photos", tmp_path / "data"
    folder.mkdir()
    for photo in photos[:5]:
        shutil.copy(photo, folder)
    before = write_dataset(folder, data)
    keys = {sample.key for sample in before.split("train")}
    run_stages(configure(data, "run.name=first", "train.steps=1"), [STAGE])
    for photo in photos[5:9]:
        shutil.copy(photo, folder)
    write_dataset(folder, data)
    return data, before.digest, keys


def replaying(data: Path, name: str, *arguments: str) -> Config:
    start = f"stages.{STAGE}.init_from=run:first-{STAGE}"
    return configure(data, f"run.name={name}", "train.steps=1", start, *arguments)


def described(config: Config, stage: str = STAGE, start: Checkpoint | None = None) -> StageRun:
    start = start or start_checkpoint(config, stage)
    return StageRun.of(config, stage, open_dataset(config.data, config.stream), start, None)


def keys_of(run: StageRun, count: int) -> list[str]:
    crops = CropSettings.of(run.config, run.train)
    stream = TrainingStream(run.dataset, crops, seed=0, batch_size=8, replay=run.replay)
    iterator = iter(stream)
    found = [key for batch in islice(iterator, count) for key in batch.keys]
    iterator.close()  # type: ignore[attr-defined]
    return found


def test_a_run_mixes_what_its_weights_were_trained_on_with_what_came_since(
    grown: tuple[Path, str, set[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    data, digest, earlier = grown
    config = replaying(data, "mixed", "train.replay=0.75")
    run = described(config)
    assert run.identity["replayed"] == digest
    keys = keys_of(run, 10)
    assert sum(key in earlier for key in keys) == 60
    assert len(keys) == 80
    (trained,) = run_stages(config, [STAGE])
    tiles = len(run.dataset.manifest.split("train")) - len(earlier)
    assert (
        f"{STAGE}: 75% of the samples come from {len(earlier)} earlier training tiles, the others "
        f"from {tiles} new ones"
    ) in capsys.readouterr().out
    # The run has seen other samples than one that takes all photos as they come.
    (plain,) = run_stages(replaying(data, "plain"), [STAGE])
    weights, others = trained.weights(), plain.weights()
    assert any(not torch.equal(weight, others[name]) for name, weight in weights.items())
    # The next stage, which starts on the grown dataset, replays the same.
    following = described(config, "joint")
    assert following.identity["replayed"] == digest
    assert following.replay == run.replay
    # Resumed or looked at again, it is the same run.
    run_stages(config, [STAGE])
    assert f"Nothing to do: {trained.run.name} is trained already." in capsys.readouterr().out


def test_without_earlier_photos_a_run_says_that_it_takes_all(
    grown: tuple[Path, str, set[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, digest, _ = grown
    other = tmp_path / "other"
    write_dataset(SAMPLE, other)
    run_stages(replaying(other, "elsewhere", "train.replay=0.5"), [STAGE])
    message = (
        f"{STAGE}: train.replay has nothing to mix, since the dataset does not hold both photos "
        "that the starting weights were trained on and others. All photos come equally often."
    )
    assert message in capsys.readouterr().out
    # The same for weights that know the whole dataset, and for random ones.
    was = data / "manifests" / f"{digest}.json"
    assert described(replaying(was, "again", "train.replay=0.5")).replay is None
    assert described(configure(data, "train.replay=0.5")).replay is None


def test_another_share_is_another_run(grown: tuple[Path, str, set[str]]) -> None:
    half, none = (
        described(replaying(grown[0], "any", *share)) for share in (["train.replay=0.5"], [])
    )
    differing = {key for key in half.identity if half.identity[key] != none.identity[key]}
    assert differing == {"train.replay", "replayed"}
