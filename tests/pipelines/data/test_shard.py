import hashlib
import json
import re
import shutil
import tarfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from itertools import islice, starmap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import webdataset
from filelock import FileLock
from PIL import Image

from pipelines.config.load import load_config
from pipelines.config.schema import ShardConfig, StreamConfig
from pipelines.data import shard
from pipelines.data.dataset import open_dataset
from pipelines.data.images import decode_photo
from pipelines.data.inspect import inspect
from pipelines.data.layout import split_photos
from pipelines.data.manifest import Manifest
from pipelines.data.sources import find_entries
from pipelines.data.verify import check_shard
from pipelines.errors import UserError
from pipelines.storage.store import open_store
from tests.conftest import ROOT, SMALL, write_dataset

PAGE = ROOT / "docs" / "data.md"


def files(directory: Path) -> dict[str, bytes]:
    """All that a dataset consists of."""
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in sorted(directory.rglob("*"))
        if path.is_file() and path.name != ".lock"
    }


def reversed_map(function: Callable[..., Any], calls: Iterable[tuple[Any, ...]]) -> Iterator[Any]:
    """Calls the function in reverse order, as if later tasks had been faster."""
    results = [function(*call) for call in reversed(list(calls))]
    return iter(results[::-1])


def test_the_same_photos_give_the_same_bytes_in_whatever_order_tasks_run(
    photos: Path, dataset: Path, tmp_path: Path
) -> None:
    settings = [f"recipe={SMALL}", f"source={photos}", f"output={tmp_path}", "shard.shard_mib=0.1"]
    shard.make_dataset(load_config(settings), find_entries(str(photos)), reversed_map)
    assert files(tmp_path) == files(dataset)
    assert sum(name.endswith(".tar") for name in files(dataset)) > 2


def test_names_and_containers_do_not_matter_content_does(photos: Path, tmp_path: Path) -> None:
    renamed = tmp_path / "renamed"
    renamed.mkdir()
    for number, path in enumerate(sorted(photos.iterdir(), reverse=True)):
        shutil.copy(path, renamed / f"{number:03d}.png")
    first = write_dataset(photos, tmp_path / "a")
    second = write_dataset(renamed, tmp_path / "b")
    keys = [[shard.keys.tolist() for shard in m.shards] for m in (first, second)]
    assert keys[0] == keys[1]


def test_stock_webdataset_reads_the_shards(photos: Path, dataset: Path) -> None:
    """The test reads the manifest as JSON and the shards by webdataset, with no code of ours."""
    raw = json.loads((dataset / "manifest.json").read_text())
    urls = [str(dataset / s["path"]) for s in raw["shards"]]
    found = list(webdataset.WebDataset(urls, shardshuffle=False).decode("rgb8"))
    assert [s["__key__"] for s in found] == [key for s in raw["shards"] for key in s["keys"]]
    for sample in found:
        left, top, right, bottom = sample["json"]["box"]
        photo = np.asarray(Image.open(photos / sample["json"]["source"]).convert("RGB"))
        assert np.array_equal(sample["webp"], photo[top:bottom, left:right])
        assert "." not in sample["__key__"]


def test_the_page_reads_the_shards_with_webdataset(
    dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The example of docs/data.md, on the shards that are there."""
    [example] = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    shards = sorted(dataset.glob("train-*.tar"))
    pattern = f"{dataset}/train-{{000000..{len(shards) - 1:06d}}}.tar"
    found: dict[str, Any] = {}
    exec(example.replace("work/mine/train-{000000..000003}.tar", pattern), found)
    assert found["shards"] == pattern
    height, width, _ = found["tile"].shape
    left, top, right, bottom = found["facts"]["box"]
    assert (right - left, bottom - top) == (width, height)


def test_nothing_in_a_tar_depends_on_who_made_it_or_when(dataset: Path) -> None:
    for path in dataset.glob("*.tar"):
        with tarfile.open(path) as tar:
            assert all(m.mtime == 0 and m.uname == m.gname == "srforge" for m in tar.getmembers())


def test_a_photo_is_in_one_split_only(dataset: Path) -> None:
    opened = open_dataset(str(dataset), StreamConfig())
    sources: dict[str, set[str]] = {"train": set(), "val": set()}
    for split, names in sources.items():
        for sample in opened.manifest.split(split):
            names.add(json.loads(opened.read(sample)["json"])["source"])
    assert sources["train"]
    assert sources["val"]
    assert not sources["train"] & sources["val"]


def interrupted_after(count: int) -> Any:
    """A cluster that is lost after `count` shards."""

    def run(function: Callable[..., Any], calls: Iterable[tuple[Any, ...]]) -> Iterator[Any]:
        if function.__name__ != "write_shard":
            yield from starmap(function, calls)
            return
        yield from islice(starmap(function, calls), count)
        raise KeyboardInterrupt

    return run


def test_what_is_interrupted_continues_and_is_never_half_there(
    photos: Path, dataset: Path, tmp_path: Path
) -> None:
    config = load_config(
        [f"recipe={SMALL}", f"source={photos}", f"output={tmp_path}", "shard.shard_mib=0.1"]
    )
    with pytest.raises(KeyboardInterrupt):
        shard.make_dataset(config, find_entries(str(photos)), interrupted_after(2))
    assert not (tmp_path / "manifest.json").exists()
    done = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.tar")}
    assert len(done) == 2
    with pytest.raises(UserError, match="there is no dataset"):
        open_dataset(str(tmp_path), StreamConfig())
    # Another attempt had got as far as a tar that is no longer wanted.
    shutil.copy(dataset / "train-000000.tar", tmp_path / "train-000077.tar")
    shard.make_dataset(config, find_entries(str(photos)), starmap)
    assert {path: path.stat().st_mtime_ns for path in done} == done
    assert files(tmp_path) == files(dataset)


def test_photos_that_are_added_later_are_appended(photos: Path, tmp_path: Path) -> None:
    folder, output = tmp_path / "photos", tmp_path / "shards"
    folder.mkdir()
    for path in sorted(photos.iterdir())[:4]:
        shutil.copy(path, folder)
    before = write_dataset(folder, output)
    old_files = files(output)
    split_of = {sha: s.split for s in before.shards for sha in s.photos}
    for path in sorted(photos.iterdir())[4:]:
        shutil.copy(path, folder)
    after = write_dataset(folder, output)
    assert {s.sha256 for s in before.shards} < {s.sha256 for s in after.shards}
    assert after.digest != before.digest
    for sha, split in split_of.items():
        assert [s.split for s in after.shards if sha in s.photos] == [split]
    assert len({sha for s in after.shards for sha in s.photos}) == 6
    # The dataset as it was can still be read, by the manifest's own name.
    for name, data in old_files.items():
        if name.endswith(".tar") or name.startswith("manifests/"):
            assert (output / name).read_bytes() == data
    location = str(output / "manifests" / f"{before.digest}.json")
    assert open_dataset(location, StreamConfig()).manifest.digest == before.digest
    assert open_dataset(str(output), StreamConfig()).manifest.digest == after.digest
    assert write_dataset(folder, output).digest == after.digest


def test_numbers_are_never_used_again(photos: Path, tmp_path: Path) -> None:
    """Else a later shard would take the place of one that an earlier manifest lists."""
    folder, output = tmp_path / "photos", tmp_path / "shards"
    shutil.copytree(photos, folder)
    before = write_dataset(folder, output)
    last = max((s for s in before.shards if s.split == "train"), key=lambda s: s.path)
    for photo in inspect(find_entries(str(folder)), ShardConfig(), starmap).photos:
        if photo.sha256 in last.photos:
            (folder / photo.entry.name).rename(tmp_path / photo.entry.name)
            moved = tmp_path / photo.entry.name
    write_dataset(folder, output)
    Image.open(moved).rotate(180).save(folder / "new.png")
    write_dataset(folder, output)
    earlier = open_dataset(str(output / "manifests" / f"{before.digest}.json"), StreamConfig())
    for shard_ in earlier.manifest.shards:
        assert check_shard(earlier.store, shard_) == []


def test_files_of_the_user_s_beside_the_shards_are_left_alone(photos: Path, tmp_path: Path) -> None:
    archive = tmp_path / "train-photos.tar"
    with tarfile.open(archive, "w") as tar:
        tar.add(photos, "photos")
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "train-000001.tar").write_bytes(b"mine")
    write_dataset(archive, tmp_path)
    assert archive.exists()
    assert (tmp_path / "deep" / "train-000001.tar").read_bytes() == b"mine"


def test_two_sources_may_use_the_same_names(photos: Path, tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    shutil.copytree(photos, one)
    other.mkdir()
    first, second, third = sorted(photos.iterdir())[:3]
    shutil.copy(first, other / first.name)  # the same name and content: a duplicate
    (other / second.name).write_bytes(second.read_bytes()[:9000])  # the same name, but broken
    Image.open(third).rotate(180).save(other / third.name)  # the same name, another photo
    output = tmp_path / "shards"
    manifest = write_dataset(f"[{one},{other}]", output, "shard.max_failures=0.2")
    keys = [key for s in manifest.shards for key in s.keys.tolist()]
    assert len(keys) == len(set(keys)) == 7 * 6
    assert len([sha for s in manifest.shards for sha in s.photos]) == 7
    skipped = json.loads((output / "report.json").read_text())["skipped"]
    assert sorted((s["name"], s["container"]) for s in skipped) == sorted(
        [(first.name, str(other)), (second.name, str(other))]
    )
    again = write_dataset(f"[{one},{other}]", output, "shard.max_failures=0.2")
    assert again.digest == manifest.digest


@pytest.mark.parametrize(
    ("lost", "remedy"),
    [("photos", "copy the photos to s3://bucket/prefix"), ("data", "set data to s3://bucket")],
)
def test_a_node_without_the_source_or_the_output_says_so(
    photos: Path, tmp_path: Path, lost: str, remedy: str
) -> None:
    def elsewhere(function: Callable[..., Any], calls: Iterable[tuple[Any, ...]]) -> Iterator[Any]:
        (tmp_path / lost).rename(tmp_path / "elsewhere")
        yield from starmap(function, calls)

    shutil.copytree(photos, tmp_path / "photos")
    source = str(tmp_path / "photos")
    config = load_config([f"recipe={SMALL}", f"source={source}", f"output={tmp_path / 'data'}"])
    with pytest.raises(UserError, match=f"does not see the folder {tmp_path / lost} .*: {remedy}"):
        shard.make_dataset(config, find_entries(source), elsewhere)


def test_a_job_that_finds_another_one_s_manifest_does_not_replace_it(
    photos: Path, tmp_path: Path
) -> None:
    """Object storage has no lock; the folder's is removed here to stand for it."""

    def meanwhile(function: Callable[..., Any], calls: Iterable[tuple[Any, ...]]) -> Iterator[Any]:
        yield from starmap(function, calls)
        if function.__name__ == "write_shard":
            (tmp_path / ".lock").unlink()
            write_dataset(photos, tmp_path, "shard.effort=3")

    config = load_config(
        [f"recipe={SMALL}", f"source={photos}", f"output={tmp_path}", "shard.shard_mib=0.1"]
    )
    with pytest.raises(UserError, match="another job has written into"):
        shard.make_dataset(config, find_entries(str(photos)), meanwhile)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("{tmp}/set.json", "names a manifest: shards need a folder"),
        ("{tmp}/file", "cannot use .*file"),
        ("{tmp}/file/below", "cannot use .*below"),
        ("~nosuchuser/x", "is no path"),
    ],
)
def test_an_output_that_cannot_be_is_one_sentence(
    photos: Path, tmp_path: Path, data: str, message: str
) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(UserError, match=message) as error:
        write_dataset(photos, data.format(tmp=tmp_path))
    assert "\n" not in str(error.value)


def test_shards_of_photos_that_are_gone_are_left_out(photos: Path, tmp_path: Path) -> None:
    folder, output = tmp_path / "photos", tmp_path / "shards"
    shutil.copytree(photos, folder)
    before = write_dataset(folder, output, "shard.shard_mib=0.5")
    gone = next(s for s in before.shards if s.split == "train").photos[0]
    for photo in inspect(find_entries(str(folder)), ShardConfig(), starmap).photos:
        if photo.sha256 == gone:
            (folder / photo.entry.name).unlink()
    after = write_dataset(folder, output, "shard.shard_mib=0.5")
    listed = {sha for s in after.shards for sha in s.photos}
    assert listed == {sha for s in before.shards for sha in s.photos} - {gone}
    assert not any(key.startswith(gone[:16].encode()) for s in after.shards for key in s.keys)


def test_a_shard_that_is_missing_or_cut_is_made_again(photos: Path, tmp_path: Path) -> None:
    manifest = write_dataset(photos, tmp_path)
    whole = files(tmp_path)
    (tmp_path / manifest.shards[0].path).unlink()
    (tmp_path / manifest.shards[1].path).write_bytes(b"cut")
    with pytest.raises(UserError, match=r"missing or truncated: run the same jobs/shard\.py again"):
        open_dataset(str(tmp_path), StreamConfig())
    assert write_dataset(photos, tmp_path).digest == manifest.digest
    assert files(tmp_path) == whole


def test_other_settings_do_not_mix(photos: Path, tmp_path: Path) -> None:
    write_dataset(photos, tmp_path)
    with pytest.raises(UserError, match=r"other settings \(shard.tile, shard.min_contrast\)"):
        write_dataset(photos, tmp_path, "shard.tile=64", "shard.min_contrast=7")


def test_a_source_without_most_of_the_dataset_s_photos_is_most_likely_a_mistake(
    photos: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    for path in photos.iterdir():
        Image.open(path).rotate(180).save(other / path.name)
    before = write_dataset(photos, tmp_path / "shards")
    for known in range(2):
        with pytest.raises(UserError, match=rf"6 photos, of which {known} are .*=\[old,new\]"):
            write_dataset(other, tmp_path / "shards")
        shutil.copy(sorted(photos.iterdir())[0], other / "known.png")
    (other / "known.png").unlink()
    both = write_dataset(f"[{photos},{other}]", tmp_path / "shards")
    assert {s.sha256 for s in before.shards} < {s.sha256 for s in both.shards}


def test_only_one_job_writes_into_a_folder(photos: Path, tmp_path: Path) -> None:
    with FileLock(tmp_path / ".lock"), pytest.raises(UserError, match="another job is writing"):
        write_dataset(photos, tmp_path)


def messy(photos: Path, folder: Path) -> Path:
    shutil.copytree(photos, folder)
    good = sorted(photos.iterdir())
    # Turned, so that it is no near-duplicate.
    Image.open(good[0]).convert("L").rotate(180).save(folder / "gray photo.png")
    (folder / "broken.png").write_bytes(good[1].read_bytes()[:5000])
    (folder / "note.png").write_text("not an image")
    (folder / "double.png").write_bytes(good[2].read_bytes())
    Image.open(good[3]).crop((0, 0, 100, 100)).save(folder / "small.png")
    return folder


def test_messy_input_is_counted_and_named(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, output = messy(photos, tmp_path / "photos"), tmp_path / "shards"
    manifest = write_dataset(folder, output, "shard.max_failures=0.2")
    report = json.loads((output / "report.json").read_text())
    assert report["num_files"] == 11
    assert report["manifest"] == manifest.digest
    reasons = {s["name"]: (s["reason"].partition(" (")[0], s["failure"]) for s in report["skipped"]}
    # Of two files with the same content the first by name is kept.
    kept = sorted(photos.iterdir())[2].name
    assert reasons == {
        "broken.png": ("truncated or corrupt", True),
        "note.png": ("not an image", True),
        max("double.png", kept): ("duplicate", False),
        "small.png": ("smaller than a tile", False),
    }
    assert report["reasons"]["duplicate"] == 1
    said = capsys.readouterr().out
    assert "Skipped 4 of 11 files" in said
    assert "1 not an image" in said
    assert len({sha for s in manifest.shards for sha in s.photos}) == 7
    # Once more: the same report, the same dataset.
    assert write_dataset(folder, output, "shard.max_failures=0.2").digest == manifest.digest
    assert json.loads((output / "report.json").read_text())["num_skipped"] == 4


def test_too_many_failures_stop_the_job_and_leave_a_report(photos: Path, tmp_path: Path) -> None:
    folder, output = messy(photos, tmp_path / "photos"), tmp_path / "shards"
    with pytest.raises(UserError, match=r"of 11 photo files are broken, more than shard.max_fai"):
        write_dataset(folder, output, "shard.max_failures=0.1")
    assert json.loads((output / "report.json").read_text())["num_skipped"] >= 2
    assert not (output / "manifest.json").exists()
    assert not list(output.glob("manifests/*"))


def test_near_flat_tiles_are_left_out_of_training_only(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    generator = np.random.default_rng(0)
    for number in range(4):
        pixels = np.full((128, 256, 3), 90 + number, np.uint8)
        pixels[:, 128:] = generator.integers(0, 256, (128, 128, 3))
        Image.fromarray(pixels).save(folder / f"{number}.png")
    every = "shard.quality=false"  # half of each photo is noise, so that tiles differ
    manifest = write_dataset(folder, tmp_path / "shards", every)
    opened = open_dataset(str(tmp_path / "shards"), StreamConfig())
    train = [opened.tile(sample) for sample in manifest.split("train")]
    assert len(train) == sum(len(s.photos) for s in manifest.shards if s.split == "train")
    assert min(tile.std() for tile in train) > 50
    val = [opened.tile(sample) for sample in manifest.split("val")]
    assert min(tile.std() for tile in val) < 1
    keep = write_dataset(folder, tmp_path / "all", "shard.min_contrast=0", every)
    assert keep.num_samples("train") == 2 * len(train)


def test_a_split_without_any_tile_is_refused(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no tile is left for the split 'val'"):
        write_dataset(photos, tmp_path, "shard.val_tile=512")
    assert not (tmp_path / "manifest.json").exists()


def test_the_split_follows_content_and_keeps_one_photo_on_each_side(photos: Path) -> None:
    found = inspect(find_entries(str(photos)), ShardConfig(), starmap).photos
    few = split_photos(found, 0.3, {})
    assert split_photos(found[::-1], 0.3, {}) == few
    assert list(split_photos(found, 0.0001, {}).values()).count("val") == 1
    assert list(split_photos(found, 0.9999, {}).values()).count("train") == 1
    # What is in a dataset stays where it is.
    known = {found[0].sha256: "val", found[1].sha256: "train"}
    assert known.items() <= split_photos(found, 0.0001, known).items()
    with pytest.raises(UserError, match="give at least 2"):
        split_photos(found[:1], 0.3, {})


def test_what_is_held_out_is_validation_alone(photos: Path, tmp_path: Path) -> None:
    held_out = tmp_path / "val"
    held_out.mkdir()
    everything = sorted(photos.iterdir())
    # The first is in both sources under another name.
    for path in everything[:2]:
        shutil.copy(path, held_out / f"held {path.name}")
    (tmp_path / "more").mkdir()
    shutil.copy(everything[2], tmp_path / "more")
    manifest = write_dataset(photos, tmp_path / "a", f"shard.val_source={held_out}")
    digests = [hashlib.sha256(path.read_bytes()).hexdigest() for path in everything]
    split = {sha: made.split for made in manifest.shards for sha in made.photos}
    assert split == {sha: "val" if n < 2 else "train" for n, sha in enumerate(digests)}
    # Photos that are held out later were trained on.
    with pytest.raises(UserError, match=r"has 1 photos of shard\.val_source among its training ph"):
        write_dataset(photos, tmp_path / "a", f"shard.val_source={tmp_path / 'more'}")
    for path in held_out.iterdir():
        path.write_text("no photo")
    settings = f"shard.val_source={held_out}", "shard.max_failures=1"
    with pytest.raises(UserError, match=r"no photo of shard\.val_source=.* can be read"):
        write_dataset(photos, tmp_path / "b", *settings)
    # The validation photos of a public set do not stand in for them.
    config = load_config([f"source={photos}", f"output={tmp_path / 'b'}", *settings])
    broken, _, first, *others = shard.photo_files(config)
    assert broken.held_out
    assert not first.held_out
    entries = [broken, replace(first, split="val"), *others]
    with pytest.raises(UserError, match=r"no photo of shard\.val_source=.* can be read"):
        shard.make_dataset(config, entries, reversed_map)


def test_tiles_are_the_photo_s_pixels(photos: Path, dataset: Path) -> None:
    opened = open_dataset(str(dataset), StreamConfig())
    for sample in opened.manifest.split("train")[:5]:
        meta = json.loads(opened.read(sample)["json"])
        left, top, right, bottom = meta["box"]
        photo = decode_photo((photos / meta["source"]).read_bytes(), 10)
        assert np.array_equal(opened.tile(sample), photo[top:bottom, left:right])
        assert meta["photo_size"] == [300, 200]


def test_a_dataset_lists_exactly_the_shards_that_are_there(dataset: Path) -> None:
    store = open_store(dataset)
    manifest = Manifest.load(store)
    listed = {s.path for s in manifest.shards}
    assert {name for name in store.names() if name.endswith(".tar")} == listed
