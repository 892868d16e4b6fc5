"""Every check, over every row of the table of operations; and hypothesis, over what the rows do not list."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import minidl as dl
from minidl import Tensor
from minidl import functional as F
from minidl.backend import gpu_unavailable
from minidl.operations import OPERATIONS, Draw, Operation, Sample

try:
    import torch
except ImportError:
    torch = None

CASES = [
    pytest.param(row, sample, id=f"{row.name}-{sample}")
    for row in OPERATIONS.values()
    for sample in row.draw()
]
DIFFERENTIABLE = [case for case in CASES if case.values[0].differentiable]
each_case = pytest.mark.parametrize(("row", "sample"), CASES)
each_differentiable_case = pytest.mark.parametrize(("row", "sample"), DIFFERENTIABLE)


def leaves(sample: Sample, dtype: str = "float64") -> list[Tensor]:
    return [Tensor(x.astype(dtype), requires_grad=True) for x in sample.inputs]


def gradients(row: Operation, sample: Sample, inputs: list[Tensor]) -> tuple[Tensor, list[np.ndarray]]:
    """The value, and ∂(v · value)/∂input for a v that is the same for every layout of the inputs."""
    y = sample.apply(row.function, inputs)
    v = np.cos(np.arange(y.numel(), dtype=np.float64)).reshape(y.shape).astype(y.dtype)
    return y, [dx.numpy() for dx in dl.grad(y, inputs, Tensor(v))]


def reference(row: Operation, sample: Sample, dtype: str) -> np.ndarray:
    """What PyTorch computes, or plain NumPy where it is not installed or has no such operation."""
    arrays = [x.astype(dtype) for x in sample.inputs]
    if torch is None or row.torch is None:
        if row.numpy is None:
            pytest.skip("needs PyTorch")
        return np.asarray(sample.apply(row.numpy, arrays))
    return sample.apply(
        lambda *args, **options: row.torch(torch, *args, **options), map(torch.tensor, arrays)
    ).numpy()


def test_every_operation_has_a_row():
    public = {name for name in F.__all__ if inspect.isfunction(getattr(F, name))}
    assert public - set(OPERATIONS) == {"conv_algorithm"}  # a setting


@each_case
def test_value(row, sample):
    inputs = leaves(sample)
    for x in inputs:
        x.data.flags.writeable = False  # no operation writes into its inputs: NumPy itself would refuse
    y, expected = sample.apply(row.function, inputs), reference(row, sample, "float64")
    np.testing.assert_allclose(y.numpy(), expected, rtol=1e-10, atol=1e-13, strict=True)
    assert y.requires_grad == row.differentiable


@each_case
def test_float32_in_float32_out(row, sample):
    inputs = leaves(sample, "float32")
    y, expected = sample.apply(row.function, inputs), reference(row, sample, "float32")
    np.testing.assert_allclose(y.numpy(), expected, rtol=2e-5, atol=2e-6)
    if row.differentiable and row.name != "astype":
        assert y.dtype == np.float32
        assert {dx.dtype for dx in gradients(row, sample, inputs)[1]} <= {np.dtype("float32")}


@each_differentiable_case
def test_gradients(row, sample):
    if row.name == "astype":
        pytest.skip("differences of 10⁻⁴ drown in float32")
    result = dl.gradcheck(lambda *xs: sample.apply(row.function, xs), *sample.inputs, order=2)
    assert result, str(result)
    assert sum(check.kinks for check in result.checks) == 0, f"a sample lies at a kink: {result}"


def torch_gradients(row: Operation, sample: Sample, y: Tensor) -> list[np.ndarray]:
    """What `gradients` computes, by PyTorch."""
    inputs = [torch.tensor(x, requires_grad=True) for x in sample.inputs]
    z = sample.apply(lambda *args, **options: row.torch(torch, *args, **options), inputs)
    z.backward(torch.tensor(np.cos(np.arange(y.numel(), dtype=np.float64)).reshape(y.shape)))
    return [x.grad.numpy() for x in inputs]


@pytest.mark.parity
@each_differentiable_case
def test_gradients_are_those_of_pytorch(row, sample):
    pytest.importorskip("torch")
    if row.torch is None:
        pytest.skip("PyTorch has no such operation")
    y, found = gradients(row, sample, leaves(sample))
    for dx, expected in zip(found, torch_gradients(row, sample, y), strict=True):
        np.testing.assert_allclose(dx, expected, rtol=1e-9, atol=1e-12)


def strided(x: np.ndarray) -> np.ndarray:
    """The same numbers, laid out backwards and with gaps."""
    wide = np.empty([2 * n for n in x.shape], x.dtype)
    view = wide[(..., *(slice(None, None, -2) for _ in x.shape))]
    view[...] = x
    return view


def fortran(x: np.ndarray) -> np.ndarray:
    """The same numbers, the first axis the fastest."""
    return x.copy("F")


@each_differentiable_case
def test_the_layout_in_memory_does_not_matter(row, sample):
    y, expected = gradients(row, sample, leaves(sample))
    for layout in (strided, fortran):
        views = [Tensor(layout(x), requires_grad=True) for x in sample.inputs]
        z, found = gradients(row, sample, views)
        np.testing.assert_allclose(z.numpy(), y.numpy(), rtol=1e-12, atol=1e-15)
        for dx, dx_expected in zip(found, expected, strict=True):
            np.testing.assert_allclose(dx, dx_expected, rtol=1e-11, atol=1e-14)


@pytest.mark.gpu
@each_differentiable_case
def test_the_gpu_computes_the_same(row, sample):
    if reason := gpu_unavailable():
        pytest.skip(reason)
    y, expected = gradients(row, sample, leaves(sample, "float32"))
    there = [Tensor(x.data, requires_grad=True) for x in (x.to("gpu") for x in leaves(sample, "float32"))]
    z = sample.apply(row.function, there)
    v = np.cos(np.arange(y.numel(), dtype=np.float64)).reshape(y.shape).astype(y.dtype)
    assert z.device == "gpu"
    np.testing.assert_allclose(z.numpy(), y.numpy(), rtol=1e-4, atol=1e-5)
    for dx, dx_expected in zip(dl.grad(z, there, Tensor(v).to("gpu")), expected, strict=True):
        assert dx.device == "gpu"
        np.testing.assert_allclose(dx.numpy(), dx_expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    "mistake",
    [
        pytest.param(m, id=f"{row.name}-{i}")
        for row in OPERATIONS.values()
        for i, m in enumerate(row.mistakes)
    ],
)
def test_mistakes_are_named(mistake: Any):
    with pytest.raises(mistake.error) as caught:
        mistake.call()
    assert str(caught.value) == mistake.message


# Drawn by hypothesis: shapes, axes, options and dtypes that the rows do not list


drawn = settings(max_examples=60)
SHAPES = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)
FULL_SHAPES = hnp.array_shapes(min_dims=1, max_dims=4, min_side=1, max_side=4)
DTYPES = st.sampled_from(["float32", "float64"])
ELEMENTWISE = sorted(
    {"negative", "absolute", "exp", "log", "sqrt", "sigmoid", "tanh", "relu", "softplus", "gelu"}
)
BROADCAST = sorted({"add", "subtract", "multiply", "divide", "maximum", "minimum"})
REDUCTIONS = sorted({"sum", "mean", "max", "min", "logsumexp"})


def check(name: str, sample: Sample, dtype: str = "float64") -> None:
    """The value against plain NumPy, the dtype, and in float64 the gradient."""
    row = OPERATIONS[name]
    y = sample.apply(row.function, leaves(sample, dtype))
    expected = np.asarray(sample.apply(row.numpy, [x.astype(dtype) for x in sample.inputs]))
    np.testing.assert_allclose(y.numpy(), expected, rtol=2e-5 if dtype == "float32" else 1e-10, atol=1e-6)
    assert (y.shape, y.dtype) == (expected.shape, dtype)
    if dtype == "float64" and sum(x.size for x in sample.inputs) <= 40:
        result = dl.gradcheck(lambda *xs: sample.apply(row.function, xs), *sample.inputs)
        assert result, f"{name}-{sample}: {result}"


@drawn
@given(name=st.sampled_from(ELEMENTWISE), shape=SHAPES, dtype=DTYPES)
def test_drawn_elementwise(name, shape, dtype):
    r = Draw(name)
    check(name, Sample(r.positive(*shape) if name in ("log", "sqrt") else r(*shape)), dtype)


@drawn
@given(
    name=st.sampled_from(BROADCAST),
    shapes=hnp.mutually_broadcastable_shapes(num_shapes=2, max_dims=3, min_side=0, max_side=3),
    dtype=DTYPES,
)
def test_drawn_broadcasting(name, shapes, dtype):
    r = Draw(name)
    check(name, Sample(*(r(*shape) for shape in shapes.input_shapes)), dtype)


@drawn
@given(data=st.data(), name=st.sampled_from(REDUCTIONS), shape=FULL_SHAPES, dtype=DTYPES)
def test_drawn_reductions(data, name, shape, dtype):
    axes = st.none() | st.integers(-len(shape), len(shape) - 1) | hnp.valid_tuple_axes(len(shape), min_size=1)
    axis, keepdims = data.draw(axes), data.draw(st.booleans())
    check(name, Sample(Draw(name).apart(*shape), axis=axis, keepdims=keepdims), dtype)


@drawn
@given(
    shapes=hnp.mutually_broadcastable_shapes(signature="(m?,n),(n,p?)->(m?,p?)", max_dims=2, max_side=3),
    dtype=DTYPES,
)
def test_drawn_matmul(shapes, dtype):
    r = Draw("matmul")
    check("matmul", Sample(*(r(*shape) for shape in shapes.input_shapes)), dtype)


@drawn
@given(data=st.data(), shape=FULL_SHAPES)
def test_drawn_basic_indexing(data, shape):
    index = data.draw(hnp.basic_indices(shape, allow_newaxis=True))
    check("getitem", Sample(Draw("getitem")(*shape), index))


@drawn
@given(data=st.data(), shape=FULL_SHAPES)
def test_drawn_index_arrays(data, shape):
    index = data.draw(hnp.integer_array_indices(shape, result_shape=hnp.array_shapes(max_dims=2, max_side=3)))
    check("getitem", Sample(Draw("getitem")(*shape), index))


@drawn
@given(data=st.data(), shape=FULL_SHAPES)
def test_drawn_permutations(data, shape):
    axes = data.draw(st.permutations(range(len(shape))))
    check("permute", Sample(Draw("permute")(*shape), tuple(axes)))


@drawn
@given(data=st.data(), shape=FULL_SHAPES)
def test_drawn_softmax(data, shape):
    axis = data.draw(st.integers(-len(shape), len(shape) - 1))
    for name in ("softmax", "log_softmax"):
        check(name, Sample(Draw(name)(*shape), axis=axis))


@pytest.mark.parity
@settings(max_examples=40)
@given(data=st.data(), name=st.sampled_from(["conv2d", "max_pool2d", "avg_pool2d"]))
def test_drawn_windows(data, name):
    """Kernel, stride, padding, dilation, groups as PyTorch takes them: its value and its gradients."""
    pytest.importorskip("torch")
    r, small = Draw(name), st.tuples(st.integers(1, 3), st.integers(1, 3))
    kernel, stride, dilation = data.draw(small), data.draw(small), data.draw(small)
    if name == "avg_pool2d":
        dilation = (1, 1)
    extent = tuple(d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True))
    padding = tuple(data.draw(st.integers(0, k // 2)) for k in kernel)
    # A window that sees nothing but border has no largest pixel; there PyTorch writes outside its memory.
    size = tuple(e - p + data.draw(st.integers(0, 4)) for e, p in zip(extent, padding, strict=True))
    options: dict[str, Any] = {"stride": stride, "padding": padding}
    if name != "avg_pool2d":
        options["dilation"] = dilation
    if name == "conv2d":
        groups = options["groups"] = data.draw(st.integers(1, 2))
        sample = Sample(r(2, 2 * groups, *size), r(2 * groups, 2, *kernel), r(2 * groups), **options)
    else:
        options["ceil_mode"] = data.draw(st.booleans())
        sample = Sample(r.apart(2, 2, *size), kernel, **options)
    row = OPERATIONS[name]
    y, found = gradients(row, sample, leaves(sample))
    np.testing.assert_allclose(y.numpy(), reference(row, sample, "float64"), rtol=1e-10, atol=1e-12)
    for dx, expected in zip(found, torch_gradients(row, sample, y), strict=True):
        np.testing.assert_allclose(dx, expected, rtol=1e-9, atol=1e-12)
