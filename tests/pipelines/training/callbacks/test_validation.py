"""Validation on real tiles: what it measures and shows, and that the training does not notice."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from pipelines import tracking
from pipelines.config.schema import Config
from pipelines.data.dataset import open_dataset
from pipelines.evaluation.pictures import enlarge
from pipelines.evaluation.protocol import low_resolution, psnr
from pipelines.runs.names import run_checkpoints
from pipelines.training.callbacks.metrics import MetricsCallback
from pipelines.training.callbacks.validation import ValidationCallback
from pipelines.training.launch import run_stages
from srmodels.degradation.resize import bicubic
from srmodels.edge_sd_sr.stages import JointStage
from srmodels.upscale import to_pixels, to_tensor
from tests.support.processes import run_ranks
from tests.support.training import (
    CPU,
    configure,
    join,
    make_engine,
    make_stage,
    recorded_in,
    recorder_in,
    result,
)  # fmt: skip

EVERY = ("train.validate_every=1", "train.validate_images=5", "train.validate_crop=100")


def validation(
    config: Config, folder: Path, stage: str = "joint", averaged: Any = nullcontext, **changed: Any
) -> ValidationCallback:
    return ValidationCallback(
        changed.get("built") or make_stage(config, stage),
        config,
        config.stages[stage].train,
        open_dataset(config.data, config.stream),
        averaged=averaged,
        recorder=changed.get("recorder", recorder_in(folder)),
        device=CPU,
    )


def test_it_measures_the_centre_of_the_first_images_as_evaluation_does(
    dataset: Path, tmp_path: Path
) -> None:
    join()
    config = configure(dataset, *EVERY)
    stage = make_stage(config, "joint")
    callback = validation(config, tmp_path, built=stage)
    callback.after_step(result(1, loss=0.0))
    opened = open_dataset(config.data, config.stream)
    scores = []
    for sample in opened.manifest.split("val")[:5]:
        # 96 is the largest multiple of 16 (scale 4, size multiple 4) within 100 of 128 pixels.
        hr = np.ascontiguousarray(opened.tile(sample)[16:112, 16:112])
        lr = low_resolution(config, hr, sample.key)
        with torch.no_grad():
            sr = to_pixels(stage.network.eval()(to_tensor(lr)))
        simple = enlarge(lr, 4, Image.Resampling.BICUBIC)
        scores.append((psnr(config, sr, hr), psnr(config, simple, hr)))
    mean = np.mean(scores, axis=0)
    ((step, values),) = recorded_in(tmp_path)
    assert step == 1
    assert values["validation/psnr_y"] == pytest.approx(mean[0])
    assert values["validation/psnr_y_bicubic"] == pytest.approx(mean[1])
    assert callback.score == callback.score_at(1) == values["validation/psnr_y"]
    assert callback.score_at(2) is None
    ((_, picture),) = recorded_in(tmp_path, "picture")
    with Image.open(tmp_path / picture) as image:
        assert image.width == 3 * 96 + 12
        assert image.height == 4 * (96 + 22)
        first = np.ascontiguousarray(opened.tile(opened.manifest.split("val")[0])[16:112, 16:112])
        assert (np.asarray(image)[:96, -96:] == first).all()


def luma(image: np.ndarray) -> np.ndarray:
    """Y of BT.601 in 8 bits, by the published coefficients, of `[H, W, 3]` uint8."""
    return np.round(16 + image.astype(float) @ np.array([65.481, 128.553, 24.966]) / 255)


@pytest.mark.parametrize(("extra", "border"), [
    ((), 4), (("evaluate.crop_border=0",), 0), (("evaluate.crop_border=9",), 9),
])  # fmt: skip
def test_its_psnr_is_that_of_luma_without_the_border(
    dataset: Path, tmp_path: Path, extra: tuple[str, ...], border: int
) -> None:
    join()
    config = configure(dataset, *EVERY, *extra)
    stage = make_stage(config, "joint")
    validation(config, tmp_path, built=stage).after_step(result(1, loss=0.0))
    opened = open_dataset(config.data, config.stream)
    errors = []
    for sample in opened.manifest.split("val")[:5]:
        hr = opened.tile(sample)[16:112, 16:112]
        lr = bicubic(np.ascontiguousarray(hr), 4)
        with torch.no_grad():
            sr = to_pixels(stage.network.eval()(to_tensor(lr)))
        simple = np.asarray(Image.fromarray(lr).resize((96, 96), Image.Resampling.BICUBIC))
        inner = slice(border, 96 - border)
        errors.append([np.square(luma(x) - luma(hr))[inner, inner].mean() for x in (sr, simple)])
    ours, theirs = (10 * np.log10(255**2 / np.array(errors))).mean(0)
    ((_, values),) = recorded_in(tmp_path)
    assert values["validation/psnr_y"] == pytest.approx(ours)
    assert values["validation/psnr_y_bicubic"] == pytest.approx(theirs)


def test_the_autoencoder_shows_what_it_reconstructs_and_claims_no_bicubic(
    dataset: Path, tmp_path: Path
) -> None:
    join()
    callback = validation(configure(dataset, *EVERY), tmp_path, "autoencoder")
    callback.after_step(result(1, loss=0.0))
    assert [set(values) for _, values in recorded_in(tmp_path)] == [{"validation/psnr_y"}]


def test_it_comes_every_so_many_steps_and_at_the_last(dataset: Path, tmp_path: Path) -> None:
    join()
    config = configure(dataset, *EVERY, "train.validate_every=3", "train.steps=7")
    callback = validation(config, tmp_path)
    for step in range(1, 8):
        callback.after_step(result(step, loss=0.0))
    assert [step for step, _ in recorded_in(tmp_path)] == [3, 6, 7]


class Careless(JointStage):
    """A stage whose preview draws numbers, asks for gradients, and may fail."""

    drawn: list[Tensor]
    fails = False

    def preview(self, x_l: Tensor, x_h: Tensor) -> Tensor:
        assert not any(module.training for module in self.modules())
        self.drawn.append(torch.rand(3))
        if self.fails:
            raise RuntimeError("in the middle")
        return super().preview(x_l, x_h)


@pytest.mark.parametrize("fails", [False, True])
def test_modes_random_state_and_weights_are_as_before(
    dataset: Path, tmp_path: Path, fails: bool
) -> None:
    join()
    config = configure(dataset, *EVERY)
    stage = Careless(make_stage(config, "joint").network, JointStage.Options())
    stage.drawn, stage.fails = [], fails
    stage.train()
    stage.network.decoder.eval()
    modes = {name: module.training for name, module in stage.named_modules()}
    entered = []

    @contextmanager
    def averaged() -> Iterator[None]:
        entered.append("in")
        try:
            yield
        finally:
            entered.append("out")

    callback = validation(config, tmp_path, averaged=averaged, built=stage)
    state = torch.get_rng_state()
    for _ in range(2):
        if fails:
            with pytest.raises(RuntimeError, match="in the middle"):
                callback.after_step(result(1, loss=0.0))
        else:
            callback.after_step(result(1, loss=0.0))
    assert torch.equal(torch.get_rng_state(), state)
    assert {name: module.training for name, module in stage.named_modules()} == modes
    assert all(parameter.grad is None for parameter in stage.parameters())
    assert entered == ["in", "out"] * 2
    # What a preview draws is the same at every validation.
    half = len(stage.drawn) // 2
    assert all(
        torch.equal(*pair) for pair in zip(stage.drawn[:half], stage.drawn[half:], strict=True)
    )


def test_a_run_with_validation_learns_the_same_bit_for_bit(dataset: Path) -> None:
    weights = []
    for name, extra in (("plain", ()), ("validated", EVERY)):
        config = configure(dataset, f"run.name={name}", "train.zero_stage=1", *extra)
        run_stages(config, ["autoencoder", "joint"])
        last = run_checkpoints(config, f"{name}-joint").newest()
        assert last is not None
        weights.append({"model": last.live_weights(), "ema": last.ema()})
    plain, validated = weights
    for file in ("model", "ema"):
        assert plain[file].keys() == validated[file].keys()
        assert all(torch.equal(v, validated[file][n]) for n, v in plain[file].items())
    client = tracking.connect(config.mlflow)
    run = str(tracking.find_run(client, config.mlflow, "validated-joint"))
    history = client.get_metric_history(run, "validation/psnr_y")
    assert [metric.step for metric in history] == [1, 2, 3, 4]
    pictures = [file.path for file in client.list_artifacts(run, "pictures")]
    assert sorted(pictures) == [f"pictures/validation-00000{step}.png" for step in (1, 2, 3, 4)]


def test_a_run_can_be_validated_and_profiled_from_any_step_on(dataset: Path) -> None:
    train = configure(dataset, "train.schedule=constant")
    run_stages(train, ["autoencoder"])
    more = configure(
        dataset, "train.schedule=constant", "train.steps=6", "train.profile=[4,1]", *EVERY
    )
    run_stages(more, ["autoencoder"])
    folder = run_checkpoints(more, "small-autoencoder").workspace / "profile"
    assert sorted(path.name for path in folder.iterdir()) == [
        "trace-000005-000005.json", "trace-000005-000005.txt",
    ]  # fmt: skip


def test_each_checkpoint_has_the_score_of_its_own_weights(dataset: Path) -> None:
    """Checkpoints are due at steps 3 and 6, validations at 2, 4 and 6."""
    settings = ("train.steps=6", "train.checkpoint_every=3", "train.keep_checkpoints=9")
    config = configure(dataset, *settings, *EVERY, "train.validate_every=2")
    run_stages(config, ["autoencoder"])
    config.run.name = "best"
    for stage in config.stages.values():
        stage.train.keep_best = 1
    run_stages(config, ["autoencoder"])
    history = validated_in(config, "small-autoencoder")
    for name, steps in (("small-autoencoder", [3, 6]), ("best-autoencoder", [2, 3, 4, 6])):
        checkpoints = run_checkpoints(config, name)
        assert checkpoints.steps() == steps
        scores = {each.step: each.state().score for each in checkpoints.complete()}
        assert scores == {step: history.get(step) for step in steps}


def validated_in(config: Config, name: str) -> dict[int, float]:
    """The validation PSNR that MLflow holds, by step."""
    client = tracking.connect(config.mlflow)
    run = str(tracking.find_run(client, config.mlflow, name))
    history = client.get_metric_history(run, "validation/psnr_y")
    return {metric.step: metric.value for metric in history}


def sharded_rank_of_two(rank: int, dataset: Path, folder: Path) -> None:
    """One rank's validation under ZeRO 3, where each forward gathers the weights from both."""
    torch.set_num_threads(1)
    join(rank, 2, folder / "store")
    config = configure(dataset, *EVERY, "train.zero_stage=3")
    engine = make_engine(config, "autoencoder")
    recorder = recorder_in(folder) if rank == 0 else None
    callback = validation(config, folder, "autoencoder", built=engine.stage, recorder=recorder)
    callback.after_step(result(4, loss=0.0))
    (folder / f"score-{rank}").write_text(str(callback.score))


def test_validation_under_zero_3_ends_where_the_ranks_have_no_equal_shares(
    dataset: Path, tmp_path: Path
) -> None:
    """Five images, or as many as the dataset has, but an odd number, on two ranks."""
    num_images = len(
        open_dataset(str(dataset), configure(dataset).stream).manifest.split("val")[:5]
    )
    assert num_images % 2 == 1
    run_ranks(sharded_rank_of_two, (dataset, tmp_path), 2)
    scores = [float((tmp_path / f"score-{rank}").read_text()) for rank in (0, 1)]
    assert scores[0] == scores[1] > 0


def rank_of_two(rank: int, dataset: Path, folder: Path) -> None:
    """One rank's metrics and validation."""
    torch.set_num_threads(1)  # two ranks with a thread per core each would wait for each other
    join(rank, 2, folder / "store")
    config = configure(dataset, *EVERY)
    recorder = recorder_in(folder) if rank == 0 else None
    metrics = MetricsCallback(recorder, make_engine(config), every=2, batch_size=4, steps=4)
    metrics.after_step(result(1, loss=1.0 + rank))
    metrics.after_step(result(2, loss=5.0 + rank))
    callback = validation(config, folder, recorder=recorder)
    callback.after_step(result(4, loss=0.0))
    (folder / f"score-{rank}").write_text(str(callback.score))


def test_two_ranks_share_the_images_and_average_what_they_measure(
    dataset: Path, tmp_path: Path
) -> None:
    join()
    alone = tmp_path / "alone"
    callback = validation(configure(dataset, *EVERY), alone)
    callback.after_step(result(4, loss=0.0))
    run_ranks(rank_of_two, (dataset, tmp_path), 2)
    (_, metrics), (_, measured) = recorded_in(tmp_path)
    assert metrics["train/loss"] == 3.5
    assert measured == pytest.approx(recorded_in(alone)[0][1])
    scores = [float((tmp_path / f"score-{rank}").read_text()) for rank in (0, 1)]
    assert scores == pytest.approx([callback.score] * 2)
    name = "pictures/validation-000004.png"
    assert (tmp_path / name).read_bytes() == (alone / name).read_bytes()
