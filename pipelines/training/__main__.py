"""Trains one stage of a recipe (stage=NAME) without Ray and MLflow, or resumes it.

In this one process, or under torchrun in as many as it starts (`train.workers` is ignored):

    torchrun --nproc-per-node 2 -m pipelines.training stage=joint key=value

Checkpoints are those of jobs/train.py: either goes on where the other stopped. Metrics go to
metrics.jsonl in the run's folder.
"""

import os
from contextlib import nullcontext
from dataclasses import replace

import torch

from pipelines.config.refusals import check_workers
from pipelines.config.schema import Config
from pipelines.data.dataset import open_dataset
from pipelines.data.stream import check_crop
from pipelines.job import main
from pipelines.runs.lease import lease
from pipelines.training.local import join_group, train_here
from pipelines.training.plan import KEYS, chosen_stage, plan_chosen_stage
from pipelines.training.ranks import from_first
from pipelines.training.stage_run import StageRun, check_pretrained, ended, is_done
from pipelines.training.start import start_checkpoint
from pipelines.training.teacher import find_teacher


def train_stage(config: Config) -> None:
    """This rank's part.

    Raises:
        UserError: see `launch.run_stages`.
        Terminated: SIGTERM came; the work is saved.
    """
    name = chosen_stage(config)
    train = config.stages[name].train
    train.workers = int(os.environ.get("WORLD_SIZE", "1"))
    check_workers(train)
    dataset = open_dataset(config.data, config.stream)
    check_crop(dataset, train.crop)
    check_pretrained(config, name)
    cuda = train.accelerator != "cpu" and torch.cuda.is_available()
    join_group(cuda=cuda)
    start = from_first(lambda: start_checkpoint(config, name))
    teacher = from_first(lambda: find_teacher(config, name))
    run = replace(StageRun.of(config, name, dataset, start, teacher), cuda=cuda)
    if is_done(run):
        return
    leader = os.environ.get("RANK", "0") == "0"
    with lease(run.checkpoints.store, run.name) if leader else nullcontext():
        if leader:
            run.checkpoints.sweep()
        train_here(run)
    if leader:
        ended(run)


if __name__ == "__main__":
    main(
        "python -m pipelines.training",
        __doc__,
        ("stage", *KEYS),
        plan_chosen_stage,
        train_stage,
    )
