"""The error function erf x = 2/√π ∫₀ˣ e⁻ᵗ² dt, which NumPy does not have, from a few calls of NumPy.

    erf x = tanh v,        v = artanh(erf x) ≈ x + x · P(x²) / Q(x²)

v is odd and smooth: near 0 it is 2/√π · x, and far out it grows as x²/2. So a fraction of two polynomials
comes as near to v/x as one likes, for all x at once. (The GELU that is called approximate stops after x²:
v/x = 2/√π · (1 + 0.0894 x²).) tanh makes no relative error of v larger, and those far out much smaller.

The coefficients of P and Q are in no table; `_coefficients` computes them when they are first needed.
"""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING

import numpy as np

from minidl.backend.device import Array, array_module
from minidl.backend.threads import scratch
from minidl.errors import require

if TYPE_CHECKING:
    from decimal import Decimal

END = 6.0  # from here on erf x rounds to 1, also in float64
PI = "3.14159265358979323846264338327950288419716939937510582"


def erf(x: Array, out: Array) -> Array:
    """out = erf x, elementwise.

    It is computed in float64. A float32 result is wrong by at most 0.62 of its last digit, a float64 result
    by 3 · 10⁻¹⁶ of itself. On the GPU it is CuPy's.
    """
    if array_module(x) is not np:
        return require("cupyx.scipy.special", "gpu12").erf(x, out)
    p, q = _coefficients(degree=10, end=3.5) if x.itemsize > 4 else _coefficients(degree=3, end=2.5)
    inside, square, v, divisor = (row.reshape(x.shape) for row in scratch(np, "erf", (4, x.size), np.float64))
    np.clip(x, -END, END, out=inside)
    np.multiply(inside, inside, out=square)
    _polynomial(p, square, v)
    v /= _polynomial(q, square, divisor)
    v *= inside
    v += inside
    return np.tanh(v, out=out)


def _polynomial(coefficients: list[float], x: np.ndarray, out: np.ndarray) -> np.ndarray:
    """out = c₀ + c₁ x + c₂ x² + …, as c₀ + x (c₁ + x (c₂ + …)), which is Horner's rule."""
    np.multiply(x, coefficients[-1], out=out)
    for c in coefficients[-2:0:-1]:
        out += c
        out *= x
    out += coefficients[0]
    return out


@functools.cache
def _coefficients(degree: int, end: float) -> tuple[list[float], list[float]]:
    """Those of P and Q, such that 1 + P/Q equals f = v/x at 2·degree + 1 points x between 0 and `end`.

    With t = x², P(t) = Σ pₖ tᵏ and Q(t) = 1 + Σ qₖ tᵏ, each point gives one linear equation:

        Σ pₖ tᵏ + (1 − f) Σ qₖ tᵏ = f − 1

    The points are dense at both ends, as Chebyshev's are, which keeps the error between them small. Beyond
    the last one erf x is so close to 1 that an error of v hardly matters. What the fraction costs in all is
    6 · 10⁻⁹ of erf x with degree 3, and 10⁻¹⁷ with degree 10. The equations are all but dependent: 16 digits
    are too few to solve them, these are 60. All coefficients come out positive: in P and Q nothing cancels.
    """
    from decimal import Context, Decimal, localcontext  # slow to import, and few want erf

    n = 2 * degree + 1
    equations = []
    with localcontext(Context(prec=60)):
        for i in range(n):
            x = Decimal(end / 2 * (1 - math.cos(math.pi * (i + 0.5) / n)))
            y = _erf_series(x, Decimal(PI))
            f = ((1 + y) / (1 - y)).ln() / (2 * x)  # artanh y = ½ ln (1 + y)/(1 − y)
            powers = [x ** (2 * k) for k in range(degree + 1)]
            equations.append([*powers, *((1 - f) * power for power in powers[1:]), f - 1])
        solution = [float(c) for c in _solve(equations)]
    return solution[: degree + 1], [1.0, *solution[degree + 1 :]]


def _erf_series(x: Decimal, pi: Decimal) -> Decimal:
    """2/√π Σ (−1)ᵏ x²ᵏ⁺¹ / (k! (2k + 1)), the series of e⁻ᵗ² integrated term by term, k = 0, 1, …"""
    power = total = x  # power: (−1)ᵏ x²ᵏ⁺¹ / k!
    k = 0
    while abs(power) > 1e-50:
        k += 1
        power *= -x * x / k
        total += power / (2 * k + 1)
    return 2 * total / pi.sqrt()


def _solve(equations: list[list[Decimal]]) -> list[Decimal]:
    """The x of Σ aᵢ xᵢ = b, for rows (a₁, …, aₙ, b), by Gauss-Jordan elimination."""
    for i in range(len(equations)):
        largest = max(range(i, len(equations)), key=lambda row: abs(equations[row][i]))
        equations[i], equations[largest] = equations[largest], equations[i]
        pivot = equations[i] = [a / equations[i][i] for a in equations[i]]
        for j, row in enumerate(equations):
            if j != i:
                equations[j] = [a - row[i] * b for a, b in zip(row, pivot, strict=True)]
    return [row[-1] for row in equations]
