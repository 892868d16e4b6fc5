"""The loops of the depthwise convolution, as Python and as Numba run them: the numbers of the plain way."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_row_conv import all_three, arrays, pairs

import minidl as dl
from minidl import functional as F
from minidl.backend import compiled
from minidl.backend.im2col import Window
from minidl.backend.threads import get_num_threads, set_num_threads
from minidl.functional import convolution, depthwise, im2col_conv, places, row_conv

needs_numba = pytest.mark.skipif(not importlib.util.find_spec("numba"), reason="Numba is not installed")


@pytest.fixture
def as_python(monkeypatch):
    """The loops as they stand, whether Numba is there or not."""
    monkeypatch.setattr(depthwise, "compiled", lambda function: function)


@st.composite
def convolutions(draw):
    """(window, channels, x, weight, y): wide borders, gaps, and more rows than are added up at once."""
    kernel, stride, dilation = draw(pairs(1, 3)), draw(pairs(1, 3)), draw(pairs(1, 2))
    window = Window(kernel, stride, draw(pairs(0, 3)), dilation)
    size = [
        max(1, e - 2 * p) + draw(st.integers(0, 9))
        for e, p in zip(window.extent, window.padding, strict=True)
    ]
    return arrays(window, draw(st.integers(2, 3)), 1, 1, draw(st.integers(1, 2)), size)


def check(window, channels, x, weight, y):
    results = (all_three(work, window, channels, x, weight, y) for work in (depthwise, im2col_conv))
    for found, plain in zip(*results, strict=True):
        np.testing.assert_allclose(found, plain, atol=1e-11)
        assert found.dtype == plain.dtype


@settings(max_examples=60)
@given(convolutions())
def test_gives_the_numbers_of_the_plain_way(drawn):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(depthwise, "compiled", lambda function: function)
        check(*drawn)


WINDOWS = [
    Window.of(3, 1, 1),  # four places at a time
    Window.of(5, 1, 2),  # more taps than FEW: two rows at a time
    Window.of(3, 1, 2, 2),  # gaps: the next place lies half a position further on
    Window.of(3, 2, 1),
    Window.of(3, 3, 0, 3),  # the next place sees the pixels of the next position, three further on
    Window.of((1, 4), (1, 3), (2, 1), (1, 2)),
    Window.of((6, 5), 1, 3),  # larger than AT_ONCE
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


@pytest.mark.usefixtures("as_python")
def test_as_many_channels_as_there_may_be():
    check(*arrays(Window.of(2), depthwise.MANY, 1, 1, 1, (3, 2)))


@pytest.mark.usefixtures("as_python")
def test_relu_and_no_bias():
    window, channels, x, weight, _ = arrays(Window.of(3, 1, 1), 4, 1, 1, 2, (6, 6))
    plain = im2col_conv.conv2d(x, weight, None, window, channels)
    found = depthwise.conv2d(x, weight, None, window, channels, relu=True)
    np.testing.assert_allclose(found, np.maximum(plain, 0), atol=1e-11)


@pytest.mark.usefixtures("as_python")
def test_an_infinity_is_seen_by_the_windows_that_see_it_alone():
    window, channels, x, weight, _ = arrays(Window.of(3, 1, 1), 2, 1, 1, 1, (8, 8))
    x[0, 0, 4, 4] = np.inf
    y = depthwise.conv2d(x, weight, None, window, channels)
    assert np.argwhere(~np.isfinite(y)).tolist() == [[0, 0, a, b] for a in (3, 4, 5) for b in (3, 4, 5)]


# Which way


def shapes(channels=64, filters=64, per_group=1, size=56):
    x, weight = np.zeros((1, channels, size, size), "f"), np.zeros((filters, per_group, 3, 3), "f")
    return x, weight, Window.of(3, 1, 1), channels // per_group


@pytest.fixture
def numba_there(monkeypatch):
    monkeypatch.setattr(places, "numba", lambda: SimpleNamespace())


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


@pytest.mark.usefixtures("numba_there")
def test_auto_takes_it_and_the_others_by_name_do_not():
    assert convolution._algorithm_for(*shapes()) is depthwise
    before = dl.conv_algorithm()
    try:
        dl.conv_algorithm("rows")
        assert convolution._algorithm_for(*shapes()) is row_conv
    finally:
        dl.conv_algorithm(before)


def test_without_numba_it_is_rows(monkeypatch):
    monkeypatch.setattr(places, "numba", lambda: None)
    assert convolution._algorithm_for(*shapes()) is row_conv


def test_numba_that_refuses_this_numpy_is_none(monkeypatch):
    monkeypatch.setitem(sys.modules, "numba", None)  # what importing it raises is an ImportError
    assert compiled.numba.__wrapped__() is None


def test_numba_that_is_told_not_to_compile_is_none(monkeypatch):
    monkeypatch.setitem(sys.modules, "numba", SimpleNamespace(config=SimpleNamespace(DISABLE_JIT=1)))
    assert compiled.numba.__wrapped__() is None
    lock = SimpleNamespace(acquire=lambda: None, release=lambda: None)
    core = SimpleNamespace(compiler_lock=SimpleNamespace(global_compiler_lock=lock))
    there = SimpleNamespace(config=SimpleNamespace(DISABLE_JIT=0), core=core)
    monkeypatch.setitem(sys.modules, "numba", there)
    assert compiled.numba.__wrapped__() is there


def numba_whose_cache_fails(njit, monkeypatch):
    core = SimpleNamespace(compiler=SimpleNamespace(Compiler=object))
    monkeypatch.setattr(compiled, "numba", lambda: SimpleNamespace(njit=njit, core=core))


def test_where_nothing_can_be_kept_it_is_compiled_all_the_same(monkeypatch):
    def njit(cache=False, **options):
        if cache:
            raise RuntimeError("cannot cache function: no locator available")
        return lambda function: (function, options["nogil"])

    numba_whose_cache_fails(njit, monkeypatch)
    assert compiled.compiled.__wrapped__(check) == (check, True)


def test_where_the_disk_is_full_too_and_an_error_of_its_own_is_not_hidden(monkeypatch):
    def njit(cache=False, **_):
        def full(*_):
            raise OSError(28, "No space left on device")

        return lambda function: full if cache else function

    numba_whose_cache_fails(njit, monkeypatch)
    done = []
    append = compiled.compiled.__wrapped__(done.append)
    append(1)
    append(2)
    assert done == [1, 2]
    with pytest.raises(TypeError, match="exactly one argument"):
        append(1, 2)


# Compiled


def double(x, y):
    for i in range(len(x)):
        y[i] = 2 * x[i]


@pytest.mark.compiled
@needs_numba
def test_damaged_files_of_the_cache_do_not_matter(monkeypatch, tmp_path):
    monkeypatch.setattr(compiled.numba().config, "CACHE_DIR", str(tmp_path))
    for damaged in ("*.nbc", "*.nbi"):
        compiled.compiled.__wrapped__(double)(np.ones(3), np.zeros(3))
        (file,) = tmp_path.rglob(damaged)
        file.write_bytes(file.read_bytes()[:9])
        y = np.zeros(3)
        compiled.compiled.__wrapped__(double)(np.ones(3), y)
        assert y.tolist() == [2, 2, 2]


@pytest.mark.compiled
@needs_numba
def test_a_child_born_while_another_thread_compiles_can_compile(tmp_path):
    script = """
import os, threading, time
import numpy as np
from minidl import Tensor, functional as F
from minidl.backend.compiled import numba

lock, held = numba().core.compiler_lock.global_compiler_lock, threading.Event()

def hold():
    with lock:
        held.set()
        time.sleep(0.3)

threading.Thread(target=hold).start()
held.wait()
if os.fork() == 0:
    y = F.conv2d(Tensor(np.ones((8, 64, 56, 56), "f")), Tensor(np.ones((64, 1, 3, 3), "f")), groups=64)
    os._exit(int(y[0, 0, 0, 0].item()))
print(os.waitstatus_to_exitcode(os.wait()[1]))
"""
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)},
    )
    assert (run.stdout, run.stderr) == ("9\n", "")


@pytest.mark.compiled
@needs_numba
def test_the_compiler_knows_that_arrays_share_no_memory(monkeypatch):
    numba = compiled.numba()

    def njit(cache=False, **options):
        if cache:
            raise RuntimeError("the machine code of an earlier run does not tell")
        return numba.njit(**options)

    monkeypatch.setattr(compiled, "numba", lambda: SimpleNamespace(njit=njit, core=numba.core))
    function = compiled.compiled.__wrapped__(double)
    function(np.ones(3), np.ones(3))
    (code,) = function.inspect_llvm().values()
    assert re.search(r"noalias[^,]*%arg\.x\.4", code)
    assert re.search(r"noalias[^,]*%arg\.y\.4", code)


@pytest.mark.compiled
@needs_numba
@pytest.mark.parametrize(("window", "dtype"), [*((w, "float32") for w in WINDOWS), (WINDOWS[0], "float64")])
def test_compiled_it_gives_the_same_numbers(window, dtype):
    window, channels, *drawn = arrays(window, 37, 1, 1, 3, (22, 19))
    drawn = [a.astype(dtype) for a in drawn]
    results = (all_three(work, window, channels, *drawn) for work in (depthwise, im2col_conv))
    for found, plain in zip(*results, strict=True):
        np.testing.assert_allclose(found, plain, rtol=1e-4, atol=1e-4 if dtype == "float32" else 1e-10)
        assert found.dtype == dtype


@pytest.mark.compiled
@needs_numba
def test_ctrl_c_while_numba_is_imported_leaves_no_half_of_it():
    script = """
import os, signal, threading
import numpy as np
from minidl import Tensor, functional as F

x, w = Tensor(np.ones((8, 64, 56, 56), "f")), Tensor(np.ones((64, 1, 3, 3), "f"))
threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()
try:
    for _ in range(1000):
        F.conv2d(x, w, padding=1, groups=64)
except KeyboardInterrupt:
    print("stopped,", F.conv2d(x, w, padding=1, groups=64)[0, 0, 1, 1].item())
"""
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (run.stdout, run.stderr) == ("stopped, 9.0\n", "")


@pytest.mark.compiled
@needs_numba
def test_the_number_of_threads_changes_no_bit():
    drawn = arrays(Window.of(3, 1, 1), 64, 1, 1, 3, (57, 56))
    before, runs = get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            set_num_threads(threads)
            runs.append(all_three(depthwise, *drawn))
    finally:
        set_num_threads(before)
    for found in zip(*runs, strict=True):
        assert all(np.array_equal(found[0], other) for other in found[1:])


@pytest.mark.compiled
@needs_numba
def test_a_network_with_a_depthwise_layer_trains_through_it(monkeypatch):
    work = []
    for name in ("conv2d", "conv_transpose2d", "conv_weight"):
        function = getattr(depthwise, name)
        monkeypatch.setattr(depthwise, name, lambda *a, f=function, n=name: work.append(n) or f(*a))
    x = dl.Tensor(np.random.default_rng(0).standard_normal((4, 64, 32, 32), "f"), requires_grad=True)
    w = dl.Tensor(np.random.default_rng(1).standard_normal((64, 1, 3, 3), "f"), requires_grad=True)
    y = F.conv2d(x, w, None, padding=1, groups=64)
    (y * y).sum().backward()
    found = [x.grad.numpy(), w.grad.numpy()]
    assert sorted(work) == ["conv2d", "conv_transpose2d", "conv_weight"]
    x.grad = w.grad = None
    monkeypatch.setattr(places, "numba", lambda: None)
    y = F.conv2d(x, w, None, padding=1, groups=64)
    (y * y).sum().backward()
    np.testing.assert_allclose(found[0], x.grad.numpy(), rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(found[1], w.grad.numpy(), rtol=1e-3, atol=1e-2)
