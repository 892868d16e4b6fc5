"""What is asked of every operation, at every sample: by the tests, by `replay` and by tests of the tests."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from minidl.autograd import walk
from minidl.backend import to_device
from minidl.functional import concatenate
from minidl.gradcheck import gradcheck
from minidl.operations.row import Kink, Operation, Sample
from minidl.paths import grad
from minidl.recording import no_grad, set_grad_enabled
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


def channels_last(x: np.ndarray) -> np.ndarray:
    """The second axis the fastest, as a convolution may leave its result."""
    return x.copy() if x.ndim < 3 else np.moveaxis(np.moveaxis(x, 1, -1).copy(), -1, 1)


LAYOUTS = {layout.__name__: layout for layout in (contiguous, fortran, backwards, channels_last)}
FORMS = [(dtype, layout) for dtype in DTYPES for layout in LAYOUTS]  # in which every sample is tried


def check(row: Operation, sample: Sample, method: str = "full") -> None:
    """Everything, at one sample. Raises AssertionError and says what is wrong."""
    for dtype, layout in FORMS:
        check_value(row, sample, dtype, layout)
    if row.differentiable:
        check_gradients(row, sample, method)
        check_second_gradients(row, sample, method)
        check_subsets(row, sample)
        check_mixed_types(row, sample)
        for dtype, layout in FORMS:
            check_layout(row, sample, dtype, layout)


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
    """∂(v · f)/∂x for each input x, in the type that backward computes in: `grad` would hide another."""
    y = sample.apply(row.function, inputs)
    with no_grad():
        found = walk(y, Tensor(cotangent(y.shape, y.dtype)), retain_graph=False)
    return [found[x] for x in inputs]


def check_value(row: Operation, sample: Sample, dtype: str = "float64", layout: str = "contiguous") -> None:
    """The value, its shape and its type are those of plain NumPy."""
    y = sample.apply(row.function, leaves(sample, dtype, layout))
    expected = np.asarray(sample.apply(row.numpy, [x.astype(dtype) for x in sample.inputs]))
    assert_same("the value", y.numpy(), expected, dtype)
    if y.requires_grad != row.differentiable:
        raise AssertionError(f"requires_grad of the value is {y.requires_grad}, not {row.differentiable}")


def check_gradients(row: Operation, sample: Sample, method: str = "full") -> None:
    """The gradient is the one that differences show, and no sample lies at a kink."""
    _gradcheck(lambda *xs: sample.apply(row.function, xs), sample.inputs, method)


def check_second_gradients(row: Operation, sample: Sample, method: str = "full") -> None:
    """So is the gradient of the gradient: ∂(v · f)/∂x, differentiated by the inputs x and by v = ∂L/∂y."""

    def first_gradients(v: Tensor, *xs: Tensor) -> Tensor:
        with set_grad_enabled(True):
            y = sample.apply(row.function, xs)
            return concatenate([dx.reshape(-1) for dx in grad(y, xs, v, create_graph=True)])

    inputs = leaves(sample)
    v = cotangent(sample.apply(row.function, inputs).shape)
    once = [dx.numpy().ravel() for dx in gradients(row, sample, inputs)]
    again = first_gradients(Tensor(v), *inputs)
    assert_same("the gradient that can be differentiated", again.numpy(), np.concatenate(once), "float64")
    _gradcheck(first_gradients, [v, *sample.inputs], method)


def _gradcheck(f: Callable[..., Tensor], inputs: list[np.ndarray], method: str) -> None:
    if not all(x.size for x in inputs):
        method = "full"  # in an empty array there are no directions
    result = gradcheck(f, *inputs, method=method)
    if not result or any(found.kinks for found in result.checks):
        raise AssertionError(str(result))


def check_subsets(row: Operation, sample: Sample) -> None:
    """The first and the second gradients are the same where only some inputs ask for theirs."""
    count = len(sample.inputs)
    expected = _blocks(row, sample, range(count))
    for size in range(1, count):
        for asking in itertools.combinations(range(count), size):
            for what, found in _blocks(row, sample, asking).items():
                assert_same(f"{what}, with {asking} asking,", found, expected[what], "float64")


def _blocks(row: Operation, sample: Sample, asking: Sequence[int]) -> dict[str, np.ndarray]:
    """∂(v · f)/∂xᵢ, and that times some u differentiated by xⱼ, for the inputs i and j that ask."""
    inputs = leaves(sample)
    for i, x in enumerate(inputs):
        x.requires_grad_(i in asking)
    asked = [inputs[i] for i in asking]
    y = sample.apply(row.function, inputs)
    found = {}
    for i, dx in zip(asking, grad(y, asked, Tensor(cotangent(y.shape)), create_graph=True), strict=True):
        found[f"the gradient of input {i}"] = dx.numpy()
        along = (dx * Tensor(cotangent(dx.shape))).sum()
        second = [None] * len(asked)
        if along.requires_grad:
            second = grad(along, asked, retain_graph=True, allow_unused=True)
        for j, x, ddx in zip(asking, asked, second, strict=True):
            found[f"the gradient of input {i} by input {j}"] = (x * 0 if ddx is None else ddx).numpy()
    return found


def check_layout(row: Operation, sample: Sample, dtype: str, layout: str) -> None:
    """The gradients do not depend on how the inputs lie in memory, and have their types."""
    expected = gradients(row, sample, leaves(sample))
    found = gradients(row, sample, leaves(sample, dtype, layout))
    for i, (dx, right) in enumerate(zip(found, expected, strict=True)):
        assert_same(f"the gradient of input {i}", dx.numpy(), right.numpy().astype(dtype), dtype)


def check_mixed_types(row: Operation, sample: Sample) -> None:
    """Inputs of two types are worked on in the wider one, and each gets its gradient in its own."""
    value = sample.apply(row.function, leaves(sample)).numpy()
    expected = gradients(row, sample, leaves(sample))
    for wide in range(len(expected)):
        types = ["float64" if i == wide else "float32" for i in range(len(expected))]
        inputs = [Tensor(x.astype(t), requires_grad=True) for x, t in zip(sample.inputs, types, strict=True)]
        y = sample.apply(row.function, inputs).numpy()
        assert_same(f"the value for inputs of {types}", y, value, "float32")
        found = gradients(row, sample, inputs)
        for i, (dx, right, t) in enumerate(zip(found, expected, types, strict=True)):
            what = f"the gradient of input {i} of {types}"
            assert_same(what, dx.numpy(), right.numpy().astype(t), "float32")


def check_kink(row: Operation, kink: Kink) -> None:
    """At a kink, backward takes the slope that the row says."""
    inputs = leaves(kink.sample)
    with np.errstate(all="ignore"):  # some are poles
        found = grad(kink.sample.apply(row.function, inputs).sum(), inputs)
    for i, (dx, right) in enumerate(zip(found, kink.gradients, strict=True)):
        assert_same(f"the gradient of input {i} at the kink", dx.numpy(), np.array(right, float), "float64")


def check_gpu(row: Operation, sample: Sample) -> None:
    """The GPU computes what the CPU computes, and stays there."""
    here = leaves(sample, "float32")
    there = [Tensor(to_device(x.data, "gpu"), requires_grad=True) for x in here]
    y, z = (sample.apply(row.function, inputs) for inputs in (here, there))
    results = [("the value", z, y)]
    if row.differentiable:
        v = cotangent(y.shape, y.dtype)
        pairs = zip(grad(z, there, Tensor(v).to("gpu")), grad(y, here, Tensor(v)), strict=True)
        results += [(f"the gradient of input {i}", *pair) for i, pair in enumerate(pairs)]
    for what, found, expected in results:
        if found.device != "gpu":
            raise AssertionError(f"{what} has left the GPU")
        assert_same(what, found.numpy(), expected.numpy(), "float32")


def assert_same(what: str, found: np.ndarray, expected: np.ndarray, dtype: str) -> None:
    """The same numbers but for rounding as in `dtype`, of the same shape and type."""
    rtol, of_largest = TOLERANCE[dtype]
    atol = of_largest * float(np.abs(expected[np.isfinite(expected)]).max(initial=0.0))
    message = f"{what}, computed in {dtype}"
    np.testing.assert_allclose(found, expected, rtol, atol, err_msg=message, strict=True)
