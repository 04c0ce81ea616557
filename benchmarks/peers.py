"""The same work on PyTorch (`Embedding -> nn.LSTM -> Linear`) and on ONNX Runtime.

PyTorch's LSTM has four gates, so it is not the same network, but what one would use there.
ONNX Runtime runs the very CIFG weights of ours, by its LSTM's attribute input_forget.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from workloads import GENERATED, VOCABULARY, Shape, charlstm_model

from charlstm.backends.threads import thread_count


def torch_network(shape: Shape) -> Any:
    import torch

    torch.set_num_threads(thread_count())
    torch.manual_seed(0)

    class Network(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = torch.nn.Embedding(VOCABULARY, shape.hidden)
            self.lstm = torch.nn.LSTM(shape.hidden, shape.hidden, shape.layers)
            self.head = torch.nn.Linear(shape.hidden, VOCABULARY)

        def forward(self, x: Any, state: Any = None) -> Any:
            h, state = self.lstm(self.embedding(x), state)
            return self.head(h), state

    return Network()


def torch_train_step(shape: Shape) -> Callable[[], None]:
    import torch

    network = torch_network(shape)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3, fused=True)
    x, y = (torch.from_numpy(part) for part in shape.batches())
    state = None

    def run() -> None:
        nonlocal state
        logits, state = network(x, state)
        state = tuple(part.detach() for part in state)
        loss = torch.nn.functional.cross_entropy(logits.reshape(-1, VOCABULARY), y.reshape(-1))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()

    return run


def torch_forward(shape: Shape) -> Callable[[], Any]:
    import torch

    network = torch_network(shape)
    x = torch.from_numpy(shape.batches()[0])

    def run() -> Any:
        with torch.inference_mode():
            return network(x)[0]

    return run


def torch_generate(shape: Shape) -> Callable[[], list[int]]:
    import torch

    network = torch_network(shape)

    def run() -> list[int]:
        token, state, tokens = torch.zeros((1, 1), dtype=torch.long), None, []
        with torch.inference_mode():
            for _ in range(GENERATED):
                logits, state = network(token, state)
                token = torch.multinomial(torch.softmax(logits[0] / 0.8, dim=1), 1)
                tokens.append(int(token))
        return tokens

    return run


def onnx_session(shape: Shape) -> Any:
    """Our weights as an ONNX graph: Gather, LSTM with input_forget, MatMul, Add."""
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper

    model = charlstm_model(shape, "numpy")
    H, parameters = shape.hidden, model.parameters
    nodes = [helper.make_node("Gather", ["embedding", "tokens"], ["x0"])]
    constants = {"embedding": parameters["embedding.weight"]}
    for k in range(shape.layers):
        blocks = {}
        for name in ("W", "R"):
            i, o, g = np.split(parameters[f"cifg.{k}.{name}"].T, 3)
            blocks[name] = np.concatenate((i, o, -i, g))[np.newaxis]  # ONNX's order: i, o, f, c
        i, o, g = np.split(parameters[f"cifg.{k}.b"], 3)
        bias = np.concatenate((i, o, -i, g, np.zeros(4 * H, np.float32)))[np.newaxis]
        constants |= {f"W{k}": blocks["W"], f"R{k}": blocks["R"], f"B{k}": bias}
        names = [f"x{k}", f"W{k}", f"R{k}", f"B{k}", "", f"h{k}", f"c{k}"]
        outputs = [f"y{k}", f"h{k}_out", f"c{k}_out"]
        nodes.append(helper.make_node("LSTM", names, outputs, hidden_size=H, input_forget=1))
        nodes.append(helper.make_node("Squeeze", [f"y{k}", "one"], [f"x{k + 1}"]))
    nodes.append(helper.make_node("MatMul", [f"x{shape.layers}", "head"], ["product"]))
    nodes.append(helper.make_node("Add", ["product", "bias"], ["logits"]))
    constants |= {"head": parameters["head.weight"], "bias": parameters["head.bias"], "one": np.array([1])}
    states = [f"{part}{k}" for k in range(shape.layers) for part in "hc"]
    real = TensorProto.FLOAT
    graph = helper.make_graph(
        nodes,
        "cifg",
        [helper.make_tensor_value_info("tokens", TensorProto.INT64, ["T", "B"])]
        + [helper.make_tensor_value_info(name, real, [1, "B", H]) for name in states],
        [helper.make_tensor_value_info("logits", real, ["T", "B", VOCABULARY])]
        + [helper.make_tensor_value_info(f"{name}_out", real, [1, "B", H]) for name in states],
        [numpy_helper.from_array(np.ascontiguousarray(a), name) for name, a in constants.items()],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = thread_count()
    return onnxruntime.InferenceSession(
        proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def _zero_feed(shape: Shape, batch: int) -> dict[str, np.ndarray]:
    zeros = np.zeros((1, batch, shape.hidden), np.float32)
    return {f"{part}{k}": zeros for k in range(shape.layers) for part in "hc"}


def onnxruntime_forward(shape: Shape) -> Callable[[], np.ndarray]:
    session, x = onnx_session(shape), shape.batches()[0]
    feed = {"tokens": x, **_zero_feed(shape, shape.batch)}
    return lambda: session.run(["logits"], feed)[0]


def onnxruntime_generate(shape: Shape) -> Callable[[], None]:
    """The steps alone: no sampling, the same token each time."""
    session = onnx_session(shape)
    names = [output.name for output in session.get_outputs()]
    states = [name.removesuffix("_out") for name in names[1:]]

    def run() -> None:
        feed = {"tokens": np.zeros((1, 1), np.int64), **_zero_feed(shape, 1)}
        for _ in range(GENERATED):
            results = session.run(names, feed)
            feed |= dict(zip(states, results[1:], strict=True))

    return run


PEERS: dict[str, dict[str, Callable[[Shape], Callable[[], Any]]]] = {
    "train_step": {"torch": torch_train_step},
    "forward": {"torch": torch_forward, "onnxruntime": onnxruntime_forward},
    "generate": {"torch": torch_generate, "onnxruntime": onnxruntime_generate},
}
