"""Edge-SD-SR's three parts as graphs of their own."""

from itertools import combinations
from pathlib import Path

import onnx
import pytest
import torch

from pipelines.config.load import load_config
from pipelines.config.reference import ModelReference
from pipelines.models.load import load_model
from srmodels.edge.fresh import run_fresh
from srmodels.edge.target import Delegation, ExportSettings, check_parity, make_target
from srmodels.network import SRNetwork

TILE = 32
TARGET = make_target("onnx_fp32_parts")


@pytest.fixture(scope="module")
def network() -> SRNetwork:
    reference = ModelReference.parse("edge_sd_sr_tiny")
    return load_model(reference, load_config(["model=edge_sd_sr_tiny"])).network


@pytest.fixture(scope="module")
def path(network: SRNetwork, tmp_path_factory: pytest.TempPathFactory) -> Path:
    main = tmp_path_factory.mktemp("parts") / TARGET.file
    made = TARGET.export(network, main, ExportSettings(TILE))
    assert "onnx" in made
    return main


def test_the_parts_in_turn_compute_what_the_network_does(network: SRNetwork, path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    images = [torch.rand(1, 3, TILE, TILE, generator=generator) for _ in range(2)]
    assert {file.name for file in path.parent.iterdir()} == set(TARGET.files)
    runner = TARGET.load(path, 1)
    assert check_parity(network, runner, images).max_error < 1e-4
    fresh = run_fresh("onnx_fp32_parts", path, images[0], 1)
    torch.testing.assert_close(fresh.x_h, runner.run(images[0]), rtol=0, atol=1e-5)


def test_each_part_holds_its_own_weights_alone(path: Path) -> None:
    names = {}
    for file in TARGET.files:
        graph = onnx.load(path.with_name(file)).graph
        names[file] = [v.name for v in graph.input], [v.name for v in graph.output]
    assert list(names.values()) == [
        (["x_l"], ["z_t", "z_l"]),
        (["z_t", "z_l"], ["z_h"]),
        (["z_h", "x_l"], ["x_h"]),
    ]
    stored = []
    for file in TARGET.files:
        weights = onnx.load(path.with_name(file)).graph.initializer
        stored.append({w.raw_data for w in weights if len(w.dims) == 4 and len(w.raw_data) > 1000})
    assert all(stored)
    assert not any(one & other for one, other in combinations(stored, 2))


def test_a_damaged_part_is_refused(path: Path, tmp_path: Path) -> None:
    for file in TARGET.files:
        (tmp_path / file).write_bytes(path.with_name(file).read_bytes())
    (tmp_path / TARGET.files[1]).write_bytes(b"no graph")
    with pytest.raises(ValueError, match=TARGET.files[1]):
        TARGET.load(tmp_path / TARGET.file)


def test_delegates_judge_all_parts(path: Path) -> None:
    found = TARGET.delegations(path)["coreml"]
    nodes = [len(onnx.load(path.with_name(file)).graph.node) for file in TARGET.files]
    assert found.nodes is not None
    assert found.nodes > max(nodes)


def test_delegations_of_several_graphs_add_up() -> None:
    one, other = Delegation(5, 1, 2, ("Gelu",)), Delegation(7, 2, 1, ("Fold", "Gelu"))
    assert Delegation.together([one, other]) == Delegation(12, 3, 3, ("Fold", "Gelu"))
    unknown = Delegation(None, 0, 1, ())
    assert Delegation.together([one, unknown]).nodes is None


def test_networks_of_one_part_have_none() -> None:
    reference = ModelReference.parse("light_mobile")
    network = load_model(reference, load_config(["model=light_mobile"])).network
    with pytest.raises(ValueError, match="these networks are one part"):
        TARGET.export(network, Path("unused"), ExportSettings(TILE))


def test_a_tile_that_the_network_cannot_take_is_refused(network: SRNetwork) -> None:
    with pytest.raises(ValueError, match="must be a multiple of"):
        TARGET.export(network, Path("unused"), ExportSettings(TILE + 1))
