"""Causes in which the numbers are right and stand, or are added up, in the wrong place."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import numpy as np

from minidl.diagnosis.evidence import Evidence

Index = tuple[np.ndarray, ...]


def moved(e: Evidence) -> str:
    """Transposed, reversed or shifted: the wrong gradient holds the right one at another place."""
    for name, places in _moves(e):
        if e.equal(e.gradient[places], e.n):
            return name
    for by in itertools.product(*[range(1 - min(length, 4), min(length, 4)) for length in e.shape[-3:]]):
        by = (0,) * (len(e.shape) - len(by)) + by
        at = [i + step for i, step in zip(e.index, by, strict=True)]
        inside = np.logical_and.reduce([(i >= 0) & (i < n) for i, n in zip(at, e.shape, strict=True)])
        # What fell off the end may be 0, or have come round; but most of it must still be there.
        if any(by) and np.count_nonzero(e.n[inside]) > 2 and inside.mean() >= 0.5:
            places = tuple(i[inside] for i in at)
            if e.equal(e.gradient[places], e.n[inside]):
                axes = {k: step for k, step in enumerate(by) if step}
                return "it is shifted " + " and ".join(
                    f"by {step} along axis {k}" for k, step in axes.items()
                )
    return ""


def _moves(e: Evidence) -> Iterator[tuple[str, Index]]:
    """(what happened, where in the wrong gradient the right value of each known place would then stand)"""
    index, shape = e.index, e.shape
    for axes in itertools.permutations(range(len(shape))) if len(shape) <= 4 else ():
        if axes != tuple(range(len(shape))) and tuple(shape[k] for k in axes) == shape:
            name = "it is transposed" if len(shape) == 2 else f"its axes are in the order {axes}"
            yield name, tuple(index[k] for k in axes)
    for axes in e.axis_sets():
        yield f"it is reversed along {_axes(axes)}", reverse(index, shape, axes)


def reverse(index: Index, shape: tuple[int, ...], axes: tuple[int, ...]) -> Index:
    return tuple(shape[k] - 1 - at if k in axes else at for k, at in enumerate(index))


def _axes(axes: tuple[int, ...]) -> str:
    return f"axis {axes[0]}" if len(axes) == 1 else f"the axes {axes}"


def of_another_input(e: Evidence) -> str:
    for other, right in e.others_right.items():
        if e.equal(e.a, right):
            return f"this is the gradient of {other}"
        if e.equal(e.a, -right):
            return f"this is the gradient of {other} with the wrong sign"
        if len(e.shape) == 2 and e.shape[0] == e.shape[1] and e.equal(e.gradient.T[e.index], right):
            return f"this is the gradient of {other}, transposed"
    return ""


def dy_unchanged(e: Evidence) -> str:
    if e.y.shape == e.shape and e.equal(e.a, e.dy.ravel()[e.places]):
        return "it is dy itself: no derivative is multiplied in"
    return ""


def of_another_dy(e: Evidence) -> str:
    """The right gradient for a dy that was summed, reversed, transposed or cut first."""
    for name, dy in _other_dys(e.dy):
        if e.equal(e.a, e.pull(dy)):
            return name
    return ""


def _other_dys(dy: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    for axes in [None, *range(dy.ndim)] if dy.ndim > 1 else [None]:
        along = "" if axes is None else f" over axis {axes}"
        total = dy.sum(axis=axes, keepdims=True)
        yield f"dy is summed{along} before it is used", np.broadcast_to(total, dy.shape)
        yield (
            f"dy is averaged{along} before it is used",
            np.broadcast_to(total, dy.shape) * total.size / dy.size,
        )
    if dy.ndim == 2 and dy.shape[0] == dy.shape[1]:
        yield "dy is used transposed", dy.T
    for axis, length in enumerate(dy.shape):
        yield f"dy is used reversed along axis {axis}", np.flip(dy, axis)
        for index in {0, length - 1}:
            alone = np.zeros_like(dy)
            at = (slice(None),) * axis + (index,)
            alone[at] = dy[at]
            yield f"only index {index} along axis {axis} of dy is used", alone
        yield f"dy is used shifted along axis {axis}", np.roll(dy, 1, axis)
        yield f"dy is used shifted along axis {axis}", np.roll(dy, -1, axis)


def kernel_turned_over(e: Evidence) -> str:
    """Reversing dy and then the result: what a convolution does that takes its kernel the other way round."""
    if len(e.dy.shape) != len(e.shape):
        return ""
    for axes in e.axis_sets():
        if e.equal(e.gradient[reverse(e.index, e.shape, axes)], e.pull(np.flip(e.dy, axes))):
            return (
                f"it runs the wrong way along {_axes(axes)}: is a kernel to be turned over, or a running sum?"
            )
    return ""


def matrices_transposed(e: Evidence) -> str:
    """For square matrices every order and every transpose has the right shape."""
    if len(e.shape) != 2 or e.shape[0] != e.shape[1] or e.y.shape != e.shape:
        return ""
    for other, leaf in e.others.items():
        here = leaf.data
        leaf.data = here.T.copy()
        try:
            columns = e.jacobian(e.leaf)
        finally:
            leaf.data = here
        for of_dy, of_result in itertools.product((False, True), repeat=2):
            right = columns @ (e.dy.T if of_dy else e.dy).ravel()
            if e.equal((e.gradient.T if of_result else e.gradient)[e.index], right):
                if of_dy and of_result:
                    return f"it is right for dy and {other} in the other order: A·B is not B·A"
                parts = [other, *(["dy"] if of_dy else []), *(["the result"] if of_result else [])]
                return f"it would be right with {' and '.join(parts)} transposed"
    return ""


def own_output_only(e: Evidence) -> str:
    """The diagonal of the Jacobian: for softmax, normalisation, running sums."""
    if e.y.shape != e.shape:
        return ""
    diagonal = e.columns[np.arange(len(e.places)), e.places]
    if e.equal(e.a, diagonal * e.dy.ravel()[e.places]):
        return "each element has the gradient of its own output only: that of the other outputs is missing"
    return ""


def summed_over_wrong_axes(e: Evidence) -> str:
    """A broadcast input, of which each output saw one element: its gradient is the sum over the others."""
    if not e.whole or not e.y.size or (np.count_nonzero(e.columns, axis=0) > 1).any():
        return ""
    terms = (e.columns.sum(axis=0) * e.dy.ravel()).reshape(e.y.shape)
    for count in range(1, e.y.ndim + 1):
        for axes in itertools.combinations(range(e.y.ndim), count):
            total = terms.sum(axis=axes)
            if total.size == e.a.size and e.equal(e.a, total.ravel()):
                return f"it is summed over {_axes(axes)} of dy, and should be over {_right_axes(e, terms)}"
    return ""


def _right_axes(e: Evidence, terms: np.ndarray) -> str:
    for count in range(terms.ndim + 1):
        for axes in itertools.combinations(range(terms.ndim), count):
            total = terms.sum(axis=axes)
            if total.size == e.n.size and e.equal(e.n, total.ravel()):
                return _axes(axes) if axes else "none"
    return "others"


def one_term_of_several(e: Evidence) -> str:
    """x[i] read at several outputs, and the gradient written there instead of added."""
    terms = e.columns * e.dy.ravel()
    several = np.count_nonzero(terms, axis=1) > 1
    if not e.wrong.any() or not several[e.wrong].all():
        return ""
    kept = e.agrees(np.broadcast_to(e.a[:, None], terms.shape), terms) & (terms != 0)
    if not kept[e.wrong].any(axis=1).all():
        return ""
    return "where several terms add up one is kept: for a repeated index dx[i] += dy adds once, np.add.at all"


def right_numbers_elsewhere(e: Evidence) -> str:
    if e.whole and e.leaf.numel() > 3 and e.equal(np.sort(e.a), np.sort(e.n)):
        return "its numbers are the right ones, in other places: is a reshape wrong, or an order of axes?"
    return ""


ARRANGEMENT: tuple[Callable[[Evidence], str], ...] = (
    moved,
    of_another_input,
    summed_over_wrong_axes,
    of_another_dy,
    kernel_turned_over,
    matrices_transposed,
    own_output_only,
    one_term_of_several,
)
