"""Tests the readers of checkpoints, in folders and on a real S3 server."""

import multiprocessing
import pickle
import shutil
import time
from pathlib import Path

import pytest

from pipelines.errors import UserError
from pipelines.runs.checkpoint import Checkpoints
from pipelines.runs.marker import DamagedError
from tests.support.checkpoints import at, damage, folders, open_run, open_writer, stage, write
from tests.support.clock import TurnedClock
from tests.support.faulty_proxy import Fault, FaultyProxy


@pytest.fixture(params=["local", "s3"])
def run(request: pytest.FixtureRequest, tmp_path: Path) -> Checkpoints:
    """Both kinds of store keep the same promises."""
    where = tmp_path / "run" if request.param == "local" else request.getfixturevalue("s3_url")
    return open_run(where, tmp_path)


def test_a_run_without_checkpoints_has_none(run: Checkpoints) -> None:
    assert (run.steps(), run.newest(), run.newest_intact()) == ([], None, None)
    run.sweep()


def test_checkpoints_are_ordered_by_step_not_by_name(run: Checkpoints) -> None:
    write(run, "a", 1_000_000, 999_900, 20)
    assert run.steps() == [20, 999_900, 1_000_000]
    assert run.newest() == run.newest_intact() == at(run, 1_000_000)


def test_every_file_is_listed_and_comes_back_verified(run: Checkpoints) -> None:
    writer = open_writer(run, "a")
    stage(writer, 7)
    staged = {path.name: path for path in run.workspace.rglob("*-0*") if path.is_file()}
    expected = {name: path.read_bytes() for name, path in staged.items()}
    writer.publish(7, 31.5)
    writer.wait()
    checkpoint = pickle.loads(pickle.dumps(at(run, 7)))
    assert checkpoint.files.keys() == {"model-0", "engine/shard-0.pt"}
    assert (checkpoint.marker.score, checkpoint.marker.world_size) == (31.5, 1)
    engine = checkpoint.local("engine/")
    assert (engine / "engine" / "shard-0.pt").read_bytes() == expected["shard-0.pt"]
    assert (checkpoint.local() / "model-0").read_bytes() == expected["model-0"]


@pytest.mark.parametrize("kind", ["flip", "cut", "delete"])
@pytest.mark.parametrize("name", ["engine/shard-0.pt", "COMPLETE"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_taken(
    run: Checkpoints, name: str, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write(run, "a", 1, 2, 3)
    for step in (2, 3):
        damage(at(run, step), name, kind)
    found = run.newest_intact()
    assert found is not None
    assert found.step == 1
    said = capsys.readouterr().out.splitlines()
    if (name, kind) == ("COMPLETE", "delete"):
        assert said == []  # that is an absent one
        return
    for line, step, before in zip(said, (3, 2), (2, 1), strict=True):
        assert line.startswith(f"checkpoint {run.location}/step-{step:06d}-a is damaged (file ")
        assert f"(file {name}: " in line
        assert line.endswith(f": going back to step {before}.")
    assert run.steps() == [1, 2, 3]
    newest = run.newest()
    assert newest is not None
    with pytest.raises(DamagedError, match="delete its folder to use the one before"):
        newest.local()


def test_only_what_is_asked_for_has_to_be_intact(run: Checkpoints) -> None:
    write(run, "a", 1, 2)
    damage(at(run, 2), "engine/shard-0.pt", "flip")
    assert run.newest_intact(("model", "x")) == at(run, 2)
    assert run.newest_intact(("model", "engine/")) == at(run, 1)


def test_no_intact_checkpoint_is_said_too(
    run: Checkpoints, capsys: pytest.CaptureFixture[str]
) -> None:
    write(run, "a", 1)
    damage(at(run, 1), "model-0", "delete")
    assert run.newest_intact() is None
    assert capsys.readouterr().out.endswith(": there is no other.\n")


def test_a_checkpoint_that_is_removed_while_it_is_read_is_no_damage(
    run: Checkpoints, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write(run, "a", 1, 2)
    read = type(run.store).read

    def remove_then_read(store: object, name: str) -> bytes:
        if "step-000002" in name:
            monkeypatch.undo()
            at(run, 2).remove()
        return read(run.store, name)

    monkeypatch.setattr(type(run.store), "read", remove_then_read)
    assert run.newest_intact() == at(run, 1)
    assert capsys.readouterr().out == ""


def test_sweeping_takes_what_is_incomplete_and_nothing_else(run: Checkpoints) -> None:
    write(run, "a", 1, 2)
    damage(at(run, 2), "COMPLETE", "delete")
    stage(open_writer(run, "b"), 3)
    assert folders(run) == {"step-000001-a", "step-000002-a", ".step-000003-b"}
    run.sweep()
    assert folders(run) == {"step-000001-a"}
    assert run.newest_intact() == at(run, 1)


def test_removing_takes_one_checkpoint(run: Checkpoints) -> None:
    write(run, "a", 1, 2)
    at(run, 2).remove()
    assert folders(run) == {"step-000001-a"}


def _fetch(run: Checkpoints) -> int:
    newest = run.newest()
    assert newest is not None
    return sum(len(path.read_bytes()) for path in newest.local().rglob("*-0*") if path.is_file())


def test_processes_of_a_node_fetch_once(s3_url: str, s3_proxy: FaultyProxy, tmp_path: Path) -> None:
    run = open_run(s3_url, tmp_path)
    write(run, "a", 5)
    s3_proxy.seen.clear()
    # Long enough for all of them to ask while the first one fetches.
    s3_proxy.before = lambda seen: time.sleep(0.3 if "-0" in seen.path else 0)
    with multiprocessing.get_context("fork").Pool(4) as pool:
        assert pool.map(_fetch, [run] * 4, chunksize=1) == [6000] * 4
    gets = [seen.path for seen in s3_proxy.seen if seen.method == "GET" and "-0" in seen.path]
    assert len([path for path in gets if "model-0" in path]) == 1
    assert len([path for path in gets if "shard-0" in path]) == 1


def test_a_damaged_copy_on_the_node_is_fetched_again(s3_url: str, tmp_path: Path) -> None:
    run = open_run(s3_url, tmp_path)
    write(run, "a", 5)
    copy = at(run, 5).local() / "model-0"
    data = copy.read_bytes()
    copy.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    (copy.parent / ".model-0-abcdefgh").write_bytes(b"cut short by a kill")
    assert (at(run, 5).local() / "model-0").read_bytes() == data
    assert {path.name for path in copy.parent.iterdir()} == {"model-0", "engine"}


def test_a_node_keeps_the_newest_of_a_run(s3_url: str, tmp_path: Path) -> None:
    run = open_run(s3_url, tmp_path)
    for step in (1, 2, 3):
        write(run, f"a{step}", step)
        at(run, step).local("model")
    assert [path.name for path in run.workspace.glob("*step-*")] == ["step-000003-a3"]


def test_bytes_that_are_damaged_on_their_way_are_fetched_again(
    s3_url: str, s3_proxy: FaultyProxy, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = open_run(s3_url, tmp_path)
    write(run, "a", 1, 2)
    for seed in range(4):
        shutil.rmtree(run.workspace, ignore_errors=True)
        s3_proxy.chance(0.2, Fault("flip", at=2000, method="GET"), Fault("drop"), seed=seed)
        found = run.newest_intact()
        s3_proxy.chance(0.0)
        assert found == at(run, 2)
    assert {"flip", "drop"} <= {seen.fault for seen in s3_proxy.seen}
    assert capsys.readouterr().out == ""


def test_a_store_that_is_away_is_no_damage(
    s3_url: str, s3_proxy: FaultyProxy, tmp_path: Path
) -> None:
    write(open_run(s3_url, tmp_path), "a", 1, 2)
    impatient = open_run(s3_url, tmp_path, clock=TurnedClock())
    listed = impatient.newest()
    assert listed is not None
    s3_proxy.before = lambda seen: setattr(
        seen, "fault", "slow_down" if "shard-0" in seen.path else ""
    )
    with pytest.raises(UserError, match=r"could not fetch .*step-000002-a/engine/shard-0\.pt"):
        impatient.newest_intact()
