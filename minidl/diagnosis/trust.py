"""Before gradients are compared: may they be? What makes a comparison impossible or worthless is refused."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from minidl.backend import Array, array_module, as_numpy
from minidl.errors import GradientError
from minidl.tensor import Tensor

if TYPE_CHECKING:
    from minidl.gradcheck import Check

Leaves = dict[str, Tensor]


def trust_forward(f: Callable[[], Tensor], y: Any, leaves: Leaves, before: dict[str, int]) -> None:
    """Raise GradientError if y = f() is nothing that can be differentiated by differences."""
    if not isinstance(y, Tensor):
        raise GradientError(f"f returned {type(y).__name__}: it has to return one Tensor")
    for name in _changed(leaves, before):
        raise GradientError(f"f changed {name} in place{_line_of_change(f, leaves)}")
    if y.dtype != np.float64:
        raise GradientError(f"f computes in {y.dtype}: a check needs float64 all the way through")
    broken = np.argwhere(~np.isfinite(y.numpy()))
    if len(broken):
        at = broken[0].tolist()
        raise GradientError(f"f is {y.numpy()[tuple(at)]} at output {at}: check it where it is finite")


def trusted_gradients(check: Check, y: Tensor, before: dict[str, int]) -> dict[str, np.ndarray]:
    """The gradients by backward; GradientError if they are not the same twice, or not float64."""
    dy = check.v.copy()
    gradients = check.analytic(y, dy)
    if not _same(dy, check.v):
        raise GradientError("backward changed dy in place: compute a new tensor instead")
    for name in _changed(check.leaves, before):
        raise GradientError(f"backward changed {name} in place: compute a new tensor instead")
    for name, gradient in gradients.items():
        if gradient.dtype != np.float64:
            raise GradientError(
                f"backward computes the gradient of {name} in {gradient.dtype}: "
                "a check needs float64 all the way through"
            )
    y = check.f()
    if not _same(check.y, y.data):
        raise GradientError("f is not deterministic: two calls differ. Fix its random numbers, or .eval()")
    for name, again in check.analytic(y, dy).items():
        if not _same(gradients[name], again):
            raise GradientError("backward is not deterministic: two calls differ")
    return gradients


def refuse_float32(check: Check, name: str) -> None:
    """Raise GradientError if something on the way from this leaf is rounded to float32.

    Then f is a staircase: it follows a move by 10⁻⁶, and one by 10⁻⁹, which float64 notices, it does not.
    """
    x = check.leaves[name]
    u = array_module(x.data).maximum(abs(x.data), 0.01)
    far, near = (check.moved(x, u, h) != check.y for h in (1e-6, 1e-9))
    if near.sum() < 0.2 * far.sum():
        raise GradientError(
            f"{'f' if check.order == 1 else 'backward'} rounds to float32 on the way from {name}: "
            "is there an array made without dtype=x.dtype, or an astype?"
        )


def fingerprints(leaves: Leaves) -> dict[str, int]:
    """A checksum of each leaf, by which a change is noticed without keeping a copy."""
    return {name: zlib.crc32(np.ascontiguousarray(as_numpy(x.data)).data) for name, x in leaves.items()}


def _changed(leaves: Leaves, before: dict[str, int]) -> list[str]:
    return [name for name, fingerprint in fingerprints(leaves).items() if fingerprint != before[name]]


def _line_of_change(f: Callable[[], Tensor], leaves: Leaves) -> str:
    """Where f writes into a leaf: NumPy itself tells when the leaves are read-only."""
    import traceback  # slow to import, and few functions do so

    try:
        for x in leaves.values():
            x.data.flags.writeable = False
        f()
    except (ValueError, AttributeError) as error:  # CuPy's arrays cannot be protected
        line = traceback.extract_tb(error.__traceback__)[-1]
        return f", in {line.name}: {line.line}" if "read-only" in str(error) else ""
    return ""


def _same(a: Array, b: Array) -> bool:
    """Equal to the last bit, NaN included."""
    return a.shape == b.shape and bool(((a == b) | ((a != a) & (b != b))).all())
