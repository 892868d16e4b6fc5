"""What a layer says at once to an option that it could never work with."""

from __future__ import annotations

import numpy as np
import pytest

from minidl import Tensor, nn
from minidl.errors import ShapeError


@pytest.mark.parametrize("layer", [nn.Conv2d, nn.ConvTranspose2d])
@pytest.mark.parametrize(
    ("arguments", "options", "name", "value"),
    [
        ((-3, 8, 3), {}, "in_channels", "-3"),
        ((0, 8, 3), {}, "in_channels", "0"),
        ((2.5, 8, 3), {}, "in_channels", "2.5"),
        (("3", 8, 3), {}, "in_channels", "'3'"),
        ((3, 0, 3), {}, "out_channels", "0"),
        ((3, -8, 3), {}, "out_channels", "-8"),
        ((3, None, 3), {}, "out_channels", "None"),
        ((3, 8, 3), {"groups": 0}, "groups", "0"),
        ((3, 8, 3), {"groups": -1}, "groups", "-1"),
        ((3, 8, 3), {"groups": 1.0}, "groups", r"1\.0"),
        ((3, 8, 0), {}, "kernel_size", "0"),
        ((3, 8, (3, -1)), {}, "kernel_size", r"\(3, -1\)"),
        ((True, 8, 3), {}, "in_channels", "True"),
        ((3, 8, (1, True)), {}, "kernel_size", r"\(1, True\)"),
    ],
)
def test_a_convolution_has_channels_groups_and_a_window(layer, arguments, options, name, value):
    message = f"^{layer.__name__}: {name} must be an integer ≥ 1( or a pair of them)?, got {value}$"
    with pytest.raises(ShapeError, match=message):
        layer(*arguments, **options)


@pytest.mark.parametrize("n", [0, -3, 2.5, True, None, "3"])
@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda n: nn.Linear(n, 2), "Linear: in_features"),
        (lambda n: nn.Linear(2, n), "Linear: out_features"),
        (lambda n: nn.BatchNorm1d(n, affine=False, track_running_stats=False), "BatchNorm1d: num_features"),
        (nn.BatchNorm2d, "BatchNorm2d: num_features"),
        (nn.LocalResponseNorm, "LocalResponseNorm: size"),
        (nn.MaxPool2d, "MaxPool2d: kernel_size"),
        (lambda n: nn.MaxPool2d(2, (1, n)), "MaxPool2d: stride"),
        (lambda n: nn.MaxPool2d(2, dilation=n), "MaxPool2d: dilation"),
        (nn.AvgPool2d, "AvgPool2d: kernel_size"),
        (lambda n: nn.AvgPool2d(2, (n, 1)), "AvgPool2d: stride"),
        (lambda n: nn.AdaptiveAvgPool2d((2, "x" if n is None else n)), "AdaptiveAvgPool2d: output_size"),
    ],
)
def test_a_layer_refuses_at_once_what_is_no_count(make, named, n):
    with pytest.raises(ValueError, match=f"^{named} must be an integer ≥ 1( or a pair of them)?, got .+$"):
        make(n)


@pytest.mark.parametrize("pool", [nn.MaxPool2d, nn.AvgPool2d])
def test_a_pooling_layer_has_a_border_or_none(pool):
    message = f"^{pool.__name__}: padding must be an integer ≥ 0 or a pair of them, got -1$"
    with pytest.raises(ShapeError, match=message):
        pool(2, padding=-1)


def test_counts_may_be_numpys():
    n = np.int64(3)
    assert nn.Sequential(nn.Linear(n, n), nn.BatchNorm1d(n))(Tensor(np.ones((2, 3)))).shape == (2, 3)
    pools = nn.Sequential(nn.MaxPool2d(n), nn.AdaptiveAvgPool2d((n, None)))
    assert pools(Tensor(np.ones((1, 1, 9, 12)))).shape == (1, 1, 3, 4)
