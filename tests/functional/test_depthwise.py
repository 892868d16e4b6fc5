"""The loops of the depthwise convolution, as Python: every kind of window, every way to cut."""

from __future__ import annotations

import numpy as np
import pytest
from test_compiled_loops import check_loops
from test_row_conv import arrays

from minidl.backend.im2col import Window
from minidl.functional import depthwise, places


def check(*drawn):
    check_loops(depthwise, *drawn)


WINDOWS = [
    Window.of(3, 1, 1),  # four places at a time
    Window.of(5, 1, 2),  # more taps than FEW: two rows at a time
    Window.of(3, 1, 2, 2),  # gaps: the next place lies half a position further on
    Window.of(3, 2, 1),
    Window.of(3, 3, 0, 3),  # the next place sees the pixels of the next position, three further on
    Window.of((1, 4), (1, 3), (2, 1), (1, 2)),
    Window.of((6, 5), 1, 3),  # larger than AT_ONCE
    Window.of(6, 3, 2),  # and with 9 pixels at a time, more than WRITTEN_OUT
]


@pytest.mark.usefixtures("as_python")
@pytest.mark.parametrize("window", WINDOWS, ids=str)
@pytest.mark.parametrize("last", [False, True], ids=["NCHW", "channels-last"])
def test_every_kind_of_window(window, last):
    window, channels, x, weight, y = arrays(window, 5, 1, 1, 3, (13, 14))
    if last:
        x, y = (np.ascontiguousarray(a.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2) for a in (x, y))
    check(window, channels, x, weight, y)


@pytest.mark.usefixtures("as_python")
@pytest.mark.parametrize("pictures", [1, 3, 5])
@pytest.mark.parametrize("pieces", [(1, 1), (4, 32), (30, 32)])
def test_every_way_to_cut_pieces(monkeypatch, pictures, pieces):
    monkeypatch.setattr(places, "PIECES", pieces)
    monkeypatch.setattr(places, "PIECE", 200)
    check(*arrays(Window.of(3, 1, 1), 2, 1, 1, pictures, (10, 7)))


@pytest.mark.parametrize(
    ("window", "places", "size", "border"),
    [
        (Window.of(3, 2, 1), 28, 56, (0, 27)),  # the last pixel would see one place more
        (Window.of(3, 2, 0), 28, 57, (1, 28)),  # one before, and only half of the last two pixels is there
        (Window.of(2, 2), 28, 56, (0, 28)),
        (Window.of(5, 2, 3, 2), 24, 50, (2, 22)),
        (Window.of(9, 2), 2, 11, (4, 2)),  # none sees all
    ],
    ids=str,
)
def test_with_a_stride_all_but_the_border_is_one_loop(window, places, size, border):
    axis = depthwise.Spread.of(window, 0, places, size)
    assert window.places((size, size)) == (places, places)
    assert (axis.low, axis.high) == border
    part = axis.part(slice(3, 9))
    assert (part.low, part.high) == (border[0] - 3, border[1] - 3)


@pytest.mark.usefixtures("as_python")
def test_as_many_channels_as_there_may_be():
    check(*arrays(Window.of(2), depthwise.MANY, 1, 1, 1, (3, 2)))


# Which way


def shapes(channels=64, filters=64, per_group=1, size=56):
    x, weight = np.zeros((1, channels, size, size), "f"), np.zeros((filters, per_group, 3, 3), "f")
    return x, weight, Window.of(3, 1, 1), channels // per_group


@pytest.mark.usefixtures("numba_there")
def test_what_it_can_do():
    assert depthwise.can(*shapes())
    x, weight, window, groups = shapes()
    assert depthwise.can(x, x, window, groups)  # ∂L/∂w
    assert depthwise.can(x, weight, Window.of(7, 1, 3), groups)
    assert not depthwise.can(x, weight, Window.of((7, 8), 1, 3), groups)
    assert depthwise.can(x, weight, Window.of(3, 3, 1), groups)
    assert not depthwise.can(x, weight, Window.of(3, (3, 4), 1), groups)  # leaves gaps
    assert not depthwise.can(x.astype("e"), weight.astype("e"), window, groups)
    assert not depthwise.can(x.astype("d"), weight, window, groups)
    assert not depthwise.can(*shapes(filters=128))  # two filters for each channel
    assert not depthwise.can(*shapes(per_group=2))
    assert not depthwise.can(*shapes(size=5))  # too little to be worth it
    assert not depthwise.can(*shapes(channels=1, filters=1, size=600))
    assert depthwise.can(*shapes(channels=2048, filters=2048))
    assert not depthwise.can(*shapes(channels=2049, filters=2049))
