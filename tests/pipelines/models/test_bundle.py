import os
import sys
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from pipelines.errors import UserError
from pipelines.models import bundle as bundle_module
from pipelines.models.bundle import Bundle, load_bundle, seal
from pipelines.models.facts import FileFacts
from pipelines.storage.files import file_sha256
from pipelines.storage.typed import to_json
from srmodels import system
from tests.support.bundles import make_bundle


def test_a_bundle_loads_with_its_network(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path)
    assert bundle.config().run.name == "small"
    assert bundle.network()(torch.rand(1, 3, 8, 8)).shape == (1, 3, 32, 32)
    files = {"model.safetensors", "config.yaml", "images.csv", "MLmodel"}
    assert set(bundle.facts.files) == files


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


def test_links_to_folders_pipes_and_nested_bundles_are_not_listed(tmp_path: Path) -> None:
    make_bundle(tmp_path / "bundle")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "code.pkl").write_bytes(b"x")
    for name, make in {
        "edge": lambda path: path.symlink_to(tmp_path / "elsewhere"),
        "pipe": os.mkfifo,
        "gone": lambda path: path.symlink_to(tmp_path / "nothing"),
    }.items():
        make(tmp_path / "bundle" / name)
        with pytest.raises(UserError, match=f"files it does not list: {name}: remove"):
            load_bundle(tmp_path / "bundle")
        (tmp_path / "bundle" / name).unlink()
    make_bundle(tmp_path / "bundle" / "edge" / "inner")
    with pytest.raises(
        UserError, match=r"files it does not list: edge/inner/MLmodel, edge/inner/bund"
    ):
        load_bundle(tmp_path / "bundle")


def test_a_listed_pipe_is_not_waited_for(tmp_path: Path) -> None:
    make_bundle(tmp_path)
    (tmp_path / "images.csv").unlink()
    os.mkfifo(tmp_path / "images.csv")
    with pytest.raises(UserError, match=r"images\.csv is missing or damaged"):
        load_bundle(tmp_path)


@pytest.mark.parametrize("name", ["/etc/passwd", "../../../../etc/passwd", "a/../b", "a\\b", ""])
def test_a_listed_path_stays_in_the_bundle(tmp_path: Path, name: str) -> None:
    facts = make_bundle(tmp_path).facts
    files = facts.files | {name: FileFacts("0" * 64, 1)}
    (tmp_path / "bundle.json").write_bytes(to_json(replace(facts, files=files)))
    with pytest.raises(UserError, match=r"bundle\.json is damaged \(files\."):
        load_bundle(tmp_path)


@pytest.mark.parametrize("data", [b"", b"garbage", b"\xff" * 8 + b"{}", b"\x02" + bytes(7) + b"{}"])
def test_sealed_files_that_hold_something_else_are_refused(tmp_path: Path, data: bytes) -> None:
    facts = make_bundle(tmp_path).facts
    for name in ("model.safetensors", "config.yaml"):
        (tmp_path / name).write_bytes(data)
        seal(tmp_path, facts)
        with pytest.raises(UserError, match=r"is damaged|do not fit|[Ww]eights"):
            load_bundle(tmp_path).network()


@pytest.mark.parametrize("tile", [0, 10**9, -4])
def test_a_sealed_tile_that_no_photo_has_is_refused(tmp_path: Path, tile: int) -> None:
    facts = make_bundle(tmp_path).facts
    config = tmp_path / "config.yaml"
    values = yaml.safe_load(config.read_text())
    values["export"]["tile"] = tile
    config.write_text(yaml.safe_dump(values))
    seal(tmp_path, facts)
    with pytest.raises(UserError, match=r"config\.yaml is damaged \(export\.tile must be at"):
        load_bundle(tmp_path).network()


def test_no_bundle_a_damaged_one_and_a_newer_one(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no bundle"):
        load_bundle(tmp_path)
    (tmp_path / "bundle.json").write_text("{")
    with pytest.raises(UserError, match="is damaged"):
        load_bundle(tmp_path)
    (tmp_path / "bundle.json").write_text('{"schema_version": 99, "files": {}}')
    with pytest.raises(UserError, match="has schema version 99, this SRMill reads 4"):
        load_bundle(tmp_path)


def reconfigure(directory: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Changes the configuration of a bundle, as its maker could."""
    facts, path = load_bundle(directory).facts, directory / "config.yaml"
    values = yaml.safe_load(path.read_text())
    change(values)
    path.write_text(yaml.safe_dump(values))
    seal(directory, facts)


@pytest.mark.parametrize("here", ["", "inner", "inner/own"])
def test_a_bundle_brings_no_code(
    here: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its folder lies in the current one, or is it, where Python would find a module in it."""
    directory = tmp_path / "inner" / "own"
    facts = make_bundle(directory).facts
    (directory / "edge").mkdir()
    ran = tmp_path / "ran"
    (directory / "edge" / "evil.py").write_text(f"open({str(ran)!r}, 'w')")
    seal(directory, facts)
    folder = tmp_path / here
    name = ".".join([*directory.relative_to(folder).parts, "edge", "evil"])
    reconfigure(directory, lambda values: values.update(system=name))
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", list(sys.path))
    for use in (Bundle.config, Bundle.network):
        with pytest.raises(UserError, match="its system would be code that lies in the bundle"):
            use(load_bundle(directory))
    assert not ran.exists()


@pytest.mark.parametrize("file", ["evil.py", "evil.pyc", "evil.so", "evil.cpython-311-x86_64.so"])
def test_a_module_of_any_ending_is_seen(
    file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python runs the first part of `evil.x` before it sees that it is no package."""
    facts = make_bundle(tmp_path).facts
    (tmp_path / file).touch()
    seal(tmp_path, facts)
    reconfigure(tmp_path, lambda values: values.update(system="evil.x"))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="its system would be code that lies in the bundle"):
        load_bundle(tmp_path).config()


def test_a_bundle_may_be_called_as_its_system(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_bundle(tmp_path / "edge_sd_sr")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    config = load_bundle(tmp_path / "edge_sd_sr").config()
    assert config.system == "edge_sd_sr"


def test_parts_that_stand_in_two_places_are_refused_in_pairs_too(tmp_path: Path) -> None:
    """YAML's !!pairs are tuples; thirty of them could stand for a thousand million values."""
    make_bundle(tmp_path)
    lines = ["a: &a0 [1]"]
    lines += [f"b{n}: &a{n + 1} !!pairs [x: *a{n}, y: *a{n}]" for n in range(30)]
    config = tmp_path / "config.yaml"
    facts = load_bundle(tmp_path).facts
    config.write_text(config.read_text() + "\n".join(lines) + "\n")
    seal(tmp_path, facts)
    with pytest.raises(UserError, match=r"config\.yaml.*a part of it stands in two places"):
        load_bundle(tmp_path).config()


def test_a_bundle_of_ones_own_system_names_a_module_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_bundle(tmp_path / "bundle")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "model.py").write_text("from srmodels.edge_sd_sr.system import SYSTEM")
    reconfigure(tmp_path / "bundle", lambda values: values.update(system="mine.model"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(system, "_own_packages", {})
    try:
        assert load_bundle(tmp_path / "bundle").config().system == "mine.model"
    finally:
        for name in ("mine", "mine.model"):
            sys.modules.pop(name, None)


def test_a_configuration_of_a_bundle_refers_to_nothing(tmp_path: Path) -> None:
    """Five texts that each name the one before 20 times stand for a thousand million letters."""
    make_bundle(tmp_path)
    keys = ("source", "output", "model", "bundle", "preview")

    def change(values: dict[str, Any]) -> None:
        values["source"] = "x" * 1000
        for one, other in pairwise(keys):
            values[other] = f"${{{one}}}" * 20

    reconfigure(tmp_path, change)
    with pytest.raises(UserError, match=r"config\.yaml.*it holds an interpolation"):
        load_bundle(tmp_path).config()


@pytest.mark.parametrize("name", ["model.safetensors", "images.csv"])
def test_a_file_of_another_size_is_not_read(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_bundle(tmp_path)
    hashed: list[str] = []

    def watched(path: Path) -> str:
        hashed.append(path.name)
        return file_sha256(path)

    monkeypatch.setattr(bundle_module, "file_sha256", watched)
    load_bundle(tmp_path)
    assert name in hashed
    hashed.clear()
    os.truncate(tmp_path / name, 2**40)  # a hole: it takes no disk
    with pytest.raises(UserError, match=f"{name} is missing or damaged"):
        load_bundle(tmp_path)
    assert name not in hashed


def test_facts_of_any_size_are_not_read(tmp_path: Path) -> None:
    make_bundle(tmp_path)
    os.truncate(tmp_path / "bundle.json", 2**40)
    with pytest.raises(UserError, match=r"bundle\.json.*it has more than \d+ bytes"):
        load_bundle(tmp_path)
