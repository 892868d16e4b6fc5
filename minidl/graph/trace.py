"""What a recorded graph tells about itself: its order, the names and values of its nodes, the gradients.

`explain` writes this down and `draw` draws it. Nothing is changed: neither `.grad` nor what the graph saved.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

from minidl.autograd import Function, first_gradient, walk
from minidl.backend import Array, array_module
from minidl.errors import GradientError
from minidl.graph.formulas import formula_of
from minidl.nn.module import Module, ModuleCall
from minidl.nn.parameter import Parameter
from minidl.paths import topological_order
from minidl.recording import set_grad_enabled
from minidl.tensor import Tensor

TINY = 6  # arrays of so many elements are shown by their numbers, larger ones by shape and norm
_here = os.path.dirname(os.path.dirname(__file__)) + os.sep


@dataclass
class Trace:
    """The graph of `output`, and what its nodes (Functions and leaves) are called.

    Attributes:
        functions: in the order of the walk back, the one that made `output` first.
        leaves: in the order in which the walk back meets them.
        names: of every node; a variable of the caller, a path such as "conv1.weight", or "#3".
        values: the arrays that are still known: those of leaves, and whatever some operation saved.
        paths: of the modules that were called.
    """

    output: Tensor
    functions: list[Function]
    leaves: list[Tensor]
    names: dict[Any, str]
    values: dict[Any, Array]
    paths: dict[Module, str]

    def module_of(self, function: Function) -> Module | None:
        """The innermost module that the operation was part of; None where there is none (any more)."""
        return function.made_in.module() if function.made_in else None

    def place_of(self, function: Function) -> str:
        """The path of that module, or its kind where it has no path: "conv1", "CrossEntropyLoss"."""
        module = self.module_of(function)
        return "" if module is None else self.paths.get(module) or type(module).__name__

    def constant(self, function: Function, i: int) -> Tensor | None:
        """Input i, where it has no gradient: if the function saved it, or as a layer's frozen parameter."""
        saved = (tensor for name, tensor, *_ in _kept(function) if function._inputs.get(name) == i)
        return next(saved, self._frozen(function, i))

    def _frozen(self, function: Function, i: int) -> Parameter | None:
        """The parameter that a layer of minidl gives to its operation as input i, under the same name."""
        module = self.module_of(function)
        if module is None or not type(module).forward.__module__.startswith("minidl.nn."):
            return None
        named = ((function._inputs.get(name), p) for name, p in module._parameters.items())
        return next((p for at, p in named if at == i and p is not None and not p.requires_grad), None)

    def operand(self, function: Function, i: int) -> tuple[str, Array | None]:
        """Input i by its name, or else its number or "constant", and its value if it is known."""
        node = function.edges[i]
        if node is not None:
            return self.names[node], self.values.get(node)
        tensor = self.constant(function, i)
        if tensor is None:
            return "constant", None
        return self.names.get(
            tensor, exact(tensor.item()) if tensor.numel() == 1 else "constant"
        ), tensor.data

    def letters(self, function: Function) -> tuple[dict[str, str], dict[str, Array]]:
        """The letters of the function's formula: what they are called here, and their values."""
        formula = formula_of(type(function))
        names, values = {formula.output: self.names[function]}, {formula.output: self.values.get(function)}
        for i in range(0 if formula.variadic else len(function.edges)):
            names[formula.letter(i)], values[formula.letter(i)] = self.operand(function, i)
        return (
            {letter: name for letter, name in names.items() if letter and name},
            {letter: value for letter, value in values.items() if letter and value is not None},
        )


def trace(output: Tensor, model: Module | None = None) -> Trace:
    """Look at the graph of `output`. Names come from the variables of whoever called minidl, and from `model`
    or the modules that were called."""
    if not output.requires_grad:
        first_gradient(output, None)  # says why there is no graph
    functions = topological_order(output.node)
    leaves = list(dict.fromkeys(e for f in functions for e in f.edges if isinstance(e, Tensor)))
    if not functions:
        leaves = [output]
    frame = _frame_of_user()
    variables = {**frame.f_globals, **frame.f_locals}
    paths, parameters = _named_modules(functions, model, variables)
    names: dict[Any, str] = dict(parameters)
    values: dict[Any, Array] = {leaf: leaf.data for leaf in leaves}
    present = set(functions)
    for name, value in variables.items():
        if isinstance(value, Tensor) and name[0] != "_" and (value.is_leaf or value.grad_fn in present):
            names.setdefault(value.node, name)
            values[value.node] = value.data
    names.setdefault(output.node, "L")
    for i, function in enumerate(functions, start=1):
        names.setdefault(function, f"#{i}")
    unnamed = (leaf for leaf in leaves if leaf not in names)
    names.update({leaf: f"leaf{i}" for i, leaf in enumerate(unnamed, start=1)})
    for function in functions:
        for node, array in _known(function):
            values.setdefault(node, array)
    return Trace(output, functions, leaves, names, {**values, output.node: output.data}, paths)


def _frame_of_user() -> FrameType:
    """The innermost frame outside of minidl."""
    frame = sys._getframe(1)
    while frame.f_code.co_filename.startswith(_here) and frame.f_back is not None:
        frame = frame.f_back
    return frame


def _named_modules(
    functions: list[Function], model: Module | None, variables: dict[str, Any]
) -> tuple[dict[Module, str], dict[Parameter, str]]:
    """The paths of all modules and parameters of `model` and of every outermost module that was called.

    Where several have parameters, each path begins with the name of its variable, or else with its kind.
    """
    roots: dict[Module, None] = {} if model is None else {model: None}
    seen: set[ModuleCall] = set()
    for function in reversed(functions):
        *_, outermost = (None, *calls(function))
        if outermost is not None and outermost not in seen:
            seen.add(outermost)
            module = outermost.module()
            if module is not None and not any(module in set(root.modules()) for root in roots):
                roots[module] = None
    several = sum(any(True for _ in root.parameters()) for root in roots) > 1
    paths: dict[Module, str] = {}
    parameters: dict[Parameter, str] = {}
    for root in roots:
        called = next((name for name, value in variables.items() if value is root), type(root).__name__)
        prefix = called if several and root is not model else ""
        for path, module in root.named_modules(prefix):
            paths[module] = path
            for name, parameter in module._parameters.items():
                if parameter is not None:
                    parameters.setdefault(parameter, f"{path}.{name}" if path else name)
    return paths, parameters


def calls(function: Function) -> Iterator[ModuleCall]:
    """The calls of modules that the operation was part of, the innermost first."""
    call = function.made_in
    while call is not None:
        yield call
        call = call.outer


def _kept(function: Function) -> Iterator[Any]:
    """(name, tensor, array, version) of what the function saved."""
    saved = (function._saved or {}).items()
    return ((name, *entry) for name, entry in saved if entry is not None)


def _known(function: Function) -> Iterator[tuple[Any, Array]]:
    """(node, array) that the function saved: its own output, or inputs that other functions computed."""
    for name, _, array, _ in _kept(function):
        if name == "output":
            yield function, array
        elif name in function._inputs and (edge := function.edges[function._inputs[name]]) is not None:
            yield edge, array


# Gradients


@dataclass
class Passage:
    """How the walk back passed through one function.

    Attributes:
        arriving: ∂L/∂output in words, and whether several paths were added up to it.
        passed: for each input, ∂L/∂input in words, None where it was not asked for.
        summed: for each input, the axes over which its gradient was summed, because it was broadcast.
    """

    arriving: Value
    passed: list[Value | None]
    summed: list[tuple[int, ...]]


@dataclass
class Value:
    """What is told of an array that is not kept: its numbers if they are few, else its norm."""

    shape: tuple[int, ...]
    text: str
    norm: float

    @classmethod
    def of(cls, array: Array) -> Value:
        norm = float(array_module(array).linalg.norm(array))
        return cls(array.shape, numbers(array) if array.size <= TINY else "", norm)


@dataclass
class Gradients:
    """What the walk back found: one Passage a function, and the sum that arrives at each leaf."""

    passages: dict[Function, Passage] = field(default_factory=dict)
    leaves: dict[Tensor, Value] = field(default_factory=dict)
    arrivals: dict[Any, list[Value]] = field(default_factory=dict)  # at each node, by every path to it


def gradients(of: Trace, gradient: Tensor | None = None) -> Gradients:
    """Walk back through the graph once, and keep of every gradient what is told of it.

    Raises:
        GradientError: the graph was freed, or output is not one number and no gradient is given.
    """
    freed = next((function for function in of.functions if function._saved is None), None)
    if freed is not None:
        raise GradientError(
            f"this graph was freed by backward(): {freed.name} no longer has what it saved. "
            "Call explain before backward(), or say backward(retain_graph=True)"
        )
    found = Gradients()

    def observe(function: Function, dy: Tensor, results: tuple[Any, ...]) -> None:
        passed: list[Value | None] = []
        summed: list[tuple[int, ...]] = []
        for edge, dx in zip(function.edges, results, strict=True):
            axes: tuple[int, ...] = ()
            if edge is None or dx is None:
                passed.append(None)
            else:
                axes = _broadcast_axes(dx.shape, edge.shape)
                array = dx.data.sum(axis=axes).reshape(edge.shape) if axes else dx.data
                value = Value.of(array)
                passed.append(value)
                found.arrivals.setdefault(edge, []).append(value)
            summed.append(axes)
        found.passages[function] = Passage(Value.of(dy.data), passed, summed)

    first = first_gradient(of.output, gradient)
    with set_grad_enabled(False):
        sums = walk(of.output, first, retain_graph=True, observe=observe)
    found.leaves = {leaf: Value.of(dx.data) for leaf, dx in sums.items() if isinstance(leaf, Tensor)}
    return found


def _broadcast_axes(shape: tuple[int, ...], of: tuple[int, ...]) -> tuple[int, ...]:
    """The axes of a gradient over which the engine sums (`unbroadcast`) for an input of shape `of`."""
    added = len(shape) - len(of)
    return (*range(added), *(i for i, n in enumerate(of, added) if n == 1 != shape[i]))


# Words


def exact(value: float) -> str:
    """A constant as it was written, to the seven digits of float32."""
    return f"{value:.7g}".replace("-", "−")


def number(x: float) -> str:
    """Four significant digits, with a proper minus."""
    return f"{x:.4g}".replace("-", "−")


def numbers(array: Array) -> str:
    """A small array: 3, [1, 2], [[1, 2], [3, 4]]."""

    def text(x: Any) -> str:
        return f"[{', '.join(map(text, x))}]" if isinstance(x, list) else number(x)

    return text(array.tolist())


def bytes_text(count: int) -> str:
    """8 B, 1.2 kB, 3.2 MB."""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} B"
