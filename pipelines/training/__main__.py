"""Trains or resumes one stage of a recipe (stage=NAME) without Ray and without MLflow.

It trains in this process, or under torchrun in the processes that torchrun starts:

    torchrun --nproc-per-node 2 -m pipelines.training stage=joint key=value

`train.workers` is ignored. It writes the same checkpoints as jobs/train.py, so each of the two can
resume a run of the other. Metrics go to metrics.jsonl in the run's folder.
"""

from pipelines import interrupts

if __name__ == "__main__":  # it is imported too
    interrupts.end_quietly()

import os
from contextlib import nullcontext
from dataclasses import replace

import torch

from pipelines.config.refusals import check_workers
from pipelines.config.schema import Config, TrainConfig
from pipelines.data.dataset import open_dataset
from pipelines.data.stream import check_crop
from pipelines.errors import UserError
from pipelines.job import main
from pipelines.runs.lease import lease, of_run
from pipelines.training.local import join_group, train_here
from pipelines.training.plan import KEYS, chosen_stage, plan_chosen_stage
from pipelines.training.ranks import from_first
from pipelines.training.stage_run import StageRun, check_pretrained, ended, is_done
from pipelines.training.start import start_checkpoint
from pipelines.training.teacher import find_teacher


def train_stage(config: Config) -> None:
    """Trains the configured stage as one rank of the process group.

    Raises:
        UserError: the stage cannot start, or its training failed.
        Terminated: SIGTERM came, and the work is saved.
    """
    name = chosen_stage(config)
    train = config.stages[name].train
    train.workers = int(os.environ.get("WORLD_SIZE", "1"))
    check_workers(train)
    dataset = open_dataset(config.data, config.stream)
    check_crop(dataset, train.crop)
    check_pretrained(config, name)
    cuda = _use_cuda(train)
    join_group(cuda=cuda)
    start = from_first(lambda: start_checkpoint(config, name))
    teacher = from_first(lambda: find_teacher(config, name))
    run = replace(StageRun.of(config, name, dataset, start, teacher), cuda=cuda)
    if is_done(run):
        return
    leader = os.environ.get("RANK", "0") == "0"
    with lease(run.checkpoints.store, of_run(run.name)) if leader else nullcontext():
        if leader:
            run.checkpoints.sweep()
        train_here(run)
    if leader:
        ended(run)


def _use_cuda(train: TrainConfig) -> bool:
    available = torch.cuda.is_available()
    if train.accelerator == "cuda" and not available:
        raise UserError(
            "train.accelerator=cuda needs a GPU, but PyTorch sees none here: set "
            "train.accelerator=cpu."
        )
    return train.accelerator != "cpu" and available


if __name__ == "__main__":
    main(
        "python -m pipelines.training",
        __doc__,
        ("stage", *KEYS),
        plan_chosen_stage,
        train_stage,
    )
