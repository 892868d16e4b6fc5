"""Batch norm and local response norm: PyTorch's numbers, twice differentiated."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minidl import Tensor, grad, no_grad
from minidl import functional as F
from minidl.errors import ShapeError

SHAPES = [(5, 3), (4, 3, 6), (2, 3, 4, 5)]


@pytest.mark.parity
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("affine", [True, False])
def test_batch_norm_has_pytorchs_values_and_derivatives(shape, training, affine):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    x, out, project = rng.standard_normal((3, *shape)) * 2 + 1
    weight, bias, mean, var = rng.random((4, 3)) + 0.5
    names = [x, weight, bias] if affine else [x]

    ours = [Tensor(a.copy(), requires_grad=True) for a in names]
    statistics = [Tensor(mean.copy()), Tensor(var.copy())]
    y = F.batch_norm(ours[0], *statistics, *ours[1:], training=training, momentum=0.3, eps=1e-2)
    first = grad((y * out).sum(), ours, create_graph=True)
    target = (first[0] * project).sum() + sum((g * g).sum() for g in first[1:])
    second = [None] * len(ours)
    if target.requires_grad:
        second = grad(target, ours, allow_unused=True)

    theirs = [torch.tensor(a, requires_grad=True) for a in names]
    their_statistics = [torch.tensor(mean), torch.tensor(var)]
    ty = torch.nn.functional.batch_norm(
        theirs[0], *their_statistics, *theirs[1:], training=training, momentum=0.3, eps=1e-2
    )
    tfirst = torch.autograd.grad((ty * torch.tensor(out)).sum(), theirs, create_graph=True)
    ttarget = (tfirst[0] * torch.tensor(project)).sum() + sum((g * g).sum() for g in tfirst[1:])
    tsecond = [None] * len(theirs)
    if ttarget.requires_grad:
        tsecond = torch.autograd.grad(ttarget, theirs, allow_unused=True)

    np.testing.assert_allclose(y.numpy(), ty.detach().numpy(), rtol=1e-10)
    for a, b in zip(first, tfirst, strict=True):
        np.testing.assert_allclose(a.numpy(), b.detach().numpy(), rtol=1e-8, atol=1e-10)
    for a, b in zip(second, tsecond, strict=True):
        a, b = (0.0 if v is None else v.detach().numpy() for v in (a, b))
        np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-9)
    for a, b in zip(statistics, their_statistics, strict=True):
        np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=1e-12)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("last", [True, False])
@pytest.mark.parametrize("size", [4, 200])  # up to ALONE numbers, and more
def test_batch_norms_gradient_in_blocks_is_that_of_its_formulas(size, last, training):
    r = np.random.default_rng(0)
    x, out = r.standard_normal((2, 3, 5, size, size)) * 2 + 1
    if last:
        x, out = (np.ascontiguousarray(a.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2) for a in (x, out))
    inputs = [Tensor(a, requires_grad=True) for a in (x, *r.random((2, 5)))]
    y = F.batch_norm(inputs[0], *map(Tensor, r.random((2, 5))), *inputs[1:], training=training)
    in_blocks = grad(y, inputs, Tensor(out), retain_graph=True)
    formulas = grad(y, inputs, Tensor(out), create_graph=True)
    for a, b in zip(in_blocks, formulas, strict=True):
        np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=1e-9, atol=1e-10 * size)
    y = F.batch_norm(inputs[0].detach(), *map(Tensor, r.random((2, 5))), *inputs[1:], training=training)
    weight_alone = grad(y, inputs[1:], Tensor(out))
    assert [t.shape for t in weight_alone] == [(5,), (5,)]


def test_batch_norm_in_float16_adds_up_in_float32():
    """A sum of 65,536 squares of about 1 is ∞ in float16."""
    r = np.random.default_rng(0)
    x, dy = r.standard_normal((2, 64, 4, 32, 32)).astype(np.float16)
    results = []
    for dtype in (np.float16, np.float32):
        inputs = [Tensor(a.astype(dtype), requires_grad=True) for a in (x, np.ones(4), np.zeros(4))]
        y = F.batch_norm(inputs[0], None, None, *inputs[1:], training=True)
        with no_grad():
            gradients = y.grad_fn.backward(Tensor(dy.astype(dtype)))
        assert {t.dtype for t in (y, *gradients)} == {np.dtype(dtype)}
        results.append([y, *gradients])
    for half, single in zip(*results, strict=True):
        np.testing.assert_allclose(half.numpy(), single.numpy(), rtol=2e-3, atol=4e-3)


def test_batch_norm_of_a_constant_channel_in_float16():
    r = np.random.default_rng(0)
    inputs = [Tensor(a.astype(np.float16), requires_grad=True) for a in (np.zeros((4, 1, 5, 5)), np.ones(1))]
    dy = r.standard_normal((4, 1, 5, 5)).astype(np.float16)
    F.batch_norm(inputs[0], None, None, inputs[1], training=True).backward(Tensor(dy))
    dx = (dy.astype(float) - dy.astype(float).mean()) / np.sqrt(1e-5)
    np.testing.assert_allclose(inputs[0].grad.numpy(), dx, rtol=0.02, atol=1)


def test_batch_norm_in_float32_keeps_only_its_input_and_numbers_per_channel():
    x = Tensor(np.random.default_rng(0).standard_normal((8, 4, 6, 6)).astype(np.float32), requires_grad=True)
    y = F.batch_norm(x, None, None, training=True)
    assert y.dtype == np.float32
    assert [kept.numel() for kept in y.grad_fn.saved] == [x.numel(), 4, 4, 4]
    assert y.grad_fn.saved[0].data is x.data
    y.sum().backward()
    assert x.grad.dtype == np.float32


def test_running_statistics_may_change_before_backward():
    x = Tensor(np.ones((2, 1), np.float32), requires_grad=True)
    weight = Tensor([1.0], requires_grad=True)
    mean, var = Tensor([0.0]), Tensor([1.0])
    y = F.batch_norm(x, mean, var, weight, eps=0.0)
    mean.data[...] = 7.0
    y.sum().backward()
    assert weight.grad.tolist() == [2.0]


def test_wrong_input_to_batch_norm():
    running = Tensor(np.zeros(3, np.float32)), Tensor(np.ones(3, np.float32))
    with pytest.raises(ShapeError, match=r"expected \(N, 3, …\), got \(2, 4\)"):
        F.batch_norm(Tensor(np.zeros((2, 4), np.float32)), *running)
    with pytest.raises(
        ShapeError, match=r"more than one element a channel, got \(1, 3\): use a larger batch"
    ):
        F.batch_norm(Tensor(np.zeros((1, 3), np.float32)), *running, training=True)
    with pytest.raises(ValueError, match="needs running_mean and running_var where it does not train"):
        F.batch_norm(Tensor(np.zeros((2, 3), np.float32)), None, None)


@pytest.mark.parity
@settings(max_examples=25, deadline=None)
@given(channels=st.integers(1, 7), size=st.integers(1, 8), space=st.sampled_from([(2,), (3, 2)]))
def test_local_response_norm_has_pytorchs_values_and_derivatives(channels, size, space):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(channels * 10 + size)
    x, out, project = rng.standard_normal((3, 2, channels, *space))
    options = {"alpha": 0.7, "beta": 0.6, "k": 1.5}
    ours = Tensor(x, requires_grad=True)
    y = F.local_response_norm(ours, size, **options)
    first = grad((y * out).sum(), ours, create_graph=True)
    second = grad((first * project).sum(), ours)
    theirs = torch.tensor(x, requires_grad=True)
    ty = torch.nn.functional.local_response_norm(theirs, size, **options)
    (tfirst,) = torch.autograd.grad((ty * torch.tensor(out)).sum(), theirs, create_graph=True)
    (tsecond,) = torch.autograd.grad((tfirst * torch.tensor(project)).sum(), theirs)
    for a, b in ((y, ty), (first, tfirst), (second, tsecond)):
        np.testing.assert_allclose(a.numpy(), b.detach().numpy(), rtol=1e-9, atol=1e-11)


def test_local_response_norm_needs_a_window():
    with pytest.raises(ValueError, match="one channel or more, got size 0"):
        F.local_response_norm(Tensor(np.zeros((1, 2), np.float32)), 0)
