"""Lesson 8: see the chain rule at work, on your own loss and on your own numbers.

Backward is no magic: it passes one number (or one array) from each operation to those before it. `explain`
writes down every such step with the rule it follows, `draw` shows the graph that is walked, and anomaly mode
stops at the first step that makes a number that is none.

    python examples/08_explain_and_draw.py
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

import minidl as dl
from minidl import functional as F
from minidl import nn
from minidl.models import vgg16
from minidl.nn.init import skip_init


def the_textbook(out: Path) -> None:
    """f = (x + y) z: add passes its gradient on to both, multiply crosswise."""
    x, y, z = (dl.Tensor(value, requires_grad=True) for value in (-2.0, 5.0, -4.0))
    f = (x + y) * z
    print(dl.explain(f))
    dl.draw(f).save(out / "textbook.svg")


def where_paths_meet(out: Path) -> None:
    """Two paths lead from a to d: what comes back along them is added."""
    a = dl.Tensor(0.5, requires_grad=True)
    b = a * a
    c = a + b
    d = b.tanh() * c
    print(f"\nWhere paths meet, gradients are added:\n\n{dl.explain(d)}")
    dl.draw(d).save(out / "diamond.svg")


def a_bias_is_repeated() -> None:
    """A bias is added to every row, so the gradients of all rows are summed for it."""
    scores = dl.Tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]], requires_grad=True)
    bias = dl.Tensor([0.5, -0.5], requires_grad=True)
    loss = (scores + bias).sum()
    print(f"\nWhat was repeated is summed:\n\n{dl.explain(loss)}")


class Residual(nn.Module):
    """x + f(x): the gradient has a way around f."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: dl.Tensor) -> dl.Tensor:
        return (x + self.conv2(self.conv1(x).relu())).relu()


def a_small_network(out: Path) -> None:
    """The same for a network: by layers, by operations, and as a page to read."""
    dl.seed(0)
    net = nn.Sequential(
        stem=nn.Conv2d(3, 8, 3, padding=1),
        block=Residual(8),
        pool=nn.MaxPool2d(8),
        flatten=nn.Flatten(),
        head=nn.Linear(8, 2),
    )
    net.block.conv1.freeze()
    pictures = np.random.default_rng(0).normal(size=(4, 3, 8, 8)).astype(np.float32)
    loss = F.cross_entropy(net(dl.Tensor(pictures)), [0, 1, 1, 0])
    dl.draw(loss).save(out / "layers.svg")
    dl.draw(loss, level="op").save(out / "operations.svg")
    page = f'<!doctype html><meta charset="utf-8"><title>The chain rule</title>{dl.explain(loss).html()}'
    (out / "explanation.html").write_text(page, encoding="utf-8")
    print("\nThe last layer of a small network:\n")
    print(dl.explain(loss, module="head"))


def vgg16_on_a_page(out: Path) -> None:
    """VGG16 as it is fine-tuned: all frozen but the last layer."""
    with skip_init():  # only its shape is drawn
        model = vgg16()
    model.freeze()
    model.fc8.unfreeze()
    dl.draw(model, np.zeros((1, 3, 224, 224), np.float32)).save(out / "vgg16.svg")


def the_first_number_that_is_none() -> None:
    """A logarithm of zero is −∞, and a step later everything is NaN: anomaly mode names the logarithm."""
    probabilities = dl.Tensor([0.5, 0.5, 0.0], requires_grad=True)
    try:
        with dl.detect_anomaly():
            entropy = -(probabilities * probabilities.log()).sum()
            entropy.backward()
    except dl.MinidlError as error:
        print(f"\nAnomaly mode says:\n\n{error}")


def main() -> None:
    parser = argparse.ArgumentParser(description="The chain rule of a real loss, explained and drawn.")
    parser.add_argument("--out", type=Path, default=Path("runs/examples/08_explain_and_draw"))
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)

    the_textbook(out)
    where_paths_meet(out)
    a_bias_is_repeated()
    a_small_network(out)
    vgg16_on_a_page(out)
    the_first_number_that_is_none()
    print(f"\nThe graphs are drawn, and the small network is explained on a page, in {out}/")


if __name__ == "__main__":
    main()
