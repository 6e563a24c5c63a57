"""Tests of the sentences that `srmill` prints where another graph lies in an artifact's place."""

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest

from pipelines.config.reference import SHIPPED
from pipelines.models.bundle import load_bundle, seal
from tests.pipelines.test_cli import photo, srmill


def passing(shape: list[int], name: str = "x_l") -> onnx.ModelProto:
    """Returns a graph of one node that keeps the size."""
    return graph_of([onnx.helper.make_node("Identity", [name], ["x_h"])], name, shape, shape)


def without_numbers() -> onnx.ModelProto:
    """Returns a graph that enlarges by 4 and makes the logarithms of values below zero."""
    scales = onnx.numpy_helper.from_array(np.float32([1, 1, 4, 4]), "scales")
    two = onnx.numpy_helper.from_array(np.float32([2]), "two")
    nodes = [
        onnx.helper.make_node("Resize", ["x_l", "", "scales"], ["large"], mode="nearest"),
        onnx.helper.make_node("Sub", ["large", "two"], ["below"]),
        onnx.helper.make_node("Log", ["below"], ["x_h"]),
    ]
    return graph_of(nodes, "x_l", [1, 3, 128, 128], [1, 3, 512, 512], [scales, two])


def graph_of(
    nodes: list[onnx.NodeProto],
    name: str,
    shape: list[int],
    large: list[int],
    stored: Sequence[onnx.TensorProto] = (),
) -> onnx.ModelProto:
    info, kind = onnx.helper.make_tensor_value_info, onnx.TensorProto.FLOAT
    inputs, outputs = [info(name, kind, shape)], [info("x_h", kind, large)]
    graph = onnx.helper.make_graph(nodes, "graph", inputs, outputs, list(stored))
    opsets = [onnx.helper.make_opsetid("", 17)]
    return onnx.helper.make_model(graph, opset_imports=opsets, ir_version=8)


def test_an_artifact_that_is_another_graph_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = Path(shutil.copytree(SHIPPED / "light_mobile", tmp_path / "bundle"))
    facts, graph = load_bundle(bundle).facts, bundle / "edge" / "model_fp32.onnx"
    source, target = photo(tmp_path / "a.png"), tmp_path / "b.png"
    command = ("upscale", source, target, "--model", bundle, "--runtime", "onnxruntime")
    shape, wrong = [1, 3, 128, 128], "[1, 3, 512, 512]"
    for made, sentence in (
        (passing(shape), f"makes {shape} of a tile, not {wrong}"),
        (passing(shape, name="y"), "fails on a tile of 128x128 px (Required inputs (['y'])"),
        (passing([1, 3, 64, 64]), "fails on a tile of 128x128 px ("),
        (without_numbers(), "makes values that are no numbers"),
    ):
        onnx.save(made, graph)
        seal(bundle, facts)
        assert srmill(*command) == 2
        told = capsys.readouterr().err.splitlines()[-1]
        assert told.startswith(f"error: {graph} {sentence}")
        assert not target.exists()


def test_a_graph_that_cannot_be_loaded_is_told_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made, graph = passing([1, 3, 128, 128]), tmp_path / "model.onnx"
    made.graph.node[0].op_type = "NoSuchOperator"
    onnx.save(made, graph)
    names = (f"onnx:{graph}", "bicubic", photo(tmp_path / "a.png"))
    assert srmill("compare", *names, "--output", tmp_path / "page") == 2
    told = capsys.readouterr().err
    assert told.count(str(graph)) == 1
    assert "Traceback" not in told
    assert "can run: export it again." in told


def test_a_comparison_says_it_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    graph, page = tmp_path / "model.onnx", tmp_path / "page"
    onnx.save(without_numbers(), graph)
    names = (f"onnx:{graph}", "bicubic", photo(tmp_path / "a.png"))
    assert srmill("compare", *names, "--output", page) != 0
    assert f"{graph} makes values that are no numbers" in capsys.readouterr().err
