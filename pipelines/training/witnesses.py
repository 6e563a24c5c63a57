"""Finds the folders of the driver's node that a run's workers must see, to probe them first."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from pipelines.errors import UserError
from pipelines.models.build import stage_on_meta
from pipelines.storage.probe import Witness, token
from pipelines.tracking import local_database
from pipelines.training.stage_run import StageRun
from srmodels.weights import FOLDER, local_file

_STORAGE = "set run.storage to s3://bucket/prefix, or to a folder that all nodes share"
_WEIGHTS = f"copy the folder to every node under this path, or unset ${FOLDER}"
_MLFLOW = (
    "start an MLflow server and set mlflow.uri or MLFLOW_TRACKING_URI to its address, or put the "
    "database into a folder that all nodes share"
)


@dataclass(frozen=True)
class Witnesses:
    """The witnesses that the workers of a run must find; can be pickled.

    Attributes:
        all_ranks: those that every worker must find.
        rank_zero: those that only rank 0 must find, which alone reports to MLflow.
    """

    all_ranks: tuple[Witness, ...]
    rank_zero: tuple[Witness, ...]

    def check(self, rank: int) -> None:
        """Checks that the node of a rank sees what it must.

        Raises:
            UserError: it does not.
        """
        for witness in self.all_ranks + (self.rank_zero if rank == 0 else ()):
            witness.check()


@contextmanager
def witnesses(run: StageRun) -> Iterator[Witnesses]:
    """Gives the witnesses of a run, which exist for the time of the block.

    The caller holds the lease of the run.

    Raises:
        UserError: a folder cannot be read or written.
    """
    data, folder = run.dataset.witness(), run.checkpoints.directory
    database = local_database(run.tracked.uri) if run.tracked else None
    with ExitStack() as stack:
        every = _weights(run) + ([data] if data else [])
        if folder is not None:
            every.append(stack.enter_context(token(folder, run.name, _STORAGE)))
        rank_zero = []
        if run.tracked and database:
            of_database = token(database.parent, run.tracked.run_id, _MLFLOW)
            rank_zero.append(stack.enter_context(of_database))
        yield Witnesses(tuple(every), tuple(rank_zero))


def _weights(run: StageRun) -> list[Witness]:
    """Returns the files of the weights' folder that the stage's losses read."""
    if run.weights_folder is None:
        return []
    try:
        names = stage_on_meta(run.config, run.stage).pretrained_names()
        files = [path for name in names if (path := local_file(name))]
    except ValueError as error:
        raise UserError(str(error)) from None
    return [Witness.of(path.parent, path.name, _WEIGHTS) for path in files]
