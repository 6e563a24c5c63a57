"""Compares a broken training with an undisturbed one, and keeps a table of the damage."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pipelines.runs.checkpoint import EMA, MODEL
from tests.support.run import Run

STEPS, EVERY = 800, 50
SETTINGS = (
    "train.workers=2",
    f"train.steps={STEPS}",
    f"train.checkpoint_every={EVERY}",
)
SAME = "bit-identical"
#: Every test that breaks a training adds a row.
ROWS = ["| fault | steps lost | seconds until the next new step | result |", "|-|-|-|-|"]

#: Starts a run with the settings of the undisturbed one, and those that are given.
NewRun = Callable[..., Run]


@dataclass(frozen=True)
class Outcome:
    """The result of a run: digests of its files, and each (step, loss) that was logged."""

    weights: dict[str, str]
    losses: list[tuple[int, float]]

    @staticmethod
    def of(run: Run) -> "Outcome":
        """Waits for the end of a run and returns its outcome."""
        assert run.wait() == 0, run.output
        result = run.result()
        assert result.step == STEPS
        return Outcome(
            {name: result.files[name].sha256 for name in (MODEL, EMA)},
            [(metric.step, metric.value) for metric in run.history()],
        )


@dataclass(frozen=True)
class Reference:
    """The undisturbed run. `home` is its SRMILL_HOME."""

    home: Path
    outcome: Outcome

    def check(self, run: Run) -> None:
        """Waits for a disturbed run to end as this one did."""
        found = Outcome.of(run)
        assert found.losses == self.outcome.losses, "each step once, with the same samples in it"
        assert found.weights == self.outcome.weights, "the same bits"
        # Ray shows those of the workers, each line with a process id.
        said = "\n".join(line for line in run.output.splitlines() if " pid=" not in line)
        assert "Traceback" not in said


def tell(fault: str, damage: tuple[int, float], result: str) -> None:
    steps, seconds = damage
    ROWS.append(f"| {fault} | {steps} | {seconds:.1f} | {result} |")
