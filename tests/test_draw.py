"""The drawn graph: what its boxes say, which edges there are, and that nothing covers anything else."""

from __future__ import annotations

import itertools
import time
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import minidl as dl
from minidl import Tensor, nn
from minidl import functional as F
from minidl.graph.layout import layout
from minidl.models import vgg16
from minidl.nn.init import skip_init


def leaf(value):
    return Tensor(np.asarray(value, np.float32), requires_grad=True)


def texts(box):
    return [f"{box.title} {box.right}".strip(), *(text for text, _ in box.lines)]


def edges(drawing):
    return [(a.title, b.title) for a, b in drawing.edges]


class Residual(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x):
        return (x + self.conv2(self.conv1(x).relu())).relu()


# What the boxes say


def test_the_example_of_every_textbook():
    x, y, z = leaf(-2), leaf(5), leaf(-4)
    f = (x + y) * z
    drawing = dl.draw(f)
    assert (drawing.title, drawing.notes[0]) == ("f = −12", "2 operations.")
    assert [texts(box) for box in drawing.boxes] == [
        ["Add #2", "x + y", "3", "∂f/∂#2 = −4"],
        ["Multiply f", "#2 · z", "−12", "∂f/∂f = 1"],
        ["x input", "−2", "∂f/∂x = −4"],
        ["y input", "5", "∂f/∂y = −4"],
        ["z input", "−4", "∂f/∂z = 3"],
    ]
    assert edges(drawing) == [("x", "Add"), ("y", "Add"), ("Add", "Multiply"), ("z", "Multiply")]
    assert x.grad is None


def test_a_tensor_that_is_used_twice_has_two_edges():
    a = leaf(2)
    b = a * a
    assert edges(dl.draw(b)) == [("a", "Multiply"), ("a", "Multiply")]


def test_a_diamond():
    a = leaf(0.5)
    d = (a * a).tanh() * (a + a * a) ** 2.0
    drawing = dl.draw(d)
    assert [texts(box)[:2] for box in drawing.boxes] == [
        ["Multiply #6", "a · a"],
        ["Tanh #5", "tanh #6"],
        ["Multiply #4", "a · a"],
        ["Add #3", "a + #4"],
        ["Power #2", "#3ᵃ"],
        ["Multiply d", "#5 · #2"],
        ["a input", "0.5"],
    ]
    assert [(a.right, b.right) for a, b in drawing.edges] == [
        ("input", "#6"),
        ("input", "#6"),
        ("#6", "#5"),
        ("input", "#4"),
        ("input", "#4"),
        ("input", "#3"),
        ("#4", "#3"),
        ("#3", "#2"),
        ("#5", "d"),
        ("#2", "d"),
    ]
    u, t = 0.25, np.tanh(0.25)  # ∂d/∂a over all five paths, for u = a²
    slope = (1 - t * t) * 2 * 0.5 * (0.5 + u) ** 2 + t * 2 * (0.5 + u) * (1 + 2 * 0.5)
    assert texts(drawing.boxes[-1])[-1] == f"∂d/∂a = {slope:.4g}"


def test_exponents_are_told_apart():
    c = leaf(6)
    d = c**2.0
    assert texts(dl.draw(d).boxes[0])[1:3] == ["cᵃ", "where a is 2"]


def test_gradients_before_and_after_backward():
    x = leaf([1, 2])
    loss = (x * x).sum()
    drawing = dl.draw(loss, gradients=False)
    assert "Gradients: not computed yet." in drawing.notes
    assert "gradient: not computed yet" in texts(drawing.boxes[-1])
    loss.backward()
    drawing = dl.draw(loss)
    assert "gradient [2, 4]" in texts(drawing.boxes[-1])
    assert any(note.startswith("The graph was freed by backward()") for note in drawing.notes)


def test_a_frozen_parameter_is_dimmed():
    fc = nn.Linear(2, 1)
    fc.weight.requires_grad = False
    loss = fc(leaf([[1, 2]])).sum()  # ∂L/∂x needs the weight: so the graph kept it
    boxes = {box.title: box for box in dl.draw(loss, level="op").boxes}
    assert (boxes["weight"].right, boxes["weight"].dimmed) == ("frozen", True)
    assert (boxes["bias"].right, boxes["bias"].dimmed) == ("parameter", False)
    assert not any("gradient" in kind for _, kind in boxes["weight"].lines)


def test_a_layer_tells_the_norm_that_backward_left():
    fc = nn.Linear(2, 1)
    loss = fc(Tensor([[3.0, 4.0]])).sum()
    loss.backward()  # ∂loss/∂weight = [3, 4] and ∂loss/∂bias = 1
    layer = next(box for box in dl.draw(loss).boxes if box.is_module)
    assert layer.lines[-1] == (f"gradient of the parameters: norm {26**0.5:.4g}", "gradient")


def test_layers_of_a_network_with_a_skip_connection():
    net = nn.Sequential(
        stem=nn.Conv2d(1, 2, 3, padding=1), block=Residual(2), flat=nn.Flatten(), fc=nn.Linear(32, 2)
    )
    net.stem.freeze()
    drawing = dl.draw(net, np.zeros((1, 1, 4, 4), np.float32))
    boxes = {box.title: box for box in drawing.boxes}
    assert texts(boxes["stem"]) == ["stem 1×2×4×4", "Conv2d 1→2, 3×3 · 20 parameters, frozen"]
    assert boxes["stem"].dimmed
    assert not boxes["block.conv1"].dimmed
    assert [(a, b) for a, b in edges(drawing) if a == "stem"] == [
        ("stem", "block.conv1"),
        ("stem", "Add, ReLU"),
    ]
    assert ("block.conv2", "Add, ReLU") in edges(drawing)
    assert texts(boxes["Add, ReLU"]) == [
        "Add, ReLU 1×2×4×4",
        "return (x + self.conv2(self.conv1(x).relu())).relu()",
    ]
    assert net.training


def test_layers_are_drawn_in_the_order_that_is_written():
    net = nn.Sequential(relu=nn.ReLU(), pool=nn.MaxPool2d(2))
    assert edges(dl.draw(net, np.zeros((1, 1, 2, 2)))) == [("input", "relu"), ("relu", "pool")]
    assert not any(layer._forward_hooks for layer in net)


def test_a_module_that_is_called_twice_and_parameters_that_are_shared():
    first = nn.Linear(3, 3)
    second = nn.Linear(3, 3)
    second.weight = first.weight
    net = nn.Sequential(first=first, again=first, second=second)
    drawing = dl.draw(net, np.ones((1, 3), np.float32))
    titles = [box.title for box in drawing.boxes]
    assert "first (call 1 of 2)" in titles
    assert "first (call 2 of 2)" in titles
    assert any("shares first.weight" in text for box in drawing.boxes for text in texts(box))


def test_layers_that_recorded_nothing_are_named():
    net = nn.Sequential(fc=nn.Linear(2, 2), drop=nn.Dropout())
    notes = dl.draw(net, np.ones((1, 2), np.float32)).notes
    assert "Without an operation of their own: drop." in notes


# Large graphs


def chain(length):
    x = y = leaf(1)
    for _ in range(length):
        y = y * 1.0001
    return x, y


def test_a_chain_of_ten_thousand_operations_is_drawn_in_part():
    start = time.perf_counter()
    _, loss = chain(10_000)
    drawing = dl.draw(loss)
    assert time.perf_counter() - start < 20
    assert len(drawing.boxes) < 20
    assert drawing.notes[1].startswith("Of 10,000 boxes 7 are drawn")
    assert "… 9,994 operations" in [box.title for box in drawing.boxes]


def test_a_wide_graph_is_drawn_in_part():
    start = time.perf_counter()
    xs = [leaf(i) for i in range(10_000)]
    loss = F.stack([x * x for x in xs]).sum()
    drawing = dl.draw(loss)
    assert drawing.svg
    assert time.perf_counter() - start < 20
    assert 100 < len(drawing.boxes) < 400
    assert any(note.startswith("Of ") for note in drawing.notes)


def test_vgg16_fits_on_a_page():
    with skip_init():
        model = vgg16()
    drawing = dl.draw(model, np.zeros((1, 3, 224, 224), np.float32))
    shown = {path for box in drawing.boxes for path in box.title.split(", ")}
    silent = next(note for note in drawing.notes if note.startswith("Without"))
    layers = [path for path, module in model.named_modules() if path and not module._modules]
    assert len(layers) > 30
    assert [path for path in layers if path not in shown and f" {path}" not in silent] == []
    width, height = size(drawing.svg)
    assert height < 1200  # A4 has 1123 pixels at 96 to the inch: it is printed at more than nine tenths
    assert width < 760


# The picture


def size(svg):
    root = ElementTree.fromstring(svg)
    return float(root.get("width")), float(root.get("height"))


@pytest.mark.parametrize("level", ["op", "module"])
def test_the_svg_is_well_formed_and_escaped(level):
    net = nn.Sequential(**{"a<b": nn.Linear(2, 2), "c&d": nn.Tanh()})
    svg = dl.draw(net, np.ones((1, 2), np.float32), level=level).svg
    words = [element.text for element in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")]
    assert any("a<b" in word for word in words)


def test_dot_and_files(tmp_path):
    x = leaf(2)
    y = x * x
    drawing = dl.draw(y)
    assert drawing.dot.splitlines() == [
        "digraph {",
        "  node [shape=box, style=rounded, fontname=Helvetica, fontsize=11]",
        '  n0 [label="Multiply  y\\nx · x\\n4\\n∂y/∂y = 1"]',
        '  n1 [label="x  input\\n2\\n∂y/∂x = 4"]',
        "  n1 -> n0",
        "  n1 -> n0",
        "}",
    ]
    drawing.save(tmp_path / "y.svg")
    drawing.save(tmp_path / "y.dot")
    assert (tmp_path / "y.svg").read_text(encoding="utf-8") == drawing.svg + "\n"
    assert (tmp_path / "y.dot").read_text(encoding="utf-8") == drawing.dot
    with pytest.raises(ValueError, match=r"a drawing is saved as \.svg or \.dot, got '.*y\.png'"):
        drawing.save(tmp_path / "y.png")


def test_mistakes_are_named():
    with pytest.raises(ValueError, match='level is "op" or "module", got \'layer\''):
        dl.draw(leaf(1) * 2.0, level="layer")
    with pytest.raises(TypeError, match=r"a model is drawn as it runs: give its input too, draw\(model, x\)"):
        dl.draw(nn.Linear(1, 1))


@st.composite
def graphs(draw):
    """Sizes of boxes, and edges that all point to a later one."""
    count = draw(st.integers(1, 14))
    sizes = draw(
        st.lists(st.tuples(st.integers(20, 200), st.integers(10, 60)), min_size=count, max_size=count)
    )
    pairs = list(itertools.combinations(range(count), 2))
    return sizes, draw(st.lists(st.sampled_from(pairs), max_size=30)) if pairs else []


@settings(max_examples=200)
@given(graphs())
def test_no_box_touches_another_and_every_edge_stays_inside(graph):
    sizes, pairs = graph
    plan = layout(sizes, pairs)
    sides = [
        (x - w / 2, x + w / 2, y - h / 2, y + h / 2)
        for (x, y), (w, h) in zip(plan.centres, sizes, strict=True)
    ]
    for a, b in itertools.combinations(sides, 2):
        assert a[1] < b[0] or b[1] < a[0] or a[3] < b[2] or b[3] < a[2]
    corners = [
        *((x, y) for left, right, top, bottom in sides for x in (left, right) for y in (top, bottom)),
        *(point for route in plan.routes for point in route),
    ]
    assert all(-1e-6 <= x <= plan.width + 1e-6 and -1e-6 <= y <= plan.height + 1e-6 for x, y in corners)
    for route, (source, target) in zip(plan.routes, pairs, strict=True):
        assert route[0][1] == pytest.approx(sides[source][3])
        assert route[-1][1] == pytest.approx(sides[target][2])
        assert all(above[1] <= below[1] for above, below in itertools.pairwise(route))


def test_a_circle_is_refused():
    with pytest.raises(ValueError, match="the graph has a circle"):
        layout([(10, 10)] * 2, [(0, 1), (1, 0)])
