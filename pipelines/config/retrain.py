"""Declares the keys of jobs/retrain.py."""

from dataclasses import dataclass

from pipelines.config.keys import Place, key

#: Ten years of one machine, or three years of a large cluster.
_MOST_HOURS = 1e8


@dataclass
class RetrainConfig:
    """The keys `retrain.*`: the records of retrainings, their samples and their budget."""

    records: str = key(
        "work/retrain",
        "folder or s3:// prefix with the records of retrainings and of their steps; all machines "
        "that retrain a model share it, since it says whose turn it is",
        place=Place.ANY,
    )
    replay: float | None = key(
        None,
        "train.replay of all stages (default: each has its own)",
        minimum=0,
        maximum=0.99,
    )
    max_hours: float | None = key(
        None,
        "hours that a retraining may take, all its starts together, before its training stops at "
        "a checkpoint (default: no limit)",
        above=0,
        maximum=_MOST_HOURS,
    )
    max_gpu_hours: float | None = key(
        None,
        "hours that its workers may hold GPUs, added up over the GPUs (default: no limit)",
        above=0,
        maximum=_MOST_HOURS,
    )
