"""Feeds every reader of documents with mutated ones: it gives one sentence or a valid object."""

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from pipelines.data.cache import ShardCache
from pipelines.data.download import _Note as DownloadNote
from pipelines.data.manifest import Manifest
from pipelines.data.ownership import check_output
from pipelines.data.quality.figures import Quality
from pipelines.data.sources.known import FILE_NAME, KnownFile, KnownFiles
from pipelines.data.writer import Note, read_note
from pipelines.errors import UserError
from pipelines.evaluation import shadow_history, shadow_page, side_by_side
from pipelines.evaluation.measure import ImageResult
from pipelines.evaluation.results import EvaluationResults, from_csv, owned
from pipelines.models import bundle
from pipelines.models.facts import BundleFacts
from pipelines.notify.notification import Notification
from pipelines.notify.send import Told
from pipelines.registry.measured import Measured
from pipelines.retrain import history, records
from pipelines.retrain import lease as turns
from pipelines.runs import lease
from pipelines.runs.checkpoint import RunState
from pipelines.runs.marker import Marker, StoredFile, fetch_files, read_marker
from pipelines.storage.digests import digest
from pipelines.storage.ownership import check_replaceable
from pipelines.storage.store import LocalStore, Store
from pipelines.storage.typed import Document, read_typed, to_json, validated
from pipelines.triggers.state import Start, Watched
from tests.support.bundles import make_bundle
from tests.support.mutations import HOSTILE, changed, places
from tests.support.results import METRIC, make_results

SHA = "0123456789abcdef" * 4
MANIFEST = {
    "settings": {"tile": 64},
    "shards": [
        {
            "path": "train-000000.tar", "sha256": SHA, "bytes": 4, "split": "train",
            "photos": [SHA], "keys": ["a-0", "a-1"], "offsets": [0, 2], "sizes": [2, 2],
            "crc32": [1, 2],
        }
    ],
}  # fmt: skip
STATE = RunState(
    step=1, samples=8, world_size=1, zero_stage=0, seed=0, manifest=SHA, identity={"a": [1]},
    metrics={"loss": 0.5}, score=None, config={"a": {"b": 1}}, stage="s", networks={},
)  # fmt: skip
MARKER = Marker("a", 1, 1, 30.0, {"model": StoredFile(6, SHA), "engine/a": StoredFile(0, SHA)})


@dataclass(frozen=True)
class Reader:
    """A reader, with a valid document and the way in which its writer seals it."""

    valid: Any
    read: Callable[[Path, bytes], Any]
    seal: Callable[[Any], bytes] = lambda value: json.dumps(value).encode()


def as_json(document: Document) -> Any:
    return json.loads(to_json(document))


def sealed_marker(value: Any) -> bytes:
    if isinstance(value, dict):
        value = {key: inner for key, inner in value.items() if key != "sha256"}
        value |= {"sha256": digest(value)}
    return json.dumps(value).encode()


def sealed_manifest(value: Any) -> bytes:
    """A manifest with the digest that belongs to it, as an attacker would write it."""
    with suppress(TypeError, KeyError, AttributeError):
        lines = [{"version": 2, "settings": value["settings"]}, *value["shards"]]
        text = "".join(json.dumps(x, sort_keys=True, separators=(",", ":")) + "\n" for x in lines)
        value = {"version": 2, "digest": hashlib.sha256(text.encode()).hexdigest()} | value
    return json.dumps(value).encode()


def read_manifest(folder: Path, data: bytes) -> None:
    """Reads a manifest, and asks the cache for its shards, as a training would."""
    store = LocalStore(folder / "store")
    store.write("manifest.json", data)
    manifest = Manifest.load(store)
    with suppress(UserError):
        check_output(store)
    cache = ShardCache(folder / "cache", 1 << 20)
    for shard in manifest.shards:
        with suppress(UserError):
            cache.open(Missing(store.location), shard).close()


class Missing(LocalStore):
    """A store without the shards: what is not cached is not there."""

    def __init__(self, location: str) -> None:
        super().__init__(Path(location))

    def fetch(self, name: str, path: Path, *, size: int) -> None:
        raise UserError(f"no {name}")


def read_bundle(folder: Path, data: bytes) -> None:
    (folder / "bundle" / "bundle.json").write_bytes(data)
    with suppress(UserError):
        check_replaceable(LocalStore(folder / "bundle"), "bundle.json", bundle.owned)
    bundle.load_bundle(folder / "bundle")


def read_config(folder: Path, data: bytes) -> None:
    (folder / "configured").mkdir(exist_ok=True)
    (folder / "configured" / "config.yaml").write_bytes(data)
    bundle.Bundle(folder / "configured", None).config()  # type: ignore[arg-type]


def read_results(folder: Path, data: bytes) -> None:
    store = LocalStore(folder / "results")
    store.write("results.json", data)
    with suppress(UserError):
        check_replaceable(store, "results.json", owned)
    read_typed(EvaluationResults, data, "results.json")


def read_comparison(folder: Path, data: bytes) -> None:
    store = LocalStore(folder / "comparison")
    store.write("compare.json", data)
    with suppress(UserError):
        check_replaceable(store, "compare.json", side_by_side.owned)
    read_typed(side_by_side.SideBySide, data, "compare.json")


def read_shadow(folder: Path, data: bytes) -> None:
    """Reads a record beside others, judges the next tick by it, and draws it."""
    store = LocalStore(folder / "shadow")
    store.write("records/0123456789abcdef.json", data)
    (found,) = shadow_history.History(store).read()
    shadow_history.judged(SHADOW.figures, SHADOW, [found, found], 2)
    shadow_page.render([found], 2)


def read_checkpoint(folder: Path, data: bytes) -> None:
    store = LocalStore(folder / "runs")
    store.write("step-000001-a/COMPLETE", data)
    files = read_marker(store, "step-000001-a").files
    fetch_files(store, "step-000001-a", folder / "scratch", files)


def read_record(folder: Path, data: bytes) -> None:
    store: Store = LocalStore(folder / "records")
    store.write("shard.json", data)
    records.reason(records.load(store, "shard"), {"a": 1})


def read_retraining(folder: Path, data: bytes) -> None:
    store: Store = LocalStore(folder / "retrainings")
    store.write("retrainings/a.json", data)
    history.table(history.Retrainings(store).all(), 0.0)


def read_holder(_: Path, data: bytes) -> None:
    assert str(read_typed(turns.Holder, data, "x.json")).isprintable()


def read_shard_note(folder: Path, data: bytes) -> None:
    store = LocalStore(folder / "notes")
    store.write(".notes/train-000000.tar.json", data)
    read_note(store, ".notes/train-000000.tar.json")
    check_output(store)


def read_known_files(folder: Path, data: bytes) -> None:
    store = LocalStore(folder / "known")
    store.write(FILE_NAME, data)
    KnownFiles.load(store)
    read_typed(KnownFiles, data, FILE_NAME)


def read_table(folder: Path, data: bytes) -> None:
    (folder / "images.csv").write_bytes(data)
    from_csv(folder / "images.csv")


def read_lease(_: Path, data: bytes) -> None:
    assert lease._holder(data).isprintable()


def typed(cls: type[Document]) -> Callable[[Path, bytes], None]:
    return lambda _, data: read_typed(cls, data, "x.json") and None


LOOK = side_by_side.Look(
    "a.png", 40, 30, (0, 0, 40, 30), {"a": 5.0, "b": None}, "why",
    [side_by_side.Distance("a", "b", 40.0), side_by_side.Distance("a", "c", None)],
)  # fmt: skip
COMPARISON = side_by_side.SideBySide(
    scale=4,
    models=[side_by_side.Subject("a", None, None, 1), side_by_side.Subject("b", "v", SHA, 2)],
    looks=[LOOK], skipped={"b.png": "why"}, niqe_protocol="p", date="2026-01-01", machine="m",
)  # fmt: skip
SHADOW = shadow_history.ShadowRecord(
    time="2026-11-29T08:00:00.000Z", source="s", protocol="p", model=COMPARISON.models[0],
    identity=SHA, new=["0123456789abcdef"],
    figures={
        "niqe": shadow_history.Figure(5.0, 1.0, 3, 4.0, 6.0, True),
        "broken": shadow_history.Figure(0.0, 0.0, 3),
    },
)  # fmt: skip
NEWS = Notification("promoted", "a is", "a", "3", "r", "better", "h", "2026-11-29T08:00:00Z")
WATCHED = Watched("/photos", ("a", "b"), Start(1, "small-a", 0.5, "failed"))
MEASURED = Measured(
    SHA,
    {"psnr": METRIC},
    {"embedded": SHA},
    [ImageResult("embedded", "a", "a", "model", {"psnr": 1})],
)
RECORD = records.Record("shard", {"a": 1, "b": [1, None]})
RETRAINING = history.Retraining(
    history.Given("p", "c", None, "6"), "small-a", "small", "2026-11-29T08:00:00Z",
    "2026-11-29T09:00:00Z", after=history.Photos("m", 3), cost=history.Cost(1.0, 0.5, 0.0),
    verdict=history.Verdict.REFUSED, reason="worse by psnr_y",
)  # fmt: skip
KNOWN = KnownFiles(
    (
        KnownFile("/photos", "a.png", 9, "1", SHA, 8, 8),
        KnownFile("s3://b/c", "d.png", 9, "e", SHA, 8, 8, Quality(9.5, 0.9, SHA, SHA, "f", 10)),
    )
)
READERS = {
    "manifest": Reader(MANIFEST, read_manifest, sealed_manifest),
    "bundle.json": Reader(None, read_bundle),
    "config.yaml": Reader(None, read_config, lambda value: yaml.safe_dump(value).encode()),
    "results.json": Reader(as_json(make_results()), read_results),
    "compare.json": Reader(as_json(COMPARISON), read_comparison),
    "shadow record": Reader(as_json(SHADOW), read_shadow),
    "state.json": Reader(as_json(STATE), typed(RunState)),
    "COMPLETE": Reader(json.loads(MARKER.encode()), read_checkpoint, sealed_marker),
    "lease": Reader({"holder": "a", "host": "b", "pid": 1, "time": 0.5}, read_lease),
    "record": Reader(as_json(RECORD), read_record),
    "retraining": Reader(as_json(RETRAINING), read_retraining),
    "turn": Reader(as_json(turns.Holder("me@a", 1, "small", "2026-11-29T08:00:00Z")), read_holder),
    "measured": Reader(as_json(MEASURED), typed(Measured)),
    "note": Reader(as_json(Note(SHA, MANIFEST["shards"][0], [])), read_shard_note),  # type: ignore[index,arg-type]
    "known files": Reader(as_json(KNOWN), read_known_files),
    "notification": Reader(as_json(NEWS), typed(Notification)),
    "watched": Reader(as_json(WATCHED), typed(Watched)),
    "told": Reader(as_json(Told("promoted 3", ("the webhook at a",))), typed(Told)),
    "download": Reader(as_json(DownloadNote("http://a", "v")), typed(DownloadNote)),
}
DOCUMENTS = {
    BundleFacts, EvaluationResults, side_by_side.SideBySide, shadow_history.ShadowRecord, RunState,
    records.Record, Note, DownloadNote, Notification, Told, Watched,
    Measured, history.Retraining, turns.Holder, KnownFiles,
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder that readers work in; the files beside it belong to somebody else."""
    outer = tmp_path_factory.mktemp("outer")
    (outer / "victim").mkdir()
    for name in ("backup", "backup.tar", "backup.part"):
        (outer / "victim" / name).write_text("mine")
    inner = outer / "inner"
    made = make_bundle(inner / "bundle")
    READERS["bundle.json"] = Reader(as_json(made.facts), read_bundle)
    config = yaml.safe_load((made.path / "config.yaml").read_text())
    READERS["config.yaml"] = Reader(config, read_config, READERS["config.yaml"].seal)
    yield inner
    assert {p.name for p in outer.iterdir()} == {"inner", "victim"}
    assert {p.name: p.read_text() for p in (outer / "victim").iterdir()} == dict.fromkeys(
        ("backup", "backup.tar", "backup.part"), "mine"
    )


def read(reader: Reader, folder: Path, data: bytes) -> None:
    try:
        reader.read(folder, data)
    except UserError as error:
        sentence = str(error)
        assert sentence, "an error says something"
        assert sentence.isprintable()


@pytest.mark.parametrize("name", READERS)
@settings(
    max_examples=60, deadline=None, derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)  # fmt: skip
@given(draw=st.data())
def test_a_changed_document_gives_a_sentence_or_a_valid_object(
    name: str, folder: Path, draw: st.DataObject
) -> None:
    reader = READERS[name]
    where = draw.draw(st.sampled_from(list(places(reader.valid))))
    to = draw.draw(st.sampled_from(HOSTILE) | st.text(max_size=8) | st.integers() | st.floats())
    how = draw.draw(st.sampled_from(["set", "drop", "rename"]))
    try:
        data = reader.seal(changed(reader.valid, where, to, how))
    except (UnicodeEncodeError, yaml.YAMLError):
        return  # YAML has no lone surrogates
    read(reader, folder, data)


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize(
    "data",
    [
        b"", b"\xff\xfe", b"[" * 100_000, b'{"a":' * 990 + b"1" + b"}" * 990, b"NaN", b"1" * 5000,
        b'{"version": 1' + b"0" * 5000 + b"}", b"\0" * 100, b'"\\ud800"',
        b'{"version": "\\ud800\\n"}',
    ],
)  # fmt: skip
def test_bytes_that_are_no_document(name: str, folder: Path, data: bytes) -> None:
    read(READERS[name], folder, data)


@pytest.mark.parametrize("name", READERS)
def test_a_valid_document_is_read_and_a_cut_one_never_gives_a_traceback(
    name: str, folder: Path
) -> None:
    reader = READERS[name]
    whole = reader.seal(reader.valid)
    if name != "COMPLETE":  # whose files are not there
        reader.read(folder, whole)
    for cut in range(0, len(whole), max(1, len(whole) // 20)):
        read(reader, folder, whole[:cut])


@given(data=st.binary(max_size=80) | st.text(max_size=80).map(lambda t: t.encode(errors="replace")))
@settings(max_examples=100, deadline=None, derandomize=True)
@example(b"benchmark,key,group,method,psnr\na,b,c,d\n")
@example(b"benchmark,key,group,method,psnr\na,b,c,d,1,2\n")
@example(b"benchmark,key,group,method,psnr\na,b,c,d,x\n")
@example(b"benchmark,key\na,b\n")
@example(b'benchmark,key,group,method\n"a\n')
@example(b"benchmark,key,group,method\n" + b"a" * 200_000)
def test_a_table_of_images(folder: Path, data: bytes) -> None:
    read(Reader(None, read_table), folder, data)


def test_an_escaping_digest_leaves_the_file_of_its_victim(folder: Path) -> None:
    victim = folder.parent / "victim" / "backup.tar"
    shard = MANIFEST["shards"][0] | {"sha256": "../../victim/backup"}  # type: ignore[index]
    with pytest.raises(UserError, match="is damaged or of another version"):
        read_manifest(folder, sealed_manifest(MANIFEST | {"shards": [shard]}))
    assert victim.read_text() == "mine"


def test_an_image_result_is_no_other_type() -> None:
    with pytest.raises(ValueError, match="scores"):
        validated(ImageResult, {"benchmark": "a", "key": "b", "group": "c", "method": "d"})


def test_every_document_is_fed() -> None:
    ours = {cls for cls in Document.__subclasses__() if cls.__module__.startswith("pipelines.")}
    assert ours == DOCUMENTS
