"""What the tests on the GPU share: a network with everything in it, pictures, and how near is near enough."""

from __future__ import annotations

import copy

import numpy as np

import minidl as dl
from minidl import Tensor
from minidl.backend import as_numpy
from minidl.models import VGG


def network(batch_norm=True, dropout=0.0):
    """A VGG with everything in it, for 16 × 16 pixels and three classes."""
    dl.seed(0)
    return VGG([[8, 8], [16]], [32], 3, pooled=4, batch_norm=batch_norm, dropout=dropout)


def pictures(count=4, size=16):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((count, 3, size, size)).astype(np.float32)
    return Tensor(x), Tensor(rng.integers(0, 3, count))


def both(model):
    """The model, and a copy of it on the GPU."""
    return (model, "cpu"), (copy.deepcopy(model).to("gpu"), "gpu")


def assert_close(found, expected, tolerance=1e-4):
    """‖found − expected‖ ≤ tolerance · ‖expected‖, which is 0 for what batch norm takes away: there 0.01."""
    found, expected = (x.numpy() if isinstance(x, Tensor) else as_numpy(x) for x in (found, expected))
    assert found.shape == expected.shape
    assert found.dtype == expected.dtype
    assert np.linalg.norm(found - expected) <= tolerance * max(float(np.linalg.norm(expected)), 1e-2)


def assert_same_state(one, other, tolerance=1e-4):
    one, other = one.state_dict(), other.state_dict()
    assert list(one) == list(other)
    for name in one:
        assert_close(one[name], other[name], tolerance)
