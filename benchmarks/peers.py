"""The same work on PyTorch (`Embedding -> nn.LSTM -> Linear`) and on ONNX Runtime.

PyTorch's LSTM has four gates, so it is not the same network, but what one would use there.
ONNX Runtime runs the very CIFG weights of ours, by its LSTM's attribute input_forget.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from workloads import GENERATED, VOCABULARY, Shape, charlstm_model

from charlstm.backends.threads import thread_count
from charlstm.export import to_onnx


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


def torch_train_step(shape: Shape, bfloat16: bool = False) -> Callable[[], None]:
    """With `bfloat16`, forward and loss run under autocast, as PyTorch's guide has it."""
    import torch

    network = torch_network(shape)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3, fused=True)
    x, y = (torch.from_numpy(part) for part in shape.batches())
    state = None

    def run() -> None:
        nonlocal state
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            logits, state = network(x, state)
            loss = torch.nn.functional.cross_entropy(logits.reshape(-1, VOCABULARY), y.reshape(-1))
        state = tuple(part.detach() for part in state)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()

    return run


def torch_forward(shape: Shape, bfloat16: bool = False) -> Callable[[], Any]:
    import torch

    network = torch_network(shape)
    x = torch.from_numpy(shape.batches()[0])

    def run() -> Any:
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
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
    """Our weights as `charlstm export` writes them: Gather, LSTM with input_forget, MatMul, Add."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = thread_count()
    with TemporaryDirectory() as directory:
        path = Path(directory) / "model.onnx"
        to_onnx(charlstm_model(shape, "numpy"), path)
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def _zero_feed(shape: Shape, batch: int) -> dict[str, np.ndarray]:
    zeros = np.zeros((shape.layers, batch, shape.hidden), np.float32)
    return {"h": zeros, "c": zeros}


def onnxruntime_forward(shape: Shape) -> Callable[[], np.ndarray]:
    session, x = onnx_session(shape), shape.batches()[0]
    feed = {"tokens": x, **_zero_feed(shape, shape.batch)}
    return lambda: session.run(["logits"], feed)[0]


def onnxruntime_generate(shape: Shape) -> Callable[[], None]:
    """The steps alone: no sampling, the same token each time."""
    session = onnx_session(shape)

    def run() -> None:
        feed = {"tokens": np.zeros((1, 1), np.int64), **_zero_feed(shape, 1)}
        for _ in range(GENERATED):
            _, feed["h"], feed["c"] = session.run(None, feed)

    return run


PEERS: dict[str, dict[str, Callable[[Shape], Callable[[], Any]]]] = {
    "train_step": {"torch": torch_train_step},
    "forward": {"torch": torch_forward, "onnxruntime": onnxruntime_forward},
    "generate": {"torch": torch_generate, "onnxruntime": onnxruntime_generate},
}
