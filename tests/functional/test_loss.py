"""The losses: PyTorch's numbers for every option, stable for huge logits, clear about wrong targets."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minidl import Tensor, grad
from minidl import functional as F
from minidl.errors import DataError, ShapeError

LOGITS = np.random.default_rng(0).standard_normal((4, 3)).astype(np.float32)


def derivatives(loss, x, project):
    """The loss, its gradient, and the gradient of (gradient · project), as arrays."""
    x = Tensor(x, requires_grad=True)
    value = loss(x).sum()
    first = grad(value, x, create_graph=True)
    second = grad((first * project).sum(), x) if first.requires_grad else x * 0.0
    return value.item(), first.numpy(), second.numpy()


def torch_derivatives(loss, x, project):
    torch = pytest.importorskip("torch")
    x = torch.tensor(x, requires_grad=True)
    value = loss(x).sum()
    (first,) = torch.autograd.grad(value, x, create_graph=True)
    second = torch.zeros_like(x)
    if first.requires_grad:
        (second,) = torch.autograd.grad((first * torch.tensor(project)).sum(), x)
    return value.item(), first.detach().numpy(), second.numpy()


def assert_same(ours, theirs):
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)


@pytest.mark.parity
@settings(max_examples=60, deadline=None)
@given(st.data())
def test_cross_entropy_and_nll_have_pytorchs_values_and_derivatives(data):
    torch = pytest.importorskip("torch")
    n, classes = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 5))
    positions = tuple(data.draw(st.lists(st.integers(1, 3), max_size=2)))
    rng = np.random.default_rng(data.draw(st.integers(0, 999)))
    x, project = rng.standard_normal((2, n, classes, *positions)) * 3
    targets = rng.integers(0, classes, (n, *positions))
    ignore_index = data.draw(st.sampled_from([-100, 0, 1]))
    targets[rng.random(targets.shape) < 0.2] = ignore_index if ignore_index < classes else 0
    weight = rng.random(classes) + 0.1 if data.draw(st.booleans()) else None
    smoothing = data.draw(st.sampled_from([0.0, 0.1, 1.0]))
    options = {"ignore_index": ignore_index, "reduction": data.draw(st.sampled_from(["mean", "sum", "none"]))}

    t = torch.tensor(targets)
    w = None if weight is None else torch.tensor(weight)
    if options["reduction"] == "mean" and (targets == ignore_index).all():
        return  # has its own test
    assert_same(
        derivatives(
            lambda x: F.cross_entropy(x, targets, weight, label_smoothing=smoothing, **options), x, project
        ),
        torch_derivatives(
            lambda x: torch.nn.functional.cross_entropy(x, t, w, label_smoothing=smoothing, **options),
            x,
            project,
        ),
    )
    assert_same(
        derivatives(lambda x: F.nll_loss(x, targets, weight, **options), x, project),
        torch_derivatives(lambda x: torch.nn.functional.nll_loss(x, t, w, **options), x, project),
    )


@pytest.mark.parity
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("pos_weight", [None, 2.5, [0.5, 1.0, 3.0]])
def test_binary_cross_entropy_and_mse_have_pytorchs_values_and_derivatives(reduction, pos_weight):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(1)
    x, project = rng.standard_normal((2, 4, 3)) * 5
    targets = rng.random((4, 3))
    w = None if pos_weight is None else np.asarray(pos_weight)
    t, tw = torch.tensor(targets), None if w is None else torch.tensor(w)
    theirs = torch.nn.functional
    assert_same(
        derivatives(
            lambda x: F.binary_cross_entropy_with_logits(x, targets, w, reduction=reduction), x, project
        ),
        torch_derivatives(
            lambda x: theirs.binary_cross_entropy_with_logits(x, t, pos_weight=tw, reduction=reduction),
            x,
            project,
        ),
    )
    assert_same(
        derivatives(lambda x: F.mse_loss(x, targets, reduction), x, project),
        torch_derivatives(lambda x: theirs.mse_loss(x, t, reduction=reduction), x, project),
    )


def test_the_gradient_of_cross_entropy_is_softmax_minus_one_hot():
    x = Tensor(LOGITS, requires_grad=True)
    F.cross_entropy(x, [0, 1, 2, 0], reduction="sum").backward()
    expected = F.softmax(x).numpy() - np.eye(3, dtype=np.float32)[[0, 1, 2, 0]]
    np.testing.assert_allclose(x.grad.numpy(), expected, atol=1e-7)


def test_huge_logits_overflow_nothing():
    x = Tensor(np.array([[1e4, -1e4], [-1e4, 1e4]], np.float32), requires_grad=True)
    loss = F.cross_entropy(x, [0, 0], reduction="none")
    assert loss.tolist() == [0.0, 2e4]
    loss.sum().backward()
    assert x.grad.tolist() == [[0.0, 0.0], [-1.0, 1.0]]
    loss = F.binary_cross_entropy_with_logits(x, np.array([[1, 0], [1, 0]], np.float32), reduction="none")
    assert loss.tolist() == [[0.0, 0.0], [1e4, 1e4]]


def test_a_class_of_probability_zero_that_is_no_target_costs_nothing():
    assert F.cross_entropy(Tensor([[0.0, -math.inf]]), [0]).item() == 0.0


def test_all_ignored_is_not_a_number_with_a_gradient_of_zeros():
    x = Tensor(LOGITS, requires_grad=True)
    loss = F.cross_entropy(x, [-100] * 4)
    loss.backward()
    assert math.isnan(loss.item())
    assert not x.grad.numpy().any()


def test_float32_stays_float32():
    x = Tensor(LOGITS, requires_grad=True)
    for loss in (
        F.cross_entropy(x, np.arange(4) % 3, weight=np.ones(3), label_smoothing=0.1),
        F.nll_loss(x, np.arange(4) % 3),
        F.binary_cross_entropy_with_logits(x, np.ones((4, 3), np.int64), pos_weight=2.0),
        F.mse_loss(x, LOGITS),
    ):
        x.grad = None
        loss.backward()
        assert loss.dtype == x.grad.dtype == np.float32


@pytest.mark.parametrize("loss", [F.cross_entropy, F.nll_loss])
@pytest.mark.parametrize(
    ("scores", "targets", "error", "message"),
    [
        (
            (4, 3),
            [0, 1, 3, 0],
            DataError,
            "target 3 at index 2 is no class: the scores are for 3 classes, 0 to 2",
        ),
        (
            (4, 3),
            [0, -1, 0, 0],
            DataError,
            "target -1 at index 1 is no class: the scores are for 3 classes, 0 to 2",
        ),
        ((1, 2, 2), [[0, 5]], DataError, r"target 5 at index \(0, 1\) is no class"),
        (
            (2, 3),
            [0.0, 1.0],
            DataError,
            r"class indices and must be integers, got float32: use .astype\('int64'\)",
        ),
        ((4, 3), [0, 1], ShapeError, r"expected targets \(4,\) for scores \(4, 3\), got \(2,\)"),
        ((3,), [0], ShapeError, r"expected scores \(N, C\) or \(N, C, d1, …\), got \(3,\)"),
    ],
)
def test_wrong_targets(loss, scores, targets, error, message):
    with pytest.raises(error, match=message):
        loss(Tensor(np.zeros(scores, np.float32)), targets)


def test_wrong_options():
    x = Tensor(LOGITS)
    with pytest.raises(ShapeError, match=r"expected a weight for each of 3 classes, got \(2,\)"):
        F.cross_entropy(x, [0] * 4, weight=[1.0, 2.0])
    with pytest.raises(ValueError, match='reduction is "mean", "sum" or "none", got \'avg\''):
        F.cross_entropy(x, [0] * 4, reduction="avg")
    with pytest.raises(ValueError, match=r"label_smoothing lies in \[0, 1\], got 2"):
        F.cross_entropy(x, [0] * 4, label_smoothing=2)
    with pytest.raises(ShapeError, match=r"expected targets of the same shape \(4, 3\), got \(4,\)"):
        F.mse_loss(x, np.zeros(4, np.float32))
