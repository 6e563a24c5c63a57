"""Tells how much of an ONNX graph the delegates of phones would take."""

from collections.abc import Mapping
from pathlib import Path

import onnx
from onnx import TensorProto, helper, shape_inference
from onnxruntime.tools.mobile_helpers import usability_checker
from onnxruntime.tools.mobile_helpers.usability_checker import PartitioningInfo
from onnxruntime.tools.onnx_model_utils import is_fixed_size_tensor

from srmodels.edge.target import Delegation

#: The tool's list of what Core ML takes as an ML program, its format since iOS 15.
_ML_PROGRAM = "coreml_supported_mlprogram_ops.md"


def delegations(path: Path) -> Mapping[str, Delegation]:
    """Returns what NNAPI and Core ML would take of a graph, by their names in `DELEGATES`.

    The judge is ONNX Runtime's own tool (`onnxruntime.tools.check_onnx_model_mobile_usability`): it
    knows the operators that each takes, the ranks, and that NNAPI takes sizes that are fixed alone.
    A phone may take less, since it knows no operator's own limits.
    """
    model = shape_inference.infer_shapes(onnx.load(path))
    is_fixed = all(is_fixed_size_tensor(each) for each in model.graph.input)
    # An input that is left out has no name, and no size that could be unknown.
    model.graph.value_info.append(helper.make_tensor_value_info("", TensorProto.FLOAT, [1]))
    return {
        "nnapi": _delegation(usability_checker.check_nnapi_partitions(model, True)),
        "coreml": _delegation(
            usability_checker.check_coreml_partitions(model, is_fixed, _ML_PROGRAM)
        ),
    }


def _delegation(found: PartitioningInfo) -> Delegation:
    kinds = found.unsupported_ops | found.ops_with_unsupported_rank
    left = sorted(kind.removeprefix("ai.onnx:") for kind in kinds)
    if found.nodes_unsupported_due_to_dynamic_input:
        left.append("nodes of any size")
    rest = found.num_nodes - found.num_supported_nodes
    return Delegation(found.num_nodes, rest, found.num_partitions, tuple(left))
