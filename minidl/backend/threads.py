"""Threads for the work that comes in independent pieces, and the scratch memory each of them reuses.

NumPy lets other threads run while it copies or multiplies. Many small matrix products then run best one to a
thread, with the BLAS library itself held to one thread: that needs threadpoolctl. Without it the pieces run
one after the other, and BLAS spreads each over the cores as it always does.
"""

from __future__ import annotations

import contextlib
import functools
import math
import operator
import os
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from queue import SimpleQueue
from typing import Any

import numpy as np

from minidl.backend.device import Array
from minidl.backend.memory import aligned
from minidl.errors import MissingExtraError, require


def _default_num_threads() -> int:
    given = os.environ.get("OMP_NUM_THREADS", "")
    if given.isdigit() and int(given) > 0:
        return int(given)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


HUGE_PAGE = 1 << 21  # bytes
_num_threads = _default_num_threads()
_one_at_a_time = threading.Lock()  # BLAS has one setting for the process; who sets it must put it back
_to_put_back: list[tuple[Any, int]] = []  # that setting, which Ctrl-C in between leaves for the next one


class _Thread(threading.local):
    alone = False  # does it a job of `at_once`? Then it shares no work, and leaves BLAS's setting alone


_thread = _Thread()


def _put_back() -> None:
    for library, threads in _to_put_back:
        library.set_num_threads(threads)
        if hasattr(library, "clear_controlling_thread"):  # else no other thread could set it from now on
            library.clear_controlling_thread()
    _to_put_back.clear()


def _unlock() -> None:
    """In a child of this process: whoever had the lock when it was born did not come along."""
    global _one_at_a_time
    _one_at_a_time = threading.Lock()
    _put_back()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_unlock)


def get_num_threads() -> int:
    """How many threads `parallel_for` uses: at first OMP_NUM_THREADS, or the cores this process may use."""
    return _num_threads


def set_num_threads(n: int) -> None:
    """Use `n` threads. With threadpoolctl the results are the same, to the bit, for every `n`.

    Raises:
        ValueError: n is no integer, or smaller than 1.
    """
    global _num_threads
    if not isinstance(n, (int, np.integer)) or isinstance(n, bool) or n < 1:
        raise ValueError(f"the number of threads must be an integer ≥ 1, got {n!r}")
    _num_threads = int(n)


@contextlib.contextmanager
def one_blas_thread() -> Iterator[None]:
    """BLAS works on one thread meanwhile, if threadpoolctl is there to tell it so; one caller at a time.

    After a product BLAS's other threads spin for some 30 ms in wait of the next, on cores that a small
    network needs for something else by then.
    """
    if _controller() is None or _thread.alone:
        yield
        return
    with _one_at_a_time:
        _put_back()
        libraries = (library for library in _controller().lib_controllers if library.user_api == "blas")
        _to_put_back[:] = [(library, library.num_threads) for library in libraries]
        try:
            for library, _ in _to_put_back:
                library.set_num_threads(1)
            yield
        finally:
            _put_back()


def parallel_for(xp: Any, run: Callable[..., None], pieces: Sequence[tuple[Any, ...]]) -> None:
    """run(*piece) for every piece, in any order and on several threads; on the GPU one after the other.

    Pieces must write to disjoint places, and must call neither `parallel_for` nor `products.matmul`
    themselves, which the jobs of `at_once` may. The first error (in the order of the pieces) is raised when
    all have ended. A second caller waits until the first is served.
    """
    if xp is not np or _controller() is None or _thread.alone:
        for piece in pieces:
            run(*piece)
        return
    waiting, errors = deque(enumerate(pieces)), []

    def work() -> None:
        # Whoever is free takes the next piece: a job for each would cost as much as a small piece does.
        while waiting:
            try:
                number, piece = waiting.popleft()
            except IndexError:  # another thread was faster
                return
            try:
                run(*piece)
            except Exception as error:
                errors.append((number, error))

    threads = _num_threads
    helpers = min(threads, len(pieces)) - 1
    with one_blas_thread(), _helpers_apart(threads) if helpers > 0 else contextlib.nullcontext() as pool:
        try:
            if pool:
                pool.wait()  # for what Ctrl-C, twice, has left behind
                for _ in range(helpers):
                    pool.jobs.put(work)
            work()
        finally:
            waiting.clear()  # not empty after Ctrl-C
            if pool:
                pool.wait()
    if errors:
        raise min(errors, key=operator.itemgetter(0))[1]


def at_once(*jobs: Callable[[], Any]) -> list[Any]:
    """[job() for job in jobs], at the same time: what a job calls `parallel_for` with stays on its thread."""
    results: list[Any] = [None] * len(jobs)

    def do(number: int, job: Callable[[], Any]) -> None:
        before = _thread.alone
        try:
            _thread.alone = True
            results[number] = job()
        finally:
            _thread.alone = before

    parallel_for(np, do, list(enumerate(jobs)))
    return results


def split(n: int, width: int) -> list[slice]:
    """0 … n in slices of `width`, the last one shorter."""
    return [slice(start, min(start + width, n)) for start in range(0, n, width)]


def strips(
    n: int, rows: int, row_bytes: int, limit: int, most: int | None = None
) -> list[tuple[slice, slice]]:
    """n pictures of some rows (or channels) in pieces of at most `limit` bytes, as (pictures, rows).

    A piece is a part of one picture, or several whole pictures, `most` at most. How many threads there are
    makes no difference: the pieces decide the order of sums.
    """
    if rows * row_bytes > limit:
        return [(p, r) for p in split(n, 1) for r in split(rows, max(1, limit // row_bytes))]
    together = min(limit // max(1, rows * row_bytes), n if most is None else most)
    return [(p, slice(0, rows)) for p in split(n, max(1, together))]


class _Pool:
    """The threads beside the caller's.

    Ctrl-C may come between any two steps of the caller, and must not leave a lock behind. So all that they
    share are queues, sets and lists whose methods are one step each.
    """

    def __init__(self, threads: int) -> None:
        self.jobs: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self.busy: set[int] = set()  # who has a job. One that comes late finds no piece left
        self.ended: SimpleQueue[None] = SimpleQueue()  # an entry for each job
        self.numbers: list[int] = []  # the operating system's, of the threads that have begun
        self.placed: tuple[set[int], int] = (set(), 0)  # the cores they may use, and how many threads know it
        self.to_put_back: set[int] | None = None  # the caller's cores, which Ctrl-C in between leaves here
        self.size = 0
        for _ in range(threads):
            arguments = self.jobs, self.busy, self.ended, self.numbers
            threading.Thread(target=_serve, args=arguments, name="minidl", daemon=True).start()
            self.size += 1

    def __del__(self) -> None:
        for _ in range(self.size):
            self.jobs.put(None)

    def wait(self) -> None:
        """Until nobody is busy. Ctrl-C, or what else a signal raises meanwhile, counts afterwards."""
        try:
            while self.busy:
                self.ended.get()
        except BaseException:
            self.wait()
            raise
        while not self.ended.empty():
            self.ended.get()

    @contextlib.contextmanager
    def apart(self) -> Iterator[None]:
        """Meanwhile the caller stays on its core and these threads on the others, where Linux can do that.

        In a virtual machine the kernel often wakes a thread on the core of whoever wakes it, it seems because
        it holds a core that sleeps for one that is taken away. There the two take turns, for up to 4 ms each.
        """
        here = _core()()
        if here < 0:
            yield
            return
        allowed = self.to_put_back or os.sched_getaffinity(0)  # may have changed
        place = allowed - {here} or allowed, len(self.numbers)
        self.to_put_back = allowed
        try:
            with contextlib.suppress(OSError):  # a sandbox may forbid it
                if self.placed != place:
                    for number in self.numbers:
                        os.sched_setaffinity(number, place[0])
                    self.placed = place
                os.sched_setaffinity(0, {here} & allowed or allowed)
            yield
        finally:
            with contextlib.suppress(OSError):
                os.sched_setaffinity(0, allowed)
            self.to_put_back = None


@functools.lru_cache(maxsize=1)
def _pool(threads: int, process: int) -> _Pool:
    """`process` is part of the key: threads do not survive a fork."""
    return _Pool(threads)


@contextlib.contextmanager
def _helpers_apart(threads: int) -> Iterator[_Pool | None]:
    """The pool, kept off the caller's core; None at the exit of Python, which starts no more threads then."""
    try:
        pool = _pool(threads - 1, os.getpid())
    except RuntimeError:
        yield None
        return
    with pool.apart():
        yield pool


def _serve(jobs: SimpleQueue, busy: set[int], ended: SimpleQueue, numbers: list[int]) -> None:
    """What a thread of the pool does. It does not know the pool, which else would never be gone."""
    number = threading.get_native_id()
    numbers.append(number)
    while (job := jobs.get()) is not None:
        busy.add(number)
        try:
            job()
        finally:
            del job  # and what it works on
            busy.discard(number)
            ended.put(None)


@functools.cache
def _core() -> Callable[[], int]:
    """A function that tells the core its caller is on; −1 where the C library has none that does."""
    if hasattr(os, "sched_setaffinity"):
        import ctypes

        library = ctypes.PyDLL(None)  # keeps Python's lock: others have no use of it for 0.1 µs
        if hasattr(library, "sched_getcpu"):
            return library.sched_getcpu
    return lambda: -1


@functools.cache
def _controller() -> Any:
    """Sets the number of BLAS threads; None without threadpoolctl. Finding the libraries is slow: once."""
    try:
        return require("threadpoolctl", "threads").ThreadpoolController()
    except MissingExtraError:
        return None


class _Scratch(threading.local):
    def __init__(self) -> None:
        self.arrays: dict[tuple[str, np.dtype], np.ndarray] = {}


_scratch = _Scratch()


def scratch(xp: Any, name: str, shape: tuple[int, ...], dtype: Any) -> Array:
    """An uninitialised array, valid until this thread asks for the same `name` again.

    The operating system hands out new pages one fault at a time, which costs as much as the arithmetic done
    in them; so each thread keeps its pages. CuPy has a memory pool of its own.
    """
    if xp is not np:
        return xp.empty(shape, dtype)
    key, size = (name, np.dtype(dtype)), math.prod(shape)
    if key not in _scratch.arrays or _scratch.arrays[key].size < size:
        _scratch.arrays[key] = _in_huge_pages(size, np.dtype(dtype))
    return _scratch.arrays[key][:size].reshape(shape)


def _in_huge_pages(size: int, dtype: np.dtype) -> np.ndarray:
    """An uninitialised array; one of 1 MB or more begins where a huge page of the system does.

    NumPy asks Linux for huge pages from 4 MB on, which two more than needed come to. With pages of 4 KB the
    processor keeps looking up where they are, at times for a tenth of the time of a convolution.
    """
    size *= dtype.itemsize
    if size < HUGE_PAGE // 2:
        return np.empty(size, np.uint8).view(dtype)
    pages = -(-size // HUGE_PAGE) + 1
    return aligned((pages * HUGE_PAGE,), np.uint8, HUGE_PAGE)[:size].view(dtype)


def release_scratch() -> None:
    """Give back the scratch memory of this thread and of the pool: convolutions are over for a while."""
    with _one_at_a_time:
        _scratch.arrays.clear()
        _pool.cache_clear()  # the threads end, and theirs goes with them
