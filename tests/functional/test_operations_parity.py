"""PyTorch beside every row, at its samples and at drawn ones: value, first and second gradient, types."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from drawn_cases import cases
from hypothesis import given, settings

import minidl as dl
from minidl import Tensor
from minidl import functional as F
from minidl.operations import OPERATIONS, Operation, Sample, checks

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.parity

# The rows of which at least 3,000 distinct samples are compared
FAMILIES = {
    "convolution": ("conv2d", "conv_transpose2d"),
    "pooling": ("max_pool2d", "avg_pool2d", "adaptive_avg_pool2d", "max_unpool2d"),
    "matrix products": ("matmul", "linear"),
    "indexing": ("getitem",),
    "reductions": ("sum", "mean", "var", "max", "min", "logsumexp", "argmax"),
    "softmax": ("softmax", "log_softmax"),
    "batch norm": ("batch_norm", "batch_norm_eval"),
    "cross-entropy": ("cross_entropy", "nll_loss", "binary_cross_entropy_with_logits"),
}
IN_A_FAMILY = {name for names in FAMILIES.values() for name in names}
compared: dict[str, set[str]] = {}  # of each row, the distinct samples


def named(y: Any, first: Sequence[Any], second: Sequence[Any]) -> Iterator[tuple[str, Any]]:
    yield "value", y
    for i, (dx, ddx) in enumerate(zip(first, second, strict=True)):
        yield f"gradient of input {i}", dx
        yield f"second gradient of input {i}", ddx


def ours(row: Operation, sample: Sample, dtype: str) -> dict[str, np.ndarray]:
    """The value y, its gradients ∂(v·y)/∂x, and of those, all times some u, the gradients again."""
    inputs = checks.leaves(sample, dtype)
    y = sample.apply(row.function, inputs)
    if not row.differentiable:
        return {"value": y.numpy()}
    first = dl.grad(y, inputs, Tensor(checks.cotangent(y.shape, y.dtype)), create_graph=True)
    along = sum((dx * Tensor(checks.cotangent(dx.shape, dtype))).sum() for dx in first)
    second = dl.grad(along, inputs, allow_unused=True) if along.requires_grad else [None] * len(inputs)
    second = [x * 0 if dx is None else dx for x, dx in zip(inputs, second, strict=True)]
    return {name: result.numpy() for name, result in named(y, first, second)}


def theirs(row: Operation, sample: Sample, dtype: str) -> Any:
    """The same by PyTorch; NotImplemented where it has no such operation."""
    inputs = [torch.tensor(x.astype(dtype), requires_grad=True) for x in sample.inputs]
    y = sample.apply(lambda *args, **options: row.torch(torch, *args, **options), inputs)
    if y is NotImplemented:
        return NotImplemented
    if not row.differentiable:
        return {"value": y.numpy(force=True)}
    v = torch.tensor(checks.cotangent(y.shape)).to(y.dtype)
    first = torch.autograd.grad(y, inputs, v, create_graph=True)
    along = sum((dx * torch.tensor(checks.cotangent(dx.shape, dtype))).sum() for dx in first)
    second = [torch.zeros_like(x) for x in inputs]
    if along.requires_grad:
        second = torch.autograd.grad(along, inputs, allow_unused=True, materialize_grads=True)
    return {name: result.numpy(force=True) for name, result in named(y, first, second)}


def compare(row: Operation, sample: Sample) -> bool:
    """Whether PyTorch has this operation; then it agrees, in both types."""
    for dtype in checks.DTYPES:
        expected = theirs(row, sample, dtype)
        if expected is NotImplemented:
            return False
        found = ours(row, sample, dtype)
        assert found.keys() == expected.keys()
        for name, result in found.items():
            checks.assert_same(name, result, expected[name], dtype)
    return True


@pytest.mark.parametrize(
    ("row", "sample"),
    [
        pytest.param(row, sample, id=f"{row.name}-{sample}")
        for row in OPERATIONS.values()
        for sample in row.listed()
    ],
)
def test_listed(row, sample):
    if not compare(row, sample):
        pytest.skip(row.note)


@pytest.mark.parametrize("name", OPERATIONS)
def test_drawn(name):
    @settings(max_examples=180 if name in IN_A_FAMILY else 40, report_multiple_bugs=False)
    @given(case=cases(name))
    def run(case):
        if compare(case.row, case.sample):
            compared.setdefault(name, set()).add(repr(case.sample))

    run()


def test_three_thousand_distinct_samples_were_compared(capsys):
    if set(compared) != set(OPERATIONS):
        pytest.skip("counts what test_drawn has compared of every row")
    counts = {family: sum(len(compared[name]) for name in names) for family, names in FAMILIES.items()}
    with capsys.disabled():
        print(f"\n{sum(counts.values())} distinct samples compared with PyTorch: {counts}")
        print(f"and {sum(len(compared[n]) for n in set(OPERATIONS) - IN_A_FAMILY)} of the other operations")
    assert sum(counts.values()) >= 3_000


@pytest.mark.parametrize(
    ("row", "kink"),
    [pytest.param(row, kink, id=row.name) for row in OPERATIONS.values() for kink in row.kinks],
)
def test_slopes_at_kinks_are_those_of_pytorch(row, kink):
    inputs = [torch.tensor(x, requires_grad=True) for x in kink.sample.inputs]
    y = kink.sample.apply(lambda *args, **options: row.torch(torch, *args, **options), inputs)
    for dx, expected in zip(torch.autograd.grad(y.sum(), inputs), kink.gradients, strict=True):
        np.testing.assert_allclose(dx.numpy(), expected)


# What the notes say


def test_every_note_is_tested_here():
    assert {row.name for row in OPERATIONS.values() if row.note} == {"getitem", "max_unpool2d", "power"}


def test_the_mixed_derivative_of_a_power_at_0():
    def mixed(grad, x, a):
        (dx,) = grad(x**a, [x], create_graph=True)
        return grad(dx, [a])[0].item()

    ours = mixed(dl.grad, Tensor([4.0], requires_grad=True), Tensor([0.0], requires_grad=True))
    theirs = mixed(
        torch.autograd.grad, torch.tensor([4.0], requires_grad=True), torch.tensor([0.0], requires_grad=True)
    )
    assert (ours, theirs) == (0.25, 0.0)


def test_an_integer_beside_arrays_is_one_of_them():
    x = np.arange(24.0).reshape(2, 3, 4)
    index = (0, slice(None), np.array([1, 2]))
    assert F.getitem(Tensor(x), index).shape == x[index].shape == (2, 3)
    assert torch.tensor(x)[0, :, torch.tensor([1, 2])].shape == (3, 2)


def test_slices_may_go_backwards():
    np.testing.assert_array_equal(Tensor([1.0, 2.0])[::-1].numpy(), [2.0, 1.0])
    with pytest.raises(ValueError, match="step must be greater than zero"):
        torch.tensor([1.0, 2.0])[::-1]


def test_numbers_unpooled_to_the_same_pixel_are_added():
    x, indices = np.array([[[[1.0, 2.0]]]]), np.array([[[[1, 1]]]])
    y = F.max_unpool2d(Tensor(x), Tensor(indices), (1, 2), stride=1)
    np.testing.assert_array_equal(y.numpy(), [[[[0, 3, 0]]]])
    z = torch.nn.functional.max_unpool2d(torch.tensor(x), torch.tensor(indices), (1, 2), stride=1)
    assert z[0, 0, 0, 1] in (1, 2)
