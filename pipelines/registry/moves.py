"""The moves of a registered model's champion: a history that only grows, and that decides who is
champion.

MLflow's aliases have no compare-and-set. Of two jobs that move `champion` at once, the later one
wins, whatever champion it was decided against. MLflow's versions have one: the registry numbers
them, and gives no number twice. So each move is a version of the registered model `NAME.moves`. Its
tags say which move it was decided after. If another job has moved the champion meanwhile, the move
is void. The aliases follow the moves.
"""

import getpass
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipelines import tracking
from pipelines.models.load import CHAMPION
from pipelines.storage.clock import utc

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

PREVIOUS = "previous"
#: The kinds of moves: by jobs/register.py, and by somebody who set the alias in MLflow.
PROMOTE, ROLLBACK, BY_HAND = "promote", "rollback", "by hand"
#: Letters of a version's description that MLflow keeps.
LONGEST_DESCRIPTION = 5000
#: The end of the name of a registered model whose versions are moves.
LOG = ".moves"
_TAG = "srmill.move."
_PAGE = 200


@dataclass(frozen=True)
class Move:
    """One move of the champion.

    Attributes:
        number: its place in the history; void moves leave gaps.
        kind: `promote`, `rollback` or `by hand`.
        before: the version that was champion, None if there was none.
        to: the version that became champion, None if somebody took the alias away.
        reason: why, with the figures of the gate's decision.
        who: user and machine.
        when: the time in UTC, as 2026-11-29T08:00:00Z.
        done: True once the aliases have followed.
    """

    number: int
    kind: str
    before: str | None
    to: str | None
    reason: str
    who: str
    when: str
    done: bool


@dataclass(frozen=True)
class Moves:
    """The history of one registered model's champion."""

    client: "MlflowClient"
    name: str

    @property
    def log(self) -> str:
        """The name of the registered model whose versions are the moves."""
        return f"{self.name}{LOG}"

    def all(self) -> list[Move]:
        """Returns the moves that took effect, oldest first.

        A move takes effect if it was decided after the one before it.
        """
        moves: list[Move] = []
        for found in self._versions():
            after = int(found.tags.get(f"{_TAG}after", -1))
            if after == (moves[-1].number if moves else 0):
                moves.append(_move(found))
        return moves

    def champion(self) -> str | None:
        """Returns the version that is champion now, as `settle` finds it."""
        return self.settle()[0]

    def settle(self) -> tuple[str | None, list[Move]]:
        """Ends what an interrupted job has begun, and writes a move where somebody has set the
        alias in MLflow.

        Returns:
            the version that is champion after these moves, and the moves: `add` takes them as what
            a decision against this champion has seen. To read them again would be a later state.
        """
        while True:
            moves, alias = self.all(), self.alias(CHAMPION)
            last = moves[-1] if moves else None
            if last is None or (last.done and last.to == alias):
                return alias, moves
            if not last.done:
                self._follow()
            else:
                self.add(BY_HAND, alias, "the alias was set in MLflow", moves)

    def add(self, kind: str, to: str | None, reason: str, seen: Sequence[Move]) -> bool:
        """Moves the champion to `to`, if nobody has moved it since; returns whether it did.

        Args:
            seen: the moves after which it was decided, as `settle` returned them.
        """
        alias = self.alias(CHAMPION)
        before = seen[-1].to if seen else alias
        if alias not in (before, to):
            return False  # somebody has set it in MLflow since, which `settle` will write down
        if tracking.lookup(self.client.get_registered_model, self.log) is None:
            tracking.create_unless_there(
                self.client.create_registered_model,
                self.log,
                description=f"The moves of {self.name}@{CHAMPION}: each version is one. SRMill "
                "writes it; `jobs/register.py action=history` reads it.",
            )
        shown = to or before
        assert shown is not None
        tags = {
            "after": str(seen[-1].number if seen else 0),
            "kind": kind,
            "before": before or "",
            "to": to or "",
            "reason": reason,
            "who": who(),
            "when": utc(time.time()),
        }
        version = self.client.get_model_version(self.name, shown)
        told = f"{kind}: version {before or 'none'} → version {to or 'none'}. {reason}"
        created = self.client.create_model_version(
            self.log,
            source=version.source,
            run_id=version.run_id,
            tags={f"{_TAG}{name}": value for name, value in tags.items()},
            description=told[:LONGEST_DESCRIPTION],
        )
        if int(created.version) not in [move.number for move in self.all()]:
            self.client.set_model_version_tag(self.log, created.version, f"{_TAG}void", "true")
            return False
        self._follow()
        return True

    def _follow(self) -> None:
        """Lets the aliases follow the last move, also if another job adds one at the same time."""
        while True:
            last = self.all()[-1]
            for alias, version in ((PREVIOUS, last.before), (CHAMPION, last.to)):
                if version is not None:
                    self.client.set_registered_model_alias(self.name, alias, version)
            self.client.set_model_version_tag(self.log, str(last.number), f"{_TAG}done", "true")
            if self.all()[-1].number == last.number:
                return

    def alias(self, alias: str) -> str | None:
        """Returns the version that an alias means, if there is one.

        Raises:
            UserError: the registry fails; that is not the same as having no champion.
        """
        model = tracking.lookup(self.client.get_registered_model, self.name)
        version = model.aliases.get(alias) if model else None
        return None if version is None else str(version)

    def _versions(self) -> list["ModelVersion"]:
        found, token = [], None
        while True:
            page = self.client.search_model_versions(
                f"name = '{self.log}'", max_results=_PAGE, page_token=token
            )
            found += page
            token = page.token
            if not token:
                return sorted(found, key=lambda version: int(version.version))


def who() -> str:
    """Returns the user and the machine of this process."""
    return f"{getpass.getuser()}@{socket.gethostname()}"


def champion_before(moves: Sequence[Move], count: int) -> str | None:
    """Returns the version that was champion before the last `count` moves; None if none was."""
    champions = [move.before for move in moves[:1]] + [move.to for move in moves]
    return champions[-1 - count] if count < len(champions) else None


def _move(found: "ModelVersion") -> Move:
    tags = {name.removeprefix(_TAG): value for name, value in found.tags.items()}
    return Move(
        number=int(found.version),
        kind=tags["kind"],
        before=tags["before"] or None,
        to=tags["to"] or None,
        reason=tags["reason"],
        who=tags["who"],
        when=tags["when"],
        done="done" in tags,
    )
