"""dl.grad: the gradient of one tensor by others, and the gradient of a gradient."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from pieces import Square, close, leaf

import minidl as dl
from minidl import Function
from minidl import functional as F
from minidl.errors import GradientError


def test_grad_leaves_the_leaves_alone():
    x, y = leaf(2), leaf(3)
    dx, dy = dl.grad(x * y, (x, y))
    close(dx, [3])
    close(dy, [2])
    assert x.grad is None
    assert y.grad is None
    close(dl.grad(x * y, x), [3])


def test_grad_of_interior_nodes_and_of_the_output_itself():
    x = leaf(2)
    a = x * 3.0
    loss = a * a
    d_loss, da, dx = dl.grad(loss, (loss, a, x))
    close(d_loss, [1])
    close(da, [12])
    close(dx, [36])


def test_grad_calls_only_the_functions_on_the_path():
    x, frozen = leaf(2), leaf(3)
    expensive = Square()(frozen)
    Square.calls = 0
    close(dl.grad(expensive * x, x, retain_graph=True), [9])
    assert Square.calls == 0

    class Both(Function):
        def forward(self, x, y):
            return x + y

        def backward(self, dz):
            asked.append(tuple(self.needs_grad))
            return dz, dz

    asked: list[tuple[bool, ...]] = []
    z = Both()(x, frozen)
    dl.grad(z, frozen, retain_graph=True)
    z.backward()
    assert asked == [(False, True), (True, True)]


def test_interior_node_stops_the_walk():
    x = leaf(2)
    a = Square()(x)
    Square.calls = 0
    close(dl.grad(a * 5.0, a), [5])
    assert Square.calls == 0


def test_unused_inputs():
    x, y = leaf(1), leaf(2)
    with pytest.raises(
        GradientError, match=r"input 1 of shape \(1,\) took no part in computing the output: check"
    ):
        dl.grad(x * 2.0, (x, y))
    dx, dy = dl.grad(x * 2.0, (x, y), allow_unused=True)
    close(dx, [2])
    assert dy is None


def test_create_graph_three_times():
    x = leaf(1.5)
    y = x**4
    for expected in (4 * 1.5**3, 12 * 1.5**2, 24 * 1.5):
        y = dl.grad(y.sum(), x, create_graph=True)
        close(y, [expected])
    close(dl.grad(y.sum(), x), [24])


def test_backward_with_create_graph():
    x = leaf(3)
    (x * x * x).backward(create_graph=True)
    first, x.grad = x.grad, None
    first.backward()
    close(x.grad, [18])


def test_second_derivative_through_a_saved_output():
    x = leaf(0.5)
    dx = dl.grad(F.exp(x), x, create_graph=True)
    close(dl.grad(dx, x), [np.exp(0.5)])


def test_penalty_on_a_gradient():
    x, w = leaf(2), leaf(3)
    dx = dl.grad(w * w * x, x, create_graph=True)  # w²
    (dx * dx).backward()  # w⁴
    close(w.grad, [4 * 3.0**3])


def test_two_threads_may_ask_one_graph():
    x, y = leaf(2), leaf(3)
    z = x * y * x
    for _ in range(20):
        with ThreadPoolExecutor(2) as pool:
            dx = pool.submit(dl.grad, z, x, retain_graph=True)
            dy = pool.submit(dl.grad, z, y, retain_graph=True)
            close(dx.result(), [12])
            close(dy.result(), [4])
