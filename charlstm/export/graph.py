"""A network as an ONNX graph: Gather, LSTM, MatMul and what joins them.

ONNX's LSTM has four gates in the order i, o, f, c. CIFG has f = 1 - i, which is the operator's attribute
input_forget; some runtimes take no notice of it. Since 1 - sigmoid(a) = sigmoid(-a), a forget block that is
the negative of the input block says the same, so both are written, and both kinds of runtime agree.

The graph, time-major and in float32, with free sizes "time" T and "batch" B:

    tokens  (T, B) int64        or  vectors (T, B, D)
    h, c    (L, B, H)           the state to start from
    logits  (T, B, V)           or (B, V) where the network emits at the last step only
    posterior                   their softmax, of a network that reads vectors
    next_h, next_c  (L, B, H)   the state to go on from
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from onnx import GraphProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from ..model import CIFGModel

Weights = Mapping[str, np.ndarray]


class _Graph:
    """Nodes and constants, in the order in which they are added."""

    def __init__(self) -> None:
        self.nodes: list[NodeProto] = []
        self.constants: list[TensorProto] = []

    def constant(self, name: str, array: np.ndarray) -> str:
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def node(self, kind: str, inputs: list[str], *outputs: str, **attributes: Any) -> str:
        """Add an operator; the name of its first output."""
        self.nodes.append(helper.make_node(kind, inputs, outputs, name=outputs[0], **attributes))
        return outputs[0]


def network_graph(model: CIFGModel, weights: Weights) -> GraphProto:
    """The graph of a model with these weights, float32 on the host, by the names of its parameters."""
    graph = _Graph()
    x, W = _input(graph, model, weights)
    L = model.config.num_layers
    h, c = _each_layer(graph, "h", L), _each_layer(graph, "c", L)
    direction = graph.constant("direction_axis", np.array([1]))
    last_h, last_c = [], []
    for k in range(L):
        R, b = weights[f"cifg.{k}.R"], weights[f"cifg.{k}.b"]
        names = [
            x,
            graph.constant(f"cifg.{k}.W", _gates(W if k == 0 else weights[f"cifg.{k}.W"])[np.newaxis]),
            graph.constant(f"cifg.{k}.R", _gates(R)[np.newaxis]),
            graph.constant(f"cifg.{k}.b", np.concatenate((_gates(b), np.zeros_like(_gates(b))))[np.newaxis]),
            "",  # lengths of the sequences: all are of length T
            h[k],
            c[k],
        ]
        outputs = [f"layer_{k}.every_h", f"layer_{k}.last_h", f"layer_{k}.last_c"]
        graph.node("LSTM", names, *outputs, hidden_size=model.config.hidden_size, input_forget=1)
        x = graph.node("Squeeze", [outputs[0], direction], f"layer_{k}.output")
        last_h.append(outputs[1])
        last_c.append(outputs[2])
    if model.emit == "last":
        x = graph.node("Squeeze", [last_h[-1], graph.constant("layer_axis", np.array([0]))], "top")
    _head(graph, model, weights, x)
    for name, parts in (("next_h", last_h), ("next_c", last_c)):
        graph.node("Concat", parts, name, axis=0)
    return helper.make_graph(graph.nodes, "cifg", *_interface(model), graph.constants)


def _input(graph: _Graph, model: CIFGModel, weights: Weights) -> tuple[str, np.ndarray]:
    """What the first layer reads, (T, B, D), and its W (D, 3H).

    One-hot tokens gather a row of the unit matrix, or, where the vocabulary is larger than the gates, the
    row of W itself, which the layer's W then lets through as it is.
    """
    W = weights["cifg.0.W"]
    if model.input_size is not None:
        return "vectors", W
    if "embedding.weight" in weights:
        name, table = "embedding.weight", weights["embedding.weight"]
    elif W.shape[0] <= W.shape[1]:
        name, table = "one_hot", np.eye(W.shape[0], dtype=W.dtype)
    else:
        name, table, W = "input_product", W, np.eye(W.shape[1], dtype=W.dtype)
    return graph.node("Gather", [graph.constant(name, table), "tokens"], "input"), W


def _each_layer(graph: _Graph, name: str, L: int) -> list[str]:
    """The state of each layer, (1, B, H)."""
    if L == 1:
        return [name]
    parts = [f"{name}_{k}" for k in range(L)]
    graph.node("Split", [name, graph.constant(f"{name}_sizes", np.ones(L, np.int64))], *parts, axis=0)
    return parts


def _gates(packed: np.ndarray) -> np.ndarray:
    """ONNX's (4H, D), or (4H,), of ours, (D, 3H) or (3H,): gates i, o, f, c of i, o, g."""
    i, o, g = np.split(packed.T, 3)
    return np.concatenate((i, o, -i, g))


def _head(graph: _Graph, model: CIFGModel, weights: Weights, x: str) -> None:
    """Logits of the top layer's h, and of a network that reads vectors the posterior."""
    if "head.weight" in weights:
        matrix = graph.constant("head.weight", weights["head.weight"])
    else:
        if "head.projection" in weights:
            projection = graph.constant("head.projection", weights["head.projection"])
            x = graph.node("MatMul", [x, projection], "projected")
        matrix = graph.node("Transpose", ["embedding.weight"], "tied_weight", perm=[1, 0])
    product = graph.node("MatMul", [x, matrix], "head_product")
    graph.node("Add", [product, graph.constant("head.bias", weights["head.bias"])], "logits")
    if model.input_size is not None:
        graph.node("Softmax", ["logits"], "posterior", axis=-1)


def _interface(model: CIFGModel) -> tuple[list[ValueInfoProto], list[ValueInfoProto]]:
    """Inputs and outputs."""
    real, T, B = TensorProto.FLOAT, "time", "batch"
    state: list[str | int | None] = [model.config.num_layers, B, model.config.hidden_size]
    value = helper.make_tensor_value_info
    logits: list[str | int | None] = [*([T] if model.emit == "every" else []), B, model.output_size]
    if model.input_size is None:
        first, outputs = value("tokens", TensorProto.INT64, [T, B]), ["logits"]
    else:
        first, outputs = value("vectors", real, [T, B, model.input_size]), ["logits", "posterior"]
    return (
        [first, value("h", real, state), value("c", real, state)],
        [
            *(value(name, real, logits) for name in outputs),
            value("next_h", real, state),
            value("next_c", real, state),
        ],
    )
