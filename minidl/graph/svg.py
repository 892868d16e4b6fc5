"""Boxes and arrows as an SVG that needs no style sheet, no font and no program beside it, and as DOT."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from minidl.graph.boxes import Box
from minidl.graph.layout import Point, layout
from minidl.palette import BLUE, GREEN, INK, LINE, PAPER, RED, SANS, SOFT

TITLE, SMALL = 13.0, 11.5  # sizes of type
SIDE, TOP, LINE_HEIGHT, GAP = 10.0, 7.0, 15.5, 18.0  # inside a box
MARGIN, NARROWEST, LONGEST = 16.0, 72.0, 64  # around the picture; of a box; characters in a line of text
WIDTHS = (  # of characters in a wide font, DejaVu Sans, in units of its size
    ("'ijlIJ .,·:;|/f²", 0.36),
    ('-t()[]!r"_*', 0.5),
    ("w×→−=+#⊛<>&", 0.84),
    ("mMW%@…", 1.0),
)
BOLD, CAPITAL, OTHER = 1.12, 0.79, 0.64


def _rgb(triple: str) -> str:
    return f"rgb({triple.replace(' ', ',')})"


STYLE = f"""
.minidl-graph {{ background: {PAPER}; font: {SMALL}px {SANS}; }}
.minidl-graph text {{ fill: {SOFT}; }}
.minidl-graph .title {{ fill: {INK}; font-size: {TITLE}px; font-weight: 600; }}
.minidl-graph .value {{ fill: {_rgb(GREEN)}; }}
.minidl-graph .gradient {{ fill: {_rgb(RED)}; }}
.minidl-graph rect {{ fill: #fff; stroke: #c9c5b9; }}
.minidl-graph .module rect {{ fill: #eef3f8; stroke: {_rgb(BLUE)}; stroke-opacity: .45; }}
.minidl-graph .leaf rect {{ fill: #f1f5f0; stroke: {_rgb(GREEN)}; stroke-opacity: .45; }}
.minidl-graph .elided rect {{ fill: none; stroke-dasharray: 3 3; }}
.minidl-graph .dimmed rect {{ fill: none; stroke: {LINE}; stroke-opacity: 1; }}
.minidl-graph .dimmed text {{ fill: #8d8b83; }}
.minidl-graph path {{ fill: none; stroke: #8d8b83; stroke-width: 1.1; }}"""


@dataclass
class Drawing:
    """A graph that was drawn. A notebook shows it; `save` writes it to a file.

    Attributes:
        title: what was drawn, in one line.
        notes: what else there is to know, a line each.
        boxes, edges: of the picture, from the inputs to the result.
    """

    title: str
    notes: list[str]
    boxes: list[Box]
    edges: list[tuple[Box, Box]]

    def __repr__(self) -> str:
        what = f"{len(self.boxes)} boxes and {len(self.edges)} edges"
        return "\n".join([f"Drawing of {self.title}: {what}", *self.notes, "Keep it with .save('graph.svg')"])

    @property
    def svg(self) -> str:
        """The picture as the text of an SVG file."""
        modules = [box for box in self.boxes if box.is_module]
        indent = max((_title_width(box) for box in modules), default=0.0) + GAP
        sizes = [_size(box, indent) for box in self.boxes]
        column = max((_size(box, indent)[0] for box in modules), default=0.0)
        sizes = [
            (column, h) if box.is_module else (w, h) for box, (w, h) in zip(self.boxes, sizes, strict=True)
        ]
        place = {box: i for i, box in enumerate(self.boxes)}
        plan = layout(sizes, [(place[a], place[b]) for a, b in self.edges])
        lines = [self.title]
        lines += [line for note in self.notes for line in _wrapped(note, max(plan.width, 360.0))]
        widths = [_text_width(line, SMALL if i else TITLE, bold=i == 0) for i, line in enumerate(lines)]
        width = max([plan.width, *widths]) + 2 * MARGIN
        top = MARGIN + LINE_HEIGHT * len(lines) + (MARGIN if self.boxes else 0.0)
        height = top + plan.height + MARGIN
        left = (width - plan.width) / 2
        parts = []
        for i, line in enumerate(lines):
            parts.append(_text(MARGIN, MARGIN + LINE_HEIGHT * (i + 0.7), line, "title" if i == 0 else ""))
        parts.append(f'<g transform="translate({left:.1f} {top:.1f})">')
        parts += [_arrow(route) for route in plan.routes]
        parts += [_box(*item, indent) for item in zip(self.boxes, plan.centres, sizes, strict=True)]
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" class="minidl-graph" '
            f'viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}" height="{height:.0f}" '
            f'role="img" aria-label="{escape(self.title)}">'
            f"<style>{STYLE}</style>{''.join(parts)}</g></svg>"
        )

    @property
    def dot(self) -> str:
        """The same boxes and edges in the language of Graphviz."""
        name = {box: f"n{i}" for i, box in enumerate(self.boxes)}
        lines = ["digraph {", "  node [shape=box, style=rounded, fontname=Helvetica, fontsize=11]"]
        for box in self.boxes:
            texts = [f"{box.title}  {box.right}".strip(), *(text for text, _ in box.lines)]
            dimmed = ", color=gray, fontcolor=gray" if box.dimmed else ""
            label = json.dumps("\n".join(texts), ensure_ascii=False)
            lines.append(f"  {name[box]} [label={label}{dimmed}]")
        lines += [f"  {name[a]} -> {name[b]}" for a, b in self.edges]
        return "\n".join([*lines, "}\n"])

    def save(self, path: str) -> None:
        """Write the picture to a file that ends in .svg, or the graph to one in .dot."""
        kind = str(path).rpartition(".")[2]
        if kind not in ("svg", "dot"):
            raise ValueError(f"a drawing is saved as .svg or .dot, got {str(path)!r}")
        from minidl.files import write_text

        write_text(path, self.svg + "\n" if kind == "svg" else self.dot)

    def _repr_svg_(self) -> str:
        return self.svg


# A box


def _title_width(box: Box) -> float:
    return _text_width(_cut(box.title), TITLE, bold=True)


def _size(box: Box, indent: float) -> tuple[float, float]:
    """Wide enough for its longest line, high enough for all.

    A module is a row of a table: beside its title, `indent` from the left, stands what else would be below.
    """
    lines = [_text_width(_cut(text), SMALL) for text, _ in box.lines]
    first = indent + max(lines, default=0.0) if box.is_module else _title_width(box)
    if box.right:
        first += GAP + _text_width(_cut(box.right), SMALL)
    rows = max(len(lines), 1) if box.is_module else 1 + len(lines)
    widest = first if box.is_module else max([first, *lines])
    return max(widest + 2 * SIDE, NARROWEST), 2 * TOP + LINE_HEIGHT * rows


def _box(box: Box, centre: Point, size: tuple[float, float], indent: float) -> str:
    (x, y), (width, height) = centre, size
    left, base = x - width / 2, y - height / 2 + TOP + LINE_HEIGHT * 0.75
    rounding = height / 2 if box.kind == "leaf" and len(box.lines) < 2 else 4
    parts = [
        f'<rect x="{left:.1f}" y="{y - height / 2:.1f}" width="{width:.1f}" height="{height:.1f}" '
        f'rx="{rounding:.1f}"/>',
        _text(left + SIDE, base, _cut(box.title), "title"),
    ]
    if box.right:
        parts.append(_text(left + width - SIDE, base, _cut(box.right), "right", "end"))
    for i, (text, style) in enumerate(box.lines):
        right, down = (indent, i) if box.is_module else (0.0, i + 1)
        parts.append(_text(left + SIDE + right, base + LINE_HEIGHT * down, _cut(text), style))
    hint = f"<title>{escape(box.hint)}</title>" if box.hint else ""
    return f'<g class="{box.kind}{" dimmed" if box.dimmed else ""}">{hint}{"".join(parts)}</g>'


def _text(x: float, y: float, text: str, style: str, anchor: str = "") -> str:
    kind = f' class="{style}"' if style else ""
    end = f' text-anchor="{anchor}"' if anchor else ""
    return f'<text x="{x:.1f}" y="{y:.1f}"{kind}{end}>{escape(text)}</text>'


def _arrow(route: Sequence[Point]) -> str:
    """A curve through the corners of an edge, upright in each of them, with a head at its end."""
    (x, y), commands = route[0], [f"M{route[0][0]:.1f} {route[0][1]:.1f}"]
    for next_x, next_y in route[1:]:
        if abs(next_x - x) < 0.5:
            commands.append(f"L{next_x:.1f} {next_y:.1f}")
        else:
            middle = (y + next_y) / 2
            commands.append(f"C{x:.1f} {middle:.1f} {next_x:.1f} {middle:.1f} {next_x:.1f} {next_y:.1f}")
        x, y = next_x, next_y
    commands.append(f"M{x - 3:.1f} {y - 6:.1f}L{x:.1f} {y:.1f}L{x + 3:.1f} {y - 6:.1f}")
    return f'<path d="{"".join(commands)}"/>'


# Text


def _text_width(text: str, size: float, bold: bool = False) -> float:
    """How wide a text is at most: the fonts of a reader's browser are not known here."""
    width = sum(next((w for some, w in WIDTHS if c in some), CAPITAL if c.isupper() else OTHER) for c in text)
    return size * width * (BOLD if bold else 1.0)


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"


def _wrapped(text: str, width: float) -> list[str]:
    """The words of a text in lines no wider than `width`."""
    lines = [""]
    for word in text.split(" "):
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and _text_width(longer, SMALL) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines
