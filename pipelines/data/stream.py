"""Batches of LR/HR crops for one rank, degraded on the fly, prepared ahead of the training."""

import os
from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader

from pipelines.config.schema import Config, TrainConfig
from pipelines.data.dataset import Dataset
from pipelines.data.order import Draw, SampleOrder, sample_seed
from pipelines.data.prefetch import ShardPrefetcher
from pipelines.errors import UserError
from srmodels.degradation import Draws, degrade

#: Batches that are prepared ahead of the one being trained.
PREFETCH = 4

#: (epoch, shard, row) of a sample, `shard` being its number in the manifest.
Place = tuple[int, int, int]


@dataclass(frozen=True)
class Batch:
    """One rank's share of a step. Images are `[B, 3, H, W]` uint8 RGB: a quarter of the bytes on
    their way between processes and to the device."""

    x_l: Tensor
    x_h: Tensor
    seeds: Tensor
    keys: list[str]


@dataclass(frozen=True)
class CropSettings:
    """How a tile becomes a training pair. `degradation` is a preset's options."""

    crop: int
    scale: int
    degradation: Any

    @staticmethod
    def of(config: Config, train: TrainConfig) -> "CropSettings":
        return CropSettings(train.crop, config.networks.scale, config.degradation.options)


def make_pair(
    tile: NDArray[np.uint8], settings: CropSettings, seed: int, log: list[str] | None = None
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """(LR, HR) crops of a tile: place, flips, transpose and degradation, all drawn from `seed`;
    `log` receives a line per step of the degradation."""
    generator = np.random.Generator(np.random.Philox(key=seed))
    y = int(generator.integers(tile.shape[0] - settings.crop + 1))
    x = int(generator.integers(tile.shape[1] - settings.crop + 1))
    hr = tile[y : y + settings.crop, x : x + settings.crop]
    flips = int(generator.integers(8))
    if flips & 1:
        hr = hr[:, ::-1]
    if flips & 2:
        hr = hr[::-1]
    if flips & 4:
        hr = hr.transpose(1, 0, 2)
    hr = np.ascontiguousarray(hr)
    return degrade(hr, settings.scale, settings.degradation, Draws(generator, log)), hr


def collate(images: list[NDArray[np.uint8]]) -> Tensor:
    """`[B, 3, H, W]` uint8, stored channels last, from uint8 RGB images of one size."""
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)


def to_unit(images: Tensor, device: torch.device) -> Tensor:
    """float32 in [0, 1] on `device` from uint8 images."""
    return images.to(device).float().div_(255.0)


class BatchMaker:
    """Draws → batch. What a loader process runs; a data set in torch's sense."""

    def __init__(self, dataset: Dataset, settings: CropSettings, seed: int) -> None:
        self.dataset, self.settings, self.seed = dataset, settings, seed
        self.failed: UserError | None = None

    def __getitem__(self, draws: list[Place]) -> "Batch | UserError":
        """A batch, or what is wrong: torch would bury an exception in a traceback. What has gone
        wrong once is not tried again for the batches that were asked for meanwhile."""
        if self.failed is None:
            try:
                return self.make(draws)
            except UserError as error:
                self.failed = error
        return self.failed

    def make(self, draws: list[Place]) -> Batch:
        """The batch of these samples."""
        pairs, seeds, keys = [], [], []
        for epoch, shard, row in draws:
            sample = self.dataset.manifest.sample(shard, row)
            seed = sample_seed(self.seed, sample.key, epoch)
            pairs.append(make_pair(self.dataset.tile(sample), self.settings, seed))
            seeds.append(seed)
            keys.append(sample.key)
        return Batch(
            x_l=collate([lr for lr, _ in pairs]),
            x_h=collate([hr for _, hr in pairs]),
            seeds=torch.tensor(seeds, dtype=torch.int64),
            keys=keys,
        )


class TrainingStream:
    """Endless batches of one rank, from `start_step` on, prepared ahead by `processes` processes,
    or for 0 by a thread of this one. The batches do not depend on which."""

    def __init__(
        self,
        dataset: Dataset,
        settings: CropSettings,
        *,
        seed: int,
        batch_size: int,
        rank: int = 0,
        world_size: int = 1,
        start_step: int = 0,
        processes: int = 0,
    ) -> None:
        check_crop(dataset, settings.crop)
        self.dataset, self.settings, self.seed = dataset, settings, seed
        self.order, self.shards = training_order(dataset, seed)
        self.batch_size, self.rank, self.world_size = batch_size, rank, world_size
        self.start_step, self.processes = start_step, processes

    def __iter__(self) -> Iterator[Batch]:
        blocks = self.order.blocks(self.start_step * self.batch_size, self.rank, self.world_size)
        in_flight = PREFETCH * max(1, self.processes) * self.batch_size
        prefetcher = ShardPrefetcher(
            self.dataset, self.order, blocks, self.shards, in_flight, self.world_size
        )
        draws = self._draws(prefetcher)
        batches = self._in_processes(draws) if self.processes else self._in_a_thread(draws)
        with prefetcher, closing(batches):
            for batch in batches:
                if isinstance(batch, UserError):
                    raise batch
                yield batch

    def _draws(self, prefetcher: ShardPrefetcher) -> Iterator[list[Place]]:
        """Each step's samples, as soon as somebody is free to make a batch of them."""
        step = self.start_step
        while True:
            prefetcher.reached(step * self.batch_size)
            draws = self.order.step(step, self.batch_size, self.rank, self.world_size)
            yield [self._place(draw) for draw in draws]
            step += 1

    def _place(self, draw: Draw) -> Place:
        return draw.epoch, self.shards[draw.shard], draw.row

    def _maker(self) -> BatchMaker:
        return BatchMaker(self.dataset, self.settings, self.seed)

    def _in_processes(
        self, draws: Iterator[list[Place]]
    ) -> "Generator[Batch | UserError, None, None]":
        loader: DataLoader[Any] = DataLoader(
            self._maker(),  # type: ignore[arg-type]
            sampler=_Draws(draws),
            batch_size=None,
            num_workers=self.processes,
            prefetch_factor=PREFETCH,
            worker_init_fn=partial(_start_process, dict(os.environ)),
            # A fork of a process with Ray's, gRPC's or CUDA's threads may hang; one that is
            # spawned ends with C++ destructors, some of which abort.
            multiprocessing_context="forkserver",
        )
        yield from loader

    def _in_a_thread(
        self, draws: Iterator[list[Place]]
    ) -> "Generator[Batch | UserError, None, None]":
        pending: deque[Future[Batch | UserError]] = deque()
        maker = self._maker()
        pool = ThreadPoolExecutor(1, thread_name_prefix="stream")
        try:
            while True:
                while len(pending) < PREFETCH:
                    pending.append(pool.submit(maker.__getitem__, next(draws)))
                yield pending.popleft().result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


class _Draws(torch.utils.data.Sampler[list[Place]]):
    """The stream's draws as torch's DataLoader wants them."""

    def __init__(self, draws: Iterator[list[Place]]) -> None:
        self.draws = draws

    def __iter__(self) -> Iterator[list[Place]]:
        return self.draws


def check_crop(dataset: Dataset, crop: int) -> None:
    """Raises UserError if a dataset's tiles are smaller than the crops."""
    tile = dataset.manifest.settings["tile"]
    if crop > tile:
        raise UserError(
            f"train.crop={crop} does not fit into the tiles of {dataset.store.location}, which "
            f"have {tile} px: set a smaller train.crop, or shard with a larger shard.tile."
        )


def training_order(dataset: Dataset, seed: int) -> tuple[SampleOrder, list[int]]:
    """The order of a dataset's training samples, and the numbers of its training shards."""
    manifest, stream = dataset.manifest, dataset.stream
    shards = manifest.shard_numbers("train")
    counts = [len(manifest.shards[shard]) for shard in shards]
    order = SampleOrder(manifest.digest, seed, counts, window=stream.window, lanes=stream.lanes)
    return order, shards


def _start_process(environment: dict[str, str], _: int) -> None:
    """One core per loader process: they are many, and OpenCV's threads would only be in the way.
    The environment is that of now, not that of when the server that forks was started."""
    os.environ.update(environment)
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
