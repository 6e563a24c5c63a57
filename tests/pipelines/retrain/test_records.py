import pytest

from pipelines.config.load import load_config
from pipelines.errors import UserError
from pipelines.retrain.records import Record, load, reason, records_of, save
from pipelines.storage.store import Store
from tests.conftest import SMALL


def records(run: str) -> Store:
    return records_of(load_config([f"recipe={SMALL}", f"run.name={run}"]))


INPUTS = {"manifest": "m", "start": None, "train.steps": 4, "order": {"lanes": (1, 2)}}


def test_a_record_is_read_as_it_was_written() -> None:
    store = records("a")
    assert load(store, "stage joint") is None
    save(store, Record("stage joint", {"manifest": "m"}))
    assert load(store, "stage joint") == Record("stage joint", {"manifest": "m"})
    assert store.names() == ["stage-joint.json"]
    assert load(records("b"), "stage joint") is None


@pytest.mark.parametrize(
    "content",
    [b"{", b"[]", b'{"step": "shard"}', b'{"step": "shard", "inputs": {}, "version": 99}'],
)
def test_a_record_that_cannot_be_read_is_refused(content: bytes) -> None:
    store = records("a")
    store.write("shard.json", content)
    with pytest.raises(UserError, match=r"shard\.json (is damaged|has schema version) .*delete it"):
        load(store, "shard")


def test_a_step_without_a_record_was_never_done() -> None:
    assert reason(None, INPUTS) == "runs: never done"


def test_the_same_inputs_are_told_by_their_digest() -> None:
    store = records("a")
    save(store, Record("shard", INPUTS))
    told = reason(load(store, "shard"), INPUTS)
    assert told.startswith("same inputs as before (")
    assert told.endswith("…): checks its result")
    assert told != reason(Record("shard", {}), {})


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"manifest": "n"}, "runs: manifest changed"),
        ({"start": "w", "train.steps": 5}, "runs: start, train.steps changed"),
        ({"new": None}, "runs: new changed"),
    ],
)
def test_changed_inputs_are_named(changes: dict[str, object], told: str) -> None:
    assert reason(Record("shard", INPUTS), INPUTS | changes) == told


def test_an_input_that_is_gone_is_named() -> None:
    assert reason(Record("shard", {"a": 1, "b": None}), {"a": 1}) == "runs: b changed"
