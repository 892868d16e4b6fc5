"""Activations where the table of operations has no sample: at infinity."""

from __future__ import annotations

import numpy as np
import pytest

from minidl import Tensor
from minidl import functional as F


@pytest.mark.parametrize("slope", [0.0, 0.01, 1.0, 1.5, -0.5])
def test_leaky_relu_of_infinity(slope):
    """A slope of 0 makes no NaN of what is positive."""
    with np.errstate(invalid="ignore"):
        y = F.leaky_relu(Tensor([np.inf, 2.0, -2.0]), slope).numpy()
    np.testing.assert_array_equal(y, np.array([np.inf, 2.0, -2.0 * slope], np.float32))
