"""The cause that gradcheck names for a wrong gradient."""

from __future__ import annotations

import numpy as np
import pytest
from bugs import BUGS, COUNTED_TWICE, R, X, sigmoid
from pieces import cube

import minidl as dl
from minidl import Function, Tensor


def operation(forward, backward):
    """A Function written with arrays: backward(dy, y, *inputs) returns one gradient or several."""

    class Own(Function):
        def forward(self, *inputs):
            self.inputs, self.y = inputs, forward(*inputs)
            return self.y

        def backward(self, dy):
            found = backward(dy.data, self.y, *self.inputs)
            if isinstance(found, tuple):
                return tuple(Tensor(np.asarray(dx)) for dx in found)
            return Tensor(np.asarray(found))

    return lambda *inputs: Own()(*inputs)


def causes(result):
    return [check.cause for check in result.checks if check.wrong]


@pytest.mark.parametrize(
    ("forward", "backward", "inputs", "expected"), [b[1:] for b in BUGS], ids=[b[0] for b in BUGS]
)
def test_the_cause_is_named(forward, backward, inputs, expected):
    with np.errstate(all="ignore"):
        result = dl.gradcheck(operation(forward, backward), *inputs)
    assert not result
    assert result.problem == ""
    assert causes(result) == expected
    assert all(f"likely cause: {cause}" in str(result) for cause in expected)


@pytest.mark.parametrize("shape", [(), (1,), (2,), (3,), (1, 1), (2, 2), (3, 3), (3, 4), (2, 3, 4)], ids=str)
@pytest.mark.parametrize(
    "forward", [np.sin, np.exp, np.cumsum, np.tanh, lambda x: 2 * x, lambda x: np.sin(x).sum()]
)
def test_a_gradient_that_is_wrong_at_random_gets_no_cause(forward, shape):
    rng = np.random.default_rng(0)
    for _ in range(5):
        weights = rng.normal(size=(np.size(forward(np.zeros(shape))), *shape))
        random = operation(forward, lambda d, y, x, weights=weights: np.tensordot(d.ravel(), weights, 1))
        result = dl.gradcheck(random, rng.normal(size=shape))
        assert causes(result) == [""], str(result)


@pytest.mark.parametrize("method", ["full", "projection"])
@pytest.mark.parametrize(
    ("backward", "cause"),
    [
        (lambda d, y, x: 6 * d * x * x, COUNTED_TWICE),
        (lambda d, y, x: 3 * x * x, "dy is not multiplied in: backward gives the same, whatever dy is"),
        (lambda d, y, x: (3 * d * x * x).T, "it is transposed"),
        (lambda d, y, x: 3 * d * x, "it is 3·dy·x, and should be 3·dy·x²"),
        (lambda d, y, x: R(size=x.shape), ""),
    ],
)
def test_a_sample_is_enough_for_large_inputs(backward, cause, method):
    x = np.random.default_rng(2).normal(size=(35, 35))
    fixed = backward(np.ones((35, 35)), None, x) if not cause else None
    result = dl.gradcheck(
        operation(lambda x: x**3, backward if cause else lambda d, y, x: fixed * d), x, method=method
    )
    assert causes(result) == [cause]


def test_a_nearly_right_gradient_gets_no_cause():
    """Every hypothesis that changes little would fit."""
    result = dl.gradcheck(operation(np.sin, lambda d, y, x: d * (np.cos(x) + 3e-6 * x)), X)
    assert causes(result) == [""]


# Second derivatives


class Swish(Function):
    """y = x σ(x), right the first time"""

    def forward(self, x):
        s = sigmoid(x)
        self.save(x=x, s=s)
        return x * s

    def backward(self, dy):
        x, s = self.saved
        return dy * (s + x * s * (1.0 - s))


@pytest.mark.parametrize(
    ("f", "cause"),
    [
        (
            Swish,
            "Swish.s was saved, but is neither an input of forward nor its output, so it is a constant to "
            "backward: save the input instead, and compute it in backward",
        ),
        (
            cube(lambda dy, x: dy * Tensor(3.0 * x.data**2)),
            "to the graph backward does not depend on input 0: it works on arrays or on detached tensors",
        ),
        (
            cube(lambda dy, x: 3.0 * dy * x * x.detach()),
            "it is 1/2 times the right one: is a factor 2 forgotten, or a term that comes twice?",
        ),
    ],
)
def test_the_cause_of_a_wrong_second_derivative(f, cause):
    result = dl.gradcheck(f, X, order=2)
    assert [check.order for check in result.checks if check.wrong] == [2]
    assert causes(result) == [cause]


def test_a_running_sum_the_wrong_way_is_not_called_shifted():
    class Cumsum(Function):
        def forward(self, x):
            return np.cumsum(x, axis=-1)

        def backward(self, dy):
            n = dy.shape[-1]
            return dy @ Tensor(np.triu(np.ones((n, n))))

    for shape in [(3, 4), (4, 4), (5, 4), (8, 3)]:
        result = dl.gradcheck(Cumsum, np.random.default_rng(0).normal(size=shape))
        assert result.checks[0].cause == (
            "it runs the wrong way along axis 1: is a kernel to be turned over, or a running sum?"
        )


def test_a_factor_that_depends_on_dy_is_none():
    class FillSum(Function):
        def forward(self, x):
            self.shape_of_x = x.shape
            return np.full(3, x.sum())

        def backward(self, dy):
            return dy[0] * Tensor(np.ones(self.shape_of_x))

    for seed in range(4):
        cause = dl.gradcheck(FillSum, np.random.default_rng(0).normal(size=(3, 4)), seed=seed).checks[0].cause
        assert cause == "only index 0 along axis 0 of dy is used"
