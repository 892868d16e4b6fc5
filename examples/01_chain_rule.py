"""Lesson 1: the chain rule, by hand and by the engine.

A formula is a circuit. Each gate knows two things only: how to compute its output, and how its output
changes with each of its inputs (its local gradients). The chain rule does the rest, from the output back:

    gradient of an input  =  gradient of the output  ·  local gradient

    python examples/01_chain_rule.py
"""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

import minidl as dl

Gradients = dict[str, float]  # ∂f/∂node, by the name of the node
STUB = 0.72  # a wire runs straight for so long, with its two numbers, before it turns to the next gate


@dataclass
class Node:
    """A quantity in the picture: where it stands, the gate that computes it, and what goes into that gate."""

    value: dl.Tensor
    column: float
    row: float
    gate: str = ""
    inputs: tuple[str, ...] = ()


def number(value: float) -> dl.Tensor:
    """An input of a circuit. float64, so that sixteen digits can be compared."""
    return dl.Tensor(value, dtype="float64", requires_grad=True)


def gradients(nodes: dict[str, Node]) -> Gradients:
    """The engine's ∂f/∂node for every node of the circuit; f is the last one."""
    f = list(nodes.values())[-1].value
    found = dl.grad(f, [node.value for node in nodes.values()])
    return {name: g.item() for name, g in zip(nodes, found, strict=True)}


def compare(title: str, nodes: dict[str, Node], by_hand: Gradients, by_engine: Gradients) -> None:
    """Print value and gradient of every node; stop if hand and engine disagree.

    They may differ in the last bit, where the same numbers were added in another order.
    """
    print(f"\n{title}\n")
    print(f"  {'node':>8} {'value':>11}   {'∂f/∂node by hand':>18} {'by the engine':>18}")
    for name, node in reversed(nodes.items()):
        print(f"  {name:>8} {node.value.item():>11.6f}   {by_hand[name]:>18.12f} {by_engine[name]:>18.12f}")
        assert math.isclose(by_hand[name], by_engine[name], rel_tol=1e-14), name


def draw(axes: Any, title: str, nodes: dict[str, Node], slopes: Gradients) -> None:
    """The circuit: values in green above the wires, gradients in red below them."""
    wire = {"color": "#999", "linewidth": 1.2, "zorder": 1}
    for name, node in nodes.items():
        x, y = node.column, -node.row
        axes.plot([x, x + STUB], [y, y], **wire)
        for source in (nodes[name] for name in node.inputs):
            axes.plot([source.column + STUB, x], [-source.row, y], **wire)
        if node.gate:
            axes.scatter(x, y, s=780, color="white", edgecolor="#333", linewidth=1.2, zorder=2)
            axes.text(x, y, node.gate, ha="center", va="center", fontsize=11)
            axes.text(x, y + 0.36, name, ha="center", fontsize=9, style="italic", color="#666")
        else:
            axes.text(x - 0.1, y, name, ha="right", va="center", fontsize=12, style="italic")
        start = x + (0.25 if node.gate else 0.05)
        axes.text(start, y + 0.06, f"{node.value.item():.2f}", color="#1a7f37", va="bottom", fontsize=10)
        axes.text(start, y - 0.06, f"{slopes[name]:.2f}", color="#c0271c", va="top", fontsize=10)
    columns, rows = [n.column for n in nodes.values()], [n.row for n in nodes.values()]
    axes.set_xlim(min(columns) - 0.6, max(columns) + 0.9)
    axes.set_ylim(-max(rows) - 0.5, -min(rows) + 0.7)
    axes.set_title(title, fontsize=12, loc="left")
    axes.axis("off")


def show(
    path: Path, title: str, nodes: dict[str, Node], by_hand: Gradients, size: tuple[float, float]
) -> None:
    """Compare the gradients by hand with the engine's, and draw the circuit."""
    by_engine = gradients(nodes)
    compare(title, nodes, by_hand, by_engine)
    figure = Figure(figsize=size, layout="constrained", dpi=150)
    draw(figure.subplots(), title, nodes, by_engine)
    figure.savefig(path)


def sum_times(out: Path) -> None:
    """f = (x + y) z at x = −2, y = 5, z = −4."""
    x, y, z = number(-2), number(5), number(-4)
    q = x + y
    f = q * z
    nodes = {
        "x": Node(x, 0, 0),
        "y": Node(y, 0, 1),
        "z": Node(z, 0, 2),
        "q": Node(q, 1.5, 0.5, "+", ("x", "y")),
        "f": Node(f, 3, 1.25, "×", ("q", "z")),
    }

    # By hand, from the end to the beginning. An adder passes its gradient on to both inputs;
    # a multiplier gives to each input the gradient times the other input.
    df = 1.0
    dq, dz = df * -4.0, df * 3.0
    dx, dy = dq * 1.0, dq * 1.0
    by_hand = {"x": dx, "y": dy, "z": dz, "q": dq, "f": df}
    show(out / "1_sum_times.png", "f = (x + y) · z", nodes, by_hand, (6, 3.2))


def neuron(out: Path) -> None:
    """A sigmoid neuron, f = σ(w₀x₀ + w₁x₁ + w₂) with σ(s) = 1 / (1 + e⁻ˢ), gate by gate."""
    w0, x0, w1, x1, w2 = number(2), number(-1), number(-3), number(-2), number(-3)
    a, b = w0 * x0, w1 * x1
    c = a + b
    s = c + w2
    n = s * -1.0
    e = n.exp()
    d = e + 1.0
    f = 1.0 / d
    nodes = {
        "w₀": Node(w0, 0, 0),
        "x₀": Node(x0, 0, 1),
        "w₁": Node(w1, 0, 2),
        "x₁": Node(x1, 0, 3),
        "w₂": Node(w2, 0, 4),
        "a": Node(a, 1.2, 0.5, "×", ("w₀", "x₀")),
        "b": Node(b, 1.2, 2.5, "×", ("w₁", "x₁")),
        "c": Node(c, 2.4, 1.5, "+", ("a", "b")),
        "s": Node(s, 3.6, 2.25, "+", ("c", "w₂")),
        "n": Node(n, 4.8, 2.25, "×−1", ("s",)),
        "e": Node(e, 6, 2.25, "exp", ("n",)),
        "d": Node(d, 7.2, 2.25, "+1", ("e",)),
        "f": Node(f, 8.4, 2.25, "1/x", ("d",)),
    }

    value_e = math.exp(-1.0)
    value_d = value_e + 1.0
    df = 1.0
    dd = df * (-1.0 / (value_d * value_d))  # (1/d)' = −1/d²
    de = dd * 1.0  # (e + 1)' = 1
    dn = de * value_e  # (eⁿ)' = eⁿ
    ds = dn * -1.0  # (−s)' = −1
    dc = dw2 = ds
    da = db = dc
    by_hand = {
        "w₀": da * -1.0, "x₀": da * 2.0, "w₁": db * -2.0, "x₁": db * -3.0, "w₂": dw2,
        "a": da, "b": db, "c": dc, "s": ds, "n": dn, "e": de, "d": dd, "f": df,
    }  # fmt: skip
    show(out / "2_neuron.png", "A sigmoid neuron: f = σ(w₀x₀ + w₁x₁ + w₂)", nodes, by_hand, (12, 5.2))

    # The last four gates together are σ, and σ' = σ (1 − σ): one gate, one line, the same number.
    y = dl.functional.sigmoid(s).item()
    print(
        f"\n  The four gates after s are the sigmoid: σ(1) (1 − σ(1)) = {y * (1 - y):.15f}, ∂f/∂s = {ds:.15f}"
    )


def staged(out: Path) -> None:
    """f = (x + σ(y)) / (σ(x) + (x + y)²) at x = 3, y = −4: on paper nobody wants to."""
    x, y = number(3), number(-4)
    sigma_y = 1.0 / (1.0 + (-y).exp())
    top = x + sigma_y
    sigma_x = 1.0 / (1.0 + (-x).exp())
    total = x + y
    square = total * total
    bottom = sigma_x + square
    inverse = 1.0 / bottom
    f = top * inverse
    nodes = {
        "x": Node(x, 0, 0.5),
        "y": Node(y, 0, 3),
        "σ(y)": Node(sigma_y, 1.5, 3, "σ", ("y",)),
        "σ(x)": Node(sigma_x, 1.5, 0.5, "σ", ("x",)),
        "x+y": Node(total, 1.5, 1.75, "+", ("x", "y")),
        "(x+y)²": Node(square, 3, 1.75, "x²", ("x+y",)),
        "bottom": Node(bottom, 4.5, 1.25, "+", ("σ(x)", "(x+y)²")),
        "1/bottom": Node(inverse, 6, 1.25, "1/x", ("bottom",)),
        "top": Node(top, 4.5, 3, "+", ("x", "σ(y)")),
        "f": Node(f, 7.5, 2.1, "×", ("top", "1/bottom")),
    }

    # Forward: every stage has a name, because the way back needs its value.
    def sigmoid(v: float) -> tuple[float, float]:
        """σ(v) and σ'(v), the latter from its gates: −1/d² · e⁻ᵛ · −1 with d = 1 + e⁻ᵛ."""
        e = math.exp(-v)
        d = 1.0 + e
        return 1.0 / d, -(-1.0 / (d * d) * e)

    (hand_sy, slope_y), (hand_sx, slope_x) = sigmoid(-4.0), sigmoid(3.0)
    hand_top, hand_total = 3.0 + hand_sy, 3.0 + -4.0
    hand_bottom = hand_sx + hand_total * hand_total
    hand_inverse = 1.0 / hand_bottom

    # Backward: every stage once, last one first. x feeds three gates and y two: their gradients add up.
    df = 1.0
    d_top, d_inverse = df * hand_inverse, df * hand_top
    d_bottom = d_inverse * (-1.0 / (hand_bottom * hand_bottom))
    d_sx = d_square = d_bottom
    d_total = d_square * hand_total + d_square * hand_total
    d_sy = d_top
    dx = d_top + d_total + d_sx * slope_x
    dy = d_total + d_sy * slope_y
    by_hand = {
        "x": dx, "y": dy, "σ(y)": d_sy, "σ(x)": d_sx, "x+y": d_total, "(x+y)²": d_square,
        "bottom": d_bottom, "1/bottom": d_inverse, "top": d_top, "f": df,
    }  # fmt: skip
    show(out / "3_staged.png", "f = (x + σ(y)) / (σ(x) + (x + y)²)", nodes, by_hand, (11, 5))


def main() -> None:
    parser = argparse.ArgumentParser(description="The chain rule, by hand and by the engine.")
    parser.add_argument("--out", type=Path, default=Path("runs/examples/01_chain_rule"))
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)

    sum_times(out)
    neuron(out)
    staged(out)
    print(f"\nHand and engine agree in every digit printed. The circuits are drawn in {out}/")


if __name__ == "__main__":
    main()
