"""When a retraining is due, and what a trigger remembers of it."""

import json
import os
from pathlib import Path

import pytest

from pipelines.config.load import load_config
from pipelines.errors import UserError
from pipelines.job import BUDGET_SPENT, BUSY
from pipelines.storage.ownership import files_in
from pipelines.storage.s3 import S3Store
from pipelines.storage.store import open_store
from pipelines.triggers import Limits, Poll, Status, Watch, choose_starter, starters
from tests.conftest import SMALL
from tests.support.triggered import ShortJob, until

HOUR = 3600.0
SETTINGS = [f"recipe={SMALL}", "train.steps=5"]


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ShortJob:
    job = ShortJob(tmp_path / "checkout, with a name")
    monkeypatch.setattr(starters, "ROOT", job.root)
    monkeypatch.delenv("RAY_API_SERVER_ADDRESS", raising=False)
    return job


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "my photos, [all]"
    folder.mkdir()
    return folder


def add(folder: Path, *names: str, content: bytes = b"photo") -> None:
    for name in names:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(content)


def opened(source: Path | str, *settings: str, state: str = "work/watch") -> Watch:
    return Watch(str(source), [*SETTINGS, *settings], choose_starter(None), state)


def polled(
    source: Path | str, photos: int | None = 3, hours: float | None = None, now: float = 0.0
) -> Poll:
    """Does what a trigger that was started anew does, to the end of its job."""
    watch = opened(source)
    poll = watch.poll(Limits(photos, hours), now)
    if poll.started:
        assert watch.wait(poll.started) is Status.SUCCEEDED
    return poll


def test_enough_new_photos_start_a_retraining_once(job: ShortJob, folder: Path) -> None:
    add(folder, "a.png", "b.jpg", "notes.txt")
    assert polled(folder).line.endswith("2 photos, 2 new; waits for 1 more photo")
    add(folder, "deeper/c.webp")
    first = polled(folder)
    assert first.line.endswith(
        f"3 photos, 3 new; enough for --photos 3: starts {first.started} on this machine"
    )
    for _ in range(2):
        assert polled(folder).line.endswith("3 photos, 0 new; waits for 3 more photos")
    add(folder, "d.png", "e.png", "f.png")
    second = polled(folder)
    assert second.started != first.started
    assert len(job.started) == 2


def test_the_job_is_a_retraining_of_the_source_under_a_name_of_its_own(
    job: ShortJob, folder: Path
) -> None:
    add(folder, "a.png", "b.png", "c.png")
    polled(folder)
    add(folder, "d.png", "e.png", "f.png")
    polled(folder)
    first, second = (load_config(arguments) for arguments in job.started)
    assert first.source == second.source == str(folder)
    assert first.train.steps == 5
    assert first.run.name.startswith("small-")
    assert first.run.name != second.run.name
    assert first.mlflow.model == second.mlflow.model == "small"


def test_a_photo_that_is_replaced_is_new_and_one_that_goes_is_not(
    job: ShortJob, folder: Path
) -> None:
    add(folder, "a.png", "b.png", "c.png")
    polled(folder)
    (folder / "c.png").unlink()
    assert "2 photos, 0 new" in polled(folder).line
    add(folder, "a.png", content=b"other")
    os.utime(folder / "b.png", ns=(1, 1))
    assert "2 photos, 2 new" in polled(folder).line


def test_hours_start_one_too_but_never_without_photos(job: ShortJob, folder: Path) -> None:
    assert polled(folder, None, 2.0).line.endswith("0 photos, 0 new; waits for the first photo")
    add(folder, "a.png")
    assert "nothing was started yet: starts" in polled(folder, None, 2.0, now=HOUR).line
    waiting = polled(folder, None, 2.0, now=2.9 * HOUR)
    assert waiting.line.endswith("waits for 1970-01-01T03:00:00Z")
    both = polled(folder, 3, 2.0, now=2.9 * HOUR)
    assert both.line.endswith("waits for 3 more photos or 1970-01-01T03:00:00Z")
    again = polled(folder, 3, 2.0, now=3 * HOUR)
    assert "2 hours have passed: starts" in again.line
    runs = [load_config(arguments).run.name for arguments in job.started]
    assert runs[0] == runs[1]  # the same photos: the job itself finds nothing to do


def test_a_retraining_that_its_budget_stopped_goes_on_with_a_larger_one(
    job: ShortJob, folder: Path
) -> None:
    add(folder, "a.png")
    job.ends_with(BUDGET_SPENT)
    limits, watch = Limits(1, None), opened(folder, "retrain.max_hours=1")
    poll = watch.poll(limits, 0.0)
    assert poll.started
    assert watch.wait(poll.started) is Status.STOPPED
    # It is not repeated by itself, since it would stop again.
    for _ in range(2):
        assert "0 new; waits for 1 more photo" in watch.poll(limits, 1.0).line
    more = opened(folder, "retrain.max_hours=5", "retrain.max_gpu_hours=5")
    again = more.poll(limits, 2.0, asked=True)
    assert again.started
    more.wait(again.started)
    before, after = (load_config(arguments) for arguments in job.started)
    assert before.run.name == after.run.name
    assert (before.retrain.max_hours, after.retrain.max_hours) == (1, 5)


def test_a_retraining_that_found_another_one_is_tried_again(job: ShortJob, folder: Path) -> None:
    add(folder, "a.png")
    job.ends_with(BUSY)
    watch = opened(folder)
    first = watch.poll(Limits(1, None), 0.0)
    assert watch.wait(first.started or "") is Status.BUSY
    job.ends_with(0)
    again = watch.poll(Limits(1, None), 1.0)
    told = (
        f"; {first.started} found another retraining of its model at work; a new one is asked for"
    )
    assert told in again.line
    # A cluster gives each name only once.
    assert again.started != first.started
    assert watch.wait(again.started or "") is Status.SUCCEEDED
    assert "waits for 1 more photo" in watch.poll(Limits(1, None), 2.0).line


def test_a_failed_retraining_waits_for_new_photos(job: ShortJob, folder: Path) -> None:
    add(folder, "a.png")
    job.ends_with(2)
    watch = opened(folder)
    poll = watch.poll(Limits(1, None), 0.0)
    assert poll.started
    assert watch.wait(poll.started) is Status.FAILED
    assert "waits for 1 more photo" in opened(folder).poll(Limits(1, None), 1.0).line
    # Unless somebody asks.
    job.ends_with(0)
    asked = watch.poll(Limits(1, None), 2.0, asked=True)
    assert "; a new one is asked for: starts" in asked.line
    assert asked.started != poll.started
    assert watch.wait(asked.started or "") is Status.SUCCEEDED


def test_a_dry_run_writes_and_starts_nothing(job: ShortJob, folder: Path) -> None:
    add(folder, "a.png")
    line = opened(folder).poll(Limits(1, None), 0.0, dry=True).line
    assert "enough for --photos 1: starts small-" in line
    assert line.endswith("(dry run)")
    assert job.started == []
    assert not Path(os.environ["SRMILL_HOME"]).exists()
    polled(folder, 1)
    before = files_in(Path(os.environ["SRMILL_HOME"]))
    assert "waits" in opened(folder).poll(Limits(1, None), 0.0, dry=True).line
    assert files_in(Path(os.environ["SRMILL_HOME"])) == before


def test_a_bucket_is_polled_by_its_listing_and_can_keep_the_state(
    job: ShortJob, s3_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, names = S3Store.read, []

    def noted(self: S3Store, name: str, *rest: int) -> bytes:
        names.append(name)
        return read(self, name, *rest)

    monkeypatch.setattr(S3Store, "read", noted)
    store = open_store(f"{s3_url}/photos")

    def poll() -> Poll:
        watch = opened(f"{s3_url}/photos/", state=f"{s3_url}/state")
        poll = watch.poll(Limits(2, None), 0.0)
        if poll.started:
            watch.wait(poll.started)
        return poll

    assert "0 photos, 0 new" in poll().line
    for name in ("2026/a.png", "2026/b.png"):
        store.write(name, b"photo")
    assert poll().started
    assert "2 photos, 0 new" in poll().line
    store.write("2026/a.png", b"photo, another")
    assert "2 photos, 1 new" in poll().line
    assert load_config(job.started[0]).source == f"{s3_url}/photos"
    assert len(job.started) == 1
    assert set(names) == {"small.json"}
    assert open_store(f"{s3_url}/state").names() == ["small.json"]


def test_photos_of_another_source_do_not_count_as_seen(
    job: ShortJob, folder: Path, tmp_path: Path
) -> None:
    add(folder, "a.png")
    polled(folder, 1)
    folder.rename(tmp_path / "moved")
    assert "1 photo, 1 new" in polled(tmp_path / "moved", 1).line


def test_a_damaged_state_is_a_sentence(job: ShortJob, folder: Path) -> None:
    add(folder, "a.png")
    polled(folder, 1)
    path = Path(os.environ["SRMILL_HOME"]) / "work" / "watch" / "small.json"
    state = json.loads(path.read_text())
    path.write_text(json.dumps(state | {"seen": 5}))
    with pytest.raises(UserError, match="delete it, and all photos count as new"):
        polled(folder, 1)


def test_a_source_that_cannot_be_polled_is_refused(
    job: ShortJob, folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "photos.zip").write_bytes(b"zip")
    for source, message in {
        tmp_path / "photos.zip": "is a file: give a folder or an s3:// prefix",
        "http://host/photos": "neither a path nor s3://",
        "s3:///photos": "names no bucket",
    }.items():
        with pytest.raises(UserError, match=message):
            opened(source)
    with pytest.raises(UserError, match="make it, or correct SOURCE"):
        polled(tmp_path / "none")
    with pytest.raises(UserError, match="leave source= out"):
        opened(folder, "source=other")
    with pytest.raises(UserError, match=r"did you mean 'train\.steps'"):
        opened(folder, "train.stpes=3")
    with pytest.raises(UserError, match="cannot be a run or model name"):
        opened(folder, f"run.name={'x' * 95}")


def test_a_job_server_that_is_away_leaves_a_start_that_goes_on(
    job: ShortJob, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(folder, "a.png")
    monkeypatch.setenv("RAY_ADDRESS", "http://127.0.0.1:9")
    with pytest.raises(UserError, match=r"the job server at http://127\.0\.0\.1:9 does not answer"):
        opened(folder).poll(Limits(1, None), 0.0)
    monkeypatch.delenv("RAY_ADDRESS")
    poll = polled(folder, 1)
    assert "was interrupted: goes on" in poll.line
    assert len(job.started) == 1


def test_an_interrupted_retraining_goes_on_only_with_its_photos_and_settings(
    job: ShortJob, folder: Path
) -> None:
    add(folder, "a.png")
    job.ends_with(143)
    poll = opened(folder).poll(Limits(1, None), 0.0)
    assert poll.started
    watch = opened(folder)
    until(lambda: job.started and not job.processes())
    job.ends_with(0)
    again = opened(folder, "seed=1").poll(Limits(1, None), 1.0, dry=True)
    told = f"{poll.started} was interrupted, with other photos or settings"
    assert f"{told}; a new one is asked for: starts" in again.line
    # A run is trained on one dataset, which would no longer be the same.
    add(folder, "b.png")
    assert told in opened(folder).poll(Limits(9, None), 1.0, dry=True).line
    (folder / "b.png").unlink()
    goes_on = watch.poll(Limits(1, None), 1.0)
    assert goes_on.started == poll.started
    assert watch.wait(poll.started) is Status.SUCCEEDED


def test_a_folder_that_cannot_be_written_is_a_sentence(
    job: ShortJob, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SRMILL_HOME", str(tmp_path / "file"))
    add(folder, "a.png")
    with pytest.raises(UserError, match="correct the path or its rights"):
        opened(folder).poll(Limits(1, None), 0.0)


@pytest.mark.parametrize("address", ["127.0.0.1:8265", "ray://host:10001", "http://"])
def test_an_address_of_another_form_is_refused(job: ShortJob, address: str) -> None:
    with pytest.raises(UserError, match="the address of the job server is not of the form http"):
        choose_starter(address)


def test_an_installation_without_a_checkout_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(starters, "ROOT", tmp_path)
    with pytest.raises(UserError, match="install SRMill from a checkout"):
        choose_starter(None)
