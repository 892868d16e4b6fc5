"""How the gradient of a real loss came about, put into words: what `minidl.explain` returns."""

from __future__ import annotations

from dataclasses import dataclass, field

from minidl.autograd import Function
from minidl.graph.formulas import calculate, formula_of, rewrite
from minidl.graph.trace import TINY, Gradients, Trace, Value, bytes_text, number, numbers
from minidl.palette import GREEN, INK, LINE, MONO, PAPER, RED, SANS, SOFT
from minidl.tensor import Tensor
from minidl.words import escape

COLUMN = 60  # where in the text the line of code begins
LONGEST = 60  # a line of code is cut after so many characters
ARRIVING = "What arrives at the leaves:"


@dataclass
class Step:
    """One operation that the walk back passes through.

    Attributes:
        value: what it computed, "f = #2 · z = −12".
        origin: what and where it is, "Multiply, lesson.py:3".
        source: that line of user code.
        rules: the gradient that arrives and those that it passes on, an equation each.
        notes: what else there is to say.
    """

    value: str
    origin: str
    source: str
    rules: list[str]
    notes: list[str] = field(default_factory=list)


@dataclass
class Explanation:
    """Printed it is text; `markdown()` and `html()` say the same, and a notebook shows the latter.

    Attributes:
        title: what is explained.
        steps: the operations in the order of the walk back.
        left_out: how many operations of the graph have no step here, and why.
        results: the sums that arrived at the leaves, "∂f/∂x = −4".
    """

    title: str
    steps: list[Step]
    left_out: str
    results: list[str]

    def __str__(self) -> str:
        lines = [self.title]
        for step in self.steps:
            pad = " " * max(2, COLUMN - len(step.value))
            source = f": {step.source}" if step.source else ""
            lines += ["", f"{step.value}{pad}{step.origin}{source}"]
            lines += [f"    {text}" for text in (*step.rules, *step.notes)]
        lines += ["", self.left_out] if self.left_out else []
        return "\n".join([*lines, "", ARRIVING, *(f"    {result}" for result in self.results)])

    __repr__ = __str__

    def markdown(self) -> str:
        """The explanation for a README or a report."""
        lines = [f"**{self.title}**"]
        for i, step in enumerate(self.steps, start=1):
            source = f", `{step.source}`" if step.source else ""
            lines += ["", f"{i}. `{step.value}`    {step.origin}{source}"]
            lines += [f"    - `{rule}`" for rule in step.rules]
            lines += [f"    - {note}" for note in step.notes]
        lines += ["", self.left_out] if self.left_out else []
        return "\n".join([*lines, "", ARRIVING, "", *(f"- `{result}`" for result in self.results)])

    def html(self) -> str:
        """A piece of HTML that brings its own style; a page of its own, and a cell of a notebook."""
        items = []
        for step in self.steps:
            source = f"<code>{escape(step.source)}</code>" if step.source else ""
            rules = "".join(f"<li>{escape(rule)}</li>" for rule in step.rules)
            notes = "".join(f"<p>{escape(note)}</p>" for note in step.notes)
            items.append(
                f"<li><header><b>{escape(step.value)}</b><span>{escape(step.origin)} {source}</span></header>"
                f"<ul>{rules}</ul>{notes}</li>"
            )
        results = "".join(f"<li>{escape(result)}</li>" for result in self.results)
        left_out = f"<p>{escape(self.left_out)}</p>" if self.left_out else ""
        return (
            f'<div class="minidl-explanation"><style>{_style()}</style><h4>{escape(self.title)}</h4>'
            f"<ol>{''.join(items)}</ol>{left_out}<h4>{ARRIVING}</h4><ul>{results}</ul></div>"
        )

    _repr_html_ = html


@dataclass
class Writer:
    """Puts the graph and the gradients that were found in it into words."""

    graph: Trace
    found: Gradients

    @property
    def loss(self) -> str:
        return self.graph.names[self.graph.output.node]

    def step(self, function: Function) -> Step:
        formula, passage = formula_of(type(function)), self.found.passages[function]
        names, _ = self.graph.letters(function)
        if formula.value:
            value, where = rewrite(formula.value, names, self.loss)
        else:
            inputs = [self.graph.operand(function, i)[0] for i in range(len(function.edges))]
            value, where = f"{self.graph.names[function]} = {function.name}({', '.join(inputs)})", ""
        result = self.graph.values.get(function)
        if result is not None and result.size <= TINY:
            value += f" = {numbers(result)}"
        elif function.shape:
            value += f"   {function.shape}"
        rules = [self.arrival(function, passage.arriving)]
        rules += [self.rule(function, i, dx) for i, dx in enumerate(passage.passed) if dx is not None]
        notes = [note for note in (where, self.unasked(function), _kept(function)) if note]
        return Step(value, self.origin(function), _source(function), rules, notes)

    def rule(self, function: Function, i: int, dx: Value) -> str:
        """∂L/∂x = the rule = the same in numbers = the result; += where several paths lead to x."""
        formula, passage = formula_of(type(function)).gradient(i), self.found.passages[function]
        names, values = self.graph.letters(function)
        target, axes = function.edges[i], passage.summed[i]
        right = [f"{function.name}.backward(∂{self.loss}/∂{self.graph.names[function]})"]
        if formula:
            right = [rewrite(formula, names, self.loss)[0]]
        if dx.shape == passage.arriving.shape == ():
            scalars = {letter: number(array.item()) for letter, array in values.items() if array.size == 1}
            right.append(calculate(formula, scalars, passage.arriving.text))
        if right[-1] in ("", dx.text):
            right.pop()
        equals = "+=" if len(self.found.arrivals[target]) > 1 else "="
        summed = f", summed over axis {', '.join(map(str, axes))}, which was broadcast" if axes else ""
        name = self.graph.names[target]
        return f"∂{self.loss}/∂{name} {equals} {' = '.join(right)}{_told(dx)}{summed}"

    def arrival(self, node: Function | Tensor, value: Value) -> str:
        """∂L/∂node = its number, and where several paths meet, what each of them brought."""
        paths = self.found.arrivals.get(node, [])
        text = f"∂{self.loss}/∂{self.graph.names[node]}"
        if len(paths) < 2:
            return text + _told(value)
        if len(paths) <= TINY and value.shape == ():
            text += " = " + " + ".join(f"({p.text})" if p.text[0] == "−" else p.text for p in paths)
        return f"{text}{_told(value)}, where {len(paths)} paths meet"

    def origin(self, function: Function) -> str:
        """What the operation is, which module it is part of, and which line of user code called it."""
        place = self.graph.place_of(function)
        return f"{function.name}{f' in {place}' if place else ''}, {function.made_at}"

    def unasked(self, function: Function) -> str:
        """The inputs with a name that get no gradient."""
        inputs = [self.graph.constant(function, i) for i, edge in enumerate(function.edges) if edge is None]
        names = [self.graph.names[tensor] for tensor in inputs if tensor in self.graph.names]
        return f"no gradient asked for: {', '.join(names)}" if names else ""


def _told(value: Value) -> str:
    """The end of an equation: the numbers of a gradient, or its shape and norm."""
    return f" = {value.text}" if value.text else f"   {value.shape}, norm {number(value.norm)}"


def _source(function: Function) -> str:
    line = function.made_at.source
    return line if len(line) <= LONGEST else line[: LONGEST - 1] + "…"


def _kept(function: Function) -> str:
    """The memory that it holds until backward, though others may hold the same arrays."""
    kept = sum(array.nbytes for _, array, _ in filter(None, function._saved.values()))
    return f"kept for backward: {bytes_text(kept)}" if kept else ""


def _style() -> str:
    return f"""
.minidl-explanation {{ padding: 1rem 1.25rem; background: {PAPER}; color: {INK}; font: 14px/1.5 {SANS}; }}
.minidl-explanation h4 {{ margin: 0 0 .75rem; font-size: 15px; font-weight: 600; }}
.minidl-explanation ol, .minidl-explanation ul {{ margin: 0; padding: 0; list-style: none; }}
.minidl-explanation ol > li {{ margin: 0 0 .9rem; padding: .6rem 0 0; border-top: 1px solid {LINE}; }}
.minidl-explanation header {{ display: flex; flex-wrap: wrap; justify-content: space-between; gap: 0 2rem; }}
.minidl-explanation b, .minidl-explanation ul li {{ white-space: pre-wrap; overflow-wrap: anywhere; }}
.minidl-explanation b {{ color: rgb({GREEN}); font: 600 13px/1.6 {MONO}; }}
.minidl-explanation span, .minidl-explanation p {{ margin: 0; color: {SOFT}; font-size: 12.5px; }}
.minidl-explanation code {{
  margin-left: .75em; padding: 0; background: none; color: {INK}; font: 12px/1.6 {MONO};
}}
.minidl-explanation ul li {{ padding-left: 1.5rem; color: rgb({RED}); font: 13px/1.6 {MONO}; }}
.minidl-explanation ol p {{ padding-left: 1.5rem; }}"""
