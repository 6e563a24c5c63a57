"""Lets the driver and the workers of a run under Ray tell each other to stop or to give up."""

import threading
import time
from typing import Any

from pipelines.errors import UserError
from pipelines.training.preemption import Notice

POLL_S = 1.0


class Supervisor:
    """A Ray actor, one for each run, that decides whether another attempt makes sense.

    Ray Train starts the workers again after every failure. That is right while each attempt gets
    further than the one before. The supervisor ends the run when attempts get no further, or after
    a failure that the user has to mend.

    Args:
        max_failures: number of attempts in a row that may fail without a new checkpoint.
    """

    def __init__(self, max_failures: int) -> None:
        self.max_failures = max_failures
        self.attempts, self.step = 0, -1
        self.stop, self.failure, self.cause = False, "", "a worker process died"

    def begin(self) -> bool:
        """Tells whether to train at all. Rank 0 calls it first of all."""
        self.attempts += 1
        if not self.failure and self.attempts > self.max_failures + 1:
            where = f"the checkpoint of step {self.step}" if self.step > 0 else "the start"
            self.failure = (
                f"it failed {self.attempts - 1} times in a row without getting beyond "
                f"{where} (train.max_failures={self.max_failures}); the last cause: "
                f"{self.cause}. The log above and Ray's dashboard have the details; the same "
                "command goes on from the last checkpoint."
            )
        return not self.failure

    def resumed(self, step: int) -> None:
        """Notes the step that the run goes on from. Rank 0 calls it."""
        if step > self.step:
            self.attempts, self.step = 1, step

    def failed(self, cause: str, *, hopeless: bool) -> None:
        """Notes the cause of a failure. A rank calls it before it ends.

        Args:
            hopeless: whether the user has to change something before another attempt.
        """
        self.cause = cause
        if hopeless and not self.failure:
            self.failure = cause

    def request_stop(self) -> None:
        """Asks the run to end. The driver calls it."""
        self.stop = True

    def stopping(self) -> bool:
        """Tells whether the run was asked to end."""
        return self.stop

    def why_failed(self) -> str:
        """Returns the cause of the failure; empty where there was none."""
        return self.failure


class RayNotice:
    """The newest notice to this rank, which a thread asks for while the rank trains.

    Every rank must make one, since Ray's own notice is a collective call.
    """

    def __init__(self, supervisor: Any) -> None:
        self.supervisor = supervisor
        self.told = Notice.NONE
        threading.Thread(target=self._watch, name="notices", daemon=True).start()

    def __call__(self) -> Notice:
        return self.told

    def _watch(self) -> None:
        import ray
        import ray.train

        while self.told is not Notice.STOP:
            try:
                if ray.get(self.supervisor.stopping.remote()):
                    self.told = Notice.STOP
                elif ray.train.get_preemption_info() is not None:
                    self.told = Notice.PREEMPTION
            except Exception:
                # Ray is ending the worker group, and the training itself will fail.
                return
            time.sleep(POLL_S)


def train_loop(given: dict[str, Any]) -> None:
    """Trains on one worker of Ray Train.

    Args:
        given: a dict with the `StageRun` as `run`, the handle of the `supervisor`, and the
            `witnesses` that the worker's node must see.
    """
    import ray
    import ray.train
    from ray.train.collective import broadcast_from_rank_zero

    supervisor = given["supervisor"]
    rank = ray.train.get_context().get_world_rank()
    begins = ray.get(supervisor.begin.remote()) if rank == 0 else None
    # Rank 0 asks for all. Ranks with different answers would wait for each other for ever.
    if not broadcast_from_rank_zero(begins):
        return
    try:
        given["witnesses"].check(rank)
        from pipelines.training.worker import run_rank

        run_rank(
            given["run"],
            notice=RayNotice(supervisor),
            on_start=lambda step: ray.get(supervisor.resumed.remote(step)),
        )
    except Exception as error:
        told = " ".join(str(error).split())
        hopeless = isinstance(error, UserError)
        cause = told if hopeless else f"{type(error).__name__}: {told}"
        ray.get(supervisor.failed.remote(cause, hopeless=hopeless))
        raise
