"""The chain rule of a real loss, written out step by step: with its names, its numbers, its lines of code."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from minidl.autograd import Function
from minidl.nn.module import Module
from minidl.tensor import Tensor

if TYPE_CHECKING:
    from minidl.graph.explanation import Explanation
    from minidl.graph.trace import Trace


def explain(
    output: Tensor,
    depth: int | None = 50,
    module: Module | str | None = None,
    model: Module | None = None,
    gradient: Tensor | None = None,
) -> Explanation:
    """How the gradient of `output` = L comes about: the chain rule, in the order in which the engine walks.

    Each operation tells the value it computed, its line of user code, the gradient that arrives (the sum,
    where several paths meet) and the rule by which it passes it on, from the docstring of the Function:
    numbers where they are few, else shapes and norms. No `.grad` changes, and the graph is kept.

    Tensors have the names of the caller's variables, parameters their paths, and results without a name a
    number: "#2" is what the second operation of the walk computed.

    Args:
        depth: how many operations to explain, from L on; None for all.
        module: explain only the operations inside this module, or inside that of this path.
        model: the network whose paths name modules and parameters; by default those that were called.
        gradient: ∂L/∂output, where output itself is not one number.

    Raises:
        GradientError: the graph was freed by backward(), output has no graph, or is not one number.
        ValueError: no operation of the graph belongs to `module`.
    """
    from minidl.graph.explanation import Explanation, Writer
    from minidl.graph.trace import TINY, gradients, numbers, trace

    graph = trace(output, model)
    found = gradients(graph, gradient)
    told = [function for function in graph.functions if function in found.passages]
    total, left_out, reached = len(told), "", found.leaves
    if module is not None:
        told = _inside(graph, told, module)
        left_out = f"{total - len(told)} of {total} operations are outside of this module."
        edges = {edge for function in told for edge in function.edges}
        reached = {leaf: value for leaf, value in reached.items() if leaf in edges}
    if depth is not None and len(told) > depth:
        left_out = f"{total - depth} of {total} operations are left out: depth=None explains all."
        told = told[:depth]
    write = Writer(graph, found)
    value = f" = {numbers(output.data)}" if output.numel() <= TINY else f" of shape {output.shape}"
    operations = f"{total} operation{'s' if total != 1 else ''}"
    return Explanation(
        f"{write.loss}{value}, computed by {operations}. The chain rule, from {write.loss} back:",
        [write.step(function) for function in told],
        left_out,
        [write.arrival(leaf, value) for leaf, value in reached.items()],
    )


def _inside(graph: Trace, functions: Sequence[Function], module: Module | str) -> list[Function]:
    from minidl.graph.trace import calls

    wanted = {m for m, path in graph.paths.items() if module in (m, path)}
    inside = [f for f in functions if any(call.module() in wanted for call in calls(f))]
    if not inside:
        known = ", ".join(path for path in graph.paths.values() if path) or "none"
        called = repr(module) if isinstance(module, str) else type(module).__name__
        raise ValueError(f"no operation here belongs to the module {called}: the modules are {known}")
    return inside
