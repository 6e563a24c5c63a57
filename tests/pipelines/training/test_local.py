"""A rank that runs without Ray."""

from tests.conftest import Runner

JOINED = """
import atexit
import torch.distributed as dist
atexit.register(lambda: print("a member at the end:", dist.is_initialized()))
from pipelines.training.local import join_group
join_group(cuda=False)
join_group(cuda=False)
print("a member:", dist.is_initialized())
"""
WITH_DEEPSPEED = """
import atexit
import torch
from deepspeed.utils import groups
atexit.register(lambda: print("DeepSpeed's copy at the end:", groups._WORLD_GROUP))
from pipelines.training.extensions import load_extension
from pipelines.training.local import join_group
from pipelines.training.worker import prepare_deepspeed
join_group(cuda=False)
prepare_deepspeed(torch.device("cpu"))
load_extension()
import deepspeed
deepspeed.init_distributed("gloo")
print("DeepSpeed's copy:", type(groups._clone_world_group()).__name__)
"""


def test_a_process_leaves_its_group_before_the_interpreter_ends(run_python: Runner) -> None:
    """Otherwise one of ten pairs of ranks on a busy machine ends in SIGABRT."""
    ended = run_python("-c", JOINED)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.splitlines() == ["a member: True", "a member at the end: False"]


def test_a_process_leaves_deepspeeds_copy_of_its_group_too(run_python: Runner) -> None:
    done = run_python("-c", WITH_DEEPSPEED)
    assert done.returncode == 0, done.stderr
    told = [line for line in done.stdout.splitlines() if line.startswith("DeepSpeed's")]
    assert told == ["DeepSpeed's copy: ProcessGroup", "DeepSpeed's copy at the end: None"]
