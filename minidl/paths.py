"""The order of a graph, and the gradient of one tensor by others: only the paths between them are walked."""

from __future__ import annotations

import contextlib
import operator
import threading
from collections.abc import Iterable, Iterator
from typing import Any

from minidl import complaints
from minidl.anomaly import looking_back
from minidl.autograd import first_gradient, walk
from minidl.recording import set_grad_enabled
from minidl.tensor import Tensor

_one_at_a_time = threading.RLock()  # a graph that two threads share can be asked by one of them only


def topological_order(root: Any) -> list[Any]:
    """The functions that `root` was computed by, latest call first: each after all that used its result."""
    found = set() if isinstance(root, Tensor) else {root}
    stack = list(found)
    while stack:
        for edge in stack.pop().edges:
            if edge is not None and not isinstance(edge, Tensor) and edge not in found:
                found.add(edge)
                stack.append(edge)
    return sorted(found, key=operator.attrgetter("_number"))


def grad(
    output: Tensor,
    inputs: Tensor | Iterable[Tensor],
    gradient: Tensor | None = None,
    retain_graph: bool | None = None,
    create_graph: bool = False,
    allow_unused: bool = False,
) -> Any:
    """∂output/∂x, in the type of x, for each x of `inputs`, leaves or not, leaving every `.grad` as it is.

    Only the paths that lead to the inputs are walked. One tensor in, one gradient out; several, a tuple.
    Raises GradientError as `backward`, and for an input that output does not depend on, unless `allow_unused`
    (then None).
    """
    xs = [inputs] if isinstance(inputs, Tensor) else list(inputs)
    first = first_gradient(output, gradient)
    wanted = {x.node for x in xs}
    retain_graph = create_graph if retain_graph is None else retain_graph
    with (
        _one_at_a_time,
        set_grad_enabled(create_graph),
        looking_back() as observe,
        _asked_towards(wanted, output.node),
    ):
        found = walk(output, first, retain_graph, wanted, observe)
        results = tuple(found[x.node].astype(x.dtype) if x.node in found else None for x in xs)
    for i, x in enumerate(xs):
        if results[i] is None and not allow_unused:
            raise complaints.unused(i, x)
    return results[0] if isinstance(inputs, Tensor) else results


@contextlib.contextmanager
def _asked_towards(wanted: Iterable[Any], root: Any) -> Iterator[None]:
    """Inside the block each function is asked only for the gradients that lead from `root` to the wanted."""
    order, leading = topological_order(root), set(wanted)
    recorded = [(function.edges, function.needs_grad) for function in order]
    for function in reversed(order):
        function.edges = [edge if edge in leading else None for edge in function.edges]
        function.needs_grad = [edge is not None for edge in function.edges]
        if True in function.needs_grad:
            leading.add(function)
    try:
        yield
    finally:
        for function, (edges, needs_grad) in zip(order, recorded, strict=True):
            function.edges, function.needs_grad = edges, needs_grad
