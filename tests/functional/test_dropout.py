"""Dropout: the share that it drops, the scale of the rest, and the source of its masks."""

from __future__ import annotations

import numpy as np
import pytest

import minidl as dl
from minidl import Tensor
from minidl import functional as F


def test_dropout_drops_a_share_p_and_keeps_the_mean():
    dl.seed(0)
    x = Tensor(np.ones(100_000, np.float32), requires_grad=True)
    y = F.dropout(x, 0.2)
    assert set(np.unique(y.numpy())) == {np.float32(0), np.float32(1.25)}
    assert abs((y.numpy() == 0).mean() - 0.2) < 0.005
    y.sum().backward()
    np.testing.assert_array_equal(x.grad.numpy(), y.numpy())  # the same units, the same scale
    assert y.dtype == np.float32
    assert [kept.dtype for kept in F.dropout(x, 0.2).grad_fn.saved] == [np.bool_]


def test_dropout_is_repeatable_and_off_in_evaluation():
    x = Tensor(np.ones(100, np.float32))
    dl.seed(3)
    first = F.dropout(x).numpy()
    dl.seed(3)
    np.testing.assert_array_equal(F.dropout(x).numpy(), first)
    assert F.dropout(x, training=False) is x
    assert not F.dropout(x, 1.0).numpy().any()
    with pytest.raises(ValueError, match=r"the dropout probability lies in \[0, 1\], got 1.5"):
        F.dropout(x, 1.5)
