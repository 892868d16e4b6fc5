"""What a notebook shows of tensors and modules. (Their text is tested beside them.)"""

from __future__ import annotations

import numpy as np

from minidl import Tensor, nn


def test_a_tensor():
    x = Tensor(np.array([[1.5, -2.0], [0.0, 4.0]], "float32"), requires_grad=True)
    assert x._repr_html_() == (
        "<div><b>Tensor</b> (2, 2) · float32 · cpu · min -2, mean 0.875, max 4 · gradient not computed yet"
        "<table><tr><td>1.5</td><td>-2</td></tr><tr><td>0</td><td>4</td></tr></table></div>"
    )
    y = x.sum()
    y.backward()
    assert "has a gradient" in x._repr_html_()
    assert "computed by Sum" in y._repr_html_()
    assert "<b>Parameter</b>" in nn.Parameter(np.ones(2))._repr_html_()


def test_a_large_tensor_is_shown_in_part():
    html = Tensor(np.arange(24_000.0).reshape(2, 10, 1200))._repr_html_()
    assert "(2, 10, 1200) · float64" in html
    assert html.count("<tr>") == 6 + 1
    assert html.count("<td>…</td>") == 6
    assert len(html) < 2000


def test_tensors_without_numbers_and_without_axes():
    assert Tensor(np.zeros((0, 3)))._repr_html_() == "<div><b>Tensor</b> (0, 3) · float64 · cpu</div>"
    assert "<td>2.5</td>" in Tensor(2.5)._repr_html_()
    assert "<td>True</td><td>False</td>" in Tensor([True, False])._repr_html_()


def test_a_module_is_a_tree_with_what_is_frozen_dimmed():
    net = nn.Sequential(trunk=nn.Linear(2, 3), act=nn.ReLU(), head=nn.Linear(3, 1))
    net.trunk.freeze()
    assert net._repr_html_() == (
        "<details open><summary><b>Sequential</b> · 13 parameters</summary>"
        '<div style="margin-left:1.5em">'
        '<div style="opacity:.5">trunk: <b>Linear</b>(in_features=2, out_features=3, bias=True)'
        " · 9 parameters, frozen</div>"
        "<div>act: <b>ReLU</b></div>"
        "<div>head: <b>Linear</b>(in_features=3, out_features=1, bias=True) · 4 parameters</div>"
        "</div></details>"
    )


def test_names_are_escaped():
    class Odd(nn.Module):
        def extra_repr(self):
            return "<script>"

    assert "<script>" not in nn.Sequential(Odd())._repr_html_()
    assert "&lt;script&gt;" in nn.Sequential(Odd())._repr_html_()


def test_infinities_are_shown():
    html = Tensor(np.array([np.inf, -np.inf, np.nan], "float32"))._repr_html_()
    assert "<td>inf</td><td>-inf</td><td>nan</td>" in html
