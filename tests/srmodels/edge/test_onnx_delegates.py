"""Tests of how much of a graph the delegates of phones would take."""

from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from pipelines.config.reference import SHIPPED
from srmodels.edge.onnx_delegates import delegations
from srmodels.edge.target import Delegation


def graph(path: Path, *nodes: onnx.NodeProto, side: int | None = 8) -> Path:
    """Writes a graph from `x_l` to `x_h`."""
    shape = [1, 3, side, side]
    made = helper.make_graph(
        list(nodes),
        "graph",
        [helper.make_tensor_value_info("x_l", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("x_h", TensorProto.FLOAT, None)],
        [helper.make_tensor("twice", TensorProto.FLOAT, [4], [1, 1, 2, 2])],
    )
    onnx.save(helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)]), path)
    return path


def test_a_graph_of_plain_operators_is_taken_whole(tmp_path: Path) -> None:
    """Resize leaves an input out, which has no size."""
    nodes = (
        helper.make_node("Relu", ["x_l"], ["x"]),
        helper.make_node("Resize", ["x", "", "twice"], ["x_h"], mode="linear"),
    )
    for found in delegations(graph(tmp_path / "a.onnx", *nodes)).values():
        assert (found.nodes, found.rest, found.parts, found.left) == (2, 0, 1, ())
        assert str(found) == "all 2 nodes"


def test_an_operator_that_is_unknown_cuts_it_in_two(tmp_path: Path) -> None:
    nodes = (
        helper.make_node("Relu", ["x_l"], ["x"]),
        helper.make_node("Gelu", ["x"], ["y"]),
        helper.make_node("Relu", ["y"], ["x_h"]),
    )
    found = delegations(graph(tmp_path / "a.onnx", *nodes))
    assert str(found["nnapi"]) == "2 of 3 nodes in 2 parts; not taken: Gelu"
    assert found["coreml"].left == ()


def test_core_ml_takes_tensors_of_five_dimensions_and_no_more(tmp_path: Path) -> None:
    reshaped = helper.make_node("Transpose", ["x"], ["y"], perm=[0, 1, 2, 3, 4, 5])
    shape = helper.make_node("Constant", [], ["s"], value_ints=[1, 3, 4, 2, 4, 2])
    back = helper.make_node("Constant", [], ["t"], value_ints=[1, 3, 8, 8])
    nodes = (
        shape,
        helper.make_node("Reshape", ["x_l", "s"], ["x"]),
        reshaped,
        back,
        helper.make_node("Reshape", ["y", "t"], ["x_h"]),
    )
    assert "Transpose" in delegations(graph(tmp_path / "a.onnx", *nodes))["coreml"].left


def test_nnapi_takes_no_images_of_any_size(tmp_path: Path) -> None:
    path = graph(tmp_path / "a.onnx", helper.make_node("Relu", ["x_l"], ["x_h"]), side=None)
    found = delegations(path)
    assert str(found["nnapi"]) == "0 of 1 nodes in 0 parts; not taken: nodes of any size"
    assert found["coreml"].left == ()


def test_a_delegation_in_words() -> None:
    nodes = [("Conv", True), ("Sort", False), ("Conv", True), ("Relu", True), ("Fold", False)]
    found = Delegation.of(nodes)
    assert (found.nodes, found.rest, found.parts, found.left) == (5, 2, 2, ("Fold", "Sort"))
    assert str(found) == "3 of 5 nodes in 2 parts; not taken: Fold, Sort"
    assert str(Delegation.of(nodes[2:4])) == "all 2 nodes"
    assert str(Delegation(None, 1, 1, ("Sort",))) == "all but 1 node in 1 part; not taken: Sort"
    assert str(Delegation(None, 0, 1, ())) == "all nodes"


@pytest.mark.parametrize("file", ["model_fp32.onnx", "model_int8.onnx"])
def test_light_mobile_is_what_phones_take(file: str) -> None:
    found = delegations(SHIPPED / "light_mobile" / "edge" / file)
    assert found["nnapi"].left == ()
    assert (found["coreml"].left == ()) == (file == "model_fp32.onnx")
