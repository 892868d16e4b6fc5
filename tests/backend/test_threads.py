"""Threads: every piece once, errors come out, BLAS gets its threads back, scratch is a thread's own."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
import weakref

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minidl.backend import threads
from minidl.backend.threads import (
    at_once,
    get_num_threads,
    parallel_for,
    release_scratch,
    scratch,
    set_num_threads,
    split,
    strips,
)


@pytest.fixture
def three_threads():
    before = get_num_threads()
    set_num_threads(3)
    yield
    set_num_threads(before)


def blas_threads():
    return [library.num_threads for library in threads._controller().select(user_api="blas").lib_controllers]


def test_every_piece_runs_once_with_blas_on_one_thread(three_threads):
    pytest.importorskip("threadpoolctl")
    with threads._controller().limit(limits=2, user_api="blas"):
        before, seen, blas, meeting = blas_threads(), [], [], threading.Barrier(3, timeout=30)

        def run(piece):
            if piece < 3:
                meeting.wait()  # three pieces at the same time, or never
            seen.append(piece)
            blas.extend(blas_threads())

        parallel_for(np, run, [(i,) for i in range(20)])
        assert sorted(seen) == list(range(20))
        assert set(blas) == {1}
        assert blas_threads() == before


@pytest.mark.skipif(threads._core()() < 0, reason="the C library does not tell which core a thread is on")
def test_the_other_threads_leave_the_core_of_their_caller(three_threads):
    pytest.importorskip("threadpoolctl")
    if len(before := os.sched_getaffinity(0)) < 2:
        pytest.skip("there is one core only")
    for _ in range(2):  # the first time they begin
        cores, meeting = {}, threading.Barrier(3, timeout=30)

        def run(piece, cores=cores, meeting=meeting):
            meeting.wait()
            cores[threading.get_ident()] = os.sched_getaffinity(0)

        parallel_for(np, run, [(i,) for i in range(3)])
    own = cores.pop(threading.get_ident())
    assert len(own) == 1
    assert list(cores.values()) == [before - own] * 2
    assert os.sched_getaffinity(0) == before


def test_the_caller_may_use_all_its_cores_again_after_an_error():
    before = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else pytest.skip("not on Linux")
    with pytest.raises(ZeroDivisionError):
        parallel_for(np, lambda i: 1 // i, [(i,) for i in range(3)])
    assert os.sched_getaffinity(0) == before


def test_the_other_threads_keep_to_the_cores_that_their_caller_may_use(monkeypatch):
    pool, placed = threads._Pool(1), []
    pool.numbers.append(7)
    monkeypatch.setattr(threads, "_core", lambda: lambda: 0)
    monkeypatch.setattr(os, "sched_setaffinity", lambda *call: placed.append(call), raising=False)
    for allowed in ({0, 1}, {0, 1}, {0, 1, 2, 3}, {0}):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _, allowed=allowed: allowed, raising=False)
        with pool.apart():
            pass
    assert [call for call in placed if call[0] == 7] == [(7, {1}), (7, {1, 2, 3}), (7, {0})]
    own = [cores for thread, cores in placed if thread == 0]
    assert own == [{0}, {0, 1}, {0}, {0, 1}, {0}, {0, 1, 2, 3}, {0}, {0}]


def test_the_other_threads_work_where_the_system_forbids_to_place_them(monkeypatch, three_threads):
    pytest.importorskip("threadpoolctl")

    def forbid(*call):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "sched_setaffinity", forbid, raising=False)
    for _ in range(2):  # the first time they begin
        seen = []
        parallel_for(np, seen.append, [(i,) for i in range(9)])
        assert sorted(seen) == list(range(9))


def test_a_second_caller_waits_until_the_first_is_served(three_threads):
    pytest.importorskip("threadpoolctl")
    served = []
    second = threading.Thread(target=parallel_for, args=(np, lambda: served.append("second"), [()]))

    def first():
        second.start()
        second.join(0.2)  # time enough, if it did not wait
        served.append("first")

    parallel_for(np, first, [()])
    second.join()
    assert served == ["first", "second"]


def test_blas_gets_its_threads_back_whoever_calls():
    """threadpoolctl lets one thread at a time change the setting, and ignores the others without a word."""
    pytest.importorskip("threadpoolctl")
    environment = os.environ | {"OMP_NUM_THREADS": "2", "OPENBLAS_NUM_THREADS": "2"}
    subprocess.run([sys.executable, "-c", CALLER_AFTER_CALLER], env=environment, check=True)


CALLER_AFTER_CALLER = """
import threading
import numpy as np
from minidl.backend import threads

blas = lambda: {library.num_threads for library in threads._controller().lib_controllers}
before, seen = blas(), []
call = lambda: threads.parallel_for(np, lambda: seen.append(blas()), [()])
call()
thread = threading.Thread(target=call)
thread.start()
thread.join()
assert seen == [{1}, {1}], seen
assert blas() == before, (blas(), before)
"""


def test_each_of_several_jobs_is_done_by_one_thread(three_threads):
    pytest.importorskip("threadpoolctl")
    meeting = threading.Barrier(2, timeout=30)

    def job(name):
        seen = []
        parallel_for(np, lambda piece: seen.append((piece, threading.get_ident())), [(i,) for i in range(9)])
        meeting.wait()  # both are at work at the same time, or never
        return name, seen

    (a, first), (b, second) = at_once(lambda: job("a"), lambda: job("b"))
    assert (a, b) == ("a", "b")
    assert [piece for piece, _ in first] == [piece for piece, _ in second] == list(range(9))
    assert len({thread for _, thread in first}) == len({thread for _, thread in second}) == 1
    assert first[0][1] != second[0][1]


def test_after_an_error_in_a_job_all_threads_work_again(three_threads):
    pytest.importorskip("threadpoolctl")

    def fail():
        raise ValueError("no result")

    with pytest.raises(ValueError, match="no result"):
        at_once(fail, fail, fail)
    meeting = threading.Barrier(3, timeout=30)
    parallel_for(np, meeting.wait, [()] * 3)


def test_the_first_error_is_raised_after_all_have_ended(three_threads):
    ended = []

    def run(piece):
        ended.append(piece)
        if piece in (4, 7):
            raise ValueError(f"piece {piece}")

    with pytest.raises(ValueError, match="piece 4"):
        parallel_for(np, run, [(i,) for i in range(10)])
    if threads._controller() is not None:
        assert sorted(ended) == list(range(10))


def test_ctrl_c_ends_the_work_and_leaves_the_threads_usable():
    pytest.importorskip("threadpoolctl")
    started, here = [], threading.current_thread()

    def run(piece):
        started.append(piece)
        if threading.current_thread() is here:
            raise KeyboardInterrupt

    before = get_num_threads()
    set_num_threads(1)
    with pytest.raises(KeyboardInterrupt):
        parallel_for(np, run, [(i,) for i in range(100)])
    set_num_threads(before)
    assert started == [0]
    parallel_for(np, started.append, [(i,) for i in range(1, 100)])
    assert sorted(started) == list(range(100))


def test_without_threadpoolctl_pieces_follow_each_other(monkeypatch, three_threads):
    monkeypatch.setattr(threads, "_controller", lambda: None)
    order, here = [], threading.current_thread()
    parallel_for(np, lambda i: order.append((i, threading.current_thread())), [(i,) for i in range(5)])
    assert order == [(i, here) for i in range(5)]


def test_number_of_threads(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    assert threads._default_num_threads() == 5
    for nonsense in ("", "0", "many"):
        monkeypatch.setenv("OMP_NUM_THREADS", nonsense)
        assert threads._default_num_threads() >= 1


def test_scratch_is_used_again_and_never_shared():
    first = scratch(np, "test", (4, 5), np.float32)
    assert first.shape == (4, 5)
    assert np.shares_memory(first, scratch(np, "test", (3,), np.float32))
    assert not np.shares_memory(first, scratch(np, "test", (3,), np.float64))
    assert not np.shares_memory(first, scratch(np, "other", (3,), np.float32))
    assert scratch(np, "test", (100,), np.float32).shape == (100,)
    others = []
    thread = threading.Thread(target=lambda: others.append(scratch(np, "test", (3,), np.float32)))
    thread.start()
    thread.join()
    assert not np.shares_memory(others[0], scratch(np, "test", (100,), np.float32))


def test_released_scratch_is_gone_from_every_thread(three_threads):
    pytest.importorskip("threadpoolctl")
    kept, meeting = [], threading.Barrier(3, timeout=30)

    def run(piece):
        meeting.wait()
        kept.append(weakref.ref(scratch(np, f"of thread {piece}", (1000,), np.float32).base))

    parallel_for(np, run, [(0,), (1,), (2,)])
    assert all(memory() is not None for memory in kept)
    release_scratch()
    waited = time.monotonic() + 30
    while any(memory() is not None for memory in kept) and time.monotonic() < waited:
        time.sleep(0.001)  # the threads are on their way out
    assert all(memory() is None for memory in kept)
    kept.clear()
    parallel_for(np, run, [(0,), (1,), (2,)])
    assert len(kept) == 3


@given(
    n=st.integers(0, 9),
    rows=st.integers(0, 9),
    row_bytes=st.integers(0, 50),
    limit=st.integers(1, 500),
    most=st.none() | st.integers(1, 4),
)
def test_strips_cover_everything_once_within_the_limit(n, rows, row_bytes, limit, most):
    counts = np.zeros((n, rows), int)
    for pictures, part in strips(n, rows, row_bytes, limit, most):
        counts[pictures, part] += 1
        size = (pictures.stop - pictures.start, part.stop - part.start)
        assert size[0] * size[1] * row_bytes <= limit or size == (1, 1)
        assert most is None or size[0] <= most
        assert size[0] == 1 or size[1] == rows
    assert (counts == 1).all()


@pytest.mark.parametrize("size", [1 << 18, 3 << 20])
def test_large_scratch_memory_begins_with_a_huge_page(size):
    memory = scratch(np, f"huge {size}", (4, size // 4), np.float32)
    assert memory.ctypes.data % threads.HUGE_PAGE == 0
    memory[...] = 1  # all of it is there


def test_split():
    assert split(7, 3) == [slice(0, 3), slice(3, 6), slice(6, 7)]
    assert split(0, 3) == []


@pytest.mark.parametrize("n", [0, -1, 2.5, True, "2", None, np.float64(2)])
def test_the_number_of_threads_is_whole(n):
    before = get_num_threads()
    message = f"the number of threads must be an integer ≥ 1, got {n!r}"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        set_num_threads(n)
    assert get_num_threads() == before


def test_the_number_of_threads_may_be_numpys(three_threads):
    set_num_threads(np.int64(2))
    assert type(get_num_threads()) is int


def test_at_the_exit_of_python_the_caller_works_alone():
    script = """
import atexit
import numpy as np
from minidl.backend.threads import parallel_for, set_num_threads

set_num_threads(2)
done = []
atexit.register(lambda: print(sorted(done)))
atexit.register(parallel_for, np, done.append, [(i,) for i in range(5)])
"""
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert (run.stdout, run.stderr) == ("[0, 1, 2, 3, 4]\n", "")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_child_born_while_another_thread_computes_computes_too():
    pytest.importorskip("threadpoolctl")
    script = """
import os, threading, time, warnings
import numpy as np
from minidl.backend.memory import empty
from minidl.backend.threads import parallel_for

warnings.simplefilter("ignore")
at_work = threading.Event()

def forever():
    while True:
        parallel_for(np, lambda: (at_work.set(), time.sleep(0.2)), [()])

threading.Thread(target=forever, daemon=True).start()
at_work.wait()
if (child := os.fork()) == 0:
    parallel_for(np, lambda: empty(np, (1 << 20,), np.float32), [()])
    os._exit(7)
end = time.monotonic() + 20
while not (ended := os.waitpid(child, os.WNOHANG))[0] and time.monotonic() < end:
    time.sleep(0.01)
if not ended[0]:
    os.kill(child, 9)
print(os.waitstatus_to_exitcode(ended[1]), flush=True)
os._exit(0)
"""
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert (run.stdout, run.stderr) == ("7\n", "")


INTERRUPTED = """
import os, random, signal
import numpy as np
from minidl.backend import threads

def settings():
    cores = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    return cores, [library.num_threads for library in threads._controller().lib_controllers]

def work(i, done):
    np.dot(a, a)
    done.append(i)

threads.set_num_threads(2)
a = np.ones((60, 60), np.float32)
before, interrupts = settings(), 0
signal.signal(signal.SIGALRM, signal.default_int_handler)
for _ in range(1500):
    try:
        signal.setitimer(signal.ITIMER_REAL, random.uniform(1e-5, 1e-3))
        for _ in range(40):
            threads.parallel_for(np, work, [(i, []) for i in range(4)])
    except KeyboardInterrupt:
        interrupts += 1
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    done = []
    threads.parallel_for(np, work, [(i, done) for i in range(4)])
    assert sorted(done) == [0, 1, 2, 3], done
    assert settings() == before
print(interrupts > 500)
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="there is no such timer here")
def test_an_interrupt_at_any_moment_leaves_no_lock_and_no_setting():
    pytest.importorskip("threadpoolctl")
    command = [sys.executable, "-c", INTERRUPTED]
    run = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (run.stdout, run.stderr) == ("True\n", "")


def test_the_number_of_threads_may_change_while_others_compute(three_threads):
    pytest.importorskip("threadpoolctl")
    wrong, stop = [], threading.Event()

    def compute():
        try:
            while not stop.is_set():
                done = []
                parallel_for(np, done.append, [(i,) for i in range(3)])
                if sorted(done) != [0, 1, 2]:
                    wrong.append(done)
        except Exception as error:
            wrong.append(error)

    workers = [threading.Thread(target=compute) for _ in range(2)]
    for worker in workers:
        worker.start()
    for n in (1, 2) * 100:
        set_num_threads(n)
        time.sleep(0.001)
    stop.set()
    for worker in workers:
        worker.join()
    assert not wrong


def test_the_threads_of_a_pool_that_is_gone_end(three_threads):
    pytest.importorskip("threadpoolctl")
    parallel_for(np, lambda i: None, [(i,) for i in range(3)])
    ours = [thread for thread in threading.enumerate() if thread.name == "minidl"]
    assert len(ours) >= 2
    release_scratch()
    for thread in ours:
        thread.join(10)
        assert not thread.is_alive()
