"""The engine: what it records, how it walks back, what it frees, and what it says when it cannot."""

from __future__ import annotations

import gc
import tracemalloc
import weakref
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import minidl as dl
from minidl import Function, Tensor
from minidl import functional as F
from minidl.errors import DeviceError, GradientError
from minidl.paths import topological_order


def leaf(*values: float, dtype: str = "float64") -> Tensor:
    return Tensor(np.array(values, dtype), requires_grad=True)


def close(tensor: Tensor | None, expected: object) -> None:
    assert tensor is not None
    np.testing.assert_allclose(tensor.numpy(), expected, rtol=1e-12)


class Square(Function):
    """y = x², counting how often backward is called."""

    calls = 0

    def forward(self, x):
        self.save(x=x)
        return x * x

    def backward(self, dy):
        Square.calls += 1
        (x,) = self.saved
        return dy * 2.0 * x


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


def test_only_floats_require_gradients():
    with pytest.raises(
        GradientError, match=r"only floating-point tensors have gradients, and this one is int64"
    ):
        Tensor([1, 2], requires_grad=True)


def test_only_leaves_can_be_asked_for_gradients():
    x = leaf(1)
    with pytest.raises(
        GradientError, match=r"on leaves only, and this tensor was computed by Exp: use \.detach\(\)"
    ):
        F.exp(x).requires_grad_(False)


# What cannot be done is said


def test_backward_of_several_numbers():
    with pytest.raises(
        GradientError, match=r"starts from one number, and this tensor has shape \(2,\): reduce it"
    ):
        (leaf(1, 2) * 2.0).backward()


def test_backward_of_something_without_a_gradient():
    for make in (lambda: Tensor([1.0]), lambda: leaf(1).detach() * 2.0):
        with pytest.raises(
            GradientError, match=r"does not depend on anything that requires a gradient: set requ"
        ):
            make().backward()


@pytest.mark.parametrize("given", [np.ones(2), np.ones((1, 3)), np.ones(3, "float32")])
def test_the_given_gradient_must_fit(given):
    with pytest.raises(
        GradientError, match=r"the gradient is float.. of shape .*, the tensor float64 of shape \(3,\)"
    ):
        (leaf(1, 2, 3) * 2.0).backward(Tensor(given))


def test_comparisons_cut_the_graph():
    assert not (leaf(1, 2) > 1.5).requires_grad


class Returns(Function):
    """y = x₀ + x₁ with whatever gradient the test wants."""

    def __init__(self, *gradients):
        self.gradients = gradients

    def forward(self, x, y):
        return x + y

    def backward(self, dy):
        return self.gradients


@pytest.mark.parametrize(
    ("gradients", "message"),
    [
        (
            (Tensor([1.0]),),
            r"Returns.backward returned 1 gradients for 2 inputs: return one for each, None where",
        ),
        ((Tensor([1.0]),) * 3, r"Returns.backward returned 3 gradients for 2 inputs"),
        ((np.ones((2, 3)), None), r"Returns.backward returned ndarray: return Tensors"),
        ((1.0, None), r"Returns.backward returned float: return Tensors"),
        (
            (Tensor(np.ones((3, 2))), None),
            r"returned a gradient of shape \(3, 2\) for an input of shape \(2, 3\)",
        ),
        ((Tensor(np.ones(6)), None), r"returned a gradient of shape \(6,\) for an input of shape \(2, 3\)"),
        ((Tensor(np.ones(())), None), r"returned a gradient of shape \(\) for an input of shape \(2, 3\)"),
        ((Tensor(np.ones(3)), None), r"returned a gradient of shape \(3,\) for an input of shape \(2, 3\)"),
    ],
)
def test_a_wrong_backward_is_named(gradients, message):
    x, y = (Tensor(np.ones((2, 3)), requires_grad=True) for _ in range(2))
    with pytest.raises(GradientError, match=message):
        Returns(*gradients)(x, y).sum().backward()


def test_a_function_without_backward():
    class Half(Function):
        def forward(self, x):
            return x // 2

    with pytest.raises(
        GradientError, match=r"Half has no gradient: \.detach\(\) its input if none should flow"
    ):
        Half()(leaf(3)).backward()


@pytest.mark.parametrize(("value", "kind"), [(np.ones(2), "ndarray"), (2.0, "float"), ([1.0], "list")])
def test_functions_work_on_tensors(value, kind):
    with pytest.raises(TypeError, match=rf"Multiply works on Tensors, got {kind}: wrap it, Tensor\(x\)"):
        F.arithmetic.Multiply()(leaf(1), value)


def test_who_calls_apply_is_told_how_it_is_done_here():
    class Scale(Function):
        @staticmethod
        def forward(ctx, x, w):
            return x * w

    message = (
        r"Scale\.apply\(x, w\) is written Scale\(\)\(x, w\) here, with forward\(self, x, w\) and "
        r"backward\(self, dy\): self saves what ctx saves in PyTorch, self\.save\(x=x\)"
    )
    with pytest.raises(TypeError, match=message):
        Scale.apply(leaf(1), leaf(2))


def test_an_error_of_forward_itself_comes_through():
    class Broken(Function):
        def forward(self, x):
            return x.no_such_thing

    with pytest.raises(AttributeError, match="no_such_thing"):
        Broken()(leaf(1))


class FakeGPUArray:
    """Enough of a CuPy array to be mixed up with a NumPy one."""

    __cuda_array_interface__ = True
    shape, dtype = (2,), np.dtype("float64")

    def __array_ufunc__(self, *args, **kwargs):
        return NotImplemented


def test_mixed_devices_are_named():
    with pytest.raises(DeviceError, match=r"Add got tensors of two devices: \(3,\) on cpu, \(2,\) on gpu"):
        leaf(1, 2, 3) + Tensor(FakeGPUArray())


# In place


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


# grad()


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


# Modes


def test_no_grad_records_nothing():
    x = leaf(1)
    with dl.no_grad():
        y = x * 2.0
        assert not dl.is_grad_enabled()
        with dl.set_grad_enabled(True):
            assert (x * 2.0).requires_grad
    assert dl.is_grad_enabled()
    assert not y.requires_grad
    assert y.grad_fn is None


def test_no_grad_is_a_decorator_and_survives_errors():
    @dl.no_grad()
    def fail() -> None:
        assert not dl.is_grad_enabled()
        raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert dl.is_grad_enabled()


def test_no_grad_holds_in_its_own_thread_only():
    with dl.no_grad(), ThreadPoolExecutor(1) as pool:
        assert pool.submit(dl.is_grad_enabled).result()
        assert not dl.is_grad_enabled()


def test_detach_shares_memory_and_stops_the_gradient():
    x = leaf(2)
    y = x * 3.0
    (y.detach() * x).backward()
    close(x.grad, [6])
    assert np.shares_memory(y.detach().data, y.data)


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


# float32 in, float32 out


@pytest.mark.parametrize("operation", [F.multiply, F.maximum, F.matmul, lambda x, y: F.where(x > 0, x, y)])
def test_operands_of_two_types_have_gradients_of_their_own(operation):
    x, y = leaf(1, 2, dtype="float32"), leaf(3, 1)
    z = operation(x, y)
    assert z.dtype == np.float64
    z.sum().backward()
    assert (x.grad.dtype, y.grad.dtype) == (np.float32, np.float64)


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
    x = Tensor(np.array([0.5, 1.5, 2.5], "float32"), requires_grad=True)
    y = operation(x)
    assert y.dtype == np.float32
    (dx,) = dl.grad(y.sum(), [x], create_graph=True)
    assert dx.dtype == np.float32
    if dx.requires_grad:
        assert dl.grad(dx.sum(), x).dtype == np.float32


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


def test_an_error_of_forward_keeps_its_cause():
    class Broken(Function):
        def forward(self, x):
            raise TypeError("inner") from KeyError("outer")

    with pytest.raises(TypeError, match="inner") as caught:
        Broken()(leaf(1))
    assert isinstance(caught.value.__cause__, KeyError)


def test_the_given_gradient_must_be_a_tensor():
    with pytest.raises(GradientError, match=r"the gradient is no Tensor but ndarray: wrap it, Tensor\(x\)"):
        (leaf(1, 2) * 2.0).backward(np.ones(2))


def test_two_threads_may_ask_one_graph():
    x, y = leaf(2), leaf(3)
    z = x * y * x
    for _ in range(20):
        with ThreadPoolExecutor(2) as pool:
            dx = pool.submit(dl.grad, z, x, retain_graph=True)
            dy = pool.submit(dl.grad, z, y, retain_graph=True)
            close(dx.result(), [12])
            close(dy.result(), [4])


def test_what_saved_nothing_can_be_walked_twice():
    x = leaf(1)
    y = x + 2.0
    y.backward()
    y.backward()
    close(x.grad, [2])
