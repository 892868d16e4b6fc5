"""The likely cause of a wrong gradient: hypotheses tried against the numbers; the first that fits is named.

A hypothesis predicts the wrong gradient from the right one, element for element, or asks backward again with
another dy. One that does not explain every element is not mentioned: a wrong name is worse than none.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from minidl.autograd import Function
from minidl.diagnosis.arrangement import ARRANGEMENT, dy_unchanged, right_numbers_elsewhere
from minidl.diagnosis.evidence import Evidence
from minidl.diagnosis.formula import FORMULA

if TYPE_CHECKING:
    from fractions import Fraction


def find_cause(e: Evidence) -> str:
    """The cause in one sentence, or "" if none of those known explains the numbers."""
    tried = SECOND if e.found.order == 2 else FIRST
    with np.errstate(all="ignore"):
        if (abs(e.a - e.n) <= 1e-3 * abs(e.n)).all():
            return ""  # so nearly right that too many hypotheses would fit
        return next(filter(None, (hypothesis(e) for hypothesis in tried)), "")


# Nothing there to compare


def not_finite(e: Evidence) -> str:
    if not np.isfinite(e.gradient).all():
        return "backward gives numbers that are not finite"
    if not np.isfinite(e.n).all():
        return "f is not finite within a step of here: check it further inside its domain"
    return ""


def nothing_arrives(e: Evidence) -> str:
    if e.gradient.any():
        return ""
    return "no gradient arrives: backward gives None or zeros, or .data or .detach() cut the graph"


def beside_a_kink(e: Evidence) -> str:
    if e.found.beside_kink < e.found.wrong:
        return ""
    return "f has a kink there, and this is neither the slope on one of its sides nor one between"


def f_stands_still(e: Evidence) -> str:
    if e.columns.any():
        return ""
    return f"f does not change with {e.name} here, yet a gradient arrives: is it rounded, masked or left out?"


# What backward does with dy


def dy_is_used_wrongly(e: Evidence) -> str:
    """A gradient is linear in dy: none for 0, twice as much for twice as much."""
    none, double = e.analytic(0.0 * e.dy), e.analytic(2.0 * e.dy)
    if e.equal(none, e.a):
        return "dy is not multiplied in: backward gives the same, whatever dy is"
    if none.any():
        return "a term is not multiplied by dy: there is a gradient where dy is 0"
    if e.equal(double, 4.0 * e.a):
        return "dy is multiplied in twice: for 2·dy the gradient is 4 times as large"
    if not e.equal(double, 2.0 * e.a):
        return "the gradient is not proportional to dy: is dy inside a comparison, a power or a division?"
    return ""


# The right gradient times a number


def constant_factor(e: Evidence) -> str:
    a, n = e.a, e.n
    if not n.any():
        return ""
    ratio = float((a * n).sum() / (n * n).sum())
    if not ratio or not e.equal(a, ratio * n):
        return ""
    if e.equal(a, -n):
        return "its sign is wrong"
    other_dy = np.cos(np.arange(e.dy.size)).reshape(e.dy.shape)
    if not e.equal(e.analytic(other_dy), ratio * e.pull(other_dy)):
        return ""  # for another dy it is another factor
    size, meaning = abs(ratio), _meaning(e, abs(ratio))
    if np.count_nonzero(n) < 2 and not meaning:
        return ""  # any two numbers have a ratio
    fraction = _fraction(size)
    simple = np.isclose(size, float(fraction), rtol=1e-6) and fraction.numerator <= 1000
    sign = "its sign is wrong and " if ratio < 0 else ""
    return f"{sign}it is {fraction if simple else f'{size:.6g}'} times the right one{meaning}"


def _fraction(size: float) -> Fraction:
    """The nearest one with a denominator of up to 20."""
    from fractions import Fraction  # slow to import, and most gradients are right

    return Fraction(size).limit_denominator(20)


def _meaning(e: Evidence, size: float) -> str:
    """What a factor of this size often is."""

    def is_(value: float) -> bool:
        return bool(np.isclose(size, value, rtol=1e-5))

    if is_(2):
        return ": is a term counted twice, or a half forgotten?"
    if is_(0.5):
        return ": is a factor 2 forgotten, or a term that comes twice?"
    if e.elementwise:  # no mean comes into it
        p, q = _fraction(size).as_integer_ratio()
        if not is_(p / q) or p > 20:
            return ""
        if 1 in (p, q):
            forgotten = f"is a factor {q} forgotten, or is it divided by {q}?"
            return (
                f": {forgotten if p == 1 else f'is a factor {p} too much, or a division by {p} forgotten?'}"
            )
        return f": is there a factor {p} where {q} belongs?"
    for count, what in _counts(e):
        if is_(count):
            return f": is the division of a mean by {count}, {what}, forgotten?"
        if is_(1 / count):
            return f": is a factor {count} forgotten, or is it divided by {what} like a mean?"
        if count > 2 and (is_(count / (count - 1)) or is_((count - 1) / count)):
            return f": is {what} n in one place and n − 1 in the other?"
    if e.y.size == 1:
        y = abs(float(e.y.sum()))
        for text, value in {"y": y, "1 / y": 1 / y, "y²": y * y, "1 / y²": 1 / y**2}.items():
            if y and is_(value):
                return f", which is {text}"
    return ""


def _counts(e: Evidence) -> list[tuple[int, str]]:
    """What a mean divides by, with its name: the lengths and sizes of x and dy, the larger first."""
    counts = []
    for what, shape in sorted(((e.name, e.shape), ("dy", e.y.shape)), key=lambda pair: -np.prod(pair[1])):
        counts += [(length, f"the length of axis {k} of {what}") for k, length in enumerate(shape)]
        counts.append((int(np.prod(shape)), f"the number of elements of {what}"))
    return [(count, what) for count, what in counts if count > 1]


# Right at some elements


def mask_is_wrong(e: Evidence) -> str:
    """Zero and not zero in the wrong places: where, maximum, relu, max-pooling."""
    wrong, a_zero, n_zero = e.wrong, _is_zero(e.a, e.n), _is_zero(e.n, e.a)
    if (~wrong & ~n_zero).any() and n_zero[wrong].all():
        return (
            f"it is not 0 at {wrong.sum()} elements where it should be{_which(e)}, and right elsewhere: "
            "is a mask missing?"
        )
    if wrong.all() and a_zero.any() and n_zero.any() and (a_zero ^ n_zero).all():
        return "it is 0 exactly where the right one is not: is a mask the wrong way round?"
    if (~wrong & ~a_zero).any() and a_zero[wrong].all():
        return f"it is 0 at {wrong.sum()} elements where it should not be{_which(e)}, and right elsewhere"
    return ""


def _is_zero(a: np.ndarray, other: np.ndarray) -> np.ndarray:
    return np.asarray(abs(a) <= 1e-7 * max(abs(a).max(initial=0.0), abs(other).max(initial=0.0)))


def right_elsewhere(e: Evidence) -> str:
    """No cause, but where to look."""
    which = _which(e)
    return (
        f"it is wrong just at {e.wrong.sum()} elements{which}: is that case treated apart?" if which else ""
    )


def _which(e: Evidence) -> str:
    """What the wrong elements have in common and no other has: an index, or a sign."""
    wrong = e.wrong
    if wrong.sum() < 2 or (~wrong).sum() < 2:
        return ""
    for axis, index in enumerate(e.index):
        at = index[wrong][0]
        if e.shape[axis] > 2 and np.array_equal(index == at, wrong):
            return f", those with index {at} along axis {axis}"
    if len(wrong) >= 6:  # with fewer, a sign is easily a coincidence
        conditions = {"x < 0": e.x < 0, "x > 0": e.x > 0, "|x| < 1": abs(e.x) < 1, "|x| > 1": abs(e.x) > 1}
        if e.y.shape == e.shape:
            dy = e.dy.ravel()[e.places]
            conditions |= {"dy < 0": dy < 0, "dy > 0": dy > 0}
        for condition, there in conditions.items():
            if np.array_equal(there, wrong):
                return f", those with {condition}"
    return ""


# The second derivative


def second_is_cut(e: Evidence) -> str:
    if e.gradient.any():
        return ""
    return f"to the graph backward does not depend on {e.name}: it works on arrays or on detached tensors"


def saved_as_a_constant(e: Evidence) -> str:
    """Hold fixed what forward saved beside its inputs and its output: is that the gradient that came?"""
    with _frozen_constants() as names:
        e.check.f()
        if not names:
            return ""
        frozen = e.jacobian(e.leaf) @ e.dy.ravel()
    if not e.equal(e.a, frozen) and (e.a.any() or frozen.any()):
        return ""
    return (
        f"{' and '.join(names)} was saved, but is neither an input of forward nor its output, so it is a "
        "constant to backward: save the input instead, and compute it in backward"
    )


@contextmanager
def _frozen_constants() -> Iterator[dict[str, Any]]:
    """Inside, `save` goes on saving the first values of everything that is no input and no output."""
    original = Function.save
    kept: dict[str, Any] = {}

    def save(self: Function, **values: Any) -> None:
        inputs = inspect.signature(self.forward).parameters
        for name, value in values.items():
            if name in inputs or name == "output" or type(self).__module__.startswith("minidl."):
                continue
            if getattr(getattr(value, "dtype", None), "kind", "") == "f":
                values[name] = kept.setdefault(f"{self.name}.{name}", value)
        original(self, **values)

    Function.save = save  # type: ignore[method-assign]
    try:
        yield kept
    finally:
        Function.save = original  # type: ignore[method-assign]


FIRST = (
    not_finite,
    nothing_arrives,
    beside_a_kink,
    f_stands_still,
    dy_is_used_wrongly,
    constant_factor,
    mask_is_wrong,
    *ARRANGEMENT,
    *FORMULA,
    dy_unchanged,
    right_numbers_elsewhere,
    right_elsewhere,
)
SECOND = (
    not_finite,
    saved_as_a_constant,
    second_is_cut,
    beside_a_kink,
    f_stands_still,
    constant_factor,
    right_elsewhere,
)
