"""What is asked of every operation, at every sample: by the tests, by `replay` and by tests of the tests."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from minidl.autograd import grad
from minidl.backend import to_device
from minidl.gradcheck import gradcheck
from minidl.operations.row import Kink, Operation, Sample
from minidl.tensor import Tensor

DTYPES = ("float64", "float32")
# As far as rounding may take a number from the right one: relative, and in parts of the largest
TOLERANCE = {"float64": (1e-10, 1e-12), "float32": (1e-4, 1e-5)}


def contiguous(x: np.ndarray) -> np.ndarray:
    """Row by row."""
    return x.copy()


def fortran(x: np.ndarray) -> np.ndarray:
    """The first axis the fastest."""
    return x.copy("F")


def backwards(x: np.ndarray) -> np.ndarray:
    """From the last number to the first, with gaps."""
    wide = np.empty([2 * n for n in x.shape], x.dtype)
    view: np.ndarray = wide[(..., *[slice(None, None, -2)] * x.ndim)]  # type: ignore[arg-type]
    view[...] = x
    return view


LAYOUTS = {layout.__name__: layout for layout in (contiguous, fortran, backwards)}


def check(row: Operation, sample: Sample, method: str = "full") -> None:
    """Everything, at one sample. Raises AssertionError and says what is wrong."""
    for dtype, layout in cases():
        check_value(row, sample, dtype, layout)
    if row.differentiable:
        check_gradients(row, sample, method)
        check_each_input_alone(row, sample)
        for dtype, layout in cases():
            check_layout(row, sample, dtype, layout)


def cases() -> Iterator[tuple[str, str]]:
    """Every (dtype, layout) that a sample is tried in."""
    return ((dtype, layout) for dtype in DTYPES for layout in LAYOUTS)


def leaves(sample: Sample, dtype: str = "float64", layout: str = "contiguous") -> list[Tensor]:
    """The inputs, which no operation may write into: NumPy itself would refuse."""
    arrays = [LAYOUTS[layout](x.astype(dtype)) for x in sample.inputs]
    for x in arrays:
        x.flags.writeable = False
    return [Tensor(x, requires_grad=True) for x in arrays]


def cotangent(shape: tuple[int, ...], dtype: Any = "float64") -> np.ndarray:
    """The v of v · f(x): one number for each output, the same for every layout and library."""
    return np.cos(np.arange(np.prod(shape, dtype=int), dtype="float64")).reshape(shape).astype(dtype)


def gradients(row: Operation, sample: Sample, inputs: list[Tensor]) -> list[Tensor]:
    """∂(v · f)/∂x for each input x."""
    y = sample.apply(row.function, inputs)
    return list(grad(y, inputs, Tensor(cotangent(y.shape, y.dtype))))


def check_value(row: Operation, sample: Sample, dtype: str = "float64", layout: str = "contiguous") -> None:
    """The value, its shape and its type are those of plain NumPy."""
    y = sample.apply(row.function, leaves(sample, dtype, layout))
    expected = np.asarray(sample.apply(row.numpy, [x.astype(dtype) for x in sample.inputs]))
    assert_same("the value", y.numpy(), expected, dtype)
    if y.requires_grad != row.differentiable:
        raise AssertionError(f"requires_grad of the value is {y.requires_grad}, not {row.differentiable}")


def check_gradients(row: Operation, sample: Sample, method: str = "full") -> None:
    """The first and the second gradient are those that differences show, and no sample lies at a kink."""
    if any(x.size in (0, 4) for x in sample.inputs):
        method = "full"  # there are no directions in an empty array
    result = gradcheck(lambda *xs: sample.apply(row.function, xs), *sample.inputs, order=2, method=method)
    if not result or any(found.kinks for found in result.checks):
        raise AssertionError(str(result))


def check_each_input_alone(row: Operation, sample: Sample) -> None:
    """A gradient is the same where it is the only one asked for."""
    together = gradients(row, sample, leaves(sample))
    for i, expected in enumerate(together if len(together) > 1 else ()):
        inputs = leaves(sample)
        for j, x in enumerate(inputs):
            x.requires_grad_(i == j)
        y = sample.apply(row.function, inputs)
        alone = grad(y, inputs[i], Tensor(cotangent(y.shape, y.dtype)))
        assert_same(f"the gradient of input {i} alone", alone.numpy(), expected.numpy(), "float64")


def check_layout(row: Operation, sample: Sample, dtype: str, layout: str) -> None:
    """The gradients do not depend on how the inputs lie in memory, and have their types."""
    expected = gradients(row, sample, leaves(sample))
    found = gradients(row, sample, leaves(sample, dtype, layout))
    for i, (dx, right) in enumerate(zip(found, expected, strict=True)):
        assert_same(f"the gradient of input {i}", dx.numpy(), right.numpy().astype(dtype), dtype)


def check_kink(row: Operation, kink: Kink) -> None:
    """At a kink, backward takes the slope that the row says."""
    inputs = leaves(kink.sample)
    y = kink.sample.apply(row.function, inputs)
    for i, (dx, right) in enumerate(zip(grad(y.sum(), inputs), kink.gradients, strict=True)):
        assert_same(f"the gradient of input {i} at the kink", dx.numpy(), np.array(right, float), "float64")


def check_gpu(row: Operation, sample: Sample) -> None:
    """The GPU computes what the CPU computes, and stays there."""
    here = leaves(sample, "float32")
    there = [Tensor(to_device(x.data, "gpu"), requires_grad=True) for x in here]
    y, z = (sample.apply(row.function, inputs) for inputs in (here, there))
    results = [("the value", z, y)]
    if row.differentiable:
        v = cotangent(y.shape, "float32")
        pairs = zip(grad(z, there, Tensor(v).to("gpu")), grad(y, here, Tensor(v)), strict=True)
        results += [(f"the gradient of input {i}", *pair) for i, pair in enumerate(pairs)]
    for what, found, expected in results:
        if found.device != "gpu":
            raise AssertionError(f"{what} has left the GPU")
        assert_same(what, found.numpy(), expected.numpy(), "float32")


def assert_same(what: str, found: np.ndarray, expected: np.ndarray, dtype: str) -> None:
    """The same numbers but for rounding in `dtype`, of the same shape and type."""
    rtol, of_largest = TOLERANCE[dtype]
    atol = of_largest * float(np.abs(expected[np.isfinite(expected)]).max(initial=0.0))
    np.testing.assert_allclose(found, expected, rtol, atol, err_msg=f"{what} in {dtype}", strict=True)
