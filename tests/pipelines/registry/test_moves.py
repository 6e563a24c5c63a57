"""The champion's moves: decided against one champion, valid only while it is that, never lost."""

import copy
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import mlflow
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mlflow.store.entities import PagedList

from pipelines import tracking
from pipelines.config.load import load_config
from pipelines.config.schema import Config
from pipelines.errors import UserError
from pipelines.mlflow_client import RefusedError
from pipelines.registry import actions, register
from pipelines.registry.gate import Decision
from pipelines.registry.moves import PROMOTE, Moves, champion_before
from tests.conftest import SMALL
from tests.support.bundles import make_bundle


def config_for(*arguments: object) -> Config:
    return load_config([f"recipe={SMALL}", *map(str, arguments)])


def moves() -> Moves:
    return Moves(tracking.connect(), "small")


def aliases() -> dict[str, str]:
    return {k: str(v) for k, v in moves().client.get_registered_model("small").aliases.items()}


def told() -> list[tuple[str, str | None, str | None]]:
    return [(move.kind, move.before, move.to) for move in moves().all()]


@pytest.fixture
def bundles(tmp_path: Path) -> Path:
    for name, psnr in (("a", 30.0), ("b", 30.5), ("c", 31.0), ("d", 29.0)):
        make_bundle(tmp_path / name, psnr=psnr)
    return tmp_path


def test_every_move_is_told_with_its_reason(
    bundles: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a", "d", "b"):
        register.run(config_for(f"bundle={bundles / name}"))
    assert told() == [(PROMOTE, None, "1"), (PROMOTE, "1", "3")]
    capsys.readouterr()
    actions.run(config_for("action=history"))
    first, second = capsys.readouterr().out.splitlines()
    assert "promote   none → 1" in first
    assert first.endswith("there was no champion")
    assert "promote   1 → 3" in second
    assert "better by psnr_y_crop4, worse by none: psnr_y_crop4 +0.5" in second
    actions.run(config_for("action=verify"))
    assert "small: 2 moves, champion 3: all is well." in capsys.readouterr().out


def test_a_rollback_goes_back_any_number_of_moves_and_is_one(bundles: Path) -> None:
    for name in ("a", "b", "c"):
        register.run(config_for(f"bundle={bundles / name}"))
    actions.run(config_for("action=rollback", "register.back=2", "register.reason=too sharp"))
    assert aliases() == {"champion": "1", "previous": "3"}
    assert moves().all()[-1].reason == "too sharp"
    # It is a move: the next one takes it back.
    actions.run(config_for("action=rollback"))
    assert aliases() == {"champion": "3", "previous": "1"}
    assert [move[2] for move in told()] == ["1", "2", "3", "1", "3"]
    with pytest.raises(UserError, match="small had no champion 5 moves ago: jobs"):
        actions.run(config_for("action=rollback", "register.back=5"))
    assert len(told()) == 5


def test_a_version_can_be_promoted_by_its_number(bundles: Path) -> None:
    for name in ("b", "a"):
        register.run(config_for(f"bundle={bundles / name}"))
    assert aliases() == {"champion": "1"}
    actions.run(config_for("action=promote", "model=models:/small/2", "register.reason=a test"))
    assert aliases() == {"champion": "2", "previous": "1"}
    assert moves().all()[-1].reason == "a test"
    actions.run(config_for("action=promote", "model=models:/small@champion"))
    assert len(told()) == 2
    for model in ("model=models:/other/1", "model=rdsr", "seed=0"):
        with pytest.raises(UserError, match="needs a version: set model=models:/small/NUMBER"):
            actions.plan(config_for("action=promote", model))
    with pytest.raises(UserError, match=r"has no model 'models:/small/9'"):
        actions.run(config_for("action=promote", "model=models:/small/9"))


def interrupt(
    monkeypatch: pytest.MonkeyPatch, method: str, other: Callable[[], object]
) -> list[bool]:
    """Lets another job do its work before the first call of a method of MLflow's client; the list
    is empty until it did."""
    original = getattr(mlflow.MlflowClient, method)
    done: list[bool] = []

    def later(self: object, *arguments: object, **options: object) -> object:
        if not done:
            done.append(True)
            other()
        return original(self, *arguments, **options)

    monkeypatch.setattr(mlflow.MlflowClient, method, later)
    return done


# The calls between reading the champion and having moved it.
CALLS = ("get_registered_model", "create_model_version", "set_registered_model_alias",
         "set_model_version_tag")  # fmt: skip


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize(("ours", "theirs"), [("b", "c"), ("c", "b")])
def test_of_two_jobs_at_once_the_better_model_wins(
    bundles: Path, monkeypatch: pytest.MonkeyPatch, call: str, ours: str, theirs: str
) -> None:
    register.run(config_for(f"bundle={bundles / 'a'}"))
    for name in (ours, theirs):
        register.run(config_for(f"bundle={bundles / name}", "register.promote=never"))
    number = {"b": "2" if ours == "b" else "3", "c": "2" if ours == "c" else "3"}
    done = interrupt(
        monkeypatch, call, lambda: register.run(config_for(f"bundle={bundles / theirs}"))
    )
    register.run(config_for(f"bundle={bundles / ours}"))
    assert done
    assert aliases()["champion"] == number["c"]
    actions.run(config_for("action=verify"))
    # The worse one was champion in between, or was refused: never after the better one.
    assert told()[-1][2] == number["c"]


class Killed(BaseException):
    """In the place of SIGKILL."""


@pytest.mark.parametrize("call", CALLS[1:])
def test_a_job_that_is_killed_between_deciding_and_moving_decides_again(
    bundles: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    register.run(config_for(f"bundle={bundles / 'a'}"))
    register.run(config_for(f"bundle={bundles / 'b'}", "register.promote=never"))

    def kill() -> None:
        raise Killed

    with monkeypatch.context() as patch:
        interrupt(patch, call, kill)
        with pytest.raises(Killed):
            register.run(config_for(f"bundle={bundles / 'b'}"))
    assert register.run(config_for(f"bundle={bundles / 'b'}")) == "2"
    assert aliases() == {"champion": "2", "previous": "1"}
    assert told() == [(PROMOTE, None, "1"), (PROMOTE, "1", "2")]
    tags = moves().client.get_model_version("small", "2").tags
    assert tags[register.GATE_TAG].startswith("better by psnr_y_crop4")
    actions.run(config_for("action=verify"))


def test_an_alias_that_somebody_sets_in_mlflow_is_a_move(bundles: Path) -> None:
    for name in ("a", "b"):
        register.run(config_for(f"bundle={bundles / name}"))
    moves().client.set_registered_model_alias("small", "champion", "1")
    with pytest.raises(UserError, match="champion is version 1, but the last move made it 2"):
        actions.run(config_for("action=verify"))
    register.run(config_for(f"bundle={bundles / 'd'}"))
    assert told()[-1] == ("by hand", "2", "1")
    assert aliases() == {"champion": "1", "previous": "2"}
    actions.run(config_for("action=verify"))
    moves().client.delete_registered_model_alias("small", "champion")
    assert moves().champion() is None
    assert told()[-1] == ("by hand", "1", None)


def test_a_move_by_hand_after_an_interrupted_one_stands(
    bundles: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "b"):
        register.run(config_for(f"bundle={bundles / name}", "register.promote=never"))

    def kill() -> None:
        raise Killed

    with monkeypatch.context() as patch:
        # The alias is set, and its move not yet marked as done.
        interrupt(patch, "set_model_version_tag", kill)
        with pytest.raises(Killed):
            actions.run(config_for("action=promote", "model=models:/small/2"))
    assert moves().champion() == "2"
    moves().client.set_registered_model_alias("small", "champion", "1")
    assert moves().champion() == "1"
    assert told()[-1] == ("by hand", "2", "1")


def test_a_registry_from_before_has_a_champion_without_moves(bundles: Path) -> None:
    for name in ("a", "b"):
        register.run(config_for(f"bundle={bundles / name}", "register.promote=never"))
    moves().client.set_registered_model_alias("small", "champion", "1")
    assert (moves().champion(), told()) == ("1", [])
    register.run(config_for(f"bundle={bundles / 'c'}"))
    assert told() == [(PROMOTE, "1", "3")]
    actions.run(config_for("action=rollback"))
    assert aliases() == {"champion": "1", "previous": "3"}


def test_a_reason_longer_than_a_description_is_kept_whole(bundles: Path) -> None:
    register.run(config_for(f"bundle={bundles / 'a'}", "register.promote=never"))
    reason = "figures " * 1000
    arguments = ("action=promote", "model=models:/small/1", f"register.reason={reason}")
    actions.run(config_for(*arguments))
    [move] = moves().all()
    assert move.reason == reason.strip()
    found = moves().client.get_model_version("small.moves", "1")
    assert found.description == f"promote: version none → version 1. {reason}"[:5000]


def test_a_damaged_champion_is_found(bundles: Path) -> None:
    register.run(config_for(f"bundle={bundles / 'a'}"))
    client = moves().client
    client.set_model_version_tag("small", "1", register.BUNDLE_TAG, "0" * 64)
    with pytest.raises(UserError, match="version 1 holds another bundle than was registered"):
        actions.run(config_for("action=verify"))
    with pytest.raises(UserError, match="there is no model 'nosuch' at"):
        actions.run(config_for("action=verify", "mlflow.model=nosuch"))


class FakeClient:
    """A registry in memory, for a thousand histories. It has the methods of MLflow's client that
    `Moves` calls: models have aliases, and versions are numbered from 1."""

    def __init__(self) -> None:
        self.aliases: dict[str, dict[str, str]] = {}
        self.versions: dict[str, list[SimpleNamespace]] = {}

    def create_registered_model(self, name: str, description: str = "") -> None:
        if name in self.aliases:
            raise RefusedError("it is there", "RESOURCE_ALREADY_EXISTS")
        self.aliases[name], self.versions[name] = {}, []

    def get_registered_model(self, name: str) -> SimpleNamespace:
        if name not in self.aliases:
            raise RefusedError("there is none", "RESOURCE_DOES_NOT_EXIST")
        return SimpleNamespace(aliases=dict(self.aliases[name]))

    def create_model_version(
        self, name: str, source: str, tags: dict[str, str] | None = None, **_: object
    ) -> SimpleNamespace:
        number = str(len(self.versions[name]) + 1)
        created = SimpleNamespace(version=number, source=source, run_id="", tags=dict(tags or {}))
        self.versions[name].append(created)
        return created

    def get_model_version(self, name: str, version: str) -> SimpleNamespace:
        return self.versions[name][int(version) - 1]

    def search_model_versions(self, query: str, **_: object) -> PagedList:
        name = query.split("'")[1]
        return PagedList(copy.deepcopy(self.versions.get(name, [])), None)

    def set_registered_model_alias(self, name: str, alias: str, version: str) -> None:
        self.aliases[name][alias] = version

    def set_model_version_tag(self, name: str, version: str, key: str, value: str) -> None:
        self.get_model_version(name, version).tags[key] = value


class Interrupted:
    """A client, before whose n-th call another job does its work."""

    def __init__(self, client: FakeClient, number: int, other: Callable[[], object]) -> None:
        self.client, self.left, self.other = client, number, other

    def __getattr__(self, name: str) -> Callable[..., object]:
        def call(*arguments: object, **options: object) -> object:
            self.left -= 1
            if self.left == 0:
                self.other()
            return getattr(self.client, name)(*arguments, **options)

        return call


@pytest.mark.parametrize("champion", [None, "1"])
@pytest.mark.parametrize(("ours", "theirs"), [("2", "3"), ("3", "2")])
def test_two_jobs_that_meet_at_any_call_leave_the_better_model(
    champion: str | None, ours: str, theirs: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here a higher number is the better model."""

    def decide(
        config: Config, moves: Moves, version: str, bundle: str, current: str | None
    ) -> Decision:
        return Decision(current is None or int(bundle) > int(current), f"{bundle} or {current}")

    monkeypatch.setattr(register, "_decide", decide)
    config, number, met = config_for(), 0, True
    while met:
        number += 1
        client = FakeClient()
        client.create_registered_model("small")
        for _ in range(3):
            client.create_model_version("small", "")
        if champion is not None:
            assert Moves(client, "small").add(PROMOTE, champion, "", [])  # type: ignore[arg-type]

        def job(client: object, version: str) -> None:
            moves = Moves(client, "small")  # type: ignore[arg-type]
            register._decide_and_move(config, moves, version, version)  # type: ignore[arg-type]

        interrupted = Interrupted(client, number, lambda c=client: job(c, theirs))
        job(interrupted, ours)
        met = interrupted.left <= 0
        moves = Moves(client, "small")  # type: ignore[arg-type]
        if not met:
            job(client, theirs)
        assert moves.champion() == "3", f"met at call {number}"
        assert client.aliases["small"]["champion"] == "3"
    assert number > 8


def test_an_alias_that_is_set_by_hand_after_a_decision_is_not_overwritten() -> None:
    client = FakeClient()
    client.create_registered_model("small")
    for _ in range(3):
        client.create_model_version("small", "")
    moves = Moves(client, "small")  # type: ignore[arg-type]
    assert moves.add(PROMOTE, "1", "", [])
    _, seen = moves.settle()
    client.set_registered_model_alias("small", "champion", "3")
    assert not moves.add(PROMOTE, "2", "decided against version 1", seen)
    assert client.aliases["small"]["champion"] == "3"
    champion, seen = moves.settle()
    assert [(move.kind, move.to) for move in seen] == [("promote", "1"), ("by hand", "3")]
    # Decided again, now against version 3, it is moved.
    assert champion == "3"
    assert moves.add(PROMOTE, "2", "decided against version 3", seen)
    assert moves.champion() == client.aliases["small"]["champion"] == "2"


STEPS = st.lists(
    st.tuples(
        st.sampled_from(("promote", "rollback", "killed", "by hand", "race")), st.integers(1, 4)
    ),
    max_size=12,
)


@settings(max_examples=1000, deadline=None, database=None)
@given(steps=STEPS)
def test_whatever_happens_the_history_tells_the_champion(steps: list[tuple[str, int]]) -> None:
    """One champion; `previous` is the champion before; the moves lead to the present."""
    client = FakeClient()
    client.create_registered_model("small")
    for _ in range(4):
        client.create_model_version("small", "")
    model = Moves(client, "small")  # type: ignore[arg-type]
    for kind, number in steps:
        before, seen = model.champion(), model.all()
        to = champion_before(seen, number) if kind == "rollback" else str(number)
        if kind == "by hand":
            client.set_registered_model_alias("small", "champion", str(number))
        elif to is not None and to != before:
            if kind == "race" and str(number % 4 + 1) != before:
                assert model.add("promote", str(number % 4 + 1), "the other one", seen)
                assert not model.add("promote", to, "too late", seen)
                to = str(number % 4 + 1)
            elif kind == "killed":
                with pytest.MonkeyPatch.context() as patch:
                    patch.setattr(Moves, "_follow", lambda self: None)
                    assert model.add(kind, to, "", seen)
            else:
                assert model.add(kind, to, "", seen)
            assert model.champion() == to
        current, found = model.champion(), model.all()
        aliases = client.aliases["small"]
        assert current == aliases.get("champion") == (found[-1].to if found else current)
        if found:
            assert aliases.get("previous") == found[-1].before
        assert all(one.to == other.before for one, other in pairwise(found))
        assert [move.number for move in seen] == [move.number for move in found[: len(seen)]]
