"""The rows of operations that move elements."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from minidl import functional as F
from minidl.errors import ShapeError
from minidl.operations.draw import Draw
from minidl.operations.row import Mistake, Operation, zeros
from minidl.operations.row import Sample as S


def _as_arguments(r: Draw, *numbers: int) -> tuple[Any, ...]:
    """Numbers one by one, or as one tuple: reshape(2, 3) and reshape((2, 3)) mean the same."""
    return (numbers,) if r.flag() else numbers


def _reshaped(r: Draw) -> S:
    """Neighbouring axes made one, axes of length 1 put between, and perhaps one −1."""
    shape, new = r.shape(0, 4), [1]
    for n in shape:
        if r.flag():
            new.append(1)
        new[-1] *= n
    if 0 not in new and r.flag():
        new[r.number(0, len(new) - 1)] = -1
    return S(r(*shape), *_as_arguments(r, *new))


def _flattened(r: Draw) -> S:
    shape = r.shape(1, 4)
    start = r.number(0, len(shape) - 1)
    end = r.number(start, len(shape) - 1)
    backwards = len(shape) if r.flag() else 0
    return S(r(*shape), start - backwards, end - backwards)


def _np_flatten(x: np.ndarray, start_dim: int = 0, end_dim: int = -1) -> np.ndarray:
    start, end = start_dim % max(x.ndim, 1), end_dim % max(x.ndim, 1)
    return x.reshape(*x.shape[:start], math.prod(x.shape[start : end + 1]), *x.shape[end + 1 :])


def _permuted(r: Draw) -> S:
    shape = r.shape(1, 4)
    backwards = len(shape) if r.flag() else 0
    return S(r(*shape), *_as_arguments(r, *(axis - backwards for axis in r.order(len(shape)))))


def _transposed(r: Draw) -> S:
    shape = r.shape(2, 4)
    return S(r(*shape), *((r.axis(len(shape)), r.axis(len(shape))) if r.flag() else ()))


def _repeated(r: Draw) -> S:
    shape = r.shape(1, 4)
    return S(r(*r.broadcast(shape)), *_as_arguments(r, *shape))


def _slice(r: Draw, n: int) -> slice:
    return slice(r.pick(None, 0, 1, -1, n), r.pick(None, n, 1, -1, -n - 2), r.pick(None, 1, 2, -1, -2))


def _indexed(r: Draw) -> S:
    """Integers and slices, with integer arrays that broadcast or a mask of some axes; None and `...`."""
    shape = r.full_shape(1, 4)
    parts: list[Any] = []
    form, arrays = r.pick("basic", "arrays", "mask"), r.full_shape(0, 2)
    first = r.number(0, len(shape) - 1)
    last = r.number(first, len(shape) - 1)
    for axis, n in enumerate(shape):
        if form == "mask" and first <= axis <= last:
            parts += [r.mask(*shape[first : last + 1])] if axis == first else []
        elif form == "arrays" and r.flag():
            parts.append(r.integers(2 * n, *r.broadcast(arrays)) - n)
        else:
            parts.append(r.number(-n, n - 1) if r.flag() else _slice(r, n))
        if r.flag():
            parts.append(None)
    left_out = r.number(0, min(2, len(parts)))  # the last parts, or some for which `...` stands
    if r.flag():
        start = r.number(0, len(parts) - left_out)
        parts[start : start + left_out] = [...]
    else:
        parts = parts[: len(parts) - left_out]
    return S(r(*shape), parts[0] if len(parts) == 1 else tuple(parts))


def _torch_getitem(t: Any, x: Any, index: Any) -> Any:
    """The index as the note says it: integers beside arrays made arrays; no slices backwards."""
    parts = index if isinstance(index, tuple) else (index,)
    if any(isinstance(part, slice) and (part.step or 1) < 0 for part in parts):
        return NotImplemented
    arrays = [np.asarray(part) for part in parts if isinstance(part, np.ndarray | list)]
    width = max((1 if array.dtype == bool else array.ndim for array in arrays), default=0)

    def converted(part: Any) -> Any:
        if isinstance(part, int) and width:
            return t.full((1,) * width, part)
        return t.as_tensor(part) if isinstance(part, np.ndarray | list) else part

    return x[tuple(map(converted, parts))]


def _torch_pad(t: Any, x: Any, widths: Any, value: float = 0.0) -> Any:
    """PyTorch counts the axes from the last."""
    flat = [n for before_and_after in reversed(widths) for n in before_and_after]
    return t.nn.functional.pad(x, flat, value=value)


def _joined(r: Draw) -> S:
    """Arrays that differ along one axis."""
    shape, count = r.shape(1, 3), r.number(1, 3)
    axis = r.axis(len(shape))
    shapes = []
    for _ in range(count):
        sides = list(shape)
        sides[axis] = r.pick(1, 2, 0)
        shapes.append(sides)
    return S([r(*sides) for sides in shapes], **({"axis": axis} if axis or r.flag() else {}))


def _stacked(r: Draw) -> S:
    shape, count = r.shape(), r.number(1, 3)
    axis = r.axis(len(shape) + 1)
    return S([r(*shape) for _ in range(count)], **({"axis": axis} if axis or r.flag() else {}))


def _bordered(r: Draw) -> S:
    shape = r.shape(1, 3)
    widths = [(r.number(0, 2), r.number(0, 2)) for _ in shape]
    return S(r(*shape), widths, **r.options(value=(1.5, -2.0)))


def _squeezed(r: Draw) -> S:
    shape = r.shape(1, 4, sides=(1, 2, 3))
    return S(r(*shape), *((r.axis(len(shape)),) if r.flag() else ()))


def _unsqueezed(r: Draw) -> S:
    shape = r.shape()
    return S(r(*shape), r.axis(len(shape) + 1))


def _pad_mistake(shape: tuple[int, ...], widths: Any, message: str) -> Mistake:
    message = f"pad needs (before, after), both ≥ 0, for each of the {message}"
    return Mistake(lambda: F.pad(zeros(*shape), widths), ShapeError, message)


OPERATIONS = [
    Operation(
        "reshape",
        F.reshape,
        samples=lambda r: [
            S(r(3, 4), (2, 6)),
            S(r(3, 4), -1),
            S(r(2, 6), 3, 4),
            S(r(), 1, 1),
            S(r(1), ()),
            S(r(0, 3), 3, 0),
        ],
        drawn=_reshaped,
        numpy=lambda x, *shape: x.reshape(*shape),
        torch=lambda t, x, *shape: x.reshape(*shape),
        mistakes=(
            Mistake(
                lambda: F.reshape(zeros(2, 3), 4, 2),
                ShapeError,
                "cannot reshape (2, 3) (6 elements) to (4, 2)",
            ),
        ),
    ),
    Operation(
        "flatten",
        F.flatten,
        samples=lambda r: [
            S(r(2, 3, 4)),
            S(r(2, 3, 4), 1),
            S(r(2, 3, 4), 0, 1),
            S(r(2, 3, 4), start_dim=-2),
            S(r(0, 2), 0),
            S(r()),
        ],
        drawn=_flattened,
        numpy=_np_flatten,
        torch=lambda t, x, *args, **options: t.flatten(x, *args, **options),
        mistakes=(
            Mistake(
                lambda: F.flatten(zeros(2, 3), 2),
                IndexError,
                "axis 2 is out of bounds for a tensor of 2 dimensions",
            ),
            Mistake(
                lambda: F.flatten(zeros(2, 3), 1, 0),
                ShapeError,
                "cannot flatten (2, 3) from axis 1 to axis 0: the first must not lie after the last",
            ),
        ),
    ),
    Operation(
        "permute",
        F.permute,
        samples=lambda r: [
            S(r(2, 3, 4), 2, 0, 1),
            S(r(2, 3), (1, 0)),
            S(r(2, 3, 4), -1, 0, 1),
            S(r(0, 2), 1, 0),
        ],
        drawn=_permuted,
        numpy=lambda x, *axes: x.transpose(*axes),
        torch=lambda t, x, *axes: x.permute(*axes),
        mistakes=(
            Mistake(
                lambda: F.permute(zeros(2, 3), 0, 0),
                ShapeError,
                "cannot permute (2, 3) by (0, 0): each of the 2 axes must be named once",
            ),
        ),
    ),
    Operation(
        "transpose",
        F.transpose,
        samples=lambda r: [S(r(2, 3)), S(r(2, 3, 4)), S(r(2, 3, 4), 0, 1), S(r(2, 3, 4), -1, 0)],
        drawn=_transposed,
        numpy=lambda x, a=-2, b=-1: np.swapaxes(x, a, b),
        torch=lambda t, x, a=-2, b=-1: x.transpose(a, b),
        mistakes=(
            Mistake(
                lambda: F.transpose(zeros(2, 3), 0, 2),
                IndexError,
                "axis 2 is out of bounds for a tensor of 2 dimensions",
            ),
        ),
    ),
    Operation(
        "broadcast_to",
        F.broadcast_to,
        samples=lambda r: [
            S(r(3), 2, 3),
            S(r(3, 1), (3, 4)),
            S(r(), 2, 2),
            S(r(1, 3), (0, 3)),
            S(r(2, 3), 2, 3),
        ],
        drawn=_repeated,
        numpy=lambda x, *shape: np.broadcast_to(x, shape[0] if isinstance(shape[0], tuple) else shape),
        torch=lambda t, x, *shape: x.broadcast_to(shape[0] if isinstance(shape[0], tuple) else shape),
        mistakes=(
            Mistake(
                lambda: F.broadcast_to(zeros(2, 3), 2, 4), ShapeError, "cannot broadcast (2, 3) to (2, 4)"
            ),
        ),
    ),
    Operation(
        "getitem",
        F.getitem,
        samples=lambda r: [
            S(r(3, 4), index)
            for index in (
                0,
                -1,
                slice(None, None, 2),
                (slice(1, 3), slice(None, -1)),
                (..., 1),
                (None, 2, None),
                (slice(None, None, -1), 0),
                (2, 3),
                np.array([0, 2, 0]),
                (np.array([0, 2, 0]), np.array([1, 1, 1])),
                (slice(None), np.array([[0, 1], [3, 3]])),
                (np.array([0, 0]), slice(1, 3)),
                np.arange(12).reshape(3, 4) % 5 == 0,
                (slice(None), np.array([True, False, True, False])),
                np.zeros(0, int),
                [2, 1],
            )
        ],
        drawn=_indexed,
        numpy=lambda x, index: x[index],
        torch=_torch_getitem,
        mistakes=(
            Mistake(
                lambda: zeros(2, 3)[4],
                IndexError,
                "index 4 is out of bounds for axis 0 with size 2",
            ),
        ),
        note="slices may go backwards, which PyTorch refuses; an integer beside arrays is one of them, as in "
        "NumPy, where PyTorch takes it first",
    ),
    Operation(
        "concatenate",
        F.concatenate,
        samples=lambda r: [
            S([r(2, 3), r(1, 3)]),
            S([r(2, 3), r(2, 1), r(2, 2)], axis=1),
            S([r(2, 3), r(2, 3)], axis=-1),
            S([r(3)]),
            S([r(0, 3), r(2, 3)]),
        ],
        drawn=_joined,
        numpy=np.concatenate,
        torch=lambda t, xs, axis=0: t.cat(xs, axis),
        mistakes=(
            Mistake(
                lambda: F.concatenate([zeros(2, 3), zeros(2, 4)]),
                ShapeError,
                "cannot concatenate (2, 3), (2, 4) along axis 0: all other axes must agree",
            ),
        ),
    ),
    Operation(
        "stack",
        F.stack,
        samples=lambda r: [
            S([r(2, 3), r(2, 3)]),
            S([r(3), r(3), r(3)], axis=1),
            S([r(), r()]),
            S([r(2), r(2)], axis=-1),
        ],
        drawn=_stacked,
        numpy=np.stack,
        torch=lambda t, xs, axis=0: t.stack(xs, axis),
        mistakes=(
            Mistake(
                lambda: F.stack([zeros(2), zeros(3)]),
                ShapeError,
                "cannot stack (2,), (3,): the shapes must be equal",
            ),
        ),
    ),
    Operation(
        "pad",
        F.pad,
        samples=lambda r: [
            S(r(2, 3), [(1, 2), (0, 1)]),
            S(r(3), [(2, 0)], value=1.5),
            S(r(2, 2), [(0, 0), (0, 0)]),
            S(r(0, 2), [(1, 0), (1, 1)]),
        ],
        drawn=_bordered,
        numpy=lambda x, widths, value=0.0: np.pad(x, widths, constant_values=value),
        torch=_torch_pad,
        mistakes=(
            _pad_mistake((2, 3), [(1, 1)], "2 axes of (2, 3), got [(1, 1)]"),
            _pad_mistake((2, 3), (1, 1), "2 axes of (2, 3), got (1, 1)"),
            _pad_mistake((2, 3), 1, "2 axes of (2, 3), got 1"),
            _pad_mistake((2,), [(0, -1)], "1 axes of (2,), got [(0, -1)]"),
            _pad_mistake((2,), [(0.5, 0)], "1 axes of (2,), got [(0.5, 0)]"),
        ),
    ),
    Operation(
        "squeeze",
        F.squeeze,
        samples=lambda r: [
            S(r(1, 3, 1)),
            S(r(1, 3, 1), 0),
            S(r(1, 3), 1),
            S(r(1, 3, 1), axis=-1),
            S(r(1, 1)),
        ],
        drawn=_squeezed,
        numpy=lambda x, axis=None: np.squeeze(x, axis) if axis is None or x.shape[axis] == 1 else x,
        torch=lambda t, x, axis=None: t.squeeze(x) if axis is None else t.squeeze(x, axis),
        mistakes=(
            Mistake(
                lambda: F.squeeze(zeros(2, 1), 2),
                IndexError,
                "axis 2 is out of bounds for a tensor of 2 dimensions",
            ),
        ),
    ),
    Operation(
        "unsqueeze",
        F.unsqueeze,
        samples=lambda r: [S(r(3), 0), S(r(3), 1), S(r(3), -1), S(r(2, 3), 1), S(r(), 0)],
        drawn=_unsqueezed,
        numpy=np.expand_dims,
        torch=lambda t, x, axis: x.unsqueeze(axis),
        mistakes=(
            Mistake(
                lambda: F.unsqueeze(zeros(2, 3), 3),
                IndexError,
                "axis 3 is out of bounds for a tensor of 3 dimensions",
            ),
        ),
    ),
]
