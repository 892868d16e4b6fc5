"""The loops of the convolution in groups, as Python: every kind of window, every way to cut."""

from __future__ import annotations

import numpy as np
import pytest
from test_compiled_loops import check_loops
from test_row_conv import arrays

from minidl.backend.im2col import Window
from minidl.functional import grouped, places


def check(*drawn):
    check_loops(grouped, *drawn)


WINDOWS = [
    Window.of(3, 1, 1),
    Window.of(3, 2, 1),  # rows and columns in two parts
    Window.of(5, 1, 2),
    Window.of(3, 2, 2, 2),  # a part of ∂L/∂x that sees nothing
    Window.of((2, 4), (1, 3), (0, 1), (3, 1)),
]


@pytest.mark.usefixtures("as_python")
@pytest.mark.parametrize("window", WINDOWS, ids=str)
@pytest.mark.parametrize("filters", [1, 2, 4, 6])
@pytest.mark.parametrize("last", [False, True], ids=["NCHW", "channels-last"])
def test_every_kind_of_window(window, filters, last):
    window, groups, x, weight, y = arrays(window, 2, 3, filters, 2, (9, 10))
    if last:
        x, y = (np.ascontiguousarray(a.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2) for a in (x, y))
    check(window, groups, x, weight, y)


@pytest.mark.usefixtures("as_python")
@pytest.mark.parametrize("pieces", [(1, 1), (3, 3), (30, 32)])
def test_every_way_to_cut(monkeypatch, pieces):
    monkeypatch.setattr(places, "PIECES", pieces)
    check(*arrays(Window.of(3, 1, 1), 3, 2, 2, 3, (6, 5)))


@pytest.mark.usefixtures("as_python")
@pytest.mark.parametrize("size", [(2, 2), (2, 12), (12, 2)])
def test_places_that_see_nothing_but_the_border(size):
    check(*arrays(Window.of(2, 2, 4, 9), 2, 2, 2, 1, size))


# Which way


def shapes(groups=16, channels=4, filters=4, size=56, n=4):
    x, weight = (
        np.zeros((n, groups * channels, size, size), "f"),
        np.zeros((groups * filters, channels, 3, 3), "f"),
    )
    return x, weight, Window.of(3, 1, 1), groups


@pytest.mark.usefixtures("numba_there")
def test_what_it_can_do():
    assert grouped.can(*shapes())
    x, weight, window, groups = shapes()
    assert grouped.can(x, weight, Window.of(5, 1, 2), groups)
    assert not grouped.can(x, weight, Window.of((5, 6), 1, 2), groups)
    assert not grouped.can(x, weight, Window.of(1), groups)
    assert grouped.can(x, weight, Window.of(3, 3, 1), groups)
    assert not grouped.can(x, weight, Window.of(3, 4, 1), groups)  # leaves gaps
    assert not grouped.can(x.astype("e"), weight.astype("e"), window, groups)
    assert not grouped.can(x.astype("d"), weight, window, groups)
    assert not grouped.can(*shapes(groups=1))
    assert not grouped.can(*shapes(channels=1, filters=1))  # depthwise
    assert grouped.can(*shapes(channels=1, filters=2))
    assert not grouped.can(*shapes(size=5))  # too little to be worth it
    assert grouped.can(*shapes(groups=2, channels=16, filters=16))
    assert not grouped.can(*shapes(groups=2, channels=16, filters=16, n=3))  # too few to share
    assert grouped.can(*shapes(channels=64, filters=64))
    assert not grouped.can(*shapes(channels=65))
    assert not grouped.can(*shapes(filters=65))
