"""What explain says of small losses, word for word; and that its formulas are those of the Functions."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest

import minidl as dl
from minidl import Function, Tensor, nn
from minidl import functional as F
from minidl.errors import GradientError
from minidl.graph.formulas import calculate, formula_of, rewrite


def leaf(data):
    return Tensor(data, requires_grad=True)


def text_of(explanation):
    """The text, without the place of a line in this file."""
    return re.sub(r"\.py:\d+", ".py:1", str(explanation))


def steps_of(explanation):
    """The text without the end: what arrives at the leaves."""
    return text_of(explanation).partition("\n\nWhat arrives")[0]


# Word for word


def test_the_example_of_every_textbook():
    x, y, z = leaf(-2.0), leaf(5.0), leaf(-4.0)
    f = (x + y) * z
    assert text_of(dl.explain(f)) == (
        """\
f = −12, computed by 2 operations. The chain rule, from f back:

f = #2 · z = −12                                            Multiply, test_explain.py:1: f = (x + y) * z
    ∂f/∂f = 1
    ∂f/∂#2 = ∂f/∂f · z = 1 · (−4) = −4
    ∂f/∂z = ∂f/∂f · #2 = 1 · 3 = 3
    kept for backward: 8 B

#2 = x + y = 3                                              Add, test_explain.py:1: f = (x + y) * z
    ∂f/∂#2 = −4
    ∂f/∂x = ∂f/∂#2 = −4
    ∂f/∂y = ∂f/∂#2 = −4

What arrives at the leaves:
    ∂f/∂z = 3
    ∂f/∂x = −4
    ∂f/∂y = −4"""
    )


def test_a_bias_is_summed_over_the_axis_along_which_it_was_repeated():
    bias, x = leaf([0.5, -0.5]), Tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    y = x + bias
    loss = y.sum()
    assert text_of(dl.explain(loss)) == (
        """\
loss = 21, computed by 2 operations. The chain rule, from loss back:

loss = Σ y = 21                                             Sum, test_explain.py:1: loss = y.sum()
    ∂loss/∂loss = 1
    ∂loss/∂y = ∂loss/∂loss, copied to every element that was added = [[1, 1], [1, 1], [1, 1]]

y = constant + bias = [[1.5, 1.5], [3.5, 3.5], [5.5, 5.5]]  Add, test_explain.py:1: y = x + bias
    ∂loss/∂y = [[1, 1], [1, 1], [1, 1]]
    ∂loss/∂bias = ∂loss/∂y = [3, 3], summed over axis 0, which was broadcast

What arrives at the leaves:
    ∂loss/∂bias = [3, 3]"""
    )


def test_where_two_paths_meet_their_gradients_are_added():
    x = leaf(3.0)
    a = x * x
    b = a * 2.0
    c = a.exp()
    loss = b - c
    del c
    assert steps_of(dl.explain(loss)).partition("\n\n")[2] == (
        """\
loss = b − #2 = −8085                                       Subtract, test_explain.py:1: loss = b - c
    ∂loss/∂loss = 1
    ∂loss/∂b = ∂loss/∂loss = 1
    ∂loss/∂#2 = −∂loss/∂loss = −1

#2 = eˣ = 8103                                              Exp, test_explain.py:1: c = a.exp()
    ∂loss/∂#2 = −1
    ∂loss/∂a += ∂loss/∂#2 · #2 = −1 · 8103 = −8103
    where x is a
    kept for backward: 4 B

b = a · 2 = 18                                              Multiply, test_explain.py:1: b = a * 2.0
    ∂loss/∂b = 1
    ∂loss/∂a += ∂loss/∂b · 2 = 1 · 2 = 2
    kept for backward: 4 B

a = x · x = 9                                               Multiply, test_explain.py:1: a = x * x
    ∂loss/∂a = (−8103) + 2 = −8101, where 2 paths meet
    ∂loss/∂x += ∂loss/∂a · x = −8101 · 3 = −2.43e+04
    ∂loss/∂x += ∂loss/∂a · x = −8101 · 3 = −2.43e+04
    kept for backward: 8 B"""
    )


# What it knows


def small_net():
    return nn.Sequential(conv=nn.Conv2d(1, 2, 3), flatten=nn.Flatten(), classifier=nn.Linear(8, 2))


def loss_of(net):
    x = np.random.default_rng(0).standard_normal((3, 1, 4, 4)).astype(np.float32)
    return F.cross_entropy(net(Tensor(x)), [0, 1, 1])


def test_parameters_have_the_names_of_the_model():
    net = small_net()
    text = text_of(dl.explain(loss_of(net)))
    assert "#6 = #7 with another shape   (3, 8)" in text
    assert "Conv2d in conv, test_explain.py:1" in text
    assert "∂L/∂conv.weight = constant ⊛ ∂L/∂#7   (2, 1, 3, 3), norm " in text
    assert "∂L/∂classifier.weight = (∂L/∂#5)ᵀ #6   (2, 8), norm " in text
    assert "    ∂L/∂classifier.bias = [" in text


def test_paths_begin_where_the_caller_says_or_with_the_variable_of_each_network():
    encoder, decoder = nn.Linear(2, 2), nn.Linear(2, 1)
    loss = decoder(encoder(Tensor([[1.0, 2.0]]))).sum()
    assert "∂loss/∂encoder.weight = " in str(dl.explain(loss))
    assert "∂loss/∂decoder.bias = " in str(dl.explain(loss))
    whole = nn.Sequential(encoder, decoder)
    assert "∂loss/∂1.bias = " in str(dl.explain(loss, model=whole))


@pytest.mark.parametrize("named", [True, False])
def test_one_module_alone(named):
    net = small_net()
    explanation = dl.explain(loss_of(net), module="classifier" if named else net.classifier)
    assert [step.origin.partition(",")[0] for step in explanation.steps] == ["Linear in classifier"]
    assert explanation.left_out == "6 of 7 operations are outside of this module."
    assert [result.partition("∂L/∂")[2].split()[0] for result in explanation.results] == [
        "classifier.weight",
        "classifier.bias",
    ]


def test_a_module_that_is_not_there():
    net = small_net()
    with pytest.raises(
        ValueError,
        match="no operation here belongs to the module 'head': the modules are conv, flatten, classifier",
    ):
        dl.explain(loss_of(net), module="head")


def test_only_the_first_steps():
    explanation = dl.explain(loss_of(small_net()), depth=2)
    assert len(explanation.steps) == 2
    assert explanation.left_out == "5 of 7 operations are left out: depth=None explains all."
    assert explanation.left_out in str(explanation)
    assert len(explanation.results) == 4


def test_a_frozen_parameter_gets_no_gradient():
    net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
    net[1].freeze()
    text = str(dl.explain(net(Tensor([[1.0, 2.0]])).sum()))
    assert "no gradient asked for: 1.weight, 1.bias" in text
    assert "∂L/∂1.weight" not in text


def test_a_frozen_parameter_has_its_name_also_where_backward_does_not_need_it():
    net = small_net()
    net.conv.freeze()
    x = Tensor(np.ones((1, 1, 4, 4), "float32"), requires_grad=True)
    loss = net(x).sum()
    assert "#4 = x ⋆ conv.weight + conv.bias   (1, 2, 2, 2)" in str(dl.explain(loss))
    net.classifier.weight.requires_grad_(False)
    loss = net(x.detach()).sum()
    assert "#2 = constant classifier.weightᵀ + classifier.bias" in str(dl.explain(loss))


def test_a_constant_is_not_taken_for_the_parameter_that_it_was_made_of():
    class Halved(nn.Linear):
        def forward(self, x):
            return F.linear(x, self.weight, self.bias * 0.5)

    layer = Halved(2, 1)
    layer.bias.requires_grad_(False)
    loss = layer(Tensor([[1.0, 2.0]])).sum()
    assert "#2 = constant weightᵀ + constant" in str(dl.explain(loss))


def test_an_intermediate_result_that_is_not_one_number_needs_a_gradient():
    x = leaf([1.0, 2.0])
    y = x * 3.0
    with pytest.raises(GradientError, match="backward starts from one number"):
        dl.explain(y)
    assert "∂y/∂x = ∂y/∂y · 3 = [3, 6]" in str(dl.explain(y, gradient=Tensor([1.0, 2.0])))


def test_a_large_loss_is_told_by_its_shape():
    y = leaf(np.ones(10, np.float32)) * 2.0
    assert str(dl.explain(y, gradient=Tensor(np.ones(10, np.float32)))).startswith(
        "y of shape (10,), computed"
    )


def test_nothing_is_changed():
    net = small_net()
    loss = loss_of(net)
    loss.backward(retain_graph=True)
    before = [p.grad for p in net.parameters()]
    values = [p.grad.numpy().copy() for p in net.parameters()]
    first = str(dl.explain(loss))
    assert str(dl.explain(loss)) == first
    assert all(p.grad is g for p, g in zip(net.parameters(), before, strict=True))
    for p, value in zip(net.parameters(), values, strict=True):
        np.testing.assert_array_equal(p.grad.numpy(), value)
    loss.backward()


def test_it_tells_the_gradients_that_backward_gives():
    w, b = leaf([[1.0, -2.0]]), leaf([0.5])
    loss = (F.linear(Tensor([[3.0, 4.0]]), w, b).tanh() ** 2.0).sum()
    told = dict(result.replace("−", "-").split(" = ") for result in dl.explain(loss).results)
    loss.backward()
    np.testing.assert_allclose(json.loads(told["∂loss/∂w"]), w.grad.numpy(), rtol=1e-3)
    np.testing.assert_allclose(json.loads(told["∂loss/∂b"]), b.grad.numpy(), rtol=1e-3)


def test_a_graph_that_was_freed():
    loss = leaf(1.0).exp()
    loss.backward()
    with pytest.raises(
        GradientError,
        match=re.escape(
            "this graph was freed by backward(): Exp no longer has what it saved. Call explain before "
            "backward(), or say backward(retain_graph=True)"
        ),
    ):
        dl.explain(loss)


def test_a_tensor_without_a_graph():
    with pytest.raises(GradientError, match="does not depend on anything that requires a gradient"):
        dl.explain(Tensor(1.0))
    x = leaf(2.0)
    assert str(dl.explain(x)).startswith("x = 2, computed by 0 operations.")


class Undocumented(Function):
    def forward(self, x, slope):
        self.save(slope=slope)
        return x * slope

    def backward(self, dy):
        (slope,) = self.saved
        return dy * slope, None


def test_a_function_without_a_formula_is_explained_by_its_name():
    x = leaf(3.0)
    y = Undocumented()(x, Tensor(2.0))
    assert steps_of(dl.explain(y)).partition("\n\n")[2].replace("  ", "") == (
        "y = Undocumented(x, 2) = 6Undocumented, test_explain.py:1: y = Undocumented()(x, Tensor(2.0))\n"
        "∂y/∂y = 1\n∂y/∂x = Undocumented.backward(∂y/∂y) = 2\nkept for backward: 4 B"
    )


def test_a_deep_graph_is_explained_in_part():
    x = leaf(1.0)
    y = x
    for _ in range(10_000):
        y = y + x
    explanation = dl.explain(y)
    assert len(explanation.steps) == 50
    assert explanation.results == ["∂y/∂x = 1e+04, where 10001 paths meet"]


# Other formats


def test_markdown_and_html():
    w = leaf(2.0)
    loss = w * 3.0 if "<b>" else w
    explanation = dl.explain(loss)
    assert explanation.markdown().splitlines()[2].startswith("1. `loss = w · 3 = 6`    Multiply, ")
    assert "    - `∂loss/∂w = ∂loss/∂loss · 3 = 1 · 3 = 3`" in explanation.markdown().splitlines()
    html = explanation.html()
    assert html == explanation._repr_html_()
    assert "<li>∂loss/∂w = ∂loss/∂loss · 3 = 1 · 3 = 3</li>" in html
    assert "if &quot;&lt;b&gt;&quot; else" in html


def test_the_style_is_plain_css_and_touches_nothing_else_in_a_notebook():
    style = re.search("<style>(.*)</style>", dl.explain(leaf(1.0) * 2.0).html(), re.DOTALL)[1]
    selectors = [one.strip() for many in re.findall(r"([^{}]+)\{", style) for one in many.split(",")]
    assert len(selectors) > 5
    assert [one for one in selectors if not one.startswith(".minidl-explanation")] == []


def test_spaces_before_a_shape_are_shown():
    loss = (leaf(np.ones(10, np.float32)) * 2.0).sum()
    html = dl.explain(loss).html()
    assert "<b>#2 = leaf1 · 2   (10,)</b>" in html
    assert "<li>∂loss/∂#2 = ∂loss/∂loss, copied to every element that was added   (10,), norm " in html
    kept = re.search(r"([^}]*)\{ white-space: pre-wrap;", html)[1].split(",")
    assert [one.strip() for one in kept] == [".minidl-explanation b", ".minidl-explanation ul li"]


# The formulas


def functions(kind=Function):
    """Every Function of minidl."""
    for child in kind.__subclasses__():
        if child.__module__.startswith("minidl."):
            if child.forward is not Function.forward:
                yield child
            yield from functions(child)


@pytest.mark.parametrize("kind", sorted(functions(), key=lambda f: f.__name__), ids=lambda f: f.__name__)
def test_every_function_has_its_formulas_in_its_docstring(kind):
    formula = formula_of(kind)
    assert formula.value.startswith(formula.output)
    assert len(formula.output) == 1
    constant = {"Where": ["condition"]}.get(kind.__name__, [])
    inputs = [name for name in kind._inputs if name not in constant] or ["xs"]
    assert len([g for g in formula.gradients if g]) == len(inputs)
    for gradient in filter(None, formula.gradients):
        assert "∂L/∂" in gradient


def test_letters_mean_the_inputs_of_forward():
    assert formula_of(F.convolution.Conv2d).letters == ("x", "w", "b")
    assert formula_of(F.normalization.BatchNorm).letters == ("x", "γ", "β")
    assert formula_of(F.normalization.BatchNorm).gradient(2) == "Σ ∂L/∂y"
    assert formula_of(F.shape.Concatenate).gradient(7) == "the part of ∂L/∂y that came from xᵢ"


@pytest.mark.parametrize(
    ("formula", "text"),
    [
        ("∂L/∂z · y", "∂f/∂out · bias"),
        ("Σ_{n, a, y} ∂L/∂z", "Σ_{n, a, y} ∂f/∂out"),
        ("x̂ + x · yᵢ", "x̂ + in · biasᵢ"),
        ("y exp y", "bias exp bias"),
    ],
)
def test_names_in_the_place_of_letters(formula, text):
    assert rewrite(formula, {"x": "in", "y": "bias", "z": "out"}, "f") == (text, "")


def test_an_exponent_cannot_be_renamed():
    assert rewrite("∂L/∂z · a xᵃ⁻¹", {"x": "q", "a": "2", "z": "p"}, "f") == (
        "∂f/∂p · a qᵃ⁻¹",
        "where a is 2",
    )


@pytest.mark.parametrize(
    ("formula", "text"),
    [
        ("∂L/∂y · (1 − y²)", "−1 · (1 − (−2)²)"),
        ("−∂L/∂y", "−(−1)"),
        ("∂L/∂y / (2y)", "−1 / (2·(−2))"),
        ("∂L/∂y · sign x", ""),
        ("∂L/∂y · q", ""),
        ("∂L/∂y, copied", ""),
        ("", ""),
    ],
)
def test_numbers_in_the_place_of_letters(formula, text):
    assert calculate(formula, {"x": "3", "y": "−2"}, "−1") == text
