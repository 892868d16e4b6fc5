"""Gradient checking: the gradient that backward computes against the one that differences show.

A derivative is a limit, and near the limit a difference quotient nearly is the derivative. For L = v · f(x),
with v one fixed random number for each output, and a step h along the direction u, the quotient

    ∂L/∂u ≈ (8 [L(x + hu) − L(x − hu)] − [L(x + 2hu) − L(x − 2hu)]) / 12h

is off by about h⁴ and by the rounding of L divided by h. In float64, with h = 10⁻⁴ max(1, |x|), ten digits of
a smooth function's gradient come out right (the two-point quotient gives seven or eight at its best step).

Errors are relative, as in Stanford's CS231n: |a − n| / max(|a|, |n|) for the analytic a and the numerical n.
There, more than 10⁻² is wrong, 10⁻⁴ is fine for a function with kinks and too much without, and at 10⁻⁷ one
may be happy. Where both are close to zero only rounding is left to compare, so the denominator is never less
than a thousandth of the largest gradient of the same input, nor less than what rounding can do.
"""

from __future__ import annotations

import copy
import dataclasses
import itertools
import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from minidl.autograd import backward, grad, no_grad
from minidl.backend import to_device
from minidl.errors import GradientError
from minidl.functional.shape import concatenate
from minidl.tensor import Tensor

FULL_LIMIT = 400  # method="auto" tries every element of an input up to this size, and directions beyond it
DIRECTIONS = 4  # random directions tried in an input that is too large for trying its elements


@dataclasses.dataclass
class InputCheck:
    """What was found for one input, or one parameter, and one order of derivative."""

    name: str
    order: int
    tried: int = 0  # elements, or directions
    wrong: int = 0
    kinks: int = 0  # places where f has no derivative: not wrong, and not checked either
    error: float = 0.0  # the largest relative error
    where: str = ""  # of that error
    analytic: float = 0.0
    numeric: float = 0.0
    cause: str = ""

    def __str__(self) -> str:
        findings = []
        if self.wrong:
            ratio = f"{self.analytic / self.numeric:.6g}" if self.numeric else "∞"
            findings.append(
                f"{self.wrong} of {self.tried} wrong, the worst {self.where}: analytic {self.analytic:.10g}, "
                f"numerical {self.numeric:.10g}, ratio {ratio}, relative error {self.error:.2e}"
            )
        if self.kinks:
            findings.append(f"{self.kinks} of {self.tried} at a kink, where f has no derivative: not counted")
        text = (
            f"{self.name}{'' if self.order == 1 else ', second derivative'}: {'; '.join(findings) or 'right'}"
        )
        return text + (f"\n    likely cause: {self.cause}" if self.cause else "")


@dataclasses.dataclass
class GradcheckResult:
    """True if the gradients are right; printed, it says what was found."""

    tol: float
    checks: list[InputCheck] = dataclasses.field(default_factory=list)
    problem: str = ""  # why the comparison could not be made or trusted
    seconds: float = 0.0

    @property
    def error(self) -> float:
        """The largest relative error."""
        return max((check.error for check in self.checks), default=0.0)

    def __bool__(self) -> bool:
        return not self.problem and not any(check.wrong for check in self.checks)

    def __str__(self) -> str:
        tried = sum(check.tried for check in self.checks)
        lines = [
            f"gradcheck {'passed' if self else 'FAILED'}: largest relative error {self.error:.2e} "
            f"(tolerance {self.tol:.0e}), {tried} derivatives tried in {self.seconds:.2f} s"
        ]
        lines += [self.problem] if self.problem else []
        lines += [str(check) for check in self.checks if check.wrong or check.kinks]
        return "\n  ".join(lines)

    __repr__ = __str__


def gradcheck(
    f: Callable[..., Tensor],
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
        f: a function of tensors that returns a tensor of any shape, or a Module: then a copy of it in
            float64 is checked, with respect to its parameters too.
        inputs: tensors, arrays or numbers. Floating-point ones are copied to float64 and checked; others go
            to f as they are.
        order: 2 checks the second derivative too, that is the gradient of the gradient.
        method: "full" tries every element of every input; "projection" compares the derivatives along a few
            random directions in each; "auto" takes full for inputs of up to 400 elements.
        eps: the step h for inputs up to 1, and relative to |x| above.
        tol: the relative error up to which a derivative is right.
        raise_exception: raise GradientError if the check fails, instead of returning the result.
    """
    if order not in (1, 2):
        raise ValueError(f"order is 1 or 2, got {order}")
    if method not in ("auto", "full", "projection"):
        raise ValueError(f'method is "auto", "full" or "projection", got {method!r}')
    start = time.perf_counter()
    arguments = [_as_float64(x) for x in inputs]
    leaves = {f"input {i}": x for i, x in enumerate(arguments) if isinstance(x, Tensor) and x.requires_grad}
    function = f
    if hasattr(f, "named_parameters"):
        function, parameters = _float64_copy(f)
        leaves |= parameters
    if not leaves:
        raise ValueError("gradcheck needs a floating-point input, or a Module with parameters")

    result = GradcheckResult(tol)
    run = _Check(lambda: function(*arguments), leaves, result, method, eps, np.random.default_rng(seed))
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


def _float64_copy(module: Any) -> tuple[Any, dict[str, Tensor]]:
    """A copy of the module in float64, and its trainable parameters by name."""
    module = copy.deepcopy(module).double()
    return module, {name: p for name, p in module.named_parameters() if p.requires_grad}


@dataclasses.dataclass
class _Check:
    """One gradient check: f without arguments, and the leaves that it reads."""

    f: Callable[[], Tensor]
    leaves: dict[str, Tensor]
    result: GradcheckResult
    method: str
    eps: float
    rng: np.random.Generator
    order: int = 1

    def check(self) -> None:
        """Compare the gradients of v · f with respect to every leaf."""
        before = [x.data.copy() for x in self.leaves.values()]
        y = self.f()
        for (name, x), old in zip(self.leaves.items(), before, strict=True):
            if not _same(x.data, old):
                self.result.problem = f"f changed {name} in place"
                return
        if y.dtype != np.float64:
            self.result.problem = f"f computes in {y.dtype}: a check needs float64 all the way through"
            return
        self.v = to_device(self._random(y.shape), y.device)
        gradients = self._gradients(y)
        again = self.f()
        if not _same(y.data, again.data):
            self.result.problem = (
                "f is not deterministic: two calls differ. Fix its random numbers, or .eval()"
            )
            return
        if not all(map(_same, gradients, self._gradients(again))):
            self.result.problem = "backward is not deterministic: two calls differ"
            return
        self.noise = np.finfo(np.float64).eps * float(abs(y.data * self.v).sum()) / self.eps
        numeric = []
        for (name, x), a in zip(self.leaves.items(), gradients, strict=True):
            check, n = self._check_leaf(name, x, a)
            self.result.checks.append(check)
            numeric.append(n)
        self._diagnose(gradients, numeric)

    def check_second(self) -> None:
        """Check the gradient of the first gradients, seen as a function."""
        f, v, leaves = self.f, Tensor(self.v), list(self.leaves.values())

        def first_gradients() -> Tensor:
            y = (f() * v).sum()
            if not y.requires_grad:
                return y
            found = grad(y, leaves, create_graph=True, allow_unused=True)
            found = [x * 0.0 if dx is None else dx for x, dx in zip(leaves, found, strict=True)]
            return concatenate([dx.reshape(-1) for dx in found])

        self.f, self.order = first_gradients, 2
        self.check()

    def _random(self, shape: tuple[int, ...]) -> np.ndarray:
        """Random numbers of either sign and of size ½ to 1½: none so small that it hides an output."""
        return np.asarray(self.rng.choice([-1.0, 1.0], shape) * self.rng.uniform(0.5, 1.5, shape))

    def _gradients(self, y: Tensor) -> list[np.ndarray]:
        """∂(v·y)/∂x of every leaf x, zeros where no gradient arrives."""
        for x in self.leaves.values():
            x.grad = None
        if y.requires_grad:
            backward(y, Tensor(self.v))
        return [np.zeros(x.shape) if x.grad is None else x.grad.numpy() for x in self.leaves.values()]

    def _values(self) -> Any:
        """f at the leaves as they are now."""
        if self.order == 2:  # this f differentiates, so it has to record
            return self.f().data
        with no_grad():
            return self.f().data

    def _quotients(self, x: Tensor, u: np.ndarray, h: float) -> tuple[float, float, float]:
        """∂(v·f)/∂u: to fourth order, from the left and from the right."""
        at, middle, direction = {}, x.data, to_device(u, x.device)
        for k in (-2, -1, 0, 1, 2):
            x.data = middle + (k * h) * direction
            at[k] = self._values()
        x.data = middle

        # Subtract before summing: outputs that did not move then leave no rounding behind.
        def slope(a: int, b: int) -> float:
            return float(((at[b] - at[a]) * self.v).sum()) / h

        return (8 * slope(-1, 1) - slope(-2, 2)) / 12, slope(-1, 0), slope(0, 1)

    def _directions(self, x: Tensor) -> list[tuple[str, np.ndarray, float]]:
        """(its name, u, h) for each direction to try in x."""
        scale = np.maximum(1.0, abs(x.numpy()))
        if self.method == "full" or (self.method == "auto" and x.numel() <= FULL_LIMIT):
            found = []
            for index in np.ndindex(x.shape):
                u = np.zeros(x.shape)
                u[index] = 1.0
                found.append((f"at {list(map(int, index))}", u, self.eps * float(scale[index])))
            return found
        h = self.eps / math.sqrt(x.numel())
        return [(f"along direction {i}", self._random(x.shape) * scale, h) for i in range(DIRECTIONS)]

    def _check_leaf(self, name: str, x: Tensor, gradient: np.ndarray) -> tuple[InputCheck, np.ndarray | None]:
        """Compare the gradient of one leaf; returns the findings and, if every element was tried, ∂L/∂x."""
        directions = self._directions(x)
        every_element = len(directions) == x.numel()
        a = gradient.ravel() if every_element else np.array([(gradient * u).sum() for _, u, _ in directions])
        n = np.array([self._quotients(x, u, h)[0] for _, u, h in directions])
        peak = max(abs(a).max(initial=0.0), abs(n).max(initial=0.0))
        scale = np.maximum(np.maximum(abs(a), abs(n)), max(1e-3 * peak, self.noise / self.result.tol))
        difference = abs(a - n)
        with np.errstate(invalid="ignore"):
            errors = np.divide(difference, scale, out=np.zeros_like(a), where=difference != 0)
        errors[np.isnan(errors)] = np.inf  # a NaN, or ∞ against ∞
        check = InputCheck(name, self.order, tried=len(directions))
        for i in np.flatnonzero(errors > self.result.tol):
            if np.isfinite(a[i]) and self._at_kink(x, *directions[i][1:], a[i], n[i]):
                check.kinks += 1
                errors[i] = 0.0
            else:
                check.wrong += 1
        if len(errors):
            worst = int(errors.argmax())
            check.error, check.where = float(errors[worst]), directions[worst][0]
            check.analytic, check.numeric = float(a[worst]), float(n[worst])
        return check, n.reshape(x.shape) if every_element else None

    def _at_kink(self, x: Tensor, u: np.ndarray, h: float, a: float, n: float) -> bool:
        """Whether n missed a because f has a kink at x, or nearer than the step: much smaller steps tell."""
        _, left, right = self._quotients(x, u, h * 1e-3)
        missed, slope = abs(a - n), (left + right) / 2
        if abs(slope) > 100 * abs(n):  # the smaller the step, the steeper: f jumps
            return True
        if abs(right - left) > 0.1 * missed:  # two sides, and any slope between them is a subgradient
            return min(left, right) - 0.01 * missed <= a <= max(left, right) + 0.01 * missed
        return abs(a - slope) < 0.01 * missed

    def _diagnose(self, analytic: Sequence[Any], numeric: Sequence[Any]) -> None:
        """Name the cause of each wrong gradient where a simple one explains every element."""
        found = {name: n for name, n in zip(self.leaves, numeric, strict=True) if n is not None}
        checks = self.result.checks[-len(self.leaves) :]
        for check, a in zip(checks, analytic, strict=True):
            if not check.wrong:
                continue
            if not np.isfinite(a).all():
                check.cause = "backward gives numbers that are not finite"
            elif not a.any():
                check.cause = (
                    "no gradient arrives: backward gives None or zeros, or .data or .detach() cut the graph"
                )
            elif check.name in found:
                check.cause = _cause(check.name, a, found)


def _cause(name: str, a: Any, numeric: dict[str, Any]) -> str:
    """What turns the right gradient of `name` into `a`, if something simple does."""
    n = numeric[name]
    ratio = float((a * n).sum() / (n * n).sum()) if n.any() else 0.0
    if ratio and _close(a, ratio * n):
        sign = "its sign is wrong" if ratio < 0 else ""
        factor = (
            "" if _close(a, math.copysign(1, ratio) * n) else f"it is {abs(ratio):.6g} times the right one"
        )
        return " and ".join(filter(None, [sign, factor]))
    for axes in itertools.permutations(range(n.ndim)) if n.ndim <= 4 else ():
        if n.transpose(axes).shape == a.shape and _close(a, n.transpose(axes)):
            return "it is transposed" if n.ndim == 2 else f"its axes are in the order {axes}"
    for other, theirs in numeric.items():
        if other != name and theirs.shape == a.shape and _close(a, theirs):
            return f"this is the gradient of {other}"
    return ""


def _close(a: Any, n: Any) -> bool:
    return bool(abs(a - n).max() <= 1e-6 * abs(n).max())


def _same(a: Any, b: Any) -> bool:
    """Equal to the last bit, NaN included."""
    return a.shape == b.shape and bool(((a == b) | ((a != a) & (b != b))).all())
