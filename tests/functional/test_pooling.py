"""Pooling: PyTorch's windows and ties, gradients that go where they came from, and the way back."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import minidl as dl
from minidl import Tensor
from minidl.backend import pooling as work
from minidl.errors import ShapeError
from minidl.functional import (
    adaptive_avg_pool2d,
    avg_pool2d,
    global_avg_pool2d,
    global_max_pool2d,
    max_pool2d,
    max_unpool2d,
)

SMALL = st.tuples(st.integers(1, 4), st.integers(1, 4))


@st.composite
def poolings(draw):
    """(x, kernel, dilation, options). The numbers are small integers, so that many tie.

    Every window meets the picture: where one does not, PyTorch writes outside its memory.
    """
    kernel, stride, dilation = draw(SMALL), draw(SMALL), draw(st.tuples(st.integers(1, 2), st.integers(1, 2)))
    padding = tuple(draw(st.integers(0, k // 2)) for k in kernel)
    size = [d * (k - 1) + 1 + draw(st.integers(0, 5)) for k, d in zip(kernel, dilation, strict=True)]
    r = np.random.default_rng(draw(st.integers(0, 2**32)))
    x = r.integers(-2, 3, (draw(st.integers(1, 3)), draw(st.integers(1, 3)), *size)).astype(np.float64)
    options = {"stride": stride, "padding": padding, "ceil_mode": draw(st.booleans())}
    return x, kernel, dilation, options


def check_against_torch(pool, torch_pool, x):
    """Value, gradient, and the gradient of the gradient with respect to the incoming one."""
    torch = pytest.importorskip("torch")
    ours, theirs = Tensor(x, requires_grad=True), torch.tensor(x, requires_grad=True)
    y, expected = pool(ours), torch_pool(theirs)
    np.testing.assert_allclose(y.numpy(), expected.detach().numpy(), atol=1e-12)
    r = np.random.default_rng(0)
    v, u = r.standard_normal(y.shape), r.standard_normal(x.shape)
    dy, torch_dy = Tensor(v, requires_grad=True), torch.tensor(v, requires_grad=True)
    dx = dl.grad(y, ours, dy, create_graph=True)
    (torch_dx,) = torch.autograd.grad(expected, theirs, torch_dy, create_graph=True)
    np.testing.assert_allclose(dx.numpy(), torch_dx.detach().numpy(), atol=1e-12)
    back = dl.grad(dx, dy, Tensor(u), create_graph=True)
    (torch_back,) = torch.autograd.grad(torch_dx, torch_dy, torch.tensor(u))
    np.testing.assert_allclose(back.numpy(), torch_back.numpy(), atol=1e-12)


@pytest.mark.parity
@settings(max_examples=60)
@given(poolings())
def test_max_pooling_is_that_of_pytorch_ties_and_indices_too(drawn):
    torch = pytest.importorskip("torch")
    x, kernel, dilation, options = drawn
    options["dilation"] = dilation
    theirs = torch.nn.functional.max_pool2d
    check_against_torch(lambda x: max_pool2d(x, kernel, **options), lambda x: theirs(x, kernel, **options), x)
    _, indices = max_pool2d(Tensor(x), kernel, return_indices=True, **options)
    _, expected = theirs(torch.tensor(x), kernel, return_indices=True, **options)
    np.testing.assert_array_equal(indices.numpy(), expected.numpy())


@pytest.mark.parity
@settings(max_examples=60)
@given(poolings(), st.booleans(), st.sampled_from([None, 3]))
def test_average_pooling_is_that_of_pytorch(drawn, count_include_pad, divisor_override):
    torch = pytest.importorskip("torch")
    x, kernel, _, options = drawn
    options |= {"count_include_pad": count_include_pad, "divisor_override": divisor_override}
    check_against_torch(
        lambda x: avg_pool2d(x, kernel, **options),
        lambda x: torch.nn.functional.avg_pool2d(x, kernel, **options),
        x,
    )


@pytest.mark.parity
@settings(max_examples=40)
@given(st.integers(1, 9), st.integers(1, 9), st.tuples(*[st.none() | st.integers(1, 12)] * 2))
def test_adaptive_average_pooling_is_that_of_pytorch(height, width, output_size):
    torch = pytest.importorskip("torch")
    x = np.random.default_rng(0).standard_normal((2, 3, height, width))
    check_against_torch(
        lambda x: adaptive_avg_pool2d(x, output_size),
        lambda x: torch.nn.functional.adaptive_avg_pool2d(x, output_size),
        x,
    )


@pytest.mark.parity
@pytest.mark.parametrize("options", [{}, {"stride": 1}, {"padding": 1, "stride": 1}])
@pytest.mark.parametrize("share", [0.03, 0.5, 1.0])
def test_the_gradient_of_a_maximum_goes_to_the_nan_that_is_it(share, options):
    torch = pytest.importorskip("torch")
    r = np.random.default_rng(0)
    x = np.where(r.random((2, 3, 8, 8)) < share, np.nan, r.standard_normal((2, 3, 8, 8)))
    ours, theirs = Tensor(x, requires_grad=True), torch.tensor(x, requires_grad=True)
    y, their_y = max_pool2d(ours, 2, **options), torch.nn.functional.max_pool2d(theirs, 2, **options)
    y.sum().backward()
    their_y.sum().backward()
    np.testing.assert_array_equal(y.numpy(), their_y.detach().numpy())
    np.testing.assert_array_equal(ours.grad.numpy(), theirs.grad.numpy())


@pytest.mark.parametrize("number", [np.nan, np.inf])
def test_what_is_not_finite_stays_in_its_window(number):
    x = np.arange(16.0).reshape(1, 1, 4, 4)
    x[0, 0, 1, 2] = number
    means = adaptive_avg_pool2d(Tensor(x), 2).numpy()
    np.testing.assert_array_equal(means, [[[[2.5, number], [10.5, 12.5]]]])


def test_adaptive_pooling_of_the_right_size_is_the_picture_itself():
    x = Tensor(np.zeros((1, 2, 7, 7)))
    assert adaptive_avg_pool2d(x, (7, 7)) is x
    assert adaptive_avg_pool2d(x, (None, 7)) is x


@settings(max_examples=40)
@given(poolings())
def test_unpooling_is_the_gradient_of_max_pooling(drawn):
    x, kernel, _, options = drawn
    x = Tensor(x, requires_grad=True)
    y, indices = max_pool2d(x, kernel, return_indices=True, **options)
    dy = Tensor(np.random.default_rng(0).standard_normal(y.shape), requires_grad=True)
    options.pop("ceil_mode")
    unpooled = max_unpool2d(dy, indices, kernel, output_size=x.shape[2:], **options)
    np.testing.assert_array_equal(unpooled.numpy(), dl.grad(y, x, dy).numpy())
    picked = dl.grad(unpooled, dy, Tensor(x.data))
    np.testing.assert_array_equal(picked.numpy(), y.numpy())


@pytest.mark.parity
@pytest.mark.parametrize("size", [(6, 8), (7, 8)])
def test_unpooling_is_that_of_pytorch_where_windows_do_not_overlap(size):
    torch = pytest.importorskip("torch")
    x = np.random.default_rng(0).standard_normal((2, 3, *size))
    y, indices = max_pool2d(Tensor(x), 2, return_indices=True)
    output_size = None if size == (6, 8) else size
    expected = torch.nn.functional.max_unpool2d(
        torch.tensor(y.numpy()), torch.tensor(indices.numpy()), 2, output_size=output_size
    )
    np.testing.assert_array_equal(
        max_unpool2d(y, indices, 2, output_size=output_size).numpy(), expected.numpy()
    )


def test_the_first_of_several_takes_the_gradient():
    x = Tensor(np.zeros((1, 1, 4, 4)), requires_grad=True)
    max_pool2d(x, 2).sum().backward()
    assert x.grad.numpy()[0, 0].tolist() == [[1, 0, 1, 0], [0, 0, 0, 0], [1, 0, 1, 0], [0, 0, 0, 0]]
    x = Tensor(np.zeros((1, 2, 2, 2)), requires_grad=True)
    global_max_pool2d(x).sum().backward()
    assert x.grad.numpy().tolist() == [[[[1, 0], [0, 0]]] * 2]


def test_where_all_is_minus_infinity_the_gradient_still_lands_on_the_picture():
    x = Tensor(np.full((1, 1, 2, 2), -np.inf), requires_grad=True)
    y, indices = max_pool2d(x, 2, padding=1, return_indices=True)
    assert indices.numpy().tolist() == [[[[0, 1], [2, 3]]]]
    y.backward(Tensor(np.ones(y.shape)))
    assert x.grad.numpy().tolist() == [[[[1, 1], [1, 1]]]]


@pytest.mark.parametrize("dtype", ["uint8", "int8", "int64", "bool", "float16"])
@pytest.mark.parametrize("options", [{"padding": 1}, {"stride": 3, "ceil_mode": True}])
def test_a_border_is_below_every_number_of_a_type(dtype, options):
    lowest = {"f": -np.inf, "b": False}.get(np.dtype(dtype).kind)
    x = np.full((1, 1, 4, 4), np.iinfo(dtype).min if lowest is None else lowest, dtype)
    x[0, 0, 2, 2] += True
    y, indices = max_pool2d(Tensor(x), 2, return_indices=True, **options)
    assert y.dtype == dtype
    np.testing.assert_array_equal(y.numpy().ravel(), x.ravel()[indices.numpy().ravel()])
    np.testing.assert_array_equal(y.numpy(), max_pool2d(Tensor(x), 2, **options).numpy())
    np.testing.assert_array_equal(y.numpy(), max_pool2d(Tensor(x.astype(float)), 2, **options).numpy())


@pytest.mark.parametrize("dtype", ["uint8", "int64", "bool"])
@pytest.mark.parametrize("pool", [lambda x: avg_pool2d(x, 3, padding=1), lambda x: adaptive_avg_pool2d(x, 3)])
def test_means_of_integers_are_float32(pool, dtype):
    x = (np.arange(16).reshape(1, 1, 4, 4) % 3).astype(dtype)
    y = pool(Tensor(x))
    assert y.dtype == np.float32
    np.testing.assert_array_equal(y.numpy(), pool(Tensor(x.astype(np.float32))).numpy())


@pytest.mark.parametrize("stride", [1, 2])
def test_an_infinite_gradient_stays_where_it_belongs(stride):
    x = Tensor(np.array([[[[-1.0, 4.0, 3.0], [1.0, 0.0, 2.0]]]]), requires_grad=True)
    y = max_pool2d(x, 2, stride)
    dy = Tensor(np.full(y.shape, np.inf), requires_grad=True)
    dx = dl.grad(y, x, dy, create_graph=True)
    assert dx.tolist() == [[[[0, np.inf, 0], [0, 0, 0]]]]
    back = dl.grad(dx, dy, Tensor(np.where(x.numpy() == 4, 5.0, np.inf)))
    assert back.numpy().ravel().tolist() == [5.0] * y.numel()


@pytest.mark.parametrize(("kernel", "dtype"), [(2, "uint8"), (16, "uint8"), ((16, 17), "uint16")])
def test_switches_are_small(kernel, dtype):
    x = Tensor(np.random.default_rng(0).standard_normal((1, 1, 20, 20)), requires_grad=True)
    (switches,) = max_pool2d(x, kernel, 1).grad_fn.saved
    assert switches.dtype == dtype


@pytest.mark.parametrize("pool", [max_pool2d, avg_pool2d])
def test_views_pieces_and_float32(monkeypatch, pool):
    x = np.random.default_rng(0).standard_normal((5, 6, 7, 8)).astype(np.float32)
    dy = Tensor(np.random.default_rng(1).standard_normal((5, 6, 4, 3)).astype(np.float32))

    def run(x):
        x = Tensor(x, requires_grad=True)
        y = pool(x, 3, (2, 3), 1)
        return y.numpy(), dl.grad(y, x, dy).numpy()

    expected = run(x)
    assert [array.dtype for array in expected] == [np.float32, np.float32]
    for limit in (1, 100, 1000):
        monkeypatch.setitem(work.PIECE_BYTES, "cpu", limit)
        for view in (x, np.ascontiguousarray(x[:, ::-1, ::-1, ::-1])[:, ::-1, ::-1, ::-1], x.copy(order="F")):
            for found, whole in zip(run(view), expected, strict=True):
                np.testing.assert_array_equal(found, whole)


@pytest.mark.parametrize(
    ("pool", "shape"),
    [
        (lambda x: max_pool2d(x, 2), (0, 3, 2, 2)),
        (lambda x: avg_pool2d(x, 2), (0, 3, 2, 2)),
        (lambda x: adaptive_avg_pool2d(x, 3), (0, 3, 3, 3)),
        (global_avg_pool2d, (0, 3, 1, 1)),
        (global_max_pool2d, (0, 3, 1, 1)),
    ],
)
def test_empty_batch(pool, shape):
    x = Tensor(np.zeros((0, 3, 4, 4), np.float32), requires_grad=True)
    y = pool(x)
    assert y.shape == shape
    assert dl.grad(y.sum(), x).shape == x.shape


def test_global_pooling():
    x = np.random.default_rng(0).standard_normal((2, 3, 4, 5))
    np.testing.assert_allclose(global_avg_pool2d(Tensor(x)).numpy()[..., 0, 0], x.mean((2, 3)))
    np.testing.assert_array_equal(global_max_pool2d(Tensor(x)).numpy()[..., 0, 0], x.max((2, 3)))


def zeros(*shape):
    return Tensor(np.zeros(shape, np.float32))


def unpool(*indices, **options):
    return max_unpool2d(zeros(1, 1, 1, 2), Tensor(np.array(indices).reshape(1, 1, 1, 2)), 2, **options)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: max_pool2d(zeros(3, 4, 4), 2), "expected feature maps of (N, C, H, W), got (3, 4, 4)"),
        (lambda: adaptive_avg_pool2d(zeros(4, 4), 2), "expected feature maps of (N, C, H, W), got (4, 4)"),
        (
            lambda: avg_pool2d(zeros(1, 3, 4, 4), 3, padding=2),
            "padding must be at most half of the window, got 2 for a kernel of 3",
        ),
        (
            lambda: max_pool2d(zeros(1, 3, 4, 4), 5),
            "a window of 5×5 does not fit into a picture of 4×4 with padding 0×0: use a larger picture, "
            "a smaller kernel or more padding",
        ),
        (
            lambda: adaptive_avg_pool2d(zeros(1, 3, 4, 4), 0),
            "output_size must be an integer ≥ 1 or a pair of them, got (0, 0)",
        ),
        (
            lambda: max_unpool2d(zeros(1, 1, 2, 2), zeros(1, 1, 4), 2),
            "expected x and indices of one shape (N, C, OH, OW), got (1, 1, 2, 2) and (1, 1, 4)",
        ),
        *[
            (
                call,
                "the indices do not belong to windows of 2 in feature maps of 2×4: give max_unpool2d the "
                "kernel_size, stride and padding of max_pool2d, and as output_size its (H, W)",
            )
            for call in (lambda: unpool(2, 3), lambda: unpool(0, 8), lambda: unpool(-4, 2))
        ],
    ],
)
def test_messages(call, message):
    with pytest.raises(ShapeError) as error:
        call()
    assert str(error.value) == message
