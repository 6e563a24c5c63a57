"""Batches of LR/HR crops for one rank: bytes through webdataset, degraded on the fly."""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from webdataset.tariterators import group_by_keys, tar_file_expander

from pipelines.data.manifest import Manifest, Sample
from pipelines.data.order import Draw, SampleOrder
from srmodels.degradation import degrade

#: Batches that are prepared ahead of the one being trained.
PREFETCH = 4


@dataclass(frozen=True)
class Batch:
    """One rank's share of a step. Images are float32 in [0, 1]."""

    x_l: Tensor
    x_h: Tensor
    seeds: Tensor
    keys: list[str]


@dataclass(frozen=True)
class CropSettings:
    """How a tile becomes a training pair."""

    crop: int
    scale: int
    degradation: str


def read_sample(directory: Path, manifest: Manifest, sample: Sample) -> dict[str, Any]:
    """One sample's files by extension: only its own bytes of the shard are read."""
    path = directory / manifest.shards[sample.shard].path
    with path.open("rb") as file:
        file.seek(sample.offset)
        data = file.read(sample.size)
    source = {"url": str(path), "stream": BytesIO(data)}
    (found,) = group_by_keys(tar_file_expander([source]))
    assert found["__key__"] == sample.key, f"{path} does not hold {sample.key} where it should"
    return dict(found)


def read_tile(directory: Path, manifest: Manifest, sample: Sample) -> NDArray[np.uint8]:
    """The HR tile `[H, W, 3]` uint8 RGB of a sample."""
    png = np.frombuffer(read_sample(directory, manifest, sample)["png"], np.uint8)
    bgr = cv2.imdecode(png, cv2.IMREAD_COLOR)
    assert bgr is not None, f"{sample.key} is not an image"
    return np.ascontiguousarray(bgr[..., ::-1], dtype=np.uint8)


def make_pair(
    tile: NDArray[np.uint8], settings: CropSettings, seed: int
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """(LR, HR) crops of a tile: place, flips, transpose and degradation, all drawn from `seed`."""
    generator = np.random.default_rng(seed)
    y = int(generator.integers(tile.shape[0] - settings.crop + 1))
    x = int(generator.integers(tile.shape[1] - settings.crop + 1))
    hr = tile[y : y + settings.crop, x : x + settings.crop]
    if generator.random() < 0.5:
        hr = hr[:, ::-1]
    if generator.random() < 0.5:
        hr = hr[::-1]
    if generator.random() < 0.5:
        hr = hr.transpose(1, 0, 2)
    hr = np.ascontiguousarray(hr)
    return degrade(hr, settings.scale, settings.degradation, generator), hr


def to_tensor(images: list[NDArray[np.uint8]]) -> Tensor:
    """`[B, 3, H, W]` float32 in [0, 1] from uint8 RGB images of one size."""
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float().div_(255.0)


class TrainingStream:
    """Endless batches of one rank, from `start_step` on, prepared by a few threads ahead of time.

    OpenCV, Pillow and the tar reader release the GIL, so threads suffice.
    """

    def __init__(
        self,
        directory: Path,
        manifest: Manifest,
        settings: CropSettings,
        *,
        seed: int,
        batch_size: int,
        rank: int = 0,
        world_size: int = 1,
        start_step: int = 0,
        threads: int = 1,
    ) -> None:
        self.directory, self.manifest, self.settings = directory, manifest, settings
        self.samples = manifest.split("train")
        self.order = SampleOrder(manifest.digest, seed, len(self.samples))
        self.batch_size, self.rank, self.world_size = batch_size, rank, world_size
        self.start_step, self.threads = start_step, threads

    def __iter__(self) -> Iterator[Batch]:
        pending: deque[Future[Batch]] = deque()
        step = self.start_step
        with ThreadPoolExecutor(self.threads, thread_name_prefix="stream") as pool:
            try:
                while True:
                    while len(pending) <= PREFETCH:
                        pending.append(pool.submit(self._batch, self._draws(step)))
                        step += 1
                    yield pending.popleft().result()
            finally:
                pool.shutdown(wait=False, cancel_futures=True)

    def _draws(self, step: int) -> list[Draw]:
        return self.order.step(step, self.batch_size, self.rank, self.world_size)

    def _batch(self, draws: list[Draw]) -> Batch:
        samples = [self.samples[draw.index] for draw in draws]
        pairs = [
            make_pair(read_tile(self.directory, self.manifest, sample), self.settings, draw.seed)
            for sample, draw in zip(samples, draws, strict=True)
        ]
        return Batch(
            x_l=to_tensor([lr for lr, _ in pairs]),
            x_h=to_tensor([hr for _, hr in pairs]),
            seeds=torch.tensor([draw.seed for draw in draws], dtype=torch.int64),
            keys=[sample.key for sample in samples],
        )
