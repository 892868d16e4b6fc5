"""im2col and col2im by their definitions; the CUDA kernels, compiled for this processor and on a GPU."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minidl.backend import as_numpy, kernels, to_device
from minidl.backend.im2col import Window, col2im, im2col

PAIRS = st.tuples(st.integers(1, 3), st.integers(1, 3))


@st.composite
def pictures(draw):
    """(x, window, rows): a picture that the window fits into, and some rows of its places."""
    padding = draw(st.tuples(st.integers(0, 2), st.integers(0, 2)))
    window = Window.of(draw(PAIRS), draw(PAIRS), padding, draw(PAIRS))
    size = [max(1, e - 2 * p) + draw(st.integers(0, 6)) for e, p in zip(window.extent, padding, strict=True)]
    oh, _ = window.places(size)
    start = draw(st.integers(0, oh - 1))
    x = np.random.default_rng(draw(st.integers(0, 2**32))).standard_normal((2, 3, *size)).astype(np.float32)
    return x, window, slice(start, draw(st.integers(start + 1, oh)))


def by_definition(x, window):
    oh, ow = window.places(x.shape[2:])
    (sh, sw), (ph, pw), (dh, dw) = window.stride, window.padding, window.dilation
    columns = np.zeros((*x.shape[:2], *window.kernel, oh, ow), x.dtype)
    for i, j, a, b in np.ndindex(*window.kernel, oh, ow):
        row, col = a * sh + i * dh - ph, b * sw + j * dw - pw
        if 0 <= row < x.shape[2] and 0 <= col < x.shape[3]:
            columns[:, :, i, j, a, b] = x[:, :, row, col]
    return columns


@given(pictures())
def test_im2col_is_its_definition(drawn):
    x, window, rows = drawn
    expected = by_definition(x, window)
    np.testing.assert_array_equal(im2col(x, window), expected)
    np.testing.assert_array_equal(im2col(x, window, rows), expected[..., rows, :])
    backwards = np.ascontiguousarray(x[:, ::-1, ::-1, ::-1])[:, ::-1, ::-1, ::-1]
    np.testing.assert_array_equal(im2col(backwards, window, rows), expected[..., rows, :])


def test_rows_that_see_nothing_but_the_border():
    x, window = np.ones((1, 2, 4, 4)), Window.of(1, padding=3)
    expected = by_definition(x, window)
    for row in range(10):
        rows = slice(row, row + 1)
        np.testing.assert_array_equal(im2col(x, window, rows), expected[..., rows, :])


@given(pictures())
def test_col2im_is_the_transpose_of_im2col(drawn):
    x, window, _ = drawn
    columns = by_definition(x.astype(np.float64), window)
    v = np.random.default_rng(0).standard_normal(columns.shape)
    folded = col2im(v, window, x.shape[2:])
    assert (columns * v).sum() == pytest.approx((x * folded).sum(), abs=1e-9)


@pytest.mark.parametrize("integer", ["int", "long long"])
@settings(max_examples=100)
@given(drawn=pictures())
def test_kernel_bodies_compute_what_their_twins_do(compiled, integer, drawn):
    x, window, rows = drawn
    twin, whole = im2col(x, window, rows), im2col(x, window)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernels, "array_module", lambda _: compiled)
        patch.setattr(kernels, "integer_for", lambda threads: integer)
        for view in (lambda x: x, lambda x: x[:, ::-1], lambda x: x.swapaxes(0, 1)):
            found = view(np.empty_like(view(twin)))
            np.testing.assert_array_equal(
                kernels.im2col(view(np.ascontiguousarray(view(x))), window, rows.start, found), twin
            )
            folded = kernels.col2im(
                view(np.ascontiguousarray(view(whole))), window, view(np.empty_like(view(x)))
            )
            np.testing.assert_array_equal(folded, col2im(whole, window, x.shape[2:]))


@pytest.mark.gpu
@settings(max_examples=50)
@given(drawn=pictures())
def test_kernels_on_the_gpu_compute_what_their_twins_do(drawn):
    x, window, rows = drawn
    for move in (lambda x: x, lambda x: x[:, ::-1], lambda x: x.transpose(1, 0, 2, 3)):
        here, there = move(x), move(to_device(x, "gpu"))
        np.testing.assert_array_equal(as_numpy(im2col(there, window, rows)), im2col(here, window, rows))
        folded = as_numpy(col2im(im2col(there, window), window, x.shape[2:]))
        np.testing.assert_array_equal(folded, col2im(im2col(here, window), window, x.shape[2:]))
