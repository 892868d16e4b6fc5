"""Anomaly mode names the operation that first made NaN or ±∞, and the line that called it."""

from __future__ import annotations

import numpy as np
import pytest

import minidl as dl
from minidl import Function, Tensor, nn
from minidl.errors import AnomalyError


def leaf(*values: float) -> Tensor:
    return Tensor(np.array(values, float), requires_grad=True)


def line_of(excinfo: pytest.ExceptionInfo) -> str:
    """file:line of the statement of the test that raised."""
    entry = next(entry for entry in excinfo.traceback if str(entry.path) == __file__)
    return f"test_anomaly.py:{entry.lineno + 1}"


def test_the_operation_that_first_made_it_is_named():
    x = leaf(1, -2, 0)
    with dl.detect_anomaly(), pytest.raises(AnomalyError) as caught:
        x.log()
    assert str(caught.value) == (
        f"{line_of(caught)}: Log made 1 NaN and 1 ±∞ in its output of shape (3,): x from -2 to 1"
    )


def test_inside_of_a_module_the_line_is_that_of_the_user():
    net = nn.Sequential(nn.Linear(2, 2), nn.Softmax(dim=1))
    with dl.detect_anomaly(), pytest.raises(AnomalyError) as caught:
        net(Tensor(np.array([[1e38, 1e38]], "float32")) * 1e38)
    assert str(caught.value).startswith(f"{line_of(caught)}: Multiply made 2 ±∞ in its output of shape (1,")


def test_what_came_with_the_data_is_said_to():
    with dl.detect_anomaly(), pytest.raises(AnomalyError) as caught:
        leaf(1, np.nan) * 2.0
    assert str(caught.value) == (
        f"{line_of(caught)}: Multiply was given 1 NaN in its x of shape (2,): that came with the data, "
        "or was computed outside of anomaly mode"
    )


def test_a_gradient_that_is_not_finite():
    x = leaf(0, 4)
    with dl.detect_anomaly():
        loss = x.sqrt().sum()
        place = loss.grad_fn.edges[0].made_at
        with pytest.raises(AnomalyError) as caught:
            loss.backward()
    assert str(caught.value) == (
        f"{place}: backward of Sqrt made 1 ±∞ in the gradient of its x, "
        "out of a finite gradient of shape (2,)"
    )
    assert x.grad is None


def test_grad_is_looked_at_too():
    class Broken(Function):
        def forward(self, *xs):
            return xs[0] + xs[1]

        def backward(self, dy):
            return dy, dy * np.inf

    x, y = leaf(1), leaf(2)
    with dl.detect_anomaly():
        z = Broken()(x, y)
        with pytest.raises(AnomalyError, match=r"backward of Broken made 1 ±∞ in the gradient of its inp"):
            dl.grad(z, y)


def test_nothing_is_looked_at_outside_of_the_block():
    with dl.detect_anomaly():
        assert (leaf(1) * 2.0).item() == 2
    with np.errstate(all="ignore"):
        assert np.isnan(leaf(-1).log().item())


def test_where_nothing_is_recorded_too():
    with dl.detect_anomaly(), dl.no_grad(), pytest.raises(AnomalyError, match="Multiply made 1 ±∞"):
        Tensor(np.array([1e38], "float32")) * Tensor(np.array([1e38], "float32"))
