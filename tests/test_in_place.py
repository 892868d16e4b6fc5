"""Writing into tensors: counted where the graph saved them, refused where it records."""

from __future__ import annotations

import numpy as np
import pytest
from pieces import close, leaf

import minidl as dl
from minidl import Tensor
from minidl import functional as F
from minidl.errors import GradientError


def test_a_saved_tensor_that_was_changed_is_refused():
    x, w = leaf(1, 2), leaf(3, 4)
    y = x * w
    with dl.no_grad():
        w -= 1.0
    with pytest.raises(
        GradientError,
        match=r"Multiply saved its y of shape \(2,\) for backward at version 0, but it was changed in place "
        r"since \(now version 1\): change a copy, or call backward\(\) first",
    ):
        y.sum().backward()


def test_a_change_through_a_view_is_seen():
    x = leaf(1, 2, 3)
    y = F.exp(x)
    total = (y * y).sum()
    view = y.detach().reshape(3)[1:]
    view += 1.0
    with pytest.raises(GradientError, match="saved its x of shape"):
        total.backward()


def test_a_condition_that_was_changed_is_refused():
    x, condition = leaf(1, 2), Tensor([True, False])
    y = F.where(condition, x, 0.0)
    condition[0] = False
    with pytest.raises(GradientError, match="Where saved its condition of shape"):
        y.sum().backward()


@pytest.mark.parametrize("index", [0, np.int64(0), slice(1), (..., 0), (None, np.int32(0))])
def test_a_change_through_an_index_is_seen(index):
    x = Tensor(np.zeros((2, 3)), requires_grad=True)
    y = F.exp(x)
    total = (y * y).sum()
    with dl.no_grad():
        view = y[index]
        view += 1.0
    assert y.data[0, 0] == 2
    with pytest.raises(GradientError, match="saved its x of shape"):
        total.backward()


def test_a_saved_tensor_whose_array_was_replaced_is_refused():
    x, w = leaf(1, 2), leaf(3, 4)
    y = x * w
    w.data = np.zeros(2)
    with pytest.raises(GradientError, match="Multiply saved its y"):
        y.sum().backward()


def test_adding_in_place_is_an_ordinary_addition_where_a_gradient_flows():
    x = leaf(1, 2)
    y = before = x * 1.0
    y += x
    assert y is not before
    close(before, [1, 2])
    y.sum().backward()
    close(x.grad, [2, 2])


def test_adding_in_place_writes_where_nothing_is_recorded():
    x = y = Tensor(np.array([1.0, 2.0]))
    memory = x.data
    y += 1.0
    y *= Tensor(np.array([2.0, 3.0]))
    y -= 1.0
    y /= 2.0
    assert y is x
    assert x.data is memory
    close(x, [1.5, 4])


def test_a_leaf_cannot_be_changed_while_recording():
    x = leaf(1)
    with pytest.raises(
        GradientError, match=r"an in-place change of a tensor of shape \(1,\) that requires a grad"
    ):
        x += 1.0
    with pytest.raises(GradientError, match="write x = x \\+ y instead"):
        x[0] = 1.0
    with dl.no_grad():
        x += 1.0
        x[:] = x * 2.0
    close(x, [4])


@pytest.mark.parametrize(
    ("x", "other"), [(np.ones(2), np.ones((3, 2))), (np.ones(2, int), 0.5), (np.ones(2, "uint8"), np.ones(2))]
)
def test_an_in_place_result_must_fit(x, other):
    tensor = Tensor(x)
    with pytest.raises(ValueError, match=r"cannot hold the result, .*, in place: write x = x \+ y instead"):
        tensor += other
    np.testing.assert_array_equal(tensor.numpy(), np.ones(2))
