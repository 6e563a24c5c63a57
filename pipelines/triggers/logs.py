"""Shows the log of a submitted job while it runs."""

import asyncio
import re
import sys
import time
from typing import TYPE_CHECKING

from pipelines.errors import UserError, first_line

if TYPE_CHECKING:
    from ray.job_submission import JobDetails, JobSubmissionClient

#: How long a server may be away, seconds.
PATIENCE = 60.0
_WORKER_PREFIX = re.compile(r"^(\x1b\[\d+m)?\(\w+ pid=\d+(, ip=[\d.]+)?\)(\x1b\[0m)? ")
_BAR = re.compile(r"^\S+ +\d+%\|")
_NOISE = re.compile(
    r"core_worker\.cc|INFO job_manager\.py|Running entrypoint for job|deepspeed_shm_comm_op"
)


def follow_log(client: "JobSubmissionClient", job: str, indent: str = "") -> "JobDetails":
    """Prints a job's log until the job ends; returns what the server knows of it then.

    A line that breaks, such as one through a proxy that closes silent ones, is opened again, and
    nothing is printed twice.

    Args:
        client: a client of its job server.
        job: its name there.
        indent: stands before each line.

    Raises:
        UserError: the server has not answered for `PATIENCE` seconds. The job may go on.
    """
    # Late: its import takes long, and reads SSL_CERT_FILE, which the caller may just have set.
    from aiohttp import ClientError

    log = _Log(_Printer(indent))
    answered = time.monotonic()
    try:
        while True:
            try:
                asyncio.run(log.follow(client, job))
                details = client.get_job_info(job)
                if details.status.is_terminal():
                    return details
                answered = time.monotonic()
            except (RuntimeError, OSError, ClientError) as error:
                if time.monotonic() > answered + PATIENCE:
                    raise UserError(
                        f"the job server does not answer any more ({first_line(error)}); {job} may "
                        "go on there."
                    ) from None
            time.sleep(0.5)
    finally:
        log.end()


class _Log:
    """The part of a log that was printed. Each new line sends all of it again."""

    def __init__(self, printer: "_Printer") -> None:
        self._printer = printer
        self._shown = 0
        self._rest = ""

    async def follow(self, client: "JobSubmissionClient", job: str) -> None:
        known = self._shown
        async for chunk in client.tail_job_logs(job):
            new = chunk[known:]
            known -= len(chunk) - len(new)
            self._shown += len(new)
            *lines, self._rest = (self._rest + new).split("\n")
            for line in lines:
                self._printer.show(line)

    def end(self) -> None:
        if self._rest:
            self._printer.show(self._rest)
        self._printer.end_line()


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
