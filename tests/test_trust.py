"""When gradients cannot be compared, or should not be, gradcheck says why."""

from __future__ import annotations

import numpy as np
from pieces import cube, right

import minidl as dl
from minidl import Function, Tensor
from minidl import functional as F

X = np.array([[0.5, -1.0, 2.0], [1.5, 0.3, -0.7], [0.9, -1.2, 0.4]])


def test_randomness_is_noticed():
    result = dl.gradcheck(lambda x: F.dropout(x, 0.5), X)
    assert not result
    assert result.problem == "f is not deterministic: two calls differ. Fix its random numbers, or .eval()"


def test_a_random_backward_is_noticed():
    rng = np.random.default_rng(0)
    result = dl.gradcheck(cube(lambda dy, x: dy * rng.normal(size=(3, 3))), X)
    assert result.problem == "backward is not deterministic: two calls differ"


def test_float32_inside_is_noticed():
    result = dl.gradcheck(lambda x: x.astype("float32") * 2.0, X)
    assert result.problem == "f computes in float32: a check needs float64 all the way through"


def test_an_input_changed_in_place_is_noticed():
    def f(x):
        x.data += 1.0
        return x * 2.0

    assert dl.gradcheck(f, X).problem == "f changed input 0 in place, in f: x.data += 1.0"
    assert dl.gradcheck(Tidy, X).problem == "f changed input 0 in place, in forward: x -= x.mean()"


class Tidy(Function):
    def forward(self, x):
        x -= x.mean()
        return x * 1.0

    def backward(self, dy):
        return dy - dy.mean()


def test_a_backward_that_writes_is_noticed():
    def into_dy(dy, x):
        dy.data *= 3.0 * x.data**2
        return dy

    def into_x(dy, x):
        x.data *= x.data
        return 3.0 * dy * Tensor(x.data.copy())

    where = "in place: compute a new tensor instead"
    assert dl.gradcheck(cube(into_dy), X).problem == f"backward changed dy {where}"
    assert dl.gradcheck(cube(into_x), X).problem == f"backward changed input 0 {where}"


class Buffered(Function):
    """The gradient is right; the buffer has seven digits."""

    def forward(self, x):
        self.save(x=x)
        y = np.empty(x.shape, np.float32)
        y[...] = x * x * x
        return y.astype(x.dtype)

    def backward(self, dy):
        (x,) = self.saved
        return 3.0 * dy * x * x


def test_float32_on_the_way_is_noticed():
    """Its stairs look like kinks, and must not be forgiven as such."""
    for f in (Buffered, lambda x: F.tanh(Buffered()(F.exp(x)))):
        assert dl.gradcheck(f, X).problem == (
            "f rounds to float32 on the way from input 0: "
            "is there an array made without dtype=x.dtype, or an astype?"
        )
    for f in (lambda x: x + 1e6, lambda x: x * 1e-6, F.relu, lambda x: (x * 256.0).astype("int64") * x):
        assert dl.gradcheck(f, X).problem == ""


def test_float32_in_backward_is_noticed():
    result = dl.gradcheck(cube(lambda dy, x: right(dy, x).astype("float32")), X)
    assert result.problem == (
        "backward computes the gradient of input 0 in float32: a check needs float64 all the way through"
    )


def test_an_f_that_is_not_finite():
    with np.errstate(divide="ignore", invalid="ignore"):
        at_the_end = dl.gradcheck(F.log, np.array([1.0, 0.0]))
        near_the_end = dl.gradcheck(F.log, np.array([1.0, 5e-5]))
    assert at_the_end.problem == "f is -inf at output [1]: check it where it is finite"
    assert near_the_end
    assert (near_the_end.checks[0].finer, near_the_end.checks[0].error < 1e-9) == (0, True)


def test_an_f_that_returns_no_tensor():
    assert dl.gradcheck(lambda x: (x, x), X).problem == "f returned tuple: it has to return one Tensor"
