"""Lesson 7: an operation of your own, and the proof that its gradient is right.

A `Function` needs two things: `forward`, which computes on arrays, and `backward`, which takes dy = ∂L/∂y and
returns ∂L/∂x for each input, written with tensors. Ten lines, and whatever you can differentiate on paper can
be trained. What paper does not tell is whether you made a slip: `gradcheck` does, and says which.

    python examples/07_your_own_operation.py
    minidl gradcheck examples/07_your_own_operation.py:ScaledSwish
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

import minidl as dl


class ScaledSwish(dl.Function):
    """y = x s with s = σ(b x), b broadcast to x        ∂y/∂x = s + b y (1 − s),  ∂y/∂b = x y (1 − s)"""

    def forward(self, x: np.ndarray, b: np.ndarray) -> np.ndarray:
        self.save(x=x, b=b)
        return x / (1 + np.exp(-b * x))

    def backward(self, dy: dl.Tensor) -> tuple[dl.Tensor, dl.Tensor]:
        x, b = self.saved
        s = (b * x).sigmoid()
        slope = x * s * (1.0 - s)
        return dy * (s + b * slope), dy * x * slope


# The same with the slips that everybody makes. Each trains, after a fashion; none says a word.


class TermForgotten(ScaledSwish):
    """The product rule has two terms."""

    def backward(self, dy: dl.Tensor) -> tuple[dl.Tensor, dl.Tensor]:
        x, b = self.saved
        s = (b * x).sigmoid()
        return dy * s, dy * x * x * s * (1.0 - s)


class DyForgotten(ScaledSwish):
    """∂y/∂b is not yet ∂L/∂b."""

    def backward(self, dy: dl.Tensor) -> tuple[dl.Tensor, dl.Tensor]:
        x, b = self.saved
        s = (b * x).sigmoid()
        slope = x * s * (1.0 - s)
        return dy * (s + b * slope), x * slope


class SignLost(ScaledSwish):
    """σ' = σ (1 − σ), and not σ (σ − 1)."""

    def backward(self, dy: dl.Tensor) -> tuple[dl.Tensor, dl.Tensor]:
        x, b = self.saved
        s = (b * x).sigmoid()
        return dy * (s + b * x * s * (1.0 - s)), dy * x * x * s * (s - 1.0)


class OneRowOnly(ScaledSwish):
    """Every row used b, so its gradient is the sum over the rows (the engine sums what comes whole)."""

    def backward(self, dy: dl.Tensor) -> tuple[dl.Tensor, dl.Tensor]:
        x, b = self.saved
        s = (b * x).sigmoid()
        slope = x * s * (1.0 - s)
        return dy * (s + b * slope), (dy * x * slope)[0]


class Float32Inside(ScaledSwish):
    """A buffer without dtype=x.dtype: seven digits instead of sixteen, and differences of 10⁻⁴ see it."""

    def forward(self, x: np.ndarray, b: np.ndarray) -> np.ndarray:
        self.save(x=x, b=b)
        y = np.empty(x.shape, np.float32)
        y[...] = x / (1 + np.exp(-b * x))
        return y.astype(x.dtype)


class SavedAsConstant(ScaledSwish):
    """Right, once: s is neither input nor output, so the gradient of the gradient takes it for a constant."""

    def forward(self, x: np.ndarray, b: np.ndarray) -> np.ndarray:
        s = 1 / (1 + np.exp(-b * x))
        self.save(x=x, b=b, s=s)
        return x * s

    def backward(self, dy: dl.Tensor) -> tuple[dl.Tensor, dl.Tensor]:
        x, b, s = self.saved
        slope = x * s * (1.0 - s)
        return dy * (s + b * slope), dy * x * slope


SLIPS = (TermForgotten, DyForgotten, SignLost, OneRowOnly, Float32Inside, SavedAsConstant)


def examine(operation: type[dl.Function], x: np.ndarray, b: np.ndarray) -> None:
    """What gradcheck says of one operation, for both derivatives."""
    print(f"\n{operation.__name__}: {(operation.__doc__ or '').splitlines()[0]}")
    print(dl.gradcheck(operation, x, b, order=2))


def gradients(operation: type[dl.Function], x: np.ndarray, b: np.ndarray, dy: np.ndarray) -> np.ndarray:
    """∂L/∂x and ∂L/∂b by backward, in one row."""
    leaves = [dl.Tensor(x, requires_grad=True), dl.Tensor(b, requires_grad=True)]
    found = dl.grad(operation()(*leaves), leaves, dl.Tensor(dy))
    return np.concatenate([dx.numpy().ravel() for dx in found])


def draw(out: Path, x: np.ndarray, b: np.ndarray) -> None:
    """Each wrong gradient against the right one: a right element is on the diagonal."""
    dy = np.random.default_rng(1).normal(size=x.shape)
    right = gradients(ScaledSwish, x, b, dy)
    figure = Figure(figsize=(9, 5.8), layout="constrained", dpi=150)
    shown = (ScaledSwish, TermForgotten, DyForgotten, SignLost, OneRowOnly, Float32Inside)
    for axes, operation in zip(figure.subplots(2, 3).flat, shown, strict=True):
        found = gradients(operation, x, b, dy)
        axes.axline((0, 0), slope=1, color="#bbb", linewidth=1)
        axes.scatter(right[: x.size], found[: x.size], s=14, color="#1f5f9e", label="∂L/∂x")
        axes.scatter(right[x.size :], found[x.size :], s=34, color="#be6516", marker="D", label="∂L/∂b")
        axes.set_title(operation.__name__, fontsize=11)
        axes.set_xlabel("right", color="#666")
        axes.set_ylabel("by backward", color="#666")
        axes.spines[["top", "right"]].set_visible(False)
    figure.axes[0].legend(frameon=False)
    figure.savefig(out / "slips.png")


def main() -> None:
    parser = argparse.ArgumentParser(description="An operation of your own, and the proof of its gradient.")
    parser.add_argument("--out", type=Path, default=Path("runs/examples/07_your_own_operation"))
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)

    rng = np.random.default_rng(0)
    x, b = rng.normal(size=(6, 4)), rng.uniform(0.5, 1.5, size=4)
    examine(ScaledSwish, x, b)
    print("\nAnd the slips, each found and named:")
    for operation in SLIPS:
        examine(operation, x, b)
    draw(out, x, b)
    print(f"\nWrong against right is drawn in {out}/")


if __name__ == "__main__":
    main()
