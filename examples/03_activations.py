"""Lesson 3: activations, their derivatives, and what twenty layers make of a gradient.

On the way back through a layer the gradient is multiplied by the derivative of the activation and by the
weights. Twenty layers are twenty such products: a factor of ¼ each time leaves 10⁻¹² of the gradient, a
factor of 2 makes it a million times too large. Activation and initial weights have to fit each other.

    python examples/03_activations.py
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

import minidl as dl
from minidl import functional as F

ACTIVATIONS: dict[str, Callable[[dl.Tensor], dl.Tensor]] = {
    "sigmoid": F.sigmoid,
    "tanh": F.tanh,
    "ReLU": F.relu,
    "leaky ReLU": lambda x: F.leaky_relu(x, 0.1),
    "GELU": F.gelu,
}
COLOURS = dict(zip(ACTIVATIONS, ("#be6516", "#7c5496", "#1f5f9e", "#3c7a4c", "#b23a24"), strict=True))

LAYERS, WIDTH, BATCH = 20, 128, 64
# The standard deviation of the initial weights. A unit sums n = WIDTH products, so its variance is n · σ²
# times that of its inputs: Glorot makes this factor 1, He makes it 2 as ReLU throws half the signal away.
INITIALISATIONS = {
    "too small, σ = 0.01": 0.01,
    "Glorot, σ = √(1/n)": math.sqrt(1 / WIDTH),
    "He, σ = √(2/n)": math.sqrt(2 / WIDTH),
}


def draw_activations(out: Path) -> None:
    """Each activation, and its derivative as the engine finds it."""
    figure = Figure(figsize=(13, 3), layout="constrained", dpi=150)
    print(f"  {'activation':<12} {'largest derivative':>19} {'derivative at −5':>17} {'at 5':>8}")
    panels = figure.subplots(1, len(ACTIVATIONS), sharey=True)
    for axes, (name, activation) in zip(panels, ACTIVATIONS.items(), strict=True):
        x = dl.Tensor(np.linspace(-5, 5, 1001), requires_grad=True)
        y = activation(x)
        # y[i] depends on x[i] alone, so the gradient of the sum holds the derivative at each x.
        slope = dl.grad(y.sum(), x).numpy()
        axes.axhline(0, color="#ccc", linewidth=0.8)
        axes.axvline(0, color="#ccc", linewidth=0.8)
        axes.plot(x.numpy(), y.numpy(), color=COLOURS[name], linewidth=2, label="f")
        axes.plot(x.numpy(), slope, "--", color=COLOURS[name], linewidth=1.5, label="f ′")
        axes.set_title(name)
        axes.set_ylim(-1.2, 2.2)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, loc="upper left")
        print(f"  {name:<12} {slope.max():>19.4f} {slope[0]:>17.4f} {slope[-1]:>8.4f}")
    figure.savefig(out / "activations.png")
    print(
        "\nThe sigmoid never passes on more than a quarter of a gradient, and far from 0 both sigmoid and\n"
        "tanh pass on next to nothing: they saturate. ReLU passes on all or nothing."
    )


def gradient_norms(activation: Callable[[dl.Tensor], dl.Tensor], std: float) -> list[float]:
    """‖∂L/∂h‖ for the output h of each layer h ← activation(h Wᵀ); L is a random direction of the last h."""
    rng = np.random.default_rng(0)
    # float64: in float32 the smallest of these gradients would not be small but 0.
    h = dl.Tensor(rng.standard_normal((BATCH, WIDTH)), requires_grad=True)
    hidden = []
    for _ in range(LAYERS):
        weight = dl.Tensor(rng.standard_normal((WIDTH, WIDTH)) * std)
        h = activation(F.linear(h, weight))
        hidden.append(h)
    direction = dl.Tensor(rng.standard_normal((BATCH, WIDTH)) / math.sqrt(BATCH * WIDTH))
    return [float(np.linalg.norm(g.numpy())) for g in dl.grad((h * direction).sum(), hidden)]


def measure_vanishing(out: Path) -> None:
    """The norm of the gradient in each layer, for every activation and initialisation."""
    print(f"\nThe gradient that reaches layer 1 of {LAYERS}, as a fraction of what layer {LAYERS} gets:\n")
    print(f"  {'activation':<12}" + "".join(f"{name:>22}" for name in INITIALISATIONS))
    norms = {
        (name, init): gradient_norms(activation, std)
        for name, activation in ACTIVATIONS.items()
        for init, std in INITIALISATIONS.items()
    }
    for name in ACTIVATIONS:
        ratios = [norms[name, init][0] / norms[name, init][-1] for init in INITIALISATIONS]
        print(f"  {name:<12}" + "".join(f"{ratio:>22.1e}" for ratio in ratios))

    figure = Figure(figsize=(13, 4.2), layout="constrained", dpi=150)
    for axes, init in zip(
        figure.subplots(1, len(INITIALISATIONS), sharey=True), INITIALISATIONS, strict=True
    ):
        for name in ACTIVATIONS:
            line = ".--" if name == "leaky ReLU" else ".-"  # it lies almost on top of ReLU
            axes.semilogy(range(1, LAYERS + 1), norms[name, init], line, color=COLOURS[name], label=name)
        axes.set_title(init)
        axes.set_xlabel("layer")
        axes.set_xticks([1, 5, 10, 15, 20])
        axes.grid(color="#e2dfd6", linewidth=0.8)
        axes.spines[["top", "right"]].set_visible(False)
    figure.axes[0].set_ylabel("norm of the gradient, ‖∂L/∂h‖")
    figure.axes[0].legend(frameon=False)
    figure.savefig(out / "vanishing_gradient.png")
    print(
        "\nWith He's weights the gradient of a ReLU network keeps its size through all twenty layers. With\n"
        "weights that are too small every network is dead, and a sigmoid network nearly so with any of them."
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Activations, their derivatives, and the vanishing gradient."
    )
    parser.add_argument("--out", type=Path, default=Path("runs/examples/03_activations"))
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)

    draw_activations(out)
    measure_vanishing(out)
    print(f"\nBoth pictures are in {out}/")


if __name__ == "__main__":
    main()
