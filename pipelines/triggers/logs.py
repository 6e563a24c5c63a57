"""Shows the log of a submitted job while it runs."""

import asyncio
import re
import sys
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ray.job_submission import JobDetails, JobSubmissionClient

_WORKER_PREFIX = re.compile(r"^(\x1b\[\d+m)?\(\w+ pid=\d+(, ip=[\d.]+)?\)(\x1b\[0m)? ")
_BAR = re.compile(r"^\S+ +\d+%\|")
_NOISE = re.compile(
    r"core_worker\.cc|INFO job_manager\.py|Running entrypoint for job|deepspeed_shm_comm_op"
)


def follow_log(client: "JobSubmissionClient", job: str, indent: str = "") -> "JobDetails":
    """Prints a job's log until the job ends; returns what the server knows of it then.

    Args:
        client: a client of its job server.
        job: its name there.
        indent: stands before each line.
    """
    printer = _Printer(indent)
    try:
        asyncio.run(_follow(client, job, printer))
    finally:
        printer.end_line()
    while not client.get_job_status(job).is_terminal():
        time.sleep(0.2)
    return client.get_job_info(job)


async def _follow(client: "JobSubmissionClient", job: str, printer: "_Printer") -> None:
    rest = ""
    async for chunk in client.tail_job_logs(job):
        *lines, rest = (rest + chunk).split("\n")
        for line in lines:
            printer.show(line)
    if rest:
        printer.show(rest)


class _Printer:
    """Prints a job's lines; on a terminal, a progress bar is redrawn in place."""

    def __init__(self, indent: str) -> None:
        self.terminal = sys.stdout.isatty()
        self.open = False
        self.indent = indent

    def show(self, line: str) -> None:
        line = _WORKER_PREFIX.sub("", line.rstrip())
        if not line or _NOISE.search(line):
            return
        if self.terminal and _BAR.match(line):
            sys.stdout.write(f"\r\x1b[2K{self.indent}{line}")
            self.open = True
        else:
            self.end_line()
            sys.stdout.write(f"{self.indent}{line}\n")
        sys.stdout.flush()

    def end_line(self) -> None:
        if self.open:
            sys.stdout.write("\n")
            sys.stdout.flush()
        self.open = False
