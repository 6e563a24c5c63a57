"""Submits jobs to the job server of a Ray cluster, with this code."""

import logging
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from pipelines.errors import UserError, first_line, redacted
from pipelines.revision import git_commit
from pipelines.storage.paths import ROOT

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

_ABSENT = "status code 404"


@dataclass(frozen=True)
class JobServer:
    """The job server at http(s)://HOST:PORT."""

    url: str = field(repr=False)
    #: The certificates of the authorities that are trusted; None stands for the usual ones.
    ca: str | None = None

    @property
    def address(self) -> str:
        """The address to show; without a password."""
        return redacted(self.url)

    def client(self) -> "JobSubmissionClient":
        """Returns a client, after the server has answered.

        Raises:
            UserError: nothing answers there, or it asks for another token.
        """
        from ray.exceptions import AuthenticationError
        from ray.job_submission import JobSubmissionClient

        for name in ("dashboard.modules.dashboard_sdk", "dashboard.modules.job.sdk"):
            logging.getLogger(f"ray.{name}").setLevel(logging.WARNING)
        logging.getLogger("ray._private.runtime_env").setLevel(logging.ERROR)
        parts = urlsplit(self.url)
        try:
            # Ray itself would wait for ever for a machine that drops its packets.
            port = parts.port or (443 if parts.scheme == "https" else 80)
            socket.create_connection((str(parts.hostname), port), timeout=5).close()
            return JobSubmissionClient(self.url, verify=self.ca or True)
        except AuthenticationError:
            raise UserError(
                f"the job server at {self.address} asks for its token: set RAY_AUTH_MODE=token, "
                "and RAY_AUTH_TOKEN_PATH to the file that holds it."
            ) from None
        except (OSError, RuntimeError, ValueError) as error:
            raise UserError(
                f"the job server at {self.address} does not answer ({first_line(error)}): start "
                "the cluster, or correct the address."
            ) from None

    def status(self, job: str) -> str | None:
        """Returns the status of a job, such as RUNNING; None if the server knows none of the name.

        Raises:
            UserError: the server does not answer.
        """
        client = self.client()
        try:
            return str(client.get_job_status(job).value)
        except RuntimeError as error:
            if _ABSENT in str(error):
                return None
            raise self._failed(error) from None

    def exit_code(self, job: str) -> int | None:
        """Returns the exit code of a job that has ended; None where the server does not know it.

        Raises:
            UserError: the server does not answer.
        """
        client = self.client()
        try:
            return client.get_job_info(job).driver_exit_code
        except RuntimeError as error:
            raise self._failed(error) from None

    def submit(
        self,
        entrypoint: str,
        job: str | None = None,
        variables: Mapping[str, str] | None = None,
        memory: int = 0,
    ) -> str:
        """Submits a command, which runs in an uploaded copy of this checkout; returns its name.

        A job of this name that is there already is left alone.

        Args:
            entrypoint: the command.
            job: its name; the server chooses one if it is None.
            variables: variables of its environment, which everybody sees who sees the job.
            memory: bytes that the job reserves on a node. It waits until one has as many that no
                job has reserved. Without, it starts at once on the head.

        Raises:
            UserError: the server does not answer, or refuses the job.
        """
        client = self.client()
        try:
            return str(
                client.submit_job(
                    entrypoint=entrypoint,
                    submission_id=job,
                    runtime_env=runtime_env(variables),
                    entrypoint_memory=memory or None,
                )
            )
        except RuntimeError as error:
            if job is not None and self.status(job) is not None:
                return job
            raise self._failed(error) from None

    def _failed(self, error: Exception) -> UserError:
        return UserError(f"the job server at {self.address} refuses: {first_line(error)[:300]}.")


def runtime_env(variables: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Returns what a submitted job of this checkout needs.

    Args:
        variables: further variables of its environment.
    """
    return {
        "working_dir": str(ROOT),
        # The upload leaves .git behind, and a bundle says which commit made it.
        "env_vars": {"SRMILL_GIT_COMMIT": git_commit() or "", **(variables or {})},
    }
