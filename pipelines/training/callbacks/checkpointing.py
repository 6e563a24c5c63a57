"""Writes checkpoints when they are due; the training goes on when one cannot be written."""

import shutil
import socket
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch.distributed as dist

from pipelines.config.schema import TrainConfig
from pipelines.errors import UserError
from pipelines.runs.checkpoint import RunState
from pipelines.runs.writer import CheckpointWriter, write_weights
from pipelines.storage.files import local_files
from pipelines.storage.retries import RetryPolicy
from pipelines.training.ema import EMA
from pipelines.training.engine import Engine
from pipelines.training.footprint import checkpoint_bytes
from pipelines.training.loop import StepResult
from pipelines.training.ranks import gathered

#: Seconds between two attempts at a checkpoint that the run needs.
PAUSE_S = 5.0
#: Room that a disk must have beyond a rank's files.
SPARE_BYTES = 1 << 20


class CheckpointCallback:
    """Writes a checkpoint every `train.checkpoint_every` steps, at the last step, and on `save`.

    With `train.keep_best` it also writes one after each validation, since a score belongs to the
    weights that were validated, and to no others.

    A disk may be full, or a store may not answer. Then the callback warns and gives this checkpoint
    up, and the next one is tried when it is due. The last checkpoint, and one that `save` asks for,
    are tried again for the policy's budget.

    Every rank must make the same calls. All ranks agree on whether a checkpoint has failed.

    Args:
        make_state: returns the state of the run after a step.

    Raises:
        UserError: the last checkpoint, or one that `save` asks for, cannot be written.
    """

    def __init__(
        self,
        writer: CheckpointWriter,
        engine: Engine,
        ema: EMA,
        train: TrainConfig,
        make_state: Callable[[int], RunState],
        *,
        policy: RetryPolicy,
    ) -> None:
        self.writer, self.engine, self.ema, self.train = writer, engine, ema, train
        self.make_state, self.policy = make_state, policy
        self.written = -1

    def after_step(self, result: StepResult) -> None:
        if result.step == self.train.steps:
            self.save(result.step)
        elif self._is_due(result.step):
            self._warn(self._write(result.step))

    def _is_due(self, step: int) -> bool:
        train = self.train
        validated = train.validate_every and step % train.validate_every == 0
        return step % train.checkpoint_every == 0 or bool(train.keep_best and validated)

    def save(self, step: int) -> None:
        """Writes a checkpoint of this step, unless one exists, and waits until it is complete."""
        clock = self.policy.clock
        deadline = clock.now() + self.policy.budget_s
        while True:
            # A checkpoint that is published for this step may still fail.
            problem = self._arrived() or ("" if self.written == step else self._write(step))
            problem = problem or self._arrived()
            if not problem:
                return
            self.written = -1
            if _agreed(clock.now() > deadline):
                raise UserError(f"the checkpoint of step {step} cannot be written: {problem}")
            self._warn(problem)
            clock.sleep(PAUSE_S)

    def _write(self, step: int) -> str:
        """Stages the files and starts to publish them; returns the problem, or an empty string."""
        self._warn(self._arrived())
        if problem := self._full_disk():
            return problem
        folder, state = self.writer.folder(step), self.make_state(step)
        with local_files(folder):
            self.engine.save(folder)
            weights, ema = self.engine.weights(), self.ema.state_dict()
            if dist.get_rank() == 0:
                write_weights(folder, weights, ema, state)
        self.writer.publish(step, state.score)
        self.written = step
        return ""

    def _arrived(self) -> str:
        """Waits for the last publication; returns the problem of a rank, or an empty string."""
        try:
            self.writer.wait()
            problem = ""
        except UserError as error:
            problem = str(error)
        return next(filter(None, gathered(problem)), "")

    def _full_disk(self) -> str:
        """Returns a sentence on a disk without room for the files of its ranks, or an empty string.

        A disk that is full half-way would leave the other ranks waiting in DeepSpeed's barriers.
        """
        workspace = self.writer.checkpoints.workspace
        with local_files(workspace):
            workspace.mkdir(parents=True, exist_ok=True)
            disk = (socket.gethostname(), workspace.stat().st_dev)
            free = shutil.disk_usage(workspace).free
        needed: dict[Any, int] = defaultdict(int)
        room: dict[Any, int] = {}
        for place, size, left in gathered((disk, self._bytes(), free)):
            needed[place] += size + SPARE_BYTES
            room[place] = min(left, room.get(place, left))
        for place, size in needed.items():
            if room[place] < size:
                return (
                    f"the disk that holds {workspace} on {place[0]} has "
                    f"{room[place] / 2**20:.0f} MiB left and a checkpoint needs "
                    f"{size / 2**20:.0f}: free some space there, or lower train.keep_checkpoints."
                )
        return ""

    def _bytes(self) -> int:
        """Returns the bytes that this rank writes."""
        return checkpoint_bytes(
            sum(map(_numel, self.engine.stage.network.parameters())),
            sum(map(_numel, self.engine.trained.values())),
            zero_stage=self.train.zero_stage,
            ranks=dist.get_world_size(),
            rank=dist.get_rank(),
            optimizer=self.train.optimizer,
        )

    def _warn(self, problem: str) -> None:
        if problem and dist.get_rank() == 0:
            print(f"warning: no checkpoint: {problem} Training goes on.", flush=True)

    def close(self) -> None:
        self.writer.close()


def _agreed(value: bool) -> bool:
    """Returns rank 0's value, since the clocks of the ranks differ."""
    return bool(gathered(value)[0])


def _numel(parameter: Any) -> int:
    return int(getattr(parameter, "ds_numel", parameter.numel()))
