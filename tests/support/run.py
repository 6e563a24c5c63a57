"""Jobs as users start them, followed closely enough to break them at a given moment."""

import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Self

import psutil
from mlflow.entities import Metric

from pipelines import tracking
from pipelines.config.load import load_config
from pipelines.runs.checkpoint import Checkpoint, Checkpoints
from pipelines.runs.names import run_checkpoints
from tests.conftest import ROOT, SMALL

DEADLINE_S = 300.0
RESUMING = re.compile(r"resuming at step (\d+) of")


class Job:
    """One job, started as often as a test likes.

    Its process has the environment of this one.

    Args:
        script: such as jobs/train.py.
        environment: what its environment has beside.
    """

    def __init__(self, script: str, arguments: Sequence[str], environment: dict[str, str]) -> None:
        self.script, self.arguments, self.environment = script, list(arguments), environment
        #: (time, line) of everything that the job has said.
        self.lines: list[tuple[float, str]] = []

    def start(self) -> None:
        """Starts the job, with the same command each time."""
        self.process = subprocess.Popen(
            [sys.executable, self.script, *self.arguments],
            cwd=ROOT,
            env=os.environ | self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._reader = threading.Thread(target=self._read, args=(self.process,), daemon=True)
        self._reader.start()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.kill()

    def _read(self, process: "subprocess.Popen[str]") -> None:
        assert process.stdout
        for line in process.stdout:
            self.lines.append((time.time(), line.rstrip()))

    def until(self, condition: Callable[[], bool], what: str, *, running: bool = True) -> None:
        """Waits for a condition, while the job lives."""
        deadline = time.monotonic() + DEADLINE_S
        while not condition():
            ended = running and self.process.poll() is not None
            assert not ended, f"the job ended before {what}:\n{self.output}"
            assert time.monotonic() < deadline, f"waited in vain for {what}:\n{self.output}"
            time.sleep(0.2)

    def until_said(self, text: str) -> None:
        self.until(lambda: text in self.output, f"'{text}'")

    def wait(self) -> int:
        """The job's exit code."""
        code = self.process.wait(timeout=DEADLINE_S)
        self._reader.join(timeout=30)
        return code

    def kill(self) -> None:
        """The job and what it started itself, at once."""
        if self.process.poll() is None:
            driver = psutil.Process(self.process.pid)
            family = [driver, *driver.children(recursive=True)]
            for member in family:
                member.kill()
            psutil.wait_procs(family, timeout=20)
        self.wait()

    @property
    def output(self) -> str:
        return "\n".join(line for _, line in list(self.lines))


class Run(Job):
    """One run of `jobs/train.py`, whose home is SRMILL_HOME.

    Args:
        address: address of the Ray cluster.
    """

    def __init__(self, address: str, *settings: str) -> None:
        super().__init__("jobs/train.py", [f"recipe={SMALL}", *settings], {"RAY_ADDRESS": address})
        config = load_config(self.arguments)
        self.name = f"{config.run.name}-{config.stage}"
        self.checkpoints: Checkpoints = run_checkpoints(config, self.name)
        self._config = config

    def until_step(self, step: int) -> None:
        """Waits until MLflow knows a step."""
        # Before that, the driver may still be making MLflow's database.
        self.until_said("0%|")
        self.until(lambda: self.last_step() >= step, f"step {step}")

    def until_saved(self, step: int) -> Checkpoint:
        """Waits for the checkpoint of a step or a later one, and returns it."""
        self.until(lambda: max(self.checkpoints.steps(), default=0) >= step, f"checkpoint {step}")
        newest = self.checkpoints.newest()
        assert newest is not None
        return newest

    def history(self) -> list[Metric]:
        """Each value of `train/loss` that MLflow holds, by step."""
        client = tracking.connect(self._config.mlflow)
        run = tracking.find_run(client, self._config.mlflow, self.name)
        found = client.get_metric_history(run, "train/loss") if run else []
        return sorted(found, key=lambda metric: metric.step)

    def last_step(self) -> int:
        """The newest step that MLflow knows of."""
        return max((metric.step for metric in self.history()), default=0)

    def result(self) -> Checkpoint:
        """The last checkpoint, every byte of which has been checked."""
        newest = self.checkpoints.newest_intact()
        assert newest is not None
        return newest

    def damage(self, fault: float) -> tuple[int, float]:
        """Returns the cost of a fault at this time: steps that had to be trained again, and seconds
        until the next new step."""
        resumed = [(at, int(m[1])) for at, line in self.lines if (m := RESUMING.search(line))]
        again, step = next(((at, step) for at, step in resumed if at > fault), (fault, sys.maxsize))
        logged = [(metric.timestamp / 1000, metric.step) for metric in self.history()]
        last = max((step for at, step in logged if at <= again), default=0)
        return max(0, last - step), min(at for at, step in logged if step > last) - fault
