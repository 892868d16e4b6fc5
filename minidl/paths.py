"""Questions about a graph as a whole. It is known by its root: the Function, or the leaf, of some tensor."""

from __future__ import annotations

import contextlib
import operator
from collections.abc import Iterable, Iterator
from typing import Any

from minidl.tensor import Tensor


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


@contextlib.contextmanager
def asked_towards(wanted: Iterable[Any], root: Any) -> Iterator[None]:
    """Inside the block each function is asked only for the gradients that lead from `root` to the wanted."""
    order, leading = topological_order(root), set(wanted)
    recorded = [function.needs_grad for function in order]
    for function in reversed(order):
        function.needs_grad = [edge in leading for edge in function.edges]
        if True in function.needs_grad:
            leading.add(function)
    try:
        yield
    finally:
        for function, needs_grad in zip(order, recorded, strict=True):
            function.needs_grad = needs_grad
