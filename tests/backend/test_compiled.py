"""Loops compiled by Numba: where it is missing, interrupted, or cannot keep what it has compiled."""

from __future__ import annotations

import importlib.util
import os
import re
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest

from minidl.backend import compiled

needs_numba = pytest.mark.skipif(not importlib.util.find_spec("numba"), reason="Numba is not installed")


def double(x, y):
    for i in range(len(x)):
        y[i] = 2 * x[i]


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
    assert compiled.compiled.__wrapped__(double) == (double, True)


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


@pytest.fixture
def compiling(monkeypatch):
    """A function, and what its compiler did, which loses an exception as ctypes does."""
    done = []

    class Compiler:
        def compile_extra(self, function):
            try:
                if threading.current_thread() is threading.main_thread():
                    signal.raise_signal(signal.SIGINT)
            except KeyboardInterrupt:
                done.append("lost")
            done.append(function)

    def njit(pipeline_class, **_):
        return lambda function: lambda: pipeline_class().compile_extra(function)

    core = SimpleNamespace(compiler=SimpleNamespace(Compiler=Compiler))
    monkeypatch.setattr(compiled, "numba", lambda: SimpleNamespace(njit=njit, core=core))
    return compiled.compiled.__wrapped__(double), done


def test_ctrl_c_counts_when_the_compiler_is_done(compiling):
    function, done = compiling
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        function()
    assert done == [double]
    assert signal.getsignal(signal.SIGINT) is handler


def test_a_handler_of_the_users_own_is_called_when_the_compiler_is_done(compiling):
    function, done = compiling
    before = signal.signal(signal.SIGINT, lambda *_: done.append("handled"))
    try:
        function()
    finally:
        signal.signal(signal.SIGINT, before)
    assert done == [double, "handled"]


def test_other_threads_compile_without_a_handler(compiling):
    function, done = compiling
    with ThreadPoolExecutor(1) as thread:
        thread.submit(function).result()
    assert done == [double]


# With Numba


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
