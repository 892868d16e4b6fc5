"""The rows of arithmetic: functions of each element, and of two that broadcast."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from minidl import functional as F
from minidl.operations.draw import Draw
from minidl.operations.row import Kink, Mistake, Operation, zeros
from minidl.operations.row import Sample as S

SHAPES: tuple[tuple[int, ...], ...] = ((), (5,), (3, 4), (1, 1), (2, 0, 3))
# Same shape, one broadcast, the other, both, numbers, nothing at all.
PAIRS: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...] = (
    ((3, 4), (3, 4)),
    ((3, 4), (4,)),
    ((1,), (2, 3)),
    ((3, 1), (1, 4)),
    ((), ()),
    ((), (2, 2)),
    ((0, 3), (3,)),
)


def unary(
    name: str,
    numpy: Callable,
    torch: Callable,
    draw: str = "__call__",
    kinks: tuple[Kink, ...] = (),
) -> Operation:
    """A row for a function of each element; `draw` names the method of Draw that suits its domain."""
    return Operation(
        name,
        getattr(F, name),
        samples=lambda r: [S(getattr(r, draw)(*shape)) for shape in SHAPES],
        drawn=lambda r: S(getattr(r, draw)(*r.shape())),
        numpy=numpy,
        torch=torch,
        mistakes=no_tensor(name),
        kinks=kinks,
    )


def no_tensor(name: str) -> tuple[Mistake, ...]:
    """What the operation says to an array that nobody wrapped."""
    message = f"{name} works on Tensors, got ndarray: wrap it, Tensor(x)"
    return (Mistake(lambda: getattr(F, name)(np.ones(2)), TypeError, message),)


def _broadcast(r: Draw) -> S:
    """Two arrays that broadcast, or one and a number on either side."""
    shape = r.shape()
    form = r.pick("arrays", "number right", "number left")
    if form == "arrays":
        return S(r(*r.broadcast(shape)), r.positive(*r.broadcast(shape)))
    return S(r(*shape), 1.5) if form == "number right" else S(2, r.positive(*shape))


def _never_equal(r: Draw) -> S:
    """The same with odd sixteenths on the left and even ones on the right."""
    shape = r.shape()
    if r.flag():
        return S(r.apart(*shape), r.pick(0.0, -0.25, 1))
    return S(r.apart(*r.broadcast(shape)), r.between(*r.broadcast(shape)))


def _often_equal(r: Draw) -> S:
    """The same with 0, 1 and 2."""
    shape = r.shape()
    left = r.integers(3, *r.broadcast(shape)).astype(float)
    return S(left, 1) if r.flag() else S(left, r.integers(3, *r.broadcast(shape)).astype(float))


def binary(
    name: str,
    numpy: Callable,
    torch: Callable,
    drawn: Callable[[Draw], S] = _broadcast,
    kinks: tuple[Kink, ...] = (),
    differentiable: bool = True,
) -> Operation:
    """A row for a function of two numbers, broadcast."""
    return Operation(
        name,
        getattr(F, name),
        samples=lambda r: [S(r(*x), r.positive(*y)) for x, y in PAIRS],
        drawn=drawn,
        numpy=numpy,
        torch=torch,
        mistakes=(
            Mistake(
                lambda: getattr(F, name)(zeros(2, 3), zeros(4)),
                ValueError,
                "operands could not be broadcast together with shapes (2,3) (4,) ",
            ),
        ),
        kinks=kinks,
        differentiable=differentiable,
    )


def _torch_extremum(name: str) -> Callable:
    return lambda t, x, y: getattr(t, name)(x, t.as_tensor(y, dtype=x.dtype))


# Where both operands tie, half to each
TIE = (Kink(S(np.array([1.0, 2.0, 3.0]), np.array([1.0, 1.0, 3.0])), ([0.5, 1, 0.5], [0.5, 0, 0.5])),)
TIE_BELOW = (Kink(S(np.array([1.0, 2.0, 3.0]), np.array([1.0, 1.0, 3.0])), ([0.5, 0, 0.5], [0.5, 1, 0.5])),)


def _powers(r: Draw) -> S:
    shape = r.shape()
    form = r.pick("a whole number", "a fraction", "arrays")
    if form == "a whole number":
        return S(r(*shape), r.pick(2, 1, 3, 0, -1, -2))
    if form == "a fraction":
        return S(r.positive(*shape), r.pick(0.5, 1.5, -0.5))
    return S(r.positive(*r.broadcast(shape)), r(*r.broadcast(shape)))


def _torch_power(t: Any, x: Any, a: Any) -> Any:
    """Without the exponents that the note is about."""
    return NotImplemented if t.is_tensor(a) and ((a == 0) & (x > 0)).any() else x**a


def _clipped(r: Draw) -> S:
    low, high = r.pick((-0.5, None), (None, 0.5), (-0.25, 0.75), (0.25, 0.25), (0.5, -0.5))
    x = r.apart(*r.shape())
    return S(x, low=low, high=high) if r.flag() else S(x, low, high)


def _chosen(r: Draw) -> S:
    shape = r.shape()
    condition, x = r.broadcast(shape), r(*r.broadcast(shape))
    y = 0.0 if r.flag() else r(*r.broadcast(shape))
    return S(r.mask(*condition), x, y)


OPERATIONS = [
    binary("add", np.add, lambda t, x, y: x + y),
    binary("subtract", np.subtract, lambda t, x, y: x - y),
    binary("multiply", np.multiply, lambda t, x, y: x * y),
    binary("divide", np.divide, lambda t, x, y: x / y),
    binary("maximum", np.maximum, _torch_extremum("maximum"), _never_equal, TIE),
    binary("minimum", np.minimum, _torch_extremum("minimum"), _never_equal, TIE_BELOW),
    *(
        binary(
            name,
            getattr(np, name),
            lambda t, x, y, name=name: getattr(t, "eq" if name == "equal" else name)(x, y),
            _often_equal,
            differentiable=False,
        )
        for name in ("less", "less_equal", "greater", "greater_equal", "equal", "not_equal")
    ),
    Operation(
        "power",
        F.power,
        samples=lambda r: [
            *(S(r.positive(*x), r(*y)) for x, y in PAIRS),
            *(S(r(3), a) for a in (2, 3, -1, 0, 1)),
            S(r.positive(3), 0.5),
            S(np.array([0.0, 1.0]), 2),
            S(r.positive(3), np.array([0.0, 1.0, 2.0])),
        ],
        drawn=_powers,
        numpy=np.power,
        torch=_torch_power,
        mistakes=(
            Mistake(
                lambda: F.power(zeros(2, 3), zeros(4)),
                ValueError,
                "operands could not be broadcast together with shapes (2,3) (4,) ",
            ),
        ),
        # At x = 0: xᵃ ln x counts as 0, for a = 0 too; and a xᵃ⁻¹ for a = 0. With a < 0, there is a pole.
        kinks=(
            Kink(S(np.zeros(4), np.array([0.0, 1.0, 2.0, 1.5])), ([0, 1, 0, 0], [0, 0, 0, 0])),
            Kink(S(np.zeros(1), np.array([-1.0])), ([-np.inf], [-np.inf])),
        ),
        note="∂²/∂x∂a at a = 0 is 1/x, as differences show; PyTorch, which sets a xᵃ⁻¹ to 0 there, has 0",
    ),
    unary("negative", np.negative, lambda t, x: -x),
    unary("absolute", np.abs, lambda t, x: x.abs(), kinks=(Kink(S(np.array([-1.0, 0.0])), ([-1, 0],)),)),
    unary("exp", np.exp, lambda t, x: x.exp()),
    unary("log", np.log, lambda t, x: x.log(), draw="positive"),
    unary("sqrt", np.sqrt, lambda t, x: x.sqrt(), draw="positive"),
    Operation(
        "clip",
        F.clip,
        samples=lambda r: [
            S(r(3, 4), -0.55, 0.75),
            S(r(5), None, 0.5),
            S(r(5), low=-0.5),
            S(r(), 0.0),
            S(r(0), 0.0, 1.0),
        ],
        drawn=_clipped,
        numpy=lambda x, low=None, high=None: np.clip(x, low, high),
        torch=lambda t, x, low=None, high=None: t.clip(x, low, high),
        mistakes=no_tensor("clip"),
        # The limits belong to the inside.
        kinks=(Kink(S(np.array([-2.0, -1.0, 0.0, 1.0, 2.0]), -1.0, 1.0), ([0, 1, 1, 1, 0],)),),
    ),
    Operation(
        "where",
        F.where,
        samples=lambda r: [
            S(r.mask(3, 4), r(3, 4), r(3, 4)),
            S(r.mask(3, 1), r(4), r(1, 1)),
            S(np.array([True, False]), r(2), 0.0),
            S(np.array(True), r(), r()),
        ],
        drawn=_chosen,
        numpy=np.where,
        torch=lambda t, c, x, y: t.where(t.as_tensor(c), x, y),
        mistakes=(
            Mistake(
                lambda: F.where(np.array([True, False]), zeros(3), zeros(3)),
                ValueError,
                "operands could not be broadcast together with shapes (2,) (3,) (3,) ",
            ),
        ),
    ),
    Operation(
        "astype",
        lambda x: F.astype(x, "float64"),
        samples=lambda r: [S(r(*shape)) for shape in SHAPES],
        drawn=lambda r: S(r(*r.shape())),
        numpy=lambda x: x.astype("float64"),
        torch=lambda t, x: x.double(),
        mistakes=(
            Mistake(
                lambda: F.astype(zeros(2), "complex64"), TypeError, "a Tensor holds numbers, not complex64"
            ),
        ),
    ),
]
