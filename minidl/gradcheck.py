"""Gradient checking: the gradient that backward computes against the one that differences show.

A derivative is a limit, and near the limit a difference quotient nearly is the derivative. For L = v · f(x),
with v one fixed random number for each output, and a step h along the direction u, the centred difference

    D(h) = [L(x + hu) − L(x − hu)] / 2h  ≈  ∂L/∂u

is off by about h² and by the rounding of L divided by h. In (4 D(h) − D(2h)) / 3 the h² of the two cancel:
with h = 10⁻⁴ max(1, |x|), in float64, ten digits of a smooth function's gradient come out right.

Errors are relative, as in the notes of Stanford's CS231n: |a − n| / max(|a|, |n|) for the analytic a and the
numerical n. What they say of its size is in `diagnosis/findings.py`. Where both are close to zero only
rounding is left to compare, so the denominator is never less than a thousandth of the largest gradient of the
same input, nor less than what rounding can do. A gradient that is exactly zero, as that of a bias before
batch normalization, leaves rounding alone: `only_noise` knows it by quotients that change with the step.

If a gradient is wrong, `diagnosis/causes.py` finds out why.
"""

from __future__ import annotations

import contextlib
import copy
import inspect
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from minidl.anomaly import looking_back
from minidl.autograd import Function, walk
from minidl.backend import Array, array_module, to_device
from minidl.diagnosis.findings import KINK_TOL, GradcheckResult, InputCheck
from minidl.diagnosis.trust import fingerprints, refuse_float32, trust_forward, trusted_gradients
from minidl.errors import GradientError
from minidl.functional.shape import concatenate
from minidl.paths import grad
from minidl.recording import no_grad
from minidl.tensor import Tensor

FULL_LIMIT = 1000  # method="auto" tries every element of so many in all inputs together, beyond it directions
DIRECTIONS = 2  # random directions tried in each input that is too large for trying its elements
FINER = 1e-3  # what the step is multiplied by where a kink is suspected
ROUNDING = 1e-10  # what f changes by is never taken for rounding from here up; float32 rounds at 6e-8
AT_KINK, NEAR_KINK, NOWHERE = "at a kink", "near a kink", "nowhere"


def gradcheck(
    f: Any,
    *inputs: Any,
    order: int = 1,
    method: str = "auto",
    eps: float = 1e-4,
    tol: float = 1e-6,
    seed: int = 0,
    raise_exception: bool = False,
) -> GradcheckResult:
    """Compare the gradient of f at `inputs`, as backward gives it, with difference quotients in float64.

    Args:
        f: a function of tensors that returns a tensor of any shape, or a subclass of Function, or a Module:
            then a copy of it in float64 is checked, with respect to its parameters too.
        inputs: tensors, arrays or numbers. Floating-point ones are copied to float64 and checked; others go
            to f as they are.
        order: 2 checks the second derivative too, that is the gradient of the gradient.
        method: "full" tries every element of every input; "projection" compares the derivatives along two
            random directions in each; "auto" takes full for up to 1000 elements in all.
        eps: the step h for inputs up to 1, and relative to |x| above; near a kink a thousandth of it.
        tol: the relative error up to which a derivative is right (1e-4 near a kink, as in CS231n).
        raise_exception: raise GradientError if the check fails, instead of returning the result.

    Raises:
        ValueError: an option has another value, or there is nothing to differentiate with respect to.
        TypeError: f does not return a Tensor.
    """
    if order not in (1, 2):
        raise ValueError(f"order is 1 or 2, got {order}")
    if method not in ("auto", "full", "projection"):
        raise ValueError(f'method is "auto", "full" or "projection", got {method!r}')
    start = time.perf_counter()
    arguments = [_as_float64(x) for x in inputs]
    leaves = {f"input {i}": x for i, x in enumerate(arguments) if isinstance(x, Tensor) and x.requires_grad}
    function = f
    if hasattr(f, "named_parameters") and not inspect.isclass(f):
        function = copy.deepcopy(f).double()
        leaves |= {name: p for name, p in function.named_parameters() if p.requires_grad}
    if inspect.isclass(f) and issubclass(f, Function):
        function = lambda *xs: f()(*xs)  # noqa: E731
    if not leaves:
        raise ValueError("gradcheck needs a floating-point input, or a Module with parameters")

    result = GradcheckResult(tol)
    run = Check(lambda: function(*arguments), leaves, result, method, eps, seed)
    try:
        run.check()
        if order == 2 and result:
            run.check_second()
    except GradientError as error:
        result.problem = str(error)
    result.seconds = time.perf_counter() - start
    if raise_exception and not result:
        raise GradientError(str(result))
    return result


def _as_float64(x: Any) -> Any:
    """A floating-point input as a leaf of its own; anything else untouched."""
    if isinstance(x, (float, np.ndarray)):
        x = Tensor(x)
    if not isinstance(x, Tensor) or x.dtype.kind != "f":
        return x
    return Tensor(x.data.astype(np.float64), requires_grad=True)


@dataclass
class Check:
    """One gradient check: f without arguments, and the leaves that it reads."""

    f: Callable[[], Tensor]
    leaves: dict[str, Tensor]
    result: GradcheckResult
    method: str
    eps: float
    seed: int
    order: int = 1
    kinky: bool = False  # a direction crossed kinks: then all of them will, and begin with the smaller step

    @property
    def size(self) -> int:
        return sum(x.numel() for x in self.leaves.values())

    # The two gradients

    def analytic(self, y: Tensor, v: Array) -> dict[str, np.ndarray]:
        """∂(v·y)/∂x of every leaf x by backward, in the type that it computes in; zeros if none arrives."""
        with no_grad(), looking_back() as observe:
            found = walk(y, Tensor(v), retain_graph=False, observe=observe) if y.requires_grad else {}
        leaves = self.leaves.items()
        return {name: found[x].numpy() if x in found else np.zeros(x.shape) for name, x in leaves}

    def numerical(self, x: Tensor, u: Array, h: float) -> Array:
        """∂y/∂u for every output y: in (4 D(h) − D(2h)) / 3 what is off by h² cancels."""
        return (4 * self.centred_difference(x, u, h) - self.centred_difference(x, u, 2 * h)) / 3

    def centred_difference(self, x: Tensor, u: Array, h: float) -> Array:
        """D(h) = [y(x + hu) − y(x − hu)] / 2h"""
        return (self.moved(x, u, h) - self.moved(x, u, -h)) / (2 * h)

    def moved(self, x: Tensor, u: Array, h: float) -> Array:
        """y(x + hu)"""
        here = x.data
        x.data = array_module(here).asarray(h * u)
        x.data += here
        try:
            with no_grad() if self.order == 1 else contextlib.nullcontext():  # order 2 differentiates in f
                return self.f().data
        finally:
            x.data = here

    # The comparison

    def check(self) -> None:
        """Compare the gradients of v · f with respect to every leaf."""
        before = fingerprints(self.leaves)
        y = self.f()
        trust_forward(self.f, y, self.leaves, before)
        self.y = y.data
        self.v = to_device(_random(np.random.default_rng(self.seed), y.shape), y.device)
        gradients = trusted_gradients(self, y, before)
        found = [self.compare(name, x, gradients[name]) for name, x in self.leaves.items()]
        self.result.checks += found
        for check in found:
            if check.wrong:
                check.cause = self.cause(check, gradients)

    def cause(self, check: InputCheck, gradients: dict[str, np.ndarray]) -> str:
        """Why this one is wrong, as far as it can be known."""
        # Most gradients are right, and the hypotheses would take a tenth of the time to import minidl.
        from minidl.diagnosis.causes import find_cause
        from minidl.diagnosis.evidence import Evidence

        return find_cause(Evidence(self, check, gradients))

    def check_second(self) -> None:
        """Check the gradient of the first gradients, seen as a function of the inputs and of dy = v."""
        f, leaves, v = self.f, list(self.leaves.values()), Tensor(self.v, requires_grad=True)

        def first_gradients() -> Tensor:
            found = grad((f() * v).sum(), leaves, create_graph=True, allow_unused=True)
            found = [x * 0.0 if dx is None else dx for x, dx in zip(leaves, found, strict=True)]
            return concatenate([dx.reshape(-1) for dx in found])

        self.f, self.order, self.kinky = first_gradients, 2, False
        self.leaves = {**self.leaves, "dy": v}
        self.check()

    def compare(self, name: str, x: Tensor, gradient: np.ndarray) -> InputCheck:
        """Compare the gradient of one leaf, element by element or along random directions."""
        full = self.method == "full" or (self.method == "auto" and self.size <= FULL_LIMIT)
        tried = x.numel() if full else DIRECTIONS
        a, n, noise = np.empty((3, tried))
        for i in range(tried):
            u, h = self.direction(x, i, full)
            a[i] = np.vdot(gradient, u)
            n[i], noise[i] = self.slope(x, to_device(u, x.device), h)
        peak = max(abs(a).max(initial=0.0), abs(n).max(initial=0.0))
        floor = np.maximum(1e-3 * peak, noise / self.result.tol)
        errors = relative_error(a, n, floor)
        zero = (np.maximum(abs(a), abs(n)) <= noise) & (a != n)
        errors[zero] = 0.0

        check = InputCheck(
            name, self.order, tried=tried, finer=tried if self.kinky else 0, noise=int(zero.sum())
        )
        missed = []
        for i in map(int, np.flatnonzero(errors > (KINK_TOL if self.kinky else self.result.tol))):
            u, h = self.direction(x, i, full)
            if self.only_noise(x, to_device(u, x.device), h, a[i], n[i]):
                check.noise += 1
                errors[i] = 0.0
            else:
                missed.append(i)
        if missed:
            refuse_float32(self, name)
        for i in missed:
            u, h = self.direction(x, i, full)
            place, right, n[i], floor[i] = self.look_closer(
                x, to_device(u, x.device), h, a[i], n[i], floor[i]
            )
            errors[i] = relative_error(a[i], n[i], floor[i])
            if not right:
                check.wrong += 1
                check.beside_kink += place == AT_KINK
            elif place == AT_KINK:
                check.left_out.append(i)
                errors[i] = 0.0
            elif place == NEAR_KINK and not self.kinky:
                check.finer += 1
        self.kinky |= not full and check.finer > 0
        if tried:
            worst = int(errors.argmax())
            index = list(map(int, np.unravel_index(worst, x.shape))) if full else worst
            check.where = f"at {index}" if full else f"along direction {index}"
            check.error, check.analytic, check.numeric = map(float, (errors[worst], a[worst], n[worst]))
        return check

    def direction(self, x: Tensor, i: int, full: bool) -> tuple[np.ndarray, float]:
        """The i-th direction u to try in x, and the step h: one element, or all by random amounts."""
        if full:
            u = np.zeros(x.shape)
            u.flat[i] = 1.0
            return u, self.eps * max(1.0, abs(float(x.data.flat[i])))
        u, size = _random(np.random.default_rng([self.seed, i]), x.shape), np.asarray(abs(x.numpy()))
        u *= np.maximum(size, 1.0, out=size)  # in place: one layer of VGG16 is 0.8 GB in float64
        return u, self.eps / math.sqrt(x.numel())

    def slope(self, x: Tensor, u: Array, h: float) -> tuple[float, float]:
        """∂(v·y)/∂u, and what rounding can do to it."""
        if self.kinky:
            h *= FINER
            slopes = self.centred_difference(x, u, h)
        else:
            slopes = self.numerical(x, u, h)
        return float((slopes * self.v).sum()), self.noise(slopes, h)

    def noise(self, slopes: Array, h: float) -> float:
        """The rounding of those outputs that moved, divided by the step."""
        return float(abs(self.y * self.v)[slopes != 0].sum()) * np.finfo(np.float64).eps / h

    def only_noise(self, x: Tensor, u: Array, h: float, a: float, n: float) -> bool:
        """Are a and n both zero but for rounding?

        A slope is the same whatever the step, rounding is not: eight steps tell them apart, also where
        what is rounded are large sums within f that cancel. Then a has to be as small as that, too.
        """
        h *= FINER if self.kinky else 1.0
        scale = float((np.maximum(abs(self.y), 1.0) * abs(self.v)).sum())
        if not max(abs(a), abs(n)) * h < ROUNDING * scale:
            return False
        steps = [h * 2 ** (-k / 4) for k in range(8)]
        difference = self.centred_difference if self.kinky else self.numerical  # a bend is no noise
        moves = [difference(x, u, step) for step in steps]
        slopes = np.array([float((move * self.v).sum()) for move in moves])
        noise = 2 * slopes.std(ddof=1) + max(map(self.noise, moves, steps))  # nearly six standard errors
        if not noise * h < ROUNDING * scale or abs(slopes.mean()) > noise:
            return False
        return bool(abs(a) <= noise + 1e3 * np.finfo(np.float64).eps * scale)  # backward rounds, too

    def look_closer(
        self, x: Tensor, u: Array, h: float, a: float, n: float, floor: float
    ) -> tuple[str, bool, float, float]:
        """Did n miss a because f has a kink at x, or near it, or bends within the step? Smaller steps tell.

        Returns where the kink is, whether a is right after all, the slope that it is to be compared with, and
        what the denominator of their relative error is not to be less than.
        """
        sides = [self.one_sided(x, u, h * FINER / 4**k) for k in range(4)]
        gaps = [abs(right - left) for left, right, _ in sides]
        (left, right, noise), missed = sides[0], abs(a - n) if np.isfinite(n) else math.inf
        slopes = np.array([(left + right) / 2 for left, right, _ in sides])
        k = int(abs(np.diff(slopes)).argmin())  # where smaller steps change least (Ridders 1982)
        slope, noise_there = slopes[k + 1] + (slopes[k + 1] - slopes[k]) / 15, sides[k + 1][2]
        if not np.isfinite([a, slope]).all():
            return NOWHERE, False, n, floor
        if abs(slopes[0]) > 100 * abs(n) + noise and abs(slopes[-1]) > 10 * abs(slopes[0]):
            return AT_KINK, True, n, floor  # ever steeper: f jumps
        if gaps[-1] > max(0.5 * gaps[0], 4 * sides[-1][2]):  # no smaller step helps
            inside = min(left, right) - 0.01 * missed <= a <= max(left, right) + 0.01 * missed
            return AT_KINK, inside, (left + right) / 2, floor  # any slope between the two is a subgradient
        slope_floor = max(floor, noise_there / self.result.tol)
        error = relative_error(a, slope, slope_floor)
        bends = gaps[0] > 4 * noise and 0.15 < gaps[1] / gaps[0] < 0.4  # a quarter of the step, of the gap
        if bends:
            return NOWHERE, bool(error <= self.result.tol), slope, slope_floor
        if error <= max(KINK_TOL, self.result.tol) and abs(a - slope) <= max(0.01 * missed, noise_there):
            return NEAR_KINK, True, slope, slope_floor
        return NOWHERE, False, n, floor

    def one_sided(self, x: Tensor, u: Array, h: float) -> tuple[float, float, float]:
        """The slope of v·y behind x and before it, along u, and what rounding can do to them."""
        before, after = self.moved(x, u, -h), self.moved(x, u, h)
        left, right = (float((step * self.v).sum()) / h for step in (self.y - before, after - self.y))
        return left, right, self.noise(after - before, h)


def relative_error(a: Any, n: Any, floor: Any = 0.0) -> Any:
    """|a − n| / max(|a|, |n|), the denominator not below floor; 0 where both are equal."""
    difference = np.asarray(abs(a - n))
    scale = np.maximum(np.maximum(abs(a), abs(n)), floor)
    with np.errstate(invalid="ignore"):
        error = np.divide(difference, scale, out=np.zeros_like(difference), where=difference != 0)
    return np.where(np.isnan(error), np.inf, error)  # a NaN, or ∞ against ∞


def _random(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Random numbers of either sign and of size ½ to 1½: none so small that it hides an element."""
    r = np.asarray(rng.uniform(-1.0, 1.0, shape))
    r += np.copysign(0.5, r)
    return r
