"""im2col and col2im by their definitions; the CUDA kernels, compiled for this processor and on a GPU."""

from __future__ import annotations

import ctypes
import shutil
import subprocess

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minidl.backend import as_numpy, gpu_unavailable, kernels, to_device
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


ARRAY = """
    #include <cstddef>
    typedef float T;
    typedef INTEGER integer;
    template <int ndim> struct Array {  // what CuPy makes of a raw argument
        char* data;
        const ptrdiff_t* strides;
        T& operator[](const ptrdiff_t (&at)[ndim]) const {
            ptrdiff_t offset = 0;
            for (int axis = 0; axis < ndim; ++axis) offset += at[axis] * strides[axis];
            return *reinterpret_cast<T*>(data + offset);
        }
    };
"""


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """The bodies of the CUDA kernels as C++ functions, for each kind of integer."""
    compiler = shutil.which("c++") or shutil.which("g++")
    if compiler is None:
        pytest.skip("needs a C++ compiler")
    folder = tmp_path_factory.mktemp("kernels")
    libraries = {}
    for integer in ("int", "long long"):
        source = ARRAY.replace("INTEGER", integer)
        for name, axes in (("im2col", (4, 6)), ("col2im", (6, 4))):
            inputs, output, body = kernels.KERNELS[name]
            arrays = zip((inputs.split(",")[0], output), axes, strict=True)
            made = "".join(
                f"Array<{n}> {(array := raw.split()[-1])} = {{{array}_data, {array}_strides}};"
                for raw, n in arrays
            )
            pointers = [
                f"char* {a}_data, const ptrdiff_t* {a}_strides"
                for a in (inputs.split(",")[0].split()[-1], output.split()[-1])
            ]
            numbers = inputs.partition(",")[2]
            source += f"""
                extern "C" void {name}({", ".join(pointers)}, ptrdiff_t size, {numbers}) {{
                    {made}
                    for (ptrdiff_t i = 0; i < size; ++i) {{ {body} }}
                }}
            """
        stem = integer.replace(" ", "_")
        (folder / f"{stem}.cpp").write_text(source)
        command = [compiler, "-shared", "-fPIC", "-Wall", "-Werror", "-o", f"{stem}.so", f"{stem}.cpp"]
        subprocess.run(command, cwd=folder, check=True)
        libraries[integer] = ctypes.CDLL(str(folder / f"{stem}.so"))
    return libraries


class CompiledKernels:
    """What CuPy offers the kernels: ElementwiseKernel, with the body compiled for this processor."""

    def __init__(self, libraries):
        self.libraries = libraries

    def ElementwiseKernel(self, inputs, output, body, name, preamble):
        integer = preamble.removeprefix("typedef ").removesuffix(" integer;")
        function = getattr(self.libraries[integer], name.removeprefix("minidl_"))
        number = {"int": ctypes.c_int, "long long": ctypes.c_longlong}[integer]
        assert inputs.count({"int": "int32", "long long": "int64"}[integer]) == inputs.count(",")
        function.restype = None

        def call(array, *numbers_and_out, size):
            *numbers, out = numbers_and_out
            assert len(numbers) == inputs.count(",")
            function(
                *self.pointers(array), *self.pointers(out), ctypes.c_ssize_t(size), *map(number, numbers)
            )

        return call

    @staticmethod
    def pointers(array):
        return ctypes.c_void_p(array.ctypes.data), (ctypes.c_ssize_t * array.ndim)(*array.strides)


@pytest.mark.parametrize("integer", ["int", "long long"])
@settings(max_examples=100)
@given(drawn=pictures())
def test_kernel_bodies_compute_what_their_twins_do(compiled, integer, drawn):
    x, window, rows = drawn
    twin, whole = im2col(x, window, rows), im2col(x, window)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernels, "array_module", lambda _: CompiledKernels(compiled))
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
    if reason := gpu_unavailable():
        pytest.skip(reason)
    x, window, rows = drawn
    for move in (lambda x: x, lambda x: x[:, ::-1], lambda x: x.transpose(1, 0, 2, 3)):
        here, there = move(x), move(to_device(x, "gpu"))
        np.testing.assert_array_equal(as_numpy(im2col(there, window, rows)), im2col(here, window, rows))
        folded = as_numpy(col2im(im2col(there, window), window, x.shape[2:]))
        np.testing.assert_array_equal(folded, col2im(im2col(here, window), window, x.shape[2:]))
