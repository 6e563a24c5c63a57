"""A rank that runs without Ray."""

import subprocess
import sys

JOINED = """
import atexit
import torch.distributed as dist
atexit.register(lambda: print("a member at the end:", dist.is_initialized()))
from pipelines.training.local import join_group
join_group(cuda=False)
join_group(cuda=False)
print("a member:", dist.is_initialized())
"""


def test_a_process_leaves_its_group_before_the_interpreter_ends() -> None:
    """Otherwise one of ten pairs of ranks on a busy machine ends in SIGABRT."""
    ended = subprocess.run(
        [sys.executable, "-c", JOINED], check=False, capture_output=True, text=True
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.splitlines() == ["a member: True", "a member at the end: False"]
