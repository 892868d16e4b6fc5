"""The engine: what it records, how it walks back, and what it frees."""

from __future__ import annotations

import gc
import tracemalloc
import weakref

import numpy as np
import pytest
from pieces import Square, close, leaf

import minidl as dl
from minidl import Function, Tensor
from minidl import functional as F
from minidl.autograd import walk
from minidl.errors import GradientError
from minidl.paths import topological_order

# The chain rule


def test_textbook_circuit():
    x, y, z = leaf(-2), leaf(5), leaf(-4)
    f = (x + y) * z
    f.backward()
    assert f.item() == -12
    assert [x.grad.item(), y.grad.item(), z.grad.item()] == [-4, -4, 3]


def test_paths_of_a_diamond_add_up():
    x = leaf(3)
    a, b = x * 2.0, x * x
    (a * b).sum().backward()  # 2x³
    close(x.grad, [54])


def test_every_node_of_a_shared_subexpression_is_visited_once():
    x = leaf(1.1)
    y = Square()(x)
    for _ in range(20):
        y = y + y  # 2²⁰ paths
    Square.calls = 0
    y.sum().backward()
    assert Square.calls == 1
    close(x.grad, [2.0**20 * 2 * 1.1])


def test_an_input_used_twice_by_one_function():
    x = leaf(3)
    (x * x).backward()
    close(x.grad, [6])


@pytest.mark.parametrize("shape", [(), (1,), (4,), (3, 1), (1, 1), (1, 4), (2, 1, 1), (2, 3, 4)])
def test_broadcasting_is_undone_on_either_side(shape):
    whole = np.arange(1.0, 25).reshape(2, 3, 4)
    for swap in (False, True):
        x, y = Tensor(np.full(shape, 2.0), requires_grad=True), Tensor(whole, requires_grad=True)
        (y * x if swap else x * y).sum().backward()
        assert x.grad.shape == shape
        lead = tuple(range(3 - len(shape)))
        kept = whole.sum(axis=lead)
        kept = kept.sum(axis=tuple(i for i, n in enumerate(shape) if n == 1), keepdims=True)
        close(x.grad, kept)
        close(y.grad, np.full((2, 3, 4), 2.0))


def test_both_operands_broadcast():
    x, y = leaf(1, 2, 3), Tensor(np.array([[1.0], [10.0]]), requires_grad=True)
    (x * y).sum().backward()
    close(x.grad, [11, 11, 11])
    close(y.grad, [[6], [6]])


def test_gradients_of_two_backwards_add_up():
    x = leaf(3)
    for _ in range(2):
        (x * x).backward()
    close(x.grad, [12])


def test_the_gradient_given_to_backward_weighs_the_outputs():
    x = leaf(1, 2)
    (x * x).backward(Tensor(np.array([1.0, 10.0])))
    close(x.grad, [2, 40])


def test_an_infinite_loss_still_starts_from_one():
    x = leaf(np.inf)
    (x * 2.0).backward()
    close(x.grad, [2])


# What is freed and what is kept


def test_a_second_backward_needs_retain_graph():
    x = leaf(3)
    y = x * x
    y.backward(retain_graph=True)
    y.backward()
    close(x.grad, [12])
    with pytest.raises(
        GradientError, match=r"backward through Multiply a second time: what it saved was freed"
    ):
        y.backward()


def test_saved_arrays_are_freed_by_backward():
    x = Tensor(np.ones(3), requires_grad=True)
    y = F.exp(x * 2.0)
    saved = weakref.ref(y.data)
    total = y.sum()
    del y
    assert saved() is not None
    total.backward()
    assert saved() is None


def test_a_dropped_graph_is_gone_without_the_garbage_collector():
    gc.collect()
    gc.disable()
    try:
        x = leaf(1, 2, 3)
        loss = (F.softmax(F.relu(x * 2.0) @ x.reshape(3, 1), axis=0) + F.exp(x)).sum()
        functions = [weakref.ref(f) for f in topological_order(loss.node)]
        assert len(functions) >= 7
        del loss
        assert [f() for f in functions if f() is not None] == []
    finally:
        gc.enable()


@pytest.mark.slow
def test_a_thousand_steps_leave_memory_flat_and_no_garbage():
    w, x = Tensor(np.ones((8, 8), "float32"), requires_grad=True), Tensor(np.ones((4, 8), "float32"))

    def step() -> None:
        loss = F.log_softmax(F.tanh(F.linear(x, w))).mean()
        loss.backward()
        with dl.no_grad():
            w.__isub__(w.grad * 0.01)
        w.grad = None

    gc.collect()
    gc.disable()
    for _ in range(1000):  # Python keeps up to 2,000 dead tuples of each length for later
        step()
    tracemalloc.start()
    try:
        step()
        before = tracemalloc.get_traced_memory()[0]
        for _ in range(1000):
            step()
        assert tracemalloc.get_traced_memory()[0] - before < 20_000  # not one object a step
        assert gc.collect() == 0
    finally:
        tracemalloc.stop()
        gc.enable()


def test_a_chain_of_100_000_operations():
    x = leaf(1)
    y = x
    for _ in range(100_000):
        y = y + 1.0
    y.backward()
    close(x.grad, [1])
    del y  # frees function after function: without recursion, or Python would be gone here


def test_what_saved_nothing_can_be_walked_twice():
    x = leaf(1)
    y = x + 2.0
    y.backward()
    y.backward()
    close(x.grad, [2])


def test_a_frozen_input_costs_no_gradient():
    x, w = Tensor(np.ones(2)), leaf(1, 2)
    y = x * w
    assert list(y.grad_fn.needs_grad) == [False, True]
    assert y.grad_fn.edges[0] is None
    y.sum().backward()
    assert x.grad is None


def test_only_what_backward_needs_is_kept():
    y = Tensor(np.ones(2)) * leaf(1, 2)
    assert [tensor is not None for tensor in y.grad_fn.saved] == [True, False]


# Leaves


def test_gradients_share_no_memory():
    a, b = leaf(1, 2), leaf(3, 4)
    given = Tensor(np.ones(2))
    (a + b).backward(given)
    arrays = [a.grad.data, b.grad.data, given.data]
    assert not any(np.shares_memory(x, y) for i, x in enumerate(arrays) for y in arrays[:i])


def test_leaf_gradients_are_contiguous_and_writable():
    leaves = [Tensor(np.ones(shape), requires_grad=True) for shape in [(), (3,), (2, 3), (4, 2, 3)]]
    scalar, vector, matrix, cube = leaves
    loss = scalar + vector.sum() + (matrix.T * vector.reshape(3, 1)).sum() + cube.permute(2, 0, 1).sum()
    loss.backward()
    for x in leaves:
        assert x.grad.shape == x.shape
        assert x.grad.data.flags.c_contiguous
        x.grad.data[...] = 0


def test_zero_dimensional_results_are_arrays():
    total = Tensor(np.ones(3, "float32")).sum()
    assert type(total.data) is np.ndarray
    assert type(total.numpy()) is np.ndarray
    total += 1.0
    assert total.item() == 4


def test_a_gradient_is_copied_as_its_leaf_lies_in_memory():
    last = np.arange(12.0).reshape(1, 2, 2, 3).transpose(0, 3, 1, 2)
    for array in (last, np.ascontiguousarray(last)):
        x = Tensor(array, requires_grad=True)
        (x * 1).backward(Tensor(last))
        assert x.grad.data.strides == array.strides
        np.testing.assert_array_equal(x.grad.numpy(), last)


def test_a_leaf_owns_its_gradient_also_where_backward_returns_what_was_saved():
    class Dot(Function):
        def forward(self, x, w):
            self.save(w=w)
            return (x * w).sum()

        def backward(self, dy):
            (w,) = self.saved
            return w, None

    x, w = leaf(1, 2), Tensor(np.array([3.0, 4.0]))
    Dot()(x, w).backward()
    close(x.grad, [3, 4])
    x.grad.data *= 0.1
    close(w, [3, 4])


def test_detach_shares_memory_and_stops_the_gradient():
    x = leaf(2)
    y = x * 3.0
    (y.detach() * x).backward()
    close(x.grad, [6])
    assert np.shares_memory(y.detach().data, y.data)


def test_comparisons_cut_the_graph():
    assert not (leaf(1, 2) > 1.5).requires_grad


# float32 in, float32 out


@pytest.mark.parametrize("operation", [F.multiply, F.maximum, F.matmul, lambda x, y: F.where(x > 0, x, y)])
def test_operands_of_two_types_have_gradients_of_their_own(operation):
    x, y = leaf(1, 2, dtype="float32"), leaf(3, 1)
    z = operation(x, y)
    assert z.dtype == np.float64
    found = walk(z, Tensor(np.ones(z.shape)), retain_graph=False)
    assert (found[x].dtype, found[y].dtype) == (np.float32, np.float64)


@pytest.mark.parametrize(
    "operation",
    [
        lambda x: x * 2.0,
        lambda x: 2 * x,
        lambda x: x + np.float64(2.5),
        lambda x: x * Tensor(3),
        lambda x: x * Tensor([1, 2, 3]),
        lambda x: np.arange(3) * x,
        lambda x: x / 3,
        lambda x: 1 / x,
        lambda x: x**2,
        lambda x: 2**x,
        lambda x: x - True,
        lambda x: x * (x > 1.0),
        lambda x: x.mean() + x.var(),
        lambda x: x.sum() * 2.0,
        lambda x: (x.sum() * 2.0).exp(),
        lambda x: F.where(x > 1.0, x, 0.0),
        lambda x: F.linear(Tensor([[1, 2, 3]]), x.reshape(1, 3)),
        lambda x: F.conv2d(Tensor(np.ones((1, 1, 1, 3), int)), x.reshape(1, 1, 1, 3)),
        lambda x: F.gelu(x) + F.softplus(x),
        lambda x: F.maximum(x, 1.0) - F.minimum(1, x),
    ],
)
def test_float32_stays_float32(operation):
    """Also the gradients, before the engine gives them the type of the leaf."""
    x = Tensor(np.array([0.5, 1.5, 2.5], "float32"), requires_grad=True)
    y = operation(x)
    assert y.dtype == np.float32
    dx = walk(y, Tensor(np.ones(y.shape, "float32")), retain_graph=True)[x]
    assert dx.dtype == np.float32
    if dx.requires_grad:
        assert walk(dx, Tensor(np.ones(3, "float32")), retain_graph=True)[x].dtype == np.float32


@pytest.mark.parametrize("create_graph", [False, True])
def test_a_gradient_has_the_type_of_its_leaf_also_where_backward_computes_in_another(create_graph):
    class Precise(Function):
        def forward(self, x):
            self.save(x=x)
            return x * x

        def backward(self, dy):
            (x,) = self.saved
            return (dy * 2.0 * x).astype("float64")

    x = leaf(3, dtype="float32")
    for _ in range(2):
        y = x * 1.0
        (Precise()(x) + Precise()(y) + x).sum().backward(create_graph=create_graph)
        assert x.grad.dtype == np.float32
    close(x.grad, [26])
    y = x * 1.0
    dx, dy = dl.grad((Precise()(x) + Precise()(y)).sum(), (x, y), create_graph=create_graph)
    assert (dx.dtype, dy.dtype) == (np.float32, np.float32)
    if create_graph:
        close(dl.grad(dx.sum(), x), [4])
