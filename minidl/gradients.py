"""The gradients of one operation, computed at the same time.

Threads that share every piece of work, small as it is, wait for each other at the end of each piece, and for
Python's lock at each step. ∂L/∂x and ∂L/∂w do not depend on each other: so each may have a thread of its own.
"""

from __future__ import annotations

from collections.abc import Callable

from minidl.autograd import Function
from minidl.backend import device_of
from minidl.backend.threads import at_once
from minidl.recording import is_grad_enabled, no_grad
from minidl.tensor import Tensor

MEDIUM = 1 << 19, 1 << 21  # numbers of ∂L/∂y: one thread has done less soon; more keep all threads busy
FEW = 1 << 17  # numbers of the weight: of more, what each thread makes of them takes much memory


def gradients(
    function: Function, dy: Tensor, weight: Tensor | None, *jobs: Callable[[], Tensor]
) -> tuple[Tensor | None, ...]:
    """job() for each input of the function whose gradient is asked for, None for the others.

    The jobs are for x, the weight and, where there is one, the bias. Those of medium size are done at the
    same time, unless they are recorded: that is noted by the thread that goes backward. That of the bias is
    little work: without ∂L/∂x all threads had better share that for the weight.
    """
    needed = function.needs_grad
    asked = [job for job, need in zip(jobs, needed, strict=False) if need]  # maybe there is no bias
    medium = MEDIUM[0] <= dy.data.size <= MEDIUM[1] and weight is not None and weight.data.size <= FEW
    if medium and needed[0] and needed[1] and device_of(dy.data) == "cpu" and not is_grad_enabled():
        results = iter(at_once(*map(no_grad, asked)))
    else:
        results = (job() for job in asked)
    return tuple(next(results) if need else None for need in needed)
