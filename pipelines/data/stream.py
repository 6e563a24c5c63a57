"""Prepares batches of LR/HR crops for one rank, and makes LR from HR on the fly."""

import multiprocessing
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
from pipelines.data.order import Draw, Order, SampleOrder, sample_seed
from pipelines.data.prefetch import ShardPrefetcher
from pipelines.data.replay import MixedOrder, Replay
from pipelines.errors import UserError
from srmodels.degradation import Draws, degrade
from srmodels.transfer import to_device

#: The number of batches that a loader prepares ahead of the training.
PREFETCH = 4
#: Modules that the server of loader processes imports once, instead of each of them: PyTorch alone
#: takes seconds of a core.
PRELOADED = ["__main__", __name__]

#: (epoch, shard, row) of a sample. `shard` is the shard's number in the manifest.
Place = tuple[int, int, int]


@dataclass(frozen=True)
class Batch:
    """One rank's share of a step.

    Images stay uint8 until they are on the device, which is a quarter of the bytes of float32.

    Attributes:
        x_l: the LR images, `[B, 3, H, W]` uint8 RGB.
        x_h: the HR images, `[B, 3, H * scale, W * scale]` uint8 RGB.
        seeds: the seed of each sample's noise, `[B]` int64.
        keys: the key of each sample in the dataset.
    """

    x_l: Tensor
    x_h: Tensor
    seeds: Tensor
    keys: list[str]


@dataclass(frozen=True)
class CropSettings:
    """The settings that make a training pair of a tile.

    Attributes:
        crop: the side of the HR crop in pixels.
        scale: the ratio of the HR side to the LR side.
        degradation: the options of a degradation preset.
    """

    crop: int
    scale: int
    degradation: Any

    @staticmethod
    def of(config: Config, train: TrainConfig) -> "CropSettings":
        """Returns the settings of a configuration, for a stage's `train`."""
        return CropSettings(train.crop, config.networks.scale, config.degradation.options)


def make_pair(
    tile: NDArray[np.uint8], settings: CropSettings, seed: int, log: list[str] | None = None
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Returns the (LR, HR) crops of a tile, `[H, W, 3]` uint8 RGB.

    `seed` alone decides their place, flips, transpose and degradation.

    Args:
        tile: the HR tile, `[H, W, 3]` uint8 RGB, at least as large as the crop.
        log: a list that takes a line for each step of the degradation.
    """
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
    """Stacks `[H, W, 3]` uint8 images of one size to `[B, 3, H, W]` uint8, channels last."""
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)


def to_unit(images: Tensor, device: torch.device) -> Tensor:
    """Returns uint8 images of any shape as float32 in [0, 1] on `device`."""
    return to_device(images, device).float().div_(255.0)


class BatchMaker:
    """A map-style dataset of torch that makes batches in a loader process."""

    def __init__(self, dataset: Dataset, settings: CropSettings, seed: int) -> None:
        self.dataset, self.settings, self.seed = dataset, settings, seed
        self.failed: UserError | None = None

    def __getitem__(self, draws: list[Place]) -> "Batch | UserError":
        """Returns the batch of these samples, or the error that prevents it.

        It returns the error because torch would hide an exception in a traceback. After an error
        it makes no other batch.
        """
        if self.failed is None:
            try:
                return self.make(draws)
            except UserError as error:
                self.failed = error
        return self.failed

    def make(self, draws: list[Place]) -> Batch:
        """Returns the batch of these samples.

        Raises:
            UserError: a sample cannot be read.
        """
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
    """The endless batches of one rank, from `start_step` on.

    Loader processes prepare them ahead; for `processes=0` a thread of this process does. The
    batches do not depend on this.

    Args:
        seed: the seed of order, crops and degradation.
        batch_size: the number of samples in a step of all ranks together.
        replay: the part of the dataset that takes turns with the rest; None: all samples come
            equally often.

    Raises:
        UserError: the crop does not fit into the tiles; while iterating, the cache is too small,
            or a sample cannot be read.
    """

    def __init__(
        self,
        dataset: Dataset,
        settings: CropSettings,
        *,
        seed: int,
        batch_size: int,
        replay: Replay | None = None,
        rank: int = 0,
        world_size: int = 1,
        start_step: int = 0,
        processes: int = 0,
    ) -> None:
        check_crop(dataset, settings.crop)
        self.dataset, self.settings, self.seed = dataset, settings, seed
        self.order, self.shards = training_order(dataset, seed, replay)
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
        """Yields the samples of each step when a loader is free to make its batch."""
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
        # A fork of a process with threads of Ray, gRPC or CUDA may hang. A spawned process runs
        # C++ destructors at its end, and some of them abort.
        processes = multiprocessing.get_context("forkserver")
        processes.set_forkserver_preload(PRELOADED)
        loader: DataLoader[Any] = DataLoader(
            self._maker(),  # type: ignore[arg-type]
            sampler=_Draws(draws),
            batch_size=None,
            num_workers=self.processes,
            prefetch_factor=PREFETCH,
            worker_init_fn=partial(_start_process, dict(os.environ)),
            multiprocessing_context=processes,
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
    """The stream's draws as a sampler, the form that torch's DataLoader takes."""

    def __init__(self, draws: Iterator[list[Place]]) -> None:
        self.draws = draws

    def __iter__(self) -> Iterator[list[Place]]:
        return self.draws


def check_crop(dataset: Dataset, crop: int) -> None:
    """Compares the crop with a dataset's tiles.

    Raises:
        UserError: the crop is larger than a tile.
    """
    tile = dataset.manifest.settings["tile"]
    if crop > tile:
        raise UserError(
            f"train.crop={crop} does not fit into the tiles of {dataset.store.location}, which "
            f"have {tile} px: set a smaller train.crop, or shard with a larger shard.tile "
            "(jobs/shard.py)."
        )


def training_order(
    dataset: Dataset, seed: int, replay: Replay | None = None
) -> tuple[Order, list[int]]:
    """Returns the order of a dataset's training samples, and the numbers of its training shards.

    Args:
        replay: the part that takes turns with the rest; None: all samples come once per epoch.
    """
    shards = dataset.manifest.shard_numbers("train")
    if replay is None:
        return _order(dataset, seed, shards), shards
    new = sorted(set(shards) - set(replay.earlier))
    if replay.share == 0:
        return _order(dataset, seed, new), new
    earlier, counts = list(replay.earlier), dataset.manifest.shards
    smaller = min(sum(len(counts[i]) for i in part) for part in (earlier, new))
    order = MixedOrder(
        _order(dataset, seed, earlier, lanes=smaller),
        _order(dataset, seed, new, lanes=smaller),
        replay.share,
    )
    return order, [*earlier, *new]


def _order(dataset: Dataset, seed: int, shards: list[int], lanes: int | None = None) -> SampleOrder:
    """Returns the order of the samples in some shards, in as many lanes as the settings say, or
    in fewer."""
    manifest, stream = dataset.manifest, dataset.stream
    counts = [len(manifest.shards[shard]) for shard in shards]
    lanes = min(stream.lanes, lanes or stream.lanes)
    return SampleOrder(manifest.digest, seed, counts, window=stream.window, lanes=lanes)


def _start_process(environment: dict[str, str], _: int) -> None:
    """Limits a loader process to one core, and gives it the environment of its parent.

    There are many loader processes, so threads of OpenCV would slow them down. The fork server
    may be older than the parent's environment.
    """
    os.environ.update(environment)
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
