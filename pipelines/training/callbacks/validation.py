"""Measures the averaged weights on the validation split during training."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
import torch.distributed as dist
from PIL import Image

from pipelines.config.schema import Config, TrainConfig
from pipelines.data.dataset import Dataset
from pipelines.evaluation.pictures import Pixels, enlarge, montage, stack
from pipelines.evaluation.protocol import low_resolution, psnr
from pipelines.training.loop import StepResult
from pipelines.training.recorder import Recorder
from srmodels.stage import Stage
from srmodels.upscale import to_pixels, to_tensor

#: Number of images in the picture.
NUM_PICTURES = 4


@dataclass(frozen=True)
class _Pair:
    """An image that a rank validates.

    Attributes:
        counts: False for an image of another rank, which this one repeats.
    """

    number: int
    counts: bool
    lr: Pixels
    hr: Pixels


class ValidationCallback:
    """Validates every `train.validate_every` steps and at the last step, and records a picture.

    The images are the first `train.validate_images` of the validation split. They are cropped to
    their centre and degraded as in evaluation, and the ranks divide them among themselves.
    Validation changes nothing in the training: a run without it has the same bits.

    Args:
        stage: a stage on `device`; its `preview` is measured.
        averaged: a context in which the stage has the averaged weights.
        recorder: None on every rank but rank 0.
    """

    def __init__(
        self,
        stage: Stage,
        config: Config,
        train: TrainConfig,
        dataset: Dataset,
        *,
        averaged: Callable[[], AbstractContextManager[None]],
        recorder: Recorder | None,
        device: torch.device,
    ) -> None:
        self.stage, self.config, self.train, self.dataset = stage, config, train, dataset
        self.averaged, self.recorder, self.device = averaged, recorder, device
        #: PSNR of the last validation in dB, the same on all ranks; larger is better.
        self.score: float | None = None
        self._step: int | None = None

    def after_step(self, result: StepResult) -> None:
        if result.step % self.train.validate_every == 0 or result.step == self.train.steps:
            self._validate(result.step)

    def score_at(self, step: int) -> float | None:
        """Returns the PSNR in dB of the weights after a step; None if they were not validated."""
        return self.score if step == self._step else None

    def _validate(self, step: int) -> None:
        with self.averaged(), _undisturbed(self.stage, self.device), torch.no_grad():
            predicted = [(pair, self._predict(pair)) for pair in self._pairs]
        shown = [(pair, sr) for pair, sr in predicted if pair.counts]
        scale = self.config.networks.scale
        sums = torch.zeros(3, dtype=torch.float64)
        for pair, sr in shown:
            bicubic = enlarge(pair.lr, scale, Image.Resampling.BICUBIC)
            scores = psnr(self.config, sr, pair.hr), psnr(self.config, bicubic, pair.hr)
            sums += torch.tensor([*scores, 1.0])
        sums = sums.to(self.device)
        dist.all_reduce(sums)
        prediction, bicubic_psnr, count = sums.tolist()
        self.score, self._step = prediction / count, step
        values = {"validation/psnr_y": self.score}
        if self.stage.previews_inference:
            values["validation/psnr_y_bicubic"] = bicubic_psnr / count
        sheets = self._gather(
            {p.number: self._sheet(p, sr) for p, sr in shown if p.number < NUM_PICTURES}
        )
        if self.recorder is not None:
            self.recorder.metrics(values, step)
            self.recorder.picture("validation", Image.fromarray(stack(sheets)), step)

    @cached_property
    def _pairs(self) -> list[_Pair]:
        """The images that this rank validates, as many as each other rank has.

        Under ZeRO 3 a forward gathers weights from all ranks, so a rank without an image of its own
        would leave the others waiting.
        """
        samples = self.dataset.manifest.split("val")[: self.train.validate_images]
        ranks = dist.get_world_size()
        pairs = []
        for position in range(dist.get_rank(), -(-len(samples) // ranks) * ranks, ranks):
            number = position % len(samples)
            hr = self._centre(self.dataset.tile(samples[number]))
            lr = low_resolution(self.config, hr, samples[number].key)
            pairs.append(_Pair(number, position < len(samples), lr, hr))
        return pairs

    def _centre(self, tile: Pixels) -> Pixels:
        multiple = self.config.networks.scale * self.stage.network.size_multiple
        height, width = (
            min(side, self.train.validate_crop) // multiple * multiple for side in tile.shape[:2]
        )
        top, left = (tile.shape[0] - height) // 2, (tile.shape[1] - width) // 2
        return np.ascontiguousarray(tile[top : top + height, left : left + width])

    def _predict(self, pair: _Pair) -> Pixels:
        x_l, x_h = (to_tensor(image).to(self.device) for image in (pair.lr, pair.hr))
        return to_pixels(self.stage.preview(x_l, x_h))

    def _sheet(self, pair: _Pair, sr: Pixels) -> Pixels:
        lr = enlarge(pair.lr, self.config.networks.scale, Image.Resampling.NEAREST)
        return montage({"LR": lr, "prediction": sr, "HR": pair.hr})

    def _gather(self, mine: dict[int, Pixels]) -> list[Pixels]:
        """Returns the sheets of all ranks in the order of the images; empty except on rank 0."""
        gathered: list[dict[int, Pixels]] = [{}] * dist.get_world_size()
        dist.gather_object(mine, gathered if dist.get_rank() == 0 else None)
        sheets = {number: sheet for part in gathered for number, sheet in part.items()}
        return [sheets[number] for number in sorted(sheets)]

    def close(self) -> None:
        pass


@contextmanager
def _undisturbed(stage: Stage, device: torch.device) -> Iterator[None]:
    """Puts the stage into eval mode with a fixed random state; restores both after the block."""
    modes = {module: module.training for module in stage.modules()}
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(0)
        try:
            stage.eval()
            yield
        finally:
            for module, mode in modes.items():
                module.training = mode
