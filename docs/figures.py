"""The pictures of theory.md: `python docs/figures.py` draws all of them again.

Curves are computed by charlstm itself; the others are drawings.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, Rectangle

from charlstm.backends import get_ops

IMAGES = Path(__file__).parent / "images"
# the same bytes each time; text as paths, so that it looks the same everywhere
STYLE = {
    "svg.hashsalt": "charlstm",
    "svg.fonttype": "path",
    "font.size": 10.0,
    "mathtext.fontset": "dejavuserif",
}
BLUE, RED, GREY, PALE = "#3465a4", "#b5462f", "#555555", "#e8eef6"


def _box(axes: Axes, x: float, y: float, text: str, width: float = 0.9, color: str = PALE) -> None:
    """A box with its middle at (x, y)."""
    corner = (x - width / 2, y - 0.26)
    style = "round,pad=0,rounding_size=0.12"
    axes.add_patch(
        FancyBboxPatch(corner, width, 0.52, boxstyle=style, facecolor=color, edgecolor=GREY, zorder=2)
    )
    axes.text(x, y, text, ha="center", va="center", zorder=3)


def _arrow(axes: Axes, *points: tuple[float, float], color: str = BLUE, dashed: bool = False) -> None:
    """A line through points, with a head at its end."""
    style = "--" if dashed else "-"
    for k, (start, end) in enumerate(pairwise(points)):
        last = k == len(points) - 2
        look = {"arrowstyle": "-|>" if last else "-", "color": color, "linestyle": style, "linewidth": 1.3}
        axes.annotate("", end, start, arrowprops={**look, "shrinkA": 0, "shrinkB": 0}, zorder=1)


def _canvas(width: float, height: float, size: tuple[float, float]) -> tuple[Figure, Axes]:
    """A figure of `size` inches to draw on, with coordinates from 0 to width and height."""
    figure = Figure(figsize=size, layout="constrained", facecolor="white")
    axes = figure.subplots()
    axes.set(xlim=(0, width), ylim=(0, height), aspect="equal")
    axes.axis("off")
    return figure, axes


def cell() -> Figure:
    """One time step, forward."""
    figure, axes = _canvas(12, 4.6, (9, 3.5))
    for x, y, text, width in (
        (3.1, 0.6, "$a_t = x_t W + h_{t-1} R + b$", 3.4),
        (2.2, 1.9, r"$i = \sigma(a_i)$", 1.6),
        (4.4, 1.9, r"$g = \tanh(a_g)$", 1.9),
        (8.2, 1.9, r"$o = \sigma(a_o)$", 1.6),
        (4.6, 3.7, r"$c_t = c_{t-1} + i \odot (g - c_{t-1})$", 4.2),
        (9.2, 3.0, r"$h_t = o \odot \tanh(c_t)$", 2.7),
    ):
        _box(axes, x, y, text, width)
    _arrow(axes, (0.3, 0.75), (1.4, 0.75))
    _arrow(axes, (0.3, 0.45), (1.4, 0.45))
    axes.text(0.25, 0.86, "$x_t$", ha="left")
    axes.text(0.25, 0.12, "$h_{t-1}$", ha="left")
    _arrow(axes, (2.2, 0.86), (2.2, 1.64))
    _arrow(axes, (4.4, 0.86), (4.4, 1.64))
    _arrow(axes, (4.8, 0.6), (8.2, 0.6), (8.2, 1.64))
    _arrow(axes, (2.9, 2.16), (2.9, 3.44))
    _arrow(axes, (4.4, 2.16), (4.4, 3.44))
    _arrow(axes, (0.3, 3.7), (2.5, 3.7), color=RED)
    axes.text(0.25, 3.85, "$c_{t-1}$", ha="left")
    _arrow(axes, (6.7, 3.7), (11.7, 3.7), color=RED)
    axes.text(11.7, 3.85, "$c_t$", ha="right")
    _arrow(axes, (9.2, 3.7), (9.2, 3.26), color=RED)
    _arrow(axes, (8.2, 2.16), (8.2, 2.74))
    _arrow(axes, (10.55, 3.0), (11.7, 3.0))
    axes.text(11.7, 2.6, "$h_t$", ha="right")
    return figure


def bounded() -> Figure:
    """The largest |c_t| of a CIFG layer beside that of an LSTM with a gate of its own for forgetting."""
    T, B, H = 200, 16, 64
    ops, rng = get_ops("numpy"), np.random.default_rng(0)
    wx = rng.standard_normal((T, B, 3 * H)) * 2
    wx[..., 2 * H :] += 1  # what is written has a mean, as when something is counted
    R = rng.standard_normal((H, 3 * H)) / np.sqrt(H)
    c0 = 3 * rng.standard_normal((B, H))
    tape = ops.cifg_forward(wx, R, np.zeros((B, H)), c0)
    free = c0.copy()
    largest = [np.abs(free).max()]
    forget = 1 / (1 + np.exp(-(rng.standard_normal((T, B, H)) * 2 + 1)))
    for t in range(T):  # the same i and g, with a forget gate that does not depend on i
        free = forget[t] * free + tape.gates[t, :, :H] * tape.gates[t, :, 2 * H :]
        largest.append(np.abs(free).max())
    figure = Figure(figsize=(7, 3), layout="constrained", facecolor="white")
    axes = figure.subplots()
    axes.plot(largest, color=RED, label="f free")
    axes.plot(np.abs(tape.c).max(axis=(1, 2)), color=BLUE, label="f = 1 − i")
    axes.axhline(1, color=GREY, linestyle=":", linewidth=1)
    axes.set(xlabel="time step t", ylabel="largest $|c_t|$", ylim=0, xlim=(0, T))
    axes.legend(frameon=False)
    return figure


def memory() -> Figure:
    """How the gradient by c fades on its way back, for several biases of the input gate."""
    T, B, H = 100, 8, 64
    ops, rng = get_ops("numpy"), np.random.default_rng(1)
    R = np.concatenate([np.linalg.qr(rng.standard_normal((H, H)))[0] for _ in range(3)], axis=1)
    wx = rng.standard_normal((T, B, 3 * H)) * 0.5
    zeros = np.zeros((B, H))
    figure = Figure(figsize=(7, 3.2), layout="constrained", facecolor="white")
    axes = figure.subplots()
    for n, bias in enumerate((0, -1, -2, -4)):
        shifted = wx.copy()
        shifted[..., :H] += bias
        tape = ops.cifg_forward(shifted, R, zeros, zeros)
        kept = np.cumprod(1 - tape.gates[::-1, :, :H], axis=0)
        left = np.concatenate(([1.0], kept.mean(axis=(1, 2))))
        axes.plot(left, color=f"C{n}", label=f"bias {bias}: keeps {1 - 1 / (1 + np.exp(-bias)):.2f} a step")
    axes.set(
        xlabel="steps back", ylabel="share of $dc$ that is left", yscale="log", ylim=(1e-6, 1.5), xlim=(0, T)
    )
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, title="of the input gate", fontsize=9)
    return figure


def truncation() -> Figure:
    """What two training steps of three time steps each read, and how far gradients flow."""
    figure, axes = _canvas(12.4, 3.6, (9, 2.7))
    xs = (1.6, 3.2, 4.8, 7.6, 9.2, 10.8)
    for k, x in enumerate(xs):
        _box(axes, x, 1.9, f"$h_{k + 1}, c_{k + 1}$", 1.1)
        _arrow(axes, (x, 0.9), (x, 1.64))
        _arrow(axes, (x, 2.16), (x, 2.9))
        axes.text(x, 0.62, f"$x_{k + 1}$", ha="center")
        axes.text(x, 3.05, f"loss$_{k + 1}$", ha="center")
    for start, end in zip((0.3, *xs[:-1]), xs, strict=True):
        begin = start if start == 0.3 else start + 0.55
        _arrow(axes, (begin, 2.0), (end - 0.55, 2.0))
        if (start, end) != (xs[2], xs[3]) and start != 0.3:
            _arrow(axes, (end - 0.55, 1.78), (begin, 1.78), color=RED, dashed=True)
    axes.plot((6.2, 6.2), (0.3, 3.4), color=GREY, linestyle=":")
    axes.text(3.2, 0.1, "training step 1", ha="center", color=GREY)
    axes.text(9.2, 0.1, "training step 2", ha="center", color=GREY)
    axes.text(6.2, 2.1, "state", ha="center", va="bottom", color=BLUE, backgroundcolor="white", fontsize=9)
    return figure


def tile() -> Figure:
    """The tile of the forward kernel: which sums stand in registers, and what they read."""
    figure, axes = _canvas(14, 6.3, (9, 4.05))

    def grid(
        x: float, y: float, columns: int, rows: int, colors: tuple[str, ...], size: float = 0.42
    ) -> None:
        for column in range(columns):
            for row in range(rows):
                corner = (x + column * size, y + row * size)
                color = colors[column * len(colors) // columns]
                axes.add_patch(Rectangle(corner, size, size, facecolor=color, edgecolor=GREY, linewidth=0.6))

    gates = ("#cfe0f3", "#f6dccf", "#d9ecd3")
    grid(0.6, 0.9, 6, 8, ("#f3f3f3",))
    axes.text(1.86, 4.45, "8 rows of $x_t$, $h_{t-1}$", ha="center")
    axes.text(1.86, 0.4, "k →", ha="center", color=GREY)
    axes.text(4.0, 2.5, "×", ha="center", fontsize=16)
    grid(4.9, 1.3, 12, 6, gates)
    axes.text(7.4, 4.0, "panel of $W$, $R$: for each k\none vector of i, of o, of g", ha="center")
    axes.text(4.65, 2.45, "k", ha="center", color=GREY)
    axes.text(10.55, 2.5, "=", ha="center", fontsize=16)
    for n, (color, name) in enumerate(zip(gates, "iog", strict=True)):
        for row in range(8):
            corner = (11.1 + n * 0.85, 0.9 + row * 0.42)
            axes.add_patch(Rectangle(corner, 0.8, 0.38, facecolor=color, edgecolor=GREY, linewidth=0.6))
        axes.text(11.5 + n * 0.85, 0.42, f"$a_{name}$", ha="center")
    axes.text(12.35, 4.45, "24 sums in registers", ha="center")
    _arrow(axes, (12.35, 4.95), (12.35, 5.45))
    axes.text(12.35, 5.65, "$i, o, g$, $c_t$, $h_t$: written once", ha="center")
    axes.text(0.6, 5.65, "sums begin as rows of the table: $x_t W + b$, or $b$", ha="left")
    return figure


FIGURES: dict[str, Callable[[], Figure]] = {
    "cell": cell, "bounded": bounded, "memory": memory, "truncation": truncation, "tile": tile,
}  # fmt: skip


def draw(folder: Path = IMAGES) -> list[Path]:
    """Write every picture to a folder, as theory-NAME.svg; their paths."""
    paths = []
    for name, figure in FIGURES.items():
        path = folder / f"theory-{name}.svg"
        with rc_context(STYLE):
            figure().savefig(path, metadata={"Date": None})
        paths.append(path)
    return paths


if __name__ == "__main__":
    draw()
