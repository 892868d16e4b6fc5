"""What tensors and modules say of themselves: as text in a console, as HTML in a notebook."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

ROWS, COLUMNS = 6, 8  # of a tensor, shown in a table
DIM = ' style="opacity:.5"'


def tensor_text(tensor: Any) -> str:
    """`Tensor([1., 2.], grad_fn=<Exp>)`: the numbers, and what differs from a float32 constant on the CPU."""
    kind = type(tensor).__name__
    numbers = np.array2string(tensor.numpy(), separator=", ", prefix=f"{kind}(", precision=4, threshold=100)
    return f"{kind}({', '.join([numbers, *_facts(tensor)])})"


def _facts(tensor: Any) -> Iterator[str]:
    if tensor.dtype != np.float32:
        yield f"dtype={tensor.dtype}"
    if tensor.device != "cpu":
        yield f"device={tensor.device!r}"
    if tensor.grad_fn is not None:
        yield f"grad_fn=<{tensor.grad_fn.name}>"
    elif tensor.requires_grad:
        yield "requires_grad=True"


def escape(text: str) -> str:
    """The text as HTML shows it."""
    from html import escape  # brings a table of 2,231 names, for which `import minidl` need not wait

    return escape(text)


def tensor_html(tensor: Any) -> str:
    """A line of facts (shape, type, device, range, gradient) above a table of the first numbers."""
    numbers = tensor.numpy()
    facts = [f"<b>{escape(type(tensor).__name__)}</b> {numbers.shape}", str(tensor.dtype), tensor.device]
    if numbers.size:
        with np.errstate(all="ignore"):  # ∞ − ∞, or too large a sum
            mean = numbers.mean()
        facts.append(f"min {numbers.min():.4g}, mean {mean:.4g}, max {numbers.max():.4g}")
    if tensor.grad_fn is not None:
        facts.append(f"computed by {escape(tensor.grad_fn.name)}")
    elif tensor.requires_grad:
        facts.append("gradient not computed yet" if tensor.grad is None else "has a gradient")
    shown = numbers.reshape(-1, numbers.shape[-1] if numbers.ndim else 1) if numbers.size else numbers[:0]
    rows = [_row(row, shown.shape[-1] > COLUMNS) for row in shown[:ROWS]]
    if len(shown) > ROWS:
        rows.append("<tr><td>⋮</td></tr>")
    table = f"<table>{''.join(rows)}</table>" if rows else ""
    return f"<div>{' · '.join(facts)}{table}</div>"


def _row(numbers: Any, cut: bool) -> str:
    few = numbers[:COLUMNS].tolist()
    cells = [
        f"<td>{number:.4g}</td>" if isinstance(number, float) else f"<td>{number}</td>" for number in few
    ]
    return f"<tr>{''.join(cells)}{'<td>…</td>' if cut else ''}</tr>"


def module_text(module: Any) -> str:
    """`Linear(in_features=2, out_features=1, bias=True)`, with the modules inside on lines of their own."""
    lines = [f"({name}): {child!r}".replace("\n", "\n  ") for name, child in module.named_children()]
    if not lines:
        return f"{type(module).__name__}({module.extra_repr()})"
    if module.extra_repr():
        lines.insert(0, module.extra_repr())
    return f"{type(module).__name__}(\n  " + "\n  ".join(lines) + "\n)"


def module_html(module: Any, name: str = "") -> str:
    """A tree that opens and closes: each module with its options and parameters, frozen ones dimmed."""
    parameters = list(module.parameters())
    frozen = bool(parameters) and not any(p.requires_grad for p in parameters)
    title = f"{escape(name)}: " * bool(name) + f"<b>{escape(type(module).__name__)}</b>"
    title += escape(f"({module.extra_repr()})") * bool(module.extra_repr())
    if parameters:
        title += f" · {sum(p.numel() for p in parameters):,} parameters{', frozen' * frozen}"
    dim = DIM * frozen
    children = "".join(module_html(child, child_name) for child_name, child in module.named_children())
    if not children:
        return f"<div{dim}>{title}</div>"
    return (
        f"<details{' open' * (not name)}><summary{dim}>{title}</summary>"
        f'<div style="margin-left:1.5em">{children}</div></details>'
    )
