"""Lesson 2: is my gradient right? Ask the definition.

The derivative is a limit, and a computer can go a long way towards it: nudge x a little, look how much f
changes, divide. That is slow (two evaluations of f or more for every element of x) but hard to get wrong,
which makes it the judge of every gradient that was derived by hand.

    python examples/02_gradient_check.py
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

import minidl as dl


def f(x: dl.Tensor) -> dl.Tensor:
    """A function with something to differentiate: Σ tanh(x)³."""
    return (x.tanh() ** 3).sum()


def moved(x: np.ndarray, i: int, step: float) -> float:
    """f with element i of x moved by `step`."""
    x = x.copy()
    x[i] += step
    return f(dl.Tensor(x)).item()


def forward_difference(x: np.ndarray, i: int, h: float) -> float:
    """(f(x+h) − f(x)) / h = f'(x) + ½ f''(x) h + …: the error shrinks like h."""
    return (moved(x, i, h) - moved(x, i, 0)) / h


def centred_difference(x: np.ndarray, i: int, h: float) -> float:
    """(f(x+h) − f(x−h)) / 2h = f'(x) + ⅙ f‴(x) h² + …: the even terms cancel, the error shrinks like h²."""
    return (moved(x, i, h) - moved(x, i, -h)) / (2 * h)


def four_points(x: np.ndarray, i: int, h: float) -> float:
    """(4 D(h) − D(2h)) / 3 with D the centred difference: its h² cancels too, the error shrinks like h⁴."""
    return (4 * centred_difference(x, i, h) - centred_difference(x, i, 2 * h)) / 3


METHODS = {
    "forward difference": forward_difference,
    "centred difference": centred_difference,
    "four points": four_points,
}


def relative_error(a: float, b: float) -> float:
    """|a − b| / max(|a|, |b|): 1e-7 is good whether the gradient is 1000 or 0.001."""
    return abs(a - b) / max(abs(a), abs(b))


def analytic(x: np.ndarray) -> np.ndarray:
    """The gradient by the engine: all elements in one walk back."""
    leaf = dl.Tensor(x, requires_grad=True)
    f(leaf).backward()
    return leaf.grad.numpy()


def first_look() -> None:
    x = np.array([0.3, -1.2, 0.8])
    h = 1e-5
    print("f(x) = Σ tanh(x)³ at x = (0.3, −1.2, 0.8), nudged by h = 1e-5\n")
    print(f"  {'element':>7} {'engine':>18} {'centred difference':>20} {'relative error':>16}")
    for i, exact in enumerate(analytic(x).tolist()):
        numerical = centred_difference(x, i, h)
        print(f"  {i:>7} {exact:>18.12f} {numerical:>20.12f} {relative_error(exact, numerical):>16.1e}")


def step_size(out: Path) -> None:
    """The error against h: too large a step is not yet the limit, too small a step drowns in rounding."""
    steps = np.logspace(-13, 0, 53)
    points = np.linspace(0.2, 1.2, 21)  # one point could be lucky; the median of several is not
    exact = analytic(points).tolist()
    figure = Figure(figsize=(8.5, 5.5), layout="constrained", dpi=150)
    axes = figure.subplots()
    print("\nThe best step, and the relative error that it leaves (median of 21 points):\n")
    for (name, method), colour in zip(METHODS.items(), ("#be6516", "#1f5f9e", "#3c7a4c"), strict=True):
        for dtype, line in (("float64", "-"), ("float32", "--")):
            xs = points.astype(dtype).reshape(-1, 1)
            errors = [
                float(np.median([relative_error(a, method(x, 0, h)) for x, a in zip(xs, exact, strict=True)]))
                for h in steps.tolist()
            ]
            axes.loglog(steps, errors, line, color=colour, label=f"{name}, {dtype}")
            best = int(np.argmin(errors))
            print(f"  {name:<18}  {dtype}   h = {steps[best]:.0e}   error {errors[best]:.0e}")
    axes.set_xlabel("step h")
    axes.set_ylabel("relative error of the numerical gradient")
    axes.set_title("Too small a step drowns in rounding, too large a step is not yet a limit", fontsize=11)
    axes.set_ylim(1e-15, 10)
    axes.grid(color="#e2dfd6", linewidth=0.8)
    axes.legend(frameon=False, loc="lower left")
    figure.savefig(out / "step_size.png")
    print(
        "\nRounding leaves an error of about ε/h, the formula one of h, h² or h⁴; the best step is where\n"
        "both meet. float64 (ε = 2e-16) leaves eight to twelve digits, float32 (ε = 1e-7) three to five:\n"
        "too few to tell a small mistake from rounding. gradcheck takes four points in float64, h = 1e-4."
    )


class Softsign(dl.Function):
    """y = x / (1 + |x|)        ∂L/∂x = ∂L/∂y / (1 + |x|)²"""

    def forward(self, x: np.ndarray) -> np.ndarray:
        self.save(x=x)
        return x / (1 + abs(x))

    def backward(self, dy: dl.Tensor) -> dl.Tensor:
        (x,) = self.saved
        return dy / (1.0 + x.abs()) ** 2


class BrokenSoftsign(Softsign):
    """The same with a mistake that is easily made, and that trains nearly as well: no square."""

    def backward(self, dy: dl.Tensor) -> dl.Tensor:
        (x,) = self.saved
        return dy / (1.0 + x.abs())


def check_a_function() -> None:
    """A Function of one's own, right and wrong: gradcheck tells them apart, and the ratio says why."""
    x = dl.Tensor(np.array([[-2.0, -0.5, 0.25], [0.5, 1.0, 3.0]]))
    print("\nA function of one's own, y = x / (1 + |x|), and the same with its gradient broken:\n")
    print(f"  Softsign: {dl.gradcheck(lambda x: Softsign()(x), x)}\n")
    print(f"  BrokenSoftsign: {dl.gradcheck(lambda x: BrokenSoftsign()(x), x)}")
    print("\nAt x = 3 the ratio is 4 = 1 + |x|: that is the factor that was forgotten.")


def main() -> None:
    parser = argparse.ArgumentParser(description="Numerical gradients, and how to check one's own.")
    parser.add_argument("--out", type=Path, default=Path("runs/examples/02_gradient_check"))
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)

    first_look()
    step_size(out)
    check_a_function()
    print(f"\nThe curve of errors is drawn in {out}/")


if __name__ == "__main__":
    main()
