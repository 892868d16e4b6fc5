"""Every check, over every row of the table of operations; and hypothesis, over what the rows do not list."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import pytest

import minidl as dl
from minidl import Tensor
from minidl import functional as F
from minidl.operations import OPERATIONS, Operation, Sample

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
    assert public - set(OPERATIONS) == set()


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


@pytest.mark.parity
@each_differentiable_case
def test_gradients_are_those_of_pytorch(row, sample):
    pytest.importorskip("torch")
    if row.torch is None:
        pytest.skip("PyTorch has no such operation")
    y, found = gradients(row, sample, leaves(sample))
    theirs = [torch.tensor(x, requires_grad=True) for x in sample.inputs]
    z = sample.apply(lambda *args, **options: row.torch(torch, *args, **options), theirs)
    z.backward(torch.tensor(np.cos(np.arange(y.numel(), dtype=np.float64)).reshape(y.shape)))
    for dx, t in zip(found, theirs, strict=True):
        np.testing.assert_allclose(dx, t.grad.numpy(), rtol=1e-9, atol=1e-12)


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
