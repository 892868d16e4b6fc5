"""The checker is checked with gradients that are wrong in a known way."""

from __future__ import annotations

import numpy as np
import pytest

import minidl as dl
from minidl import Function, Tensor, nn
from minidl import functional as F
from minidl.errors import GradientError

X = np.array([[0.5, -1.0, 2.0], [1.5, 0.3, -0.7], [0.9, -1.2, 0.4]])


class Cube(Function):
    """y = x³ with the backward that a test plants."""

    def __init__(self, backward):
        self.planted = backward

    def forward(self, x):
        self.save(x=x)
        return x * x * x

    def backward(self, dy):
        (x,) = self.saved
        return self.planted(dy, x)


def right(dy, x):
    return 3.0 * dy * x * x


def cube(backward):
    return lambda x: Cube(backward)(x)


def test_right_gradients_pass():
    result = dl.gradcheck(cube(right), X, order=2)
    assert result
    assert result.error < 1e-9
    assert [(check.order, check.tried, check.wrong) for check in result.checks] == [(1, 9, 0), (2, 9, 0)]
    assert str(result).startswith("gradcheck passed: largest relative error ")
    assert "18 derivatives tried" in str(result)


@pytest.mark.parametrize(
    ("backward", "cause"),
    [
        (lambda dy, x: 2.0 * right(dy, x), "it is 2 times the right one"),
        (lambda dy, x: right(dy, x) / 4.0, "it is 0.25 times the right one"),
        (lambda dy, x: -right(dy, x), "its sign is wrong"),
        (lambda dy, x: -right(dy, x) / 3.0, "its sign is wrong and it is 0.333333 times the right one"),
        (lambda dy, x: right(dy, x).T, "it is transposed"),
        (lambda dy, x: None, "no gradient arrives: backward gives None or zeros"),
        (lambda dy, x: right(dy, x) * np.inf, "backward gives numbers that are not finite"),
        (lambda dy, x: dy * x, ""),
    ],
)
def test_the_cause_is_named(backward, cause):
    result = dl.gradcheck(cube(backward), X)
    assert not result
    assert result.checks[0].wrong > 0
    assert result.checks[0].cause == cause or (cause and result.checks[0].cause.startswith(cause))
    assert ("likely cause" in str(result)) == bool(cause)


def test_the_worst_element_is_shown():
    def backward(dy, x):
        dx = right(dy, x).detach()
        dx.data[1, 2] *= 1.5
        return dx

    result = dl.gradcheck(cube(backward), X)
    (check,) = result.checks
    assert (check.wrong, check.tried, check.where) == (1, 9, "at [1, 2]")
    assert check.analytic == pytest.approx(1.5 * check.numeric)
    assert check.error == pytest.approx(1 / 3)
    assert "1 of 9 wrong, the worst at [1, 2]: analytic " in str(result)
    assert "ratio 1.5, relative error 3.33e-01" in str(result)


def test_a_small_mistake_in_one_small_element_is_found():
    def backward(dy, x):
        dx = right(dy, x).detach()
        dx.data[1, 1] *= 1 + 1e-5
        return dx

    assert dl.gradcheck(cube(backward), X).checks[0].wrong == 1


def test_the_gradient_of_another_input():
    class Swapped(Function):
        def forward(self, x, y):
            self.save(x=x, y=y)
            return x * y

        def backward(self, dz):
            x, y = self.saved
            return dz * x, dz * y

    result = dl.gradcheck(lambda x, y: Swapped()(x, y), X, X + 0.25)
    assert [check.cause for check in result.checks] == [
        "this is the gradient of input 1",
        "this is the gradient of input 0",
    ]


def test_a_wrong_second_derivative():
    result = dl.gradcheck(cube(lambda dy, x: 3.0 * dy * x * x.detach()), X, order=2)
    assert [check.order for check in result.checks if check.wrong] == [2]
    assert "input 0, second derivative: 9 of 9 wrong" in str(result)
    assert "0.5 times the right one" in str(result)


@pytest.mark.parametrize(
    ("f", "at", "kinks"),
    [
        (F.relu, [0.0, 1.0, -1.0], 1),
        (F.relu, [5e-5, -1.5e-4, 1.0], 2),
        (F.absolute, [5e-5, 2.0], 1),
        (lambda x: x.max(), [1.0, 1.0001, 0.5], 2),
        (lambda x: x.clip(0.0, 1.0), [1.0, 0.5], 1),
    ],
)
def test_kinks_are_not_called_wrong(f, at, kinks):
    for order in (1, 2):
        result = dl.gradcheck(f, np.array(at), order=order)
        assert result, str(result)
    assert result.checks[0].kinks == kinks
    assert f"{kinks} of {len(at)} at a kink, where f has no derivative: not counted" in str(result)


def test_a_gradient_that_no_side_of_a_kink_has_is_wrong():
    class Relu(Function):
        def forward(self, x):
            return np.maximum(x, 0)

        def backward(self, dy):
            return dy * 1.5

    result = dl.gradcheck(lambda x: Relu()(x), np.array([0.0, 1.0]))
    assert result.checks[0].wrong == 2


def test_projections_find_what_elements_find():
    x = np.random.default_rng(0).normal(size=(30, 30))
    good, bad = dl.gradcheck(cube(right), x), dl.gradcheck(cube(lambda dy, x: right(dy, x).T), x)
    assert good
    assert not bad
    assert good.checks[0].tried == 4
    assert "along direction" in str(bad)
    assert dl.gradcheck(cube(right), x, method="full").checks[0].tried == 900
    assert dl.gradcheck(cube(right), X, method="projection").checks[0].tried == 4


def test_several_inputs_and_any_output_shape():
    result = dl.gradcheck(lambda x, w, b: F.tanh(F.linear(x, w, b)), X, X[:2], np.zeros(2), order=2)
    assert result
    assert [check.name for check in result.checks[:3]] == ["input 0", "input 1", "input 2"]


def test_integers_pass_through():
    result = dl.gradcheck(F.cross_entropy, X, np.array([0, 2, 1]), order=2)
    assert result
    assert len(result.checks) == 2


def test_inputs_are_copied():
    x = Tensor(X.astype("float32"), requires_grad=True)
    assert dl.gradcheck(F.tanh, x)
    assert x.grad is None
    assert x.dtype == np.float32


def test_a_zero_size_input_has_nothing_wrong():
    assert dl.gradcheck(F.exp, np.zeros((0, 3)), order=2)


def test_a_gradient_that_is_zero_everywhere():
    assert dl.gradcheck(lambda x: (x * 0.0).sum() + 3.0, X, order=2)


def test_a_module_is_checked_in_all_its_parameters():
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    result = dl.gradcheck(model, X, order=2)
    assert result, str(result)
    names = [check.name for check in result.checks if check.order == 1]
    assert names == ["input 0", *(name for name, _ in model.named_parameters())]
    assert all(check.tried > 0 for check in result.checks)
    assert {p.dtype for p in model.parameters()} == {np.dtype("float32")}
    assert all(p.grad is None for p in model.parameters())


def test_a_module_with_one_wrong_parameter():
    class Scale(nn.Module):
        def __init__(self):
            super().__init__()
            self.factor = nn.Parameter(np.ones(3, "float32"))

        def forward(self, x):
            return x * self.factor.detach()

    result = dl.gradcheck(Scale(), X)
    assert [check.name for check in result.checks if check.wrong] == ["factor"]
    assert "no gradient arrives" in str(result)


# When no comparison can be made


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

    assert dl.gradcheck(f, X).problem == "f changed input 0 in place"


def test_the_engines_complaints_are_passed_on():
    result = dl.gradcheck(cube(lambda dy, x: dy.sum()), X)
    assert result.problem == "Cube.backward returned a gradient of shape () for an input of shape (3, 3)"
    assert "FAILED" in str(result)


def test_raising_if_asked():
    with pytest.raises(GradientError, match="gradcheck FAILED"):
        dl.gradcheck(cube(lambda dy, x: dy), X, raise_exception=True)


def test_nonsense_is_refused():
    with pytest.raises(ValueError, match="order is 1 or 2, got 3"):
        dl.gradcheck(F.exp, X, order=3)
    with pytest.raises(ValueError, match='method is "auto", "full" or "projection", got \'fast\''):
        dl.gradcheck(F.exp, X, method="fast")
    with pytest.raises(ValueError, match="gradcheck needs a floating-point input"):
        dl.gradcheck(lambda n: n, 3)
