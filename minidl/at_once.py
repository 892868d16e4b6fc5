"""The gradients of one operation, computed at the same time.

Threads that share every piece of work, small as it is, wait for each other at the end of each piece, and for
Python's lock at each step. ∂L/∂x and ∂L/∂w do not depend on each other: so each may have a thread of its own.
"""

from __future__ import annotations

from collections.abc import Callable

from minidl.autograd import Function
from minidl.backend import device_of
from minidl.backend.blocks import ALONE
from minidl.backend.threads import at_once
from minidl.recording import here, no_grad
from minidl.tensor import Tensor

MEDIUM = 1 << 21  # numbers of ∂L/∂y: of more each gradient keeps all threads busy by itself


def gradients(function: Function, dy: Tensor, *jobs: Callable[[], Tensor]) -> tuple[Tensor | None, ...]:
    """job() for each input of the function whose gradient is asked for, None for the others.

    The first two are the most work. Of a medium size they are done at the same time, unless they are recorded
    or looked at: for that the state of the thread that goes backward matters.
    """
    needed, state = function.needs_grad, here.state
    asked = [job for job, need in zip(jobs, needed, strict=False) if need]
    medium = ALONE <= dy.data.size <= MEDIUM and device_of(dy.data) == "cpu"
    if medium and needed[0] and needed[1] and not state.recording and state.anomaly is None:
        results = iter(at_once(*map(no_grad, asked)))
    else:
        results = (job() for job in asked)
    return tuple(next(results) if need else None for need in needed)
