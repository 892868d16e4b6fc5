"""Drawings and explanations in a real browser: every label is there, in its box, and nothing is cut off."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html import escape, unescape

import numpy as np
import pytest

import minidl as dl
from minidl import functional as F
from minidl import nn

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(BROWSER is None, reason="needs Chromium: apt-get install chromium"),
]

# For each text of the page: does it leave its box (of a drawing), or the page?
MEASURE = """
<script>
window.addEventListener("load", () => {
  const wrong = [];
  const outside = (inner, outer) => inner.left < outer.left - 1 || inner.right > outer.right + 1
    || inner.top < outer.top - 1 || inner.bottom > outer.bottom + 1;
  for (const group of document.querySelectorAll("svg g > g")) {
    const rect = group.querySelector("rect").getBoundingClientRect();
    for (const text of group.querySelectorAll("text"))
      if (outside(text.getBoundingClientRect(), rect)) wrong.push(text.textContent);
  }
  for (const svg of document.querySelectorAll("svg"))
    for (const part of svg.querySelectorAll("text, rect, path"))
      if (outside(part.getBoundingClientRect(), svg.getBoundingClientRect())) wrong.push(part.outerHTML);
  const page = document.documentElement;
  if (page.scrollWidth > page.clientWidth) wrong.push("the page is too wide");
  document.body.insertAdjacentHTML("beforeend", "<pre id=wrong></pre>");
  document.getElementById("wrong").textContent = JSON.stringify(wrong);
});
</script>
"""


@pytest.fixture
def net():
    net = nn.Sequential(
        conv=nn.Conv2d(1, 4, 3, padding=1),
        act=nn.ReLU(),
        pool=nn.MaxPool2d(4),
        flat=nn.Flatten(),
        fc=nn.Linear(4, 3),
    )
    net.conv.freeze()
    return net


@pytest.fixture
def loss(net):
    x = np.random.default_rng(0).normal(size=(2, 1, 4, 4)).astype("float32")
    return F.cross_entropy(net(dl.Tensor(x, requires_grad=True)), [0, 2])


def opened(tmp_path, body):
    """The page as the browser shows it: its DOM after the script ran, and its picture."""
    page = tmp_path / "page.html"
    page.write_text(f"<!doctype html><meta charset=utf-8><body>{body}{MEASURE}</body>", encoding="utf-8")
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--window-size=1000,1400"]
    command += [f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=5000"]
    picture = tmp_path / "page.png"
    run = {"check": True, "capture_output": True, "timeout": 90}
    dom = subprocess.run([*command, "--dump-dom", page.as_uri()], **run).stdout.decode()
    subprocess.run([*command, f"--screenshot={picture}", page.as_uri()], **run)
    return dom, picture


def ink(picture):
    """Which share of the picture differs from its paper."""
    image = pytest.importorskip("PIL.Image").open(picture).convert("L")
    pixels = np.asarray(image)
    return float((abs(pixels.astype(int) - int(np.median(pixels))) > 40).mean())


def measured(dom):
    return json.loads(unescape(re.search(r'<pre id="wrong">(.*?)</pre>', dom, re.DOTALL)[1]))


@pytest.mark.parametrize("level", ["op", "module"])
def test_a_drawing(loss, tmp_path, level):
    drawing = dl.draw(loss, level=level)
    dom, picture = opened(tmp_path, drawing.svg)
    assert measured(dom) == []
    for box in drawing.boxes:
        for text in (box.title, box.right, *(line for line, _ in box.lines)):
            assert escape(text, quote=False)[:60] in dom
    assert 0.005 < ink(picture) < 0.5


def test_an_explanation(loss, tmp_path):
    explanation = dl.explain(loss)
    dom, picture = opened(tmp_path, explanation.html())
    assert measured(dom) == []
    for step in explanation.steps:
        assert escape(step.value, quote=False) in dom
    assert 0.005 < ink(picture) < 0.5


def test_the_measure_finds_what_leaves_its_box(loss, tmp_path):
    svg = dl.draw(loss, level="module").svg
    assert ">fc<" in svg
    dom, _ = opened(tmp_path, svg.replace(">fc<", f">{'fc ' * 60}<"))
    assert measured(dom) != []
