"""clip_grad_norm_: PyTorch's norm and PyTorch's gradients."""

from __future__ import annotations

import math

import numpy as np
import pytest

from minidl import Tensor, nn, optim


def parameters():
    rng = np.random.default_rng(0)
    listed = [nn.Parameter(np.zeros(shape, np.float32)) for shape in [(300, 200), (7,), ()]]
    for p in listed:
        p.grad = Tensor(np.asarray(rng.standard_normal(p.shape), np.float32))
    return [*listed, nn.Parameter([1.0])]  # the last has no gradient


@pytest.mark.parity
@pytest.mark.parametrize("max_norm", [0.5, 1e6, 0.0])
def test_clipped_like_pytorch(max_norm):
    torch = pytest.importorskip("torch")
    ours = parameters()
    theirs = [torch.nn.Parameter(torch.tensor(p.numpy())) for p in ours]
    for a, b in zip(ours, theirs, strict=True):
        b.grad = None if a.grad is None else torch.tensor(a.grad.numpy())
    norm = optim.clip_grad_norm_(ours, max_norm)
    assert type(norm) is float
    assert norm == pytest.approx(torch.nn.utils.clip_grad_norm_(theirs, max_norm).item(), rel=1e-5)
    for a, b in zip(ours[:-1], theirs[:-1], strict=True):
        assert a.grad.dtype == np.float32
        np.testing.assert_allclose(a.grad.numpy(), b.grad.numpy(), rtol=1e-5)


def test_a_norm_that_is_no_number_is_returned_and_changes_nothing():
    p = nn.Parameter([1.0, 1.0])
    p.grad = Tensor([math.nan, 3.0])
    assert math.isnan(optim.clip_grad_norm_(p, 1.0))
    assert p.grad.tolist()[1] == 3.0


def test_wrong_arguments():
    with pytest.raises(TypeError, match="got the module Linear"):
        optim.clip_grad_norm_(nn.Linear(1, 1), 1.0)
    with pytest.raises(ValueError, match="max_norm must not be negative, got -1"):
        optim.clip_grad_norm_(parameters(), -1)
