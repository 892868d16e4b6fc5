from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minidl.visualize.svg import HEIGHT, WIDTH, Curve, line_chart, ticks


@given(low=st.floats(-1e6, 1e6), span=st.floats(1e-6, 1e6))
def test_ticks_are_few_and_cover_the_range(low, span):
    marks = ticks(low, low + span)
    assert 2 <= len(marks) <= 8
    slack = 1e-6 * (marks[1] - marks[0])
    assert marks[0] <= low + slack
    assert marks[-1] >= low + span - slack


def test_ticks_are_round_numbers():
    assert ticks(0, 0.69) == pytest.approx([0, 0.2, 0.4, 0.6, 0.8])
    assert ticks(0.5, 1.0) == pytest.approx([0.5, 0.6, 0.7, 0.8, 0.9, 1.0])
    assert ticks(3, 3)[0] <= 3 <= ticks(3, 3)[-1]


def curves_of(svg: str) -> list[str]:
    root = ElementTree.fromstring(svg)
    return [path.get("d", "") for path in root.iter("path") if "curve" in path.get("class", "")]


def test_higher_values_are_drawn_higher():
    (data,) = curves_of(line_chart("t", [Curve("a", [(1, 0.1), (2, 0.9)], "run0")]))
    (x1, y1), (x2, y2) = (map(float, point.split()) for point in re.findall(r"[\d.]+ [\d.]+", data))
    assert 0 <= x1 < x2 <= WIDTH
    assert 0 <= y2 < y1 <= HEIGHT


def test_the_pen_is_lifted_over_values_that_are_not_finite():
    points = [(1, 1.0), (2, 2.0), (3, math.nan), (4, math.inf), (5, 1.0), (6, 2.0)]
    (data,) = curves_of(line_chart("t", [Curve("a", points, "run0")]))
    assert re.sub(r"[^ML]", "", data) == "MLML"


@pytest.mark.parametrize("points", [[], [(1, math.nan)], [(1, 0.7)], [(1, 0.0), (2, 0.0)]])
def test_charts_of_almost_nothing_are_still_charts(points):
    assert len(curves_of(line_chart("t", [Curve("a", points, "run0")], percent=True))) == 1


def test_names_are_escaped_and_per_cent_are_said():
    svg = line_chart("<t>", [Curve("<b>", [(1, 0.5), (2, 1.0)], "run0")], percent=True)
    assert "<b>" not in svg
    assert "<t>" not in svg
    texts = [text.text for text in ElementTree.fromstring(svg).iter("text")]
    assert "100 %" in texts
    assert "50 %" in texts
