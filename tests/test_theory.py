"""The equations and the Python of docs/theory.md against the code that they are about."""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from documents import ROOT, blocks

from charlstm.backends import LayerInput, Ops, Update, get_ops

DOCUMENT = "docs/theory.md"
# from the document's signs to Python's, in this order
SIGNS = (
    (r"_\{t-1\}", "_prev"), ("·", "@"), ("⊙", "*"), ("−", "-"), ("²", "**2"), ("σ", "sigmoid"), ("ᵀ", ".T"),
    (r"= a_t$", "= split(a_t)"), (r"= (\(\w+, \w+, \w+\))$", r"= join(\1)"),
)  # fmt: skip


@pytest.fixture(scope="module")
def theory() -> dict[str, Any]:
    """The names that the document's Python defines; its own assertions hold, or this fails."""
    names: dict[str, Any] = {}
    for block in blocks(DOCUMENT, "python"):
        exec(compile(block, DOCUMENT, "exec"), names)
    return names


def equations() -> list[str]:
    """The document's equations as statements of Python."""
    lines = [line for block in blocks(DOCUMENT, "text") for line in block.splitlines() if line]
    for sign, python in SIGNS:
        lines = [re.sub(sign, python, line) for line in lines]
    return lines


def test_the_equations_as_written(rng: np.random.Generator) -> None:
    """One row of a batch, with the signs of the document in place of Python's, against `Ops`."""
    D, H = 4, 5
    shapes = {"x_t": (1, D), "W": (D, 3 * H), "R": (H, 3 * H), "b": (3 * H,), "dh_t": (1, H), "dc_t": (1, H)}
    shapes |= {"h_prev": (1, H), "c_prev": (1, H)}
    given = {name: rng.standard_normal(shape) for name, shape in shapes.items()}
    names: dict[str, Any] = {**given, "dW": 0, "dR": 0, "db": 0, "tanh": np.tanh}
    names["sigmoid"] = lambda a: 1 / (1 + np.exp(-a))
    names["split"] = lambda a: np.split(a, 3, axis=1)
    names["join"] = lambda parts: np.concatenate(parts, axis=1)
    statements = equations()
    for statement in statements:
        exec(statement, names)
    defined = {node.id for node in ast.walk(ast.parse("\n".join(statements))) if isinstance(node, ast.Name)}
    assert {"c_t", "h_t", "da_i", "da_o", "da_g", "dx_t", "dh_prev", "dc_prev", "dW", "dR", "db"} <= defined

    ops = get_ops("numpy")
    x, h0, c0 = given["x_t"][np.newaxis], given["h_prev"], given["c_prev"]
    source = LayerInput(given["b"][np.newaxis], None, x, given["W"])
    tape = ops.layer_forward(source, given["R"], h0, c0)
    dR, dW = np.empty_like(given["R"]), np.empty_like(given["W"])
    dh = given["dh_t"][np.newaxis].copy()
    back = ops.layer_backward(dh, given["dc_t"], given["R"], tape, source, dR, dW)
    ours = {"c_t": tape.c[1], "h_t": tape.h[1], "dx_t": back.x[0], "dh_prev": back.h0, "dc_prev": back.c0}
    ours |= {
        "dW": dW,
        "dR": dR,
        "db": back.table,
        **dict(zip("iog", np.split(tape.gates[0], 3, 1), strict=True)),
    }
    for name, expected in ours.items():
        np.testing.assert_allclose(names[name], expected, rtol=1e-12, atol=1e-14, err_msg=name)


def test_forward_and_backward_on_every_backend(theory: dict[str, Any], ops: Ops) -> None:
    inputs = theory["inputs"]
    x, W, R, b, h0, c0 = inputs
    B, H = theory["weights"].shape[1:]
    h, c, gates = theory["forward"](*inputs)
    source = LayerInput(ops.asarray(b[np.newaxis]), None, ops.asarray(x), ops.asarray(W))
    tape = ops.layer_forward(source, *map(ops.asarray, (R, h0, c0)))
    close = {"rtol": 1e-11, "atol": 1e-13}
    np.testing.assert_allclose(ops.to_numpy(tape.h), np.stack(h), **close)
    np.testing.assert_allclose(ops.to_numpy(tape.c), np.stack(c), **close)
    np.testing.assert_allclose(
        ops.to_numpy(tape.gates), np.stack([np.hstack(each) for each in gates]), **close
    )

    dR, dW = ops.zeros(R.shape, ops.xp.float64), ops.zeros(W.shape, ops.xp.float64)
    dh, dc = ops.asarray(theory["weights"].copy()), ops.zeros((B, H), ops.xp.float64)
    back = ops.layer_backward(dh, dc, ops.asarray(R), tape, source, dR, dW)
    theirs = (back.x, dW, dR, back.table[0, ...], back.h0, back.c0)
    for expected, array in zip(theory["gradients"], theirs, strict=True):
        np.testing.assert_allclose(ops.to_numpy(array), expected, **close)


def test_loss_and_adam_on_every_backend(theory: dict[str, Any], ops: Ops, rng: np.random.Generator) -> None:
    logits, targets = 5 * rng.standard_normal((9, 6)), rng.integers(0, 6, 9)
    expected, dlogits = theory["softmax_cross_entropy"](logits, targets)
    loss, gradient = ops.softmax_cross_entropy(ops.asarray(logits), ops.asarray(targets))
    assert loss == pytest.approx(expected, rel=1e-12)
    np.testing.assert_allclose(ops.to_numpy(gradient), dlogits, rtol=1e-10, atol=1e-14)
    wanted = [rng.standard_normal(50), np.zeros(50), np.zeros(50)]
    ours = [ops.asarray(array.copy()) for array in wanted]
    for step in (1, 2, 3):
        g = rng.standard_normal(50)
        theory["adam"](wanted[0], g, *wanted[1:], step, 0.01)
        ops.optimizer_update(Update("adam", step, 0.01), ours[0], ops.asarray(g), ours[1:])
    np.testing.assert_allclose(ops.to_numpy(ours[0]), wanted[0], rtol=1e-11)


def test_the_bound_of_the_cell(theory: dict[str, Any], rng: np.random.Generator) -> None:
    T, B, D, H = 60, 4, 3, 6
    shapes = (T, B, D), (D, 3 * H), (H, 3 * H), (3 * H,), (B, H)
    for scale in (0.1, 1.0, 3.0):
        c0 = scale * rng.standard_normal((B, H))
        _, c, _ = theory["forward"](*(3 * rng.standard_normal(shape) for shape in shapes), c0)
        assert np.all(np.abs(np.stack(c)) <= np.maximum(np.abs(c0), 1))


def test_figures_that_the_text_names(theory: dict[str, Any]) -> None:
    text = (ROOT / DOCUMENT).read_text(encoding="utf-8")
    assert f"= {1 - theory['sigmoid'](-1.0):.2f} of its content" in text
    assert np.tanh(1) < 0.77
    named = re.findall(r"`(\w+)`", text.partition("## From equations to kernels")[2])
    sources = "charlstm/backends/ops.py", "kernels/gates.py", "kernels/recurrence.py"
    code = "".join((ROOT / path).read_text() for path in sources)
    assert named
    assert [name for name in named if not re.search(rf"\b(class|def) {name}\b", code)] == []


def test_its_pictures_are_drawn_by_the_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib")
    monkeypatch.syspath_prepend(ROOT / "docs")
    import figures  # type: ignore[import-not-found]

    drawn = {path.name for path in figures.draw(tmp_path)}
    sys.modules.pop("figures")
    shown = re.findall(r"\]\(images/([\w-]+\.svg)\)", (ROOT / DOCUMENT).read_text(encoding="utf-8"))
    assert drawn == set(shown)
    assert all((ROOT / "docs" / "images" / name).is_file() for name in shown)
