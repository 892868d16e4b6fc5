"""Every check, over every sample that a row of the table of operations lists."""

from __future__ import annotations

import inspect
import math
from typing import Any

import pytest

from minidl import Tensor
from minidl import functional as F
from minidl.operations import OPERATIONS, checks

CASES = [
    pytest.param(row, sample, id=f"{row.name}-{sample}")
    for row in OPERATIONS.values()
    for sample in row.listed()
]
DIFFERENTIABLE = [case for case in CASES if case.values[0].differentiable]
each_case = pytest.mark.parametrize(("row", "sample"), CASES)
each_differentiable_case = pytest.mark.parametrize(("row", "sample"), DIFFERENTIABLE)
each_dtype = pytest.mark.parametrize("dtype", checks.DTYPES)


def test_every_operation_has_a_row():
    public = {name for name in F.__all__ if inspect.isfunction(getattr(F, name))}
    assert public - set(OPERATIONS) == {"conv_algorithm"}  # a setting
    assert set(OPERATIONS) - public == {"batch_norm_eval"}  # batch_norm with given statistics


def test_every_row_is_complete():
    for row in OPERATIONS.values():
        assert row.listed(), f"{row.name} lists no samples"
        assert row.mistakes, f"{row.name} names no mistake"


@each_dtype
@each_case
def test_value(row, sample, dtype):
    checks.check_value(row, sample, dtype)


@each_differentiable_case
def test_gradients(row, sample):
    checks.check_gradients(row, sample)


@each_differentiable_case
def test_second_gradients(row, sample):
    checks.check_second_gradients(row, sample)


@each_differentiable_case
def test_gradients_of_some_inputs(row, sample):
    checks.check_subsets(row, sample)


@each_differentiable_case
def test_mixed_types(row, sample):
    checks.check_mixed_types(row, sample)


@each_dtype
@pytest.mark.parametrize("layout", checks.LAYOUTS)
@each_differentiable_case
def test_the_layout_in_memory_does_not_matter(row, sample, dtype, layout):
    checks.check_value(row, sample, dtype, layout)
    checks.check_layout(row, sample, dtype, layout)


@pytest.mark.parametrize(
    ("row", "kink"),
    [pytest.param(row, kink, id=row.name) for row in OPERATIONS.values() for kink in row.kinks],
)
def test_slopes_at_kinks(row, kink):
    checks.check_kink(row, kink)


@pytest.mark.gpu
@each_case
def test_the_gpu_computes_the_same(row, sample):
    checks.check_gpu(row, sample)


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


def test_relu_stops_an_infinite_gradient_where_it_is_flat():
    x = Tensor([-1.0, 0.0, 2.0], requires_grad=True)
    F.relu(x).backward(Tensor([math.inf] * 3))
    assert x.grad.tolist() == [0, 0, math.inf]
