"""A job's log that breaks off is opened again, and nothing is printed twice."""

from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
from ray.job_submission import JobStatus

from pipelines.errors import UserError
from pipelines.triggers import logs
from pipelines.triggers.logs import follow_log


class Client:
    """Sends a log in chunks, once for each line; None breaks the line off."""

    def __init__(self, lines: Sequence[Sequence[str | None]]) -> None:
        self._lines = list(lines)

    async def tail_job_logs(self, job: str) -> AsyncIterator[str]:
        for chunk in self._lines.pop(0):
            if chunk is None:
                raise RuntimeError("WebSocket connection closed unexpectedly")
            yield chunk

    def get_job_info(self, job: str) -> Any:
        status = JobStatus.RUNNING if self._lines else JobStatus.SUCCEEDED
        return type("Details", (), {"status": status})


@pytest.mark.parametrize(
    "lines",
    [
        [["one\ntw", "o\n", None], ["one\n", "two\nthr", None], ["one\ntwo\nthree"]],
        [["one\n"], ["one\ntwo\n"], ["o", "ne\n", "two\n", "three"]],
    ],
    ids=["breaks off", "ends early"],
)
def test_nothing_is_printed_twice(
    lines: list[list[str | None]], capsys: pytest.CaptureFixture[str]
) -> None:
    client: Any = Client(lines)
    assert follow_log(client, "job", indent="> ").status == JobStatus.SUCCEEDED
    assert capsys.readouterr().out == "> one\n> two\n> three\n"


def test_a_server_that_stays_away_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(logs, "PATIENCE", 0.2)
    client: Any = Client([["one\n", None], [None], [None], [None]])
    with pytest.raises(UserError, match=r"does not answer any more .*; job may go on there"):
        follow_log(client, "job")
    assert capsys.readouterr().out == "one\n"
