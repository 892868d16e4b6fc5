"""The graph of a real loss, or of a model, as a picture."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from minidl.nn.module import Module
from minidl.nn.parameter import Parameter
from minidl.recording import set_grad_enabled
from minidl.tensor import Tensor

if TYPE_CHECKING:
    from minidl.graph.svg import Drawing
    from minidl.graph.trace import Trace

NAMED = 8  # so many layers are named in a note


def draw(
    of: Tensor | Module,
    x: Any = None,
    *,
    level: str | None = None,
    model: Module | None = None,
    gradients: bool | None = None,
) -> Drawing:
    """Draw the graph of a tensor, or that of a model at the input x.

        dl.draw(loss)                     as it was recorded; a notebook shows it
        dl.draw(model, x).save("model.svg")

    Values are green and gradients red; what is frozen or constant is dimmed. What names mean is told at
    `explain`. Where gradients are not asked for, those are shown that backward() left in `.grad`.

    Args:
        of: a tensor with a graph; or a model, which runs once in evaluation mode and is left as it was.
        x: the input of the model.
        level: "op" draws every operation and every leaf, "module" a box for each call of a layer. By default
            it is "module" where modules were called.
        model: the network whose paths name modules and parameters; by default those that were called.
        gradients: walk back through the graph and show what arrives at each box. By default only for "op", if
            the tensor is one number and its graph was not freed.

    Raises:
        GradientError: the tensor has no graph, or gradients=True and it cannot be walked.
    """
    from minidl.graph import boxes, svg, trace

    given = None
    if isinstance(of, Module):
        model, title = model or of, type(of).__name__
        given = _input(x)
        of = _run(of, given)
    graph = trace.trace(of, model)
    if level is None:
        level = "module" if any(function.made_in for function in graph.functions) else "op"
    if level not in ("op", "module"):
        raise ValueError(f'level is "op" or "module", got {level!r}')
    freed = any(function._saved is None for function in graph.functions)
    if gradients is None:
        gradients = level == "op" and given is None and of.numel() == 1 and not freed
    found = trace.gradients(graph) if gradients else None
    grouping = boxes.by_module(graph.functions) if level == "module" else boxes.by_operation(graph.functions)
    elided = boxes.elide(grouping)
    words = boxes.Words(graph, grouping, found, given)
    drawn, edges = boxes.boxes_and_edges(graph, grouping, words, parameters=level == "op")
    if given is None:
        title = _title(graph)
    notes = [_counts(graph), elided, _freed(freed), "" if found or given is not None else _computed(graph)]
    if level == "module":
        notes.append(_missing(graph))
    return svg.Drawing(title, [note for note in notes if note], drawn, edges)


def _input(x: Any) -> Tensor:
    """The input of a model, as a leaf of its own: so the graph begins there, also where all is frozen."""
    if x is None:
        raise TypeError("a model is drawn as it runs: give its input too, draw(model, x)")
    x = Tensor(x)
    return x.requires_grad_() if x.dtype.kind == "f" else x


def _run(model: Module, x: Tensor) -> Tensor:
    """The output of the model, in evaluation mode; afterwards it is in the mode it was in."""
    modes = {module: module.training for module in model.modules()}
    try:
        with ExitStack() as hooks, set_grad_enabled(True):
            for module in modes:  # where hooks look on, Sequential keeps to the order that is written
                hooks.enter_context(module.register_forward_hook(lambda *_: None))
            output = model.eval()(x)
    finally:
        for module, mode in modes.items():
            module.training = mode
    if not isinstance(output, Tensor):
        raise TypeError(f"draw needs one tensor, and {type(model).__name__} gave a {type(output).__name__}")
    return output


# What is told beside the picture


def _title(graph: Trace) -> str:
    from minidl.graph.trace import TINY, numbers

    name, output = graph.names[graph.output.node], graph.output
    return f"{name} = {numbers(output.data)}" if output.numel() <= TINY else f"{name} of shape {output.shape}"


def _counts(graph: Trace) -> str:
    parameters = [leaf for leaf in graph.leaves if isinstance(leaf, Parameter)]
    learn = f", {sum(p.numel() for p in parameters):,} parameters that learn" if parameters else ""
    return f"{len(graph.functions):,} operations{learn}."


def _freed(freed: bool) -> str:
    if not freed:
        return ""
    return "The graph was freed by backward(): values and gradients between its ends are no longer known."


def _computed(graph: Trace) -> str:
    """Whether backward() has left gradients in the leaves."""
    found = [leaf.grad is not None for leaf in graph.leaves]
    if all(found):
        return ""
    return "Gradients: some are not computed yet." if any(found) else "Gradients: not computed yet."


def _missing(graph: Trace) -> str:
    """The layers without an operation in the graph: they do nothing, or one before them did their work."""
    from minidl.graph.trace import calls

    called = {call.module() for function in graph.functions for call in calls(function)}
    layers = {module: path for module, path in graph.paths.items() if path and not module._modules}
    missing = [path for module, path in layers.items() if module not in called]
    if not missing:
        return ""
    more = f" and {len(missing) - NAMED} more" if len(missing) > NAMED else ""
    return f"Without an operation of their own: {', '.join(missing[:NAMED])}{more}."
