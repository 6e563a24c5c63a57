"""Sharding leaves out what no training should see: each photo for its own reason, in words."""

import json
import shutil
from collections.abc import Callable, Iterable, Iterator
from itertools import islice, starmap
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipelines.config.load import load_config
from pipelines.data import shard
from pipelines.data.manifest import Manifest
from pipelines.errors import UserError
from pipelines.storage.store import open_store
from tests.conftest import SMALL, write_dataset
from tests.support.photos import jpeg_bytes, noise, opened, resized, sample, save

#: The photo of the sample that the benchmark shows a part of.
SHOWN = 9


@pytest.fixture(scope="module")
def benchmark(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("frozen")
    save(sample(SHOWN)[450:674, 800:1024], folder / "crop.png")
    return folder


@pytest.fixture
def folder(photos: Path, tmp_path: Path) -> Path:
    """Six good photos, of which more are held out than the sixth."""
    shutil.copytree(photos, tmp_path / "photos")
    return tmp_path / "photos"


def spoil(folder: Path, photos: Path) -> dict[str, str]:
    """Adds a photo of each kind that is left out, and returns the reasons by name."""
    good = sorted(photos.iterdir())
    save(noise("uniform", 256), folder / "x noise.png")
    (folder / "x noise.jpg").write_bytes(jpeg_bytes(noise("gaussian", 256), 40))
    save(np.full((200, 300, 3), 90, np.uint8), folder / "x blank.png")
    save(resized(opened(good[1]), 0.5), folder / "x small.png")
    save(resized(opened(good[0]), 0.8), folder / "x resized.png")
    (folder / "x re-encoded.jpg").write_bytes(jpeg_bytes(opened(good[1]), 60))
    save(resized(sample(SHOWN), 0.6), folder / "x shown.png")
    return {
        "x noise.png": "noise",
        "x noise.jpg": "noise",
        "x blank.png": "blank",
        "x small.png": "smaller than a tile",
        "x resized.png": "near-duplicate",
        "x re-encoded.jpg": "near-duplicate",
        "x shown.png": "shown in the benchmark",
    }


def report(output: Path) -> dict[str, str]:
    """The reasons for which files were skipped, by name."""
    skipped = json.loads((output / "report.json").read_text())["skipped"]
    return {found["name"]: found["reason"] for found in skipped}


def test_each_is_left_out_for_its_own_reason(
    photos: Path,
    folder: Path,
    benchmark: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    clean = write_dataset(folder, tmp_path / "clean", f"gate.benchmark={benchmark}")
    expected, before = spoil(folder, photos), {p: p.read_bytes() for p in folder.iterdir()}
    capsys.readouterr()
    made = write_dataset(folder, tmp_path / "made", f"gate.benchmark={benchmark}")
    said, reasons = capsys.readouterr().out, report(tmp_path / "made")
    assert {n: r.partition(" (")[0].removesuffix(" of a validation photo") for n, r in
            reasons.items()} == expected  # fmt: skip
    figures = {
        "x noise.png": "(neighbouring pixels correlate by ",
        "x blank.png": "(contrast 0.0)",
        "x small.png": "(150x100 px)",
        "x resized.png": f"of {min(photos.iterdir()).name}, ",
        "x shown.png": f"({benchmark.name}/crop.png, ",
    }
    for name, figure in figures.items():
        assert figure in reasons[name]
    assert "Skipped 7 of 13 files: " in said
    assert all(part in said for part in ("2 noise", "1 blank", "1 shown in the benchmark"))
    # What is left is what would be there without them, and the source stays as it was.
    assert made.digest == clean.digest
    assert {p: p.read_bytes() for p in folder.iterdir()} == before
    # A later job knows them, says the same, and writes nothing.
    files = {p: p.stat().st_mtime_ns for p in (tmp_path / "made").rglob("*") if p.is_file()}
    again = write_dataset(folder, tmp_path / "made", f"gate.benchmark={benchmark}")
    assert again.digest == made.digest
    assert "Read 0 photo files; 13 more are known." in capsys.readouterr().out
    assert report(tmp_path / "made") == reasons
    now = {p: p.stat().st_mtime_ns for p in (tmp_path / "made").rglob("*") if p.is_file()}
    assert {p for p in now if now[p] != files[p]} <= {tmp_path / "made" / ".lock"}


def test_switched_off_every_photo_is_taken(photos: Path, folder: Path, tmp_path: Path) -> None:
    spoil(folder, photos)
    manifest = write_dataset(folder, tmp_path / "all", "shard.quality=false")
    assert len({sha for made in manifest.shards for sha in made.photos}) == 12
    assert report(tmp_path / "all").keys() == {"x small.png"}
    # Switched on later, what is in the dataset stays, and new photos are judged.
    save(noise("gray", 256), folder / "y noise.png")
    after = write_dataset(folder, tmp_path / "all")
    assert after.digest == manifest.digest
    assert {n for n, r in report(tmp_path / "all").items() if r.startswith("noise")} == {
        "y noise.png"
    }


def test_a_copy_of_a_validation_photo_is_refused(photos: Path, tmp_path: Path) -> None:
    held_out, folder = tmp_path / "val", tmp_path / "photos"
    held_out.mkdir()
    shutil.copytree(photos, folder)
    first = min(folder.iterdir())
    first.rename(held_out / first.name)
    (folder / "a copy.jpg").write_bytes(jpeg_bytes(opened(held_out / first.name), 70))
    expected = f"near-duplicate of a validation photo (of {first.name}, "
    write_dataset(folder, tmp_path / "a", f"shard.val_source={held_out}")
    assert report(tmp_path / "a")["a copy.jpg"].startswith(expected)
    # It comes later, and the photo was drawn for validation.
    (folder / "a copy.jpg").unlink()
    manifest = write_dataset(photos, tmp_path / "b")
    drawn = next(sha for s in manifest.shards if s.split == "val" for sha in s.photos)
    later = tmp_path / "later"
    for path in photos.iterdir():
        config = load_config([f"recipe={SMALL}", f"source={photos}"])
        (entry,) = [e for e in shard.photo_files(config) if e.name == path.name]
        found = shard.inspect([entry], config.shard, starmap).photos[0]
        if found.sha256 == drawn:
            save(resized(opened(path), 0.9), later / "copy.png")
    write_dataset(f"[{later},{photos}]", tmp_path / "b")
    assert report(tmp_path / "b")["copy.png"].startswith("near-duplicate of a validation photo")


def test_photos_that_are_held_out_by_hand_stay(photos: Path, tmp_path: Path) -> None:
    """They measure, and nobody trains on them; a set that others published stays whole."""
    save(noise("gray", 256), tmp_path / "val" / "noise.png")
    good = opened(min(photos.iterdir()))
    save(good, tmp_path / "val" / "one.png")
    save(resized(good, 0.9), tmp_path / "val" / "two.png")
    manifest = write_dataset(photos, tmp_path / "a", f"shard.val_source={tmp_path / 'val'}")
    held_out = [sha for s in manifest.shards if s.split == "val" for sha in s.photos]
    assert len(held_out) == 3


def test_a_near_duplicate_comes_in_when_the_first_has_gone(photos: Path, tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    shutil.copytree(photos, folder)
    first = min(folder.iterdir())
    save(resized(opened(first), 0.9), folder / "z copy.png")
    before = write_dataset(folder, tmp_path / "a")
    assert report(tmp_path / "a").keys() == {"z copy.png"}
    first.unlink()
    after = write_dataset(folder, tmp_path / "a")
    assert report(tmp_path / "a") == {}
    photos_of = [{sha for s in m.shards for sha in s.photos} for m in (before, after)]
    assert len(photos_of[0]) == len(photos_of[1]) == 6
    assert len(photos_of[0] & photos_of[1]) == 5


def snapshot(folder: Path) -> dict[Path, bytes]:
    return {p: p.read_bytes() for p in folder.rglob("*") if p.is_file() and p.name != ".lock"}


def test_a_set_that_is_mostly_junk_stops_with_nothing_written(
    photos: Path, folder: Path, tmp_path: Path
) -> None:
    output, added = tmp_path / "shards", tmp_path / "added"
    for number in range(5):
        save(noise("uniform", 200, number), added / f"noise {number}.png")
    save(np.zeros((300, 300, 3), np.uint8), added / "black.png")
    for number in (6, 7, 8):
        save(sample(number, 0.3), added / f"good {number}.png")
    # Into an empty place, and beside a dataset.
    with pytest.raises(UserError) as error:
        write_dataset(added, output)
    assert snapshot(output) == {}
    message = str(error.value)
    assert message.startswith(
        "6 of 9 new photos are junk, more than shard.max_junk=0.5 allows (5 noise, 1 blank; the "
        "first: black.png, noise 0.png, noise 1.png): "
    )
    assert message.endswith("or set shard.quality=false to take every photo.")
    assert "\n" not in message
    write_dataset(folder, output)
    before = snapshot(output)
    both = f"[{folder},{added}]"
    with pytest.raises(UserError, match="6 of 9 new photos are junk"):
        write_dataset(both, output)
    assert snapshot(output) == before
    made = write_dataset(both, output, "shard.max_junk=0.7")
    assert len({sha for s in made.shards for sha in s.photos}) == 9
    # They are no longer new, so the next job goes on with them in the source.
    save(sample(11, 0.3), added / "another.png")
    more = write_dataset(both, output)
    assert len({sha for s in more.shards for sha in s.photos}) == 10
    # Even if the record is lost, so that all of them are read once more.
    (output / "srmill-photos.json").unlink()
    assert write_dataset(both, output).digest == more.digest


def test_one_bad_photo_or_two_are_set_aside_and_stop_nothing(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "shards"
    before = write_dataset(folder, output)
    for number in range(2):
        save(noise("uniform", 200, number), folder / f"x noise {number}.png")
        with pytest.raises(UserError, match=r"1 of 1 new photos are junk, more than .*max_junk=0 "):
            write_dataset(folder, output, "shard.max_junk=0")
        capsys.readouterr()
        assert write_dataset(folder, output).digest == before.digest
        said = capsys.readouterr().out
        assert f"Skipped {number + 1} of {number + 7} files: {number + 1} noise; " in said
        assert f"Read 1 photo files; {number + 6} more are known." in said
    assert report(output).keys() == {"x noise 0.png", "x noise 1.png"}
    # Nobody reads them again. Two that come at once are set aside, too, and three are not.
    files = {p: p.stat().st_mtime_ns for p in output.rglob("*") if p.name != ".lock"}
    write_dataset(folder, output)
    assert "Read 0 photo files; 8 more are known." in capsys.readouterr().out
    assert {p: p.stat().st_mtime_ns for p in output.rglob("*") if p.name != ".lock"} == files
    for number in (2, 3):
        save(noise("uniform", 200, number), folder / f"x noise {number}.png")
    assert write_dataset(folder, output).digest == before.digest
    for number in (4, 5, 6):
        save(noise("uniform", 200, number), folder / f"x noise {number}.png")
    with pytest.raises(UserError, match="3 of 3 new photos are junk"):
        write_dataset(folder, output)


def test_a_shorter_side_than_the_key_is_junk(folder: Path, tmp_path: Path) -> None:
    save(sample(7, 0.5), folder / "large.png")
    with pytest.raises(UserError, match=r"6 of 7 new photos are junk.*6 smaller than shard\.min_s"):
        write_dataset(folder, tmp_path / "a", "shard.min_side=256")
    save(sample(8, 0.5), folder / "large too.png")
    settings = "shard.min_side=256", "shard.max_junk=1"
    manifest = write_dataset(folder, tmp_path / "a", *settings)
    assert len({sha for s in manifest.shards for sha in s.photos}) == 2
    assert "smaller than shard.min_side (300x200 px)" in report(tmp_path / "a").values()


def test_what_is_interrupted_continues_with_the_same_verdicts(
    photos: Path, folder: Path, benchmark: Path, tmp_path: Path
) -> None:
    def interrupted(function: Callable[..., Any], calls: Iterable[Any]) -> Iterator[Any]:
        count = 1 if function.__name__ == "write_shard" else None
        yield from islice(starmap(function, calls), count)
        if count:
            raise KeyboardInterrupt

    spoil(folder, photos)
    settings = f"gate.benchmark={benchmark}", "shard.shard_mib=0.1"
    write_dataset(folder, tmp_path / "whole", *settings)
    config = load_config(
        [f"recipe={SMALL}", f"source={folder}", f"output={tmp_path / 'resumed'}", *settings]
    )
    with pytest.raises(KeyboardInterrupt):
        shard.make_dataset(config, shard.photo_files(config), interrupted)
    assert not (tmp_path / "resumed" / "manifest.json").exists()
    shard.make_dataset(config, shard.photo_files(config), starmap)
    whole, resumed = (
        {p.relative_to(tmp_path / name): data for p, data in snapshot(tmp_path / name).items()}
        for name in ("whole", "resumed")
    )
    assert resumed == whole


def test_another_benchmark_is_compared_with_all_photos_once(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "shards"
    save(sample(SHOWN, 0.6), folder / "large.png")
    before = write_dataset(folder, output)
    splits = {sha: s.split for s in before.shards for sha in s.photos}
    save(sample(SHOWN)[450:674, 800:1024], tmp_path / "set" / "crop.png")
    capsys.readouterr()
    config = [f"gate.benchmark={tmp_path / 'set'}"]
    assert write_dataset(folder, output, *config).digest == before.digest
    said = capsys.readouterr().out
    assert "Read 7 photo files; 0 more are known." in said
    entries = json.loads((output / "srmill-photos.json").read_text())["files"]
    (large,) = [file for file in entries if file["name"] == "large.png"]
    assert large["quality"]["shows"] == "set/crop.png"
    trained = splits[large["sha256"]] == "train"
    warning = "1 training photos that are in the dataset already show images of the benchmark"
    assert (warning in said) == trained
    assert write_dataset(folder, output, *config).digest == before.digest
    assert "Read 0 photo files; 7 more are known." in capsys.readouterr().out


def test_a_photo_in_a_bucket_is_judged_by_a_benchmark_in_a_bucket(
    photos: Path, benchmark: Path, s3_url: str
) -> None:
    source, frozen = open_store(f"{s3_url}/photos"), open_store(f"{s3_url}/frozen")
    for path in photos.iterdir():
        source.write(path.name, path.read_bytes())
    source.write("shown.jpg", jpeg_bytes(resized(sample(SHOWN), 0.6), 80))
    frozen.write("crop.png", (benchmark / "crop.png").read_bytes())
    output = f"{s3_url}/shards"
    manifest = write_dataset(source.location, output, f"gate.benchmark={frozen.location}")
    assert manifest.digest == Manifest.load(open_store(output)).digest
    (skipped,) = json.loads(open_store(output).read("report.json"))["skipped"]
    assert skipped["name"] == "shown.jpg"
    assert skipped["reason"].startswith("shown in the benchmark (frozen/crop.png, ")
