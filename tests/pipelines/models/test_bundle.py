from pathlib import Path

import pytest
import torch

from pipelines.errors import UserError
from pipelines.models.bundle import load_bundle, seal
from tests.support.bundles import make_bundle


def test_a_bundle_loads_with_its_network(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path)
    assert bundle.config().run.name == "small"
    assert bundle.network()(torch.rand(1, 3, 8, 8)).shape == (1, 3, 32, 32)
    assert set(bundle.facts.files) == {"model.safetensors", "config.yaml", "images.csv"}


def test_any_change_is_noticed(tmp_path: Path) -> None:
    make_bundle(tmp_path)
    weights = tmp_path / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    with pytest.raises(UserError, match=r"model\.safetensors is missing or damaged"):
        load_bundle(tmp_path)
    weights.unlink()
    with pytest.raises(UserError, match=r"model\.safetensors is missing or damaged"):
        load_bundle(tmp_path)


def test_files_that_are_not_listed_are_refused(tmp_path: Path) -> None:
    make_bundle(tmp_path)
    (tmp_path / "extra.pkl").write_bytes(b"x")
    with pytest.raises(UserError, match=r"files it does not list: extra\.pkl"):
        load_bundle(tmp_path)


@pytest.mark.parametrize("name", ["images.csv", "model.safetensors", "config.yaml"])
def test_a_bundle_that_never_had_a_file_it_needs_is_refused(tmp_path: Path, name: str) -> None:
    facts = make_bundle(tmp_path).facts
    (tmp_path / name).unlink()
    seal(tmp_path, facts)
    with pytest.raises(UserError, match=rf"is incomplete \(its bundle\.json lists no {name}\)"):
        load_bundle(tmp_path)


def test_no_bundle_a_damaged_one_and_a_newer_one(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no bundle"):
        load_bundle(tmp_path)
    (tmp_path / "bundle.json").write_text("{")
    with pytest.raises(UserError, match="is damaged"):
        load_bundle(tmp_path)
    (tmp_path / "bundle.json").write_text('{"schema_version": 99, "files": {}}')
    with pytest.raises(UserError, match="has schema version 99, this SRMill reads 3"):
        load_bundle(tmp_path)
