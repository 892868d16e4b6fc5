"""The checker is checked with gradients that are wrong in a known way."""

from __future__ import annotations

import numpy as np
import pytest
from pieces import cube, function, right

import minidl as dl
from minidl import Function, Tensor, nn
from minidl import functional as F
from minidl.diagnosis.findings import standing
from minidl.errors import GradientError
from minidl.models import VGG

RANDOM = np.random.default_rng(3).normal(size=(3, 3))
X = np.array([[0.5, -1.0, 2.0], [1.5, 0.3, -0.7], [0.9, -1.2, 0.4]])


def test_right_gradients_pass():
    result = dl.gradcheck(cube(right), X, order=2)
    assert result
    assert result.error < 1e-9
    assert [check.order for check in result.checks] == [1, 2, 2]
    assert all((check.tried, check.wrong) == (9, 0) for check in result.checks)
    assert [check.title for check in result.checks[1:]] == [
        "input 0, second derivative",
        "dy, second derivative",
    ]
    assert str(result).startswith("gradcheck passed: largest relative error ")
    assert "27 derivatives tried" in str(result)


@pytest.mark.parametrize(
    ("backward", "cause"),
    [
        (lambda dy, x: 2.0 * right(dy, x), "it is 2 times the right one"),
        (lambda dy, x: right(dy, x) / 4.0, "it is 1/4 times the right one"),
        (lambda dy, x: -right(dy, x), "its sign is wrong"),
        (lambda dy, x: -right(dy, x) / 3.0, "its sign is wrong and it is 1/3 times the right one"),
        (lambda dy, x: right(dy, x).T, "it is transposed"),
        (lambda dy, x: None, "no gradient arrives: backward gives None or zeros"),
        (lambda dy, x: right(dy, x) * np.inf, "backward gives numbers that are not finite"),
        (lambda dy, x: dy * x, "it is dy·x, and should be 3·dy·x²"),
        (lambda dy, x: dy * Tensor(RANDOM), ""),
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
    assert "1/2 times the right one" in str(result)


def test_a_dy_that_the_second_derivative_does_not_see():
    result = dl.gradcheck(cube(lambda dy, x: 3.0 * Tensor(dy.data) * x * x), X, order=2)
    assert [check.title for check in result.checks if check.wrong] == ["dy, second derivative"]
    assert "to the graph backward does not depend on dy: it works on arrays" in str(result)


@pytest.mark.parametrize(
    ("f", "at"),
    [
        (F.relu, [0.0, 1.0, -1.0]),
        (lambda x: x.clip(0.0, 1.0), [1.0, 0.5]),
    ],
)
def test_an_element_at_a_kink_has_no_derivative(f, at):
    for order in (1, 2):
        result = dl.gradcheck(f, np.array(at), order=order)
        assert result, str(result)
    assert (result.checks[0].left_out, result.checks[0].finer) == ([0], 0)
    assert f"input 0: 1 of {len(at)} at a kink, where f has no derivative: not counted" in str(result)


@pytest.mark.parametrize(
    ("f", "at", "near"),
    [
        (F.relu, [5e-5, -1.5e-4, 1.0], 2),
        (F.absolute, [5e-5, 2.0], 1),
        (lambda x: x.max(), [1.0, 1.0001, 0.5], 2),
    ],
)
def test_an_element_near_a_kink_is_checked_with_a_smaller_step(f, at, near):
    for order in (1, 2):
        result = dl.gradcheck(f, np.array(at), order=order)
        assert result, str(result)
    assert (result.checks[0].left_out, result.checks[0].finer) == ([], near)
    assert f"input 0: {near} of {len(at)} tried with a smaller step, because of kinks" in str(result)
    assert "tolerance 1e-06, near kinks 1e-04" in str(result)


def test_a_wrong_gradient_near_a_kink_is_wrong():
    assert dl.gradcheck(lambda x: BrokenRelu()(x), np.array([5e-5, 1.0])).checks[0].wrong == 2


class BrokenRelu(Function):
    def forward(self, x):
        return np.maximum(x, 0)

    def backward(self, dy):
        return dy * 1.5


def test_a_gradient_that_no_side_of_a_kink_has_is_wrong():
    result = dl.gradcheck(BrokenRelu, np.array([0.0, 1.0]))
    assert result.checks[0].wrong == 2
    result = dl.gradcheck(BrokenRelu, np.array([0.0, 0.0]))
    assert result.checks[0].cause == (
        "f has a kink there, and this is neither the slope on one of its sides nor one between"
    )


def test_projections_find_what_elements_find():
    x = np.random.default_rng(0).normal(size=(40, 40))
    good, bad = dl.gradcheck(cube(right), x), dl.gradcheck(cube(lambda dy, x: right(dy, x).T), x)
    assert good
    assert not bad
    assert good.checks[0].tried == 2
    assert "along direction" in str(bad)
    assert "likely cause: it is transposed" in str(bad)
    assert dl.gradcheck(cube(right), x, method="full").checks[0].tried == 1600
    assert dl.gradcheck(cube(right), X, method="projection").checks[0].tried == 2
    assert dl.gradcheck(F.exp, 0.5, method="projection")


def test_several_inputs_and_any_output_shape():
    result = dl.gradcheck(lambda x, w, b: F.tanh(F.linear(x, w, b)), X, X[:2], np.zeros(2), order=2)
    assert result
    assert [check.name for check in result.checks[:3]] == ["input 0", "input 1", "input 2"]


def test_integers_pass_through():
    result = dl.gradcheck(F.cross_entropy, X, np.array([0, 2, 1]), order=2)
    assert result
    assert [check.name for check in result.checks] == ["input 0", "input 0", "dy"]


def test_inputs_are_copied():
    x = Tensor(X.astype("float32"), requires_grad=True)
    assert dl.gradcheck(F.tanh, x)
    assert x.grad is None
    assert x.dtype == np.float32


def test_a_zero_size_input_has_nothing_wrong():
    result = dl.gradcheck(F.exp, np.zeros((0, 3)), order=2)
    assert result
    assert str(result) == "gradcheck passed: the inputs hold no numbers, nothing was compared"


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


# Whole networks, and what people look at


def test_a_deep_network_with_thousands_of_kinks():
    """A narrow VGG16 at 224×224: each input and parameter along random directions, the step made small."""
    dl.seed(0)
    model = VGG([[4, 4], [8, 8], [8, 8, 8], [8, 8, 8], [8, 8, 8]], (32, 32), 10).eval()
    result = dl.gradcheck(model, np.random.default_rng(0).normal(size=(1, 3, 224, 224)))
    assert result, str(result)
    assert len(result.checks) == 33
    assert all(check.tried == 2 for check in result.checks)
    assert "32 inputs and parameters: 64 of 64 tried with a smaller step, because of kinks" in str(result)


class WrongScale(Function):
    """y = x · w for each channel; the gradient of w forgets dy."""

    def forward(self, x, w):
        self.save(x=x, w=w)
        return x * w

    def backward(self, dy):
        x, w = self.saved
        return dy * w, x.sum(axis=(0, 2, 3), keepdims=True)


def test_a_mistake_deep_in_a_network_is_found_and_named():
    class Scale(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(np.ones((1, 8, 1, 1), "float32"))

        def forward(self, x):
            return WrongScale()(x, self.w)

    dl.seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), Scale(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(8 * 49, 10)
    )
    result = dl.gradcheck(model, np.random.default_rng(0).normal(size=(2, 3, 16, 16)))
    (wrong,) = [check for check in result.checks if check.wrong]
    assert (wrong.name, wrong.wrong) == ("2.w", 2)
    assert wrong.cause == "dy is not multiplied in: backward gives the same, whatever dy is"


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (0.0, "be happy"),
        (1e-7, "be happy"),
        (1e-5, "fine where f has kinks, look closer where it has none"),
        (1e-3, "uncomfortable"),
        (0.5, "probably wrong"),
        (np.inf, "probably wrong"),
    ],
)
def test_where_an_error_stands(error, words):
    assert standing(error) == words


def test_a_notebook_shows_a_table():
    good, bad = dl.gradcheck(cube(right), X, order=2), dl.gradcheck(cube(lambda dy, x: dy), X)
    assert "<td" in good._repr_html_()
    assert "input 0, second derivative" in good._repr_html_()
    assert "9 of 9 wrong, the worst at " in bad._repr_html_()
    assert "likely cause: it is dy, and should be 3·dy·x²" in bad._repr_html_()
    no_table = dl.gradcheck(lambda x: x.astype("float32"), X)._repr_html_()
    assert "f computes in float32" in no_table
    assert "<table" not in no_table


@pytest.mark.parametrize(
    ("forward", "derivative", "x"),
    [
        (np.sin, np.cos, 1e3 + X),  # the step grows with x, and the sine bends within it
        (lambda x: np.sin(1e3 * x), lambda x: 1e3 * np.cos(1e3 * x), X),
        (lambda x: 1 / x, lambda x: -1 / x**2, np.array([1e-3, 1e-2, 0.1, 1.0, 100.0])),
        (np.sqrt, lambda x: 0.5 / np.sqrt(x), np.array([1e-6, 1e-4, 0.1, 1.0])),  # a step leads outside
    ],
)
def test_what_bends_within_the_step_is_compared_with_a_smaller_one(forward, derivative, x):
    with np.errstate(all="ignore"):
        right = dl.gradcheck(function(forward, derivative), x)
        wrong = dl.gradcheck(function(forward, lambda x: derivative(x) * (1 + 2e-5)), x)
    assert right
    assert right.checks[0].kinks == 0
    assert wrong.checks[0].wrong > 1
    assert wrong.checks[0].error == pytest.approx(2e-5, rel=0.1)
    assert wrong.checks[0].cause in (
        "",
        "f is not finite within a step of here: check it further inside its domain",
    )


def test_where_all_is_left_out_nothing_has_passed():
    result = dl.gradcheck(F.relu, np.zeros(5))
    assert not result
    assert str(result).splitlines()[0] == "gradcheck FAILED: nothing could be compared"
    assert "5 of 5 at a kink" in str(result)
