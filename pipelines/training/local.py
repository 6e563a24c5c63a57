"""Trains one rank in this process, without Ray: alone, or as torchrun started it."""

import atexit
import gc
import os
import sys
import threading

from pipelines.training.preemption import Meter, Notice, on_sigterm
from pipelines.training.stage_run import StageRun
from pipelines.training.worker import run_rank


def train_here(run: StageRun, meter: Meter = Meter()) -> None:
    """Trains as the rank that the environment names (RANK, WORLD_SIZE, …), else alone.

    After SIGTERM, or when the meter says so, the run saves its work and ends.
    """
    join_group(cuda=run.cuda)
    spent = threading.Event()
    with (
        on_sigterm() as asked,
        meter.training(int(run.cuda), run.train.threads_per_worker, spent.set),
    ):
        run_rank(run, notice=lambda: Notice.STOP if asked() or spent.is_set() else Notice.NONE)


def join_group(*, cuda: bool) -> None:
    """Joins the process group that a rank needs, unless this process is in one.

    The process stays in it until its end, since DeepSpeed keeps the first group that it sees.
    """
    import torch
    import torch.distributed as dist

    if dist.is_initialized():
        return
    backend = "cpu:gloo,cuda:nccl" if cuda else "gloo"
    if "WORLD_SIZE" in os.environ:
        if cuda:
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        dist.init_process_group(backend)
    else:
        store = dist.HashStore()  # type: ignore[attr-defined]
        os.environ["LOCAL_RANK"] = "0"  # DeepSpeed insists on it
        dist.init_process_group(backend, store=store, rank=0, world_size=1)
    if not cuda:  # NCCL may wait for the others, who perhaps wait for this one
        atexit.register(leave_group)


def leave_group() -> None:
    """Leaves the groups of gloo that this process is in, DeepSpeed's own copy of them included.

    A process that ends as a member may abort: a thread of gloo that wants the interpreter's lock
    while the interpreter ends makes the C++ runtime terminate the process.
    """
    import torch.distributed as dist

    if not dist.is_initialized():
        return
    deepspeed = sys.modules.get("deepspeed.comm")
    if deepspeed and deepspeed.is_initialized():
        deepspeed.destroy_process_group()
    if dist.is_initialized():
        dist.destroy_process_group()
    gc.collect()  # engines hold the groups too, and refer to themselves
