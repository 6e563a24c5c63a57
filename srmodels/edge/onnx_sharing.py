"""Gives every layer of a quantised ONNX graph int8 tensors of its own.

A processor of x86 without VNNI cuts sums of int8 products off at 16 bits, unless ONNX Runtime is
told to be exact; then it refuses graphs whose layers share such tensors.
"""

import copy
from pathlib import Path

import onnx


def unshare(path: Path) -> None:
    """Rewrites a graph so that each use of int8 weights has a DequantizeLinear of its own, with
    weights, scales and zero points of its own. It computes what it computed."""
    model = onnx.load(path)
    graph = model.graph
    stored = {tensor.name: tensor for tensor in graph.initializer}
    weights = {
        node.output[0]: node
        for node in graph.node
        if node.op_type == "DequantizeLinear" and node.input[0] in stored
    }
    nodes = []
    for number, node in enumerate(graph.node):
        if any(name in weights for name in node.output):
            continue
        for place, name in enumerate(node.input):
            if name not in weights:
                continue
            mark, own = f"_{number}_{place}", onnx.NodeProto()
            own.CopyFrom(weights[name])
            for tensor in map(stored.__getitem__, weights[name].input):
                graph.initializer.add().CopyFrom(tensor)
                graph.initializer[-1].name += mark
            own.input[:] = [each + mark for each in own.input]
            own.output[0] = node.input[place] = name + mark
            own.name += mark
            nodes.append(own)
        nodes.append(node)
    used = {name for node in nodes for name in node.input}
    tensors = [tensor for tensor in graph.initializer if tensor.name in used]
    # Of repeated fields only a copy can take their own elements.
    for field, values in ((graph.node, nodes), (graph.initializer, tensors)):
        kept = copy.deepcopy(values)
        del field[:]
        field.extend(kept)
    onnx.save(model, path)
