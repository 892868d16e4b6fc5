"""What is drawn of a graph: boxes, each for one operation or for several, and the edges between them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from minidl.autograd import Function
from minidl.graph.formulas import formula_of, rewrite
from minidl.graph.trace import TINY, Gradients, Trace, calls, number, numbers
from minidl.nn.module import Module, ModuleCall
from minidl.nn.parameter import Parameter
from minidl.tensor import Tensor

MOST = 120  # boxes of operations in a picture; of a larger graph, the following is left out:
LONG_CHAIN = 12  # the middle of a longer chain, and then what is farthest from the loss


@dataclass(eq=False)
class Box:
    """A box of the picture, and the lines of text in it.

    Attributes:
        kind: "operation", "module" (with parameters), "plain" (a module without), "leaf" or "elided".
        title, right: the two ends of the first line.
        lines: (text, kind of text) of the lines below: a "value", a "gradient" or "".
        dimmed: frozen, or a constant: its gradient is not asked for.
        hint: what a browser shows when the mouse rests on it.
    """

    kind: str
    title: str
    right: str = ""
    lines: list[tuple[str, str]] = field(default_factory=list)
    dimmed: bool = False
    hint: str = ""

    @property
    def is_module(self) -> bool:
        return self.kind in ("module", "plain")


@dataclass(eq=False)
class Group:
    """Operations that share a box, in the order of the walk back: the first gives the result."""

    functions: list[Function]
    calls: list[ModuleCall] = field(default_factory=list)  # of modules, whose operations these are
    elided: bool = False


@dataclass
class Grouping:
    """Which operation is in which group."""

    functions: Sequence[Function]
    home: dict[Function, Group]

    @property
    def groups(self) -> list[Group]:
        """In the order of the walk back."""
        return list(dict.fromkeys(self.home[function] for function in self.functions))

    def neighbours(self) -> tuple[dict[Group, list[Group]], dict[Group, list[Group]]]:
        """For each group, those that it takes its inputs from, and those that use its results."""
        before: dict[Group, dict[Group, None]] = {group: {} for group in self.groups}
        after: dict[Group, dict[Group, None]] = {group: {} for group in self.groups}
        for function, here in self.home.items():
            for edge in function.edges:
                if isinstance(edge, Function) and self.home[edge] is not here:
                    before[here][self.home[edge]] = None
                    after[self.home[edge]][here] = None
        return {g: list(b) for g, b in before.items()}, {g: list(a) for g, a in after.items()}

    def merge(self, groups: Sequence[Group], elided: bool = False) -> None:
        """Make one group of several that are given in the order of the walk back."""
        functions = [function for group in groups for function in group.functions]
        whole = Group(functions, [call for group in groups for call in group.calls], elided)
        for function in functions:
            self.home[function] = whole


def by_operation(functions: Sequence[Function]) -> Grouping:
    """Each operation by itself."""
    return Grouping(functions, {function: Group([function]) for function in functions})


def by_module(functions: Sequence[Function]) -> Grouping:
    """The operations of a call of a layer together: of a module in which no other was called.

    Outside of layers, an operation is put to the one on the same line of code that alone uses its result. And
    a layer without parameters that keeps the shape, such as ReLU, is put to the layer before it.
    """
    containers = {call.outer for function in functions for call in calls(function)}
    uses = Counter(edge for function in functions for edge in function.edges)
    user = {edge: function for function in functions for edge in function.edges if edge is not None}
    layers: dict[ModuleCall, Group] = {}
    home: dict[Function, Group] = {}
    for function in functions:
        call, next_one = function.made_in, user.get(function)
        if call is not None and call not in containers:
            group = layers.setdefault(call, Group([], [call]))
        elif next_one is not None and uses[function] == 1 and _same_line(function, next_one):
            group = home[next_one]
        else:
            group = Group([])
        group.functions.append(function)
        home[function] = group
    grouping = Grouping(functions, home)
    before, after = grouping.neighbours()
    for group in reversed(grouping.groups):
        if len(before[group]) == 1 and len(after[before[group][0]]) == 1:
            previous = before[group][0]
            if _follows(group, previous):
                grouping.merge([group, home[previous.functions[0]]])
    return grouping


def _same_line(function: Function, other: Function) -> bool:
    here, there = function.made_at, other.made_at
    return (here.file, here.line, function.made_in) == (there.file, there.line, other.made_in)


def _follows(group: Group, previous: Group) -> bool:
    """Whether a group is a layer without parameters that only changes numbers, behind a layer beside it."""
    if not (group.calls and previous.calls and group.calls[0].outer is previous.calls[0].outer):
        return False
    module = group.calls[0].module()
    plain = module is not None and not any(True for _ in module.parameters())
    return plain and group.functions[0].shape == previous.functions[0].shape


def elide(grouping: Grouping) -> str:
    """Leave at most MOST groups, and say so."""
    count = len(grouping.groups)
    if count <= MOST:
        return ""
    before, after = grouping.neighbours()
    seen: set[Group] = set()
    for group in grouping.groups:
        chain = []
        while group not in seen:
            chain.append(group)
            seen.add(group)
            if len(before[group]) != 1 or len(after[before[group][0]]) != 1:
                break
            (group,) = before[group]
        if len(chain) > LONG_CHAIN:
            grouping.merge(chain[3:-3], elided=True)
    if len(grouping.groups) > MOST:
        grouping.merge(grouping.groups[MOST - 1 :], elided=True)
    return f"Of {count:,} boxes {len(grouping.groups)} are drawn: dots stand for those that were left out."


@dataclass
class Words:
    """The texts in the boxes."""

    graph: Trace
    grouping: Grouping
    gradients: Gradients | None
    given: Tensor | None = None  # the input of a model that ran for the picture

    def __post_init__(self) -> None:
        self.loss = self.graph.names[self.graph.output.node]
        every_call = [call for group in reversed(self.grouping.groups) for call in reversed(group.calls)]
        self.calls_of: dict[Module | None, list[ModuleCall]] = {}
        for call in every_call:
            self.calls_of.setdefault(call.module(), []).append(call)
        self.layers = bool(every_call)  # then "#7" would stand nowhere else in the picture

    def box(self, group: Group) -> Box:
        if group.elided:
            kinds = Counter(function.name for function in group.functions).most_common(3)
            what = ", ".join(f"{name} ×{count:,}" for name, count in kinds)
            return Box("elided", f"… {len(group.functions):,} operations", lines=[(what, "")])
        box = self.modules(group) if group.calls else self.operations(group)
        function = group.functions[0]
        value = self.graph.values.get(function)
        if value is not None and value.size <= TINY:
            box.lines.append((numbers(value), "value"))
        elif function.shape and not self.layers:
            box.lines.append((shape_text(function.shape), "value"))
        if self.gradients is not None and function in self.gradients.passages:
            box.lines.append(self.gradient(function, self.gradients.passages[function].arriving))
        place = function.made_at
        box.hint = f"{place.file}:{place.line}\n{place.source}"
        return box

    def operations(self, group: Group) -> Box:
        """One operation, or several on one line of code."""
        function, names = group.functions[0], [f.name for f in reversed(group.functions)]
        name = self.graph.names[function]
        if self.layers and name.startswith("#"):
            name = shape_text(function.shape)
        box = Box("operation", ", ".join(names), name)
        if len(names) == 1 and not self.layers:
            formula, where = rewrite(
                formula_of(type(function)).value, self.graph.letters(function)[0], self.loss
            )
            box.lines += [(formula.partition(" = ")[2], ""), (where, "")]
        else:
            box.lines.append((function.made_at.source, ""))
        box.lines = [line for line in box.lines if line[0]]
        return box

    def modules(self, group: Group) -> Box:
        """A layer, with those that were folded into it."""
        called = [(call, call.module()) for call in reversed(group.calls)]
        title = ", ".join(self.title(call, module) for call, module in called)
        module = called[0][1]
        own = [] if module is None else [p for p in module._parameters.values() if p is not None]
        box = Box("module" if own else "plain", title, shape_text(group.functions[0].shape))
        frozen = bool(own) and not any(p.requires_grad for p in own)
        box.dimmed = frozen
        if module is not None:
            what = [module.describe()]
            if own:
                what.append(f"{sum(p.numel() for p in own):,} parameters{', frozen' if frozen else ''}")
            what += [f"shares {self.graph.names[p]}" for n, p in _shared(self.graph, module)]
            box.lines.append((" · ".join(what), ""))
        grads = [p.grad.data for p in own if p.grad is not None]
        if grads:
            norm = math.sqrt(sum(float((g * g).sum()) for g in grads))
            box.lines.append((f"gradient of the parameters: norm {number(norm)}", "gradient"))
        return box

    def title(self, call: ModuleCall, module: Module | None) -> str:
        """The path of a module; of one that was called more than once, also which call this is."""
        if module is None:
            return "a module that is gone"
        path = self.graph.paths.get(module) or type(module).__name__
        every = self.calls_of[module]
        return path if len(every) == 1 else f"{path} (call {every.index(call) + 1} of {len(every)})"

    def leaf(self, tensor: Tensor) -> Box:
        """A parameter, an input, or a constant."""
        if tensor is self.given:
            return Box("leaf", "input", shape_text(tensor.shape))
        name = self.graph.names.get(tensor, "")
        wants = tensor.requires_grad
        kind = "parameter" if isinstance(tensor, Parameter) else "input" if wants else "constant"
        frozen = isinstance(tensor, Parameter) and not wants
        box = Box("leaf", name or kind, "frozen" if frozen else kind if name else "", dimmed=not wants)
        few = tensor.numel() <= TINY
        box.lines.append((numbers(tensor.data) if few else shape_text(tensor.shape), "value"))
        if not wants:
            return box
        if self.gradients is not None and tensor in self.gradients.leaves:
            box.lines.append(self.gradient(tensor, self.gradients.leaves[tensor]))
        elif tensor.grad is None:
            box.lines.append(("gradient: not computed yet", "gradient"))
        else:
            grad = tensor.grad.data
            told = numbers(grad) if few else f"norm {number(math.sqrt(float((grad * grad).sum())))}"
            box.lines.append((f"gradient {told}", "gradient"))
        return box

    def gradient(self, node: Any, value: Any) -> tuple[str, str]:
        told = f"= {value.text}" if value.text else f"norm {number(value.norm)}"
        return f"∂{self.loss}/∂{self.graph.names[node]} {told}", "gradient"


def _shared(graph: Trace, module: Module) -> list[tuple[str, Parameter]]:
    """The parameters of a module that another one had first, and that are called after that."""
    path = graph.paths.get(module, "")
    mine = [(f"{path}.{name}" if path else name, p) for name, p in module._parameters.items()]
    return [(name, p) for name, p in mine if p is not None and graph.names.get(p, name) != name]


def shape_text(shape: tuple[int, ...]) -> str:
    """8×3×224×224, or (8,): a single 8 would be a value"""
    return "×".join(map(str, shape)) if len(shape) > 1 else str(shape)


def boxes_and_edges(
    graph: Trace, grouping: Grouping, words: Words, parameters: bool
) -> tuple[list[Box], list[tuple[Box, Box]]]:
    """A box for each group and for each leaf, and the edges between them; parameters only where asked for."""
    boxes: dict[Any, Box] = {group: words.box(group) for group in reversed(grouping.groups)}
    edges: list[tuple[Box, Box]] = []
    drawn: set[tuple[Box, Box]] = set()
    for function in reversed(graph.functions):
        here = grouping.home[function]
        for i, edge in enumerate(function.edges):
            source = edge if edge is not None else graph.constant(function, i)
            if isinstance(source, Function):
                source = grouping.home[source]
            elif source is None or (isinstance(source, Parameter) and not parameters):
                continue
            elif source not in boxes:
                if here.elided or (edge is None and source.numel() == 1):
                    continue  # left out with what it went into; and a number stands in the formula
                boxes[source] = words.leaf(source)
            pair = boxes[source], boxes[here]
            single = len(here.functions) == 1  # a tensor that one operation uses twice, x · x, has two edges
            if source is not here and (single or pair not in drawn):
                edges.append(pair)
                drawn.add(pair)
    return list(boxes.values()), edges
