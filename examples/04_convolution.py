"""Lesson 4: convolution is one small filter that looks everywhere, and one matrix product.

    y[a, b] = Σᵢⱼ x[a + i, b + j] · w[i, j]

(A mathematician flips w first, and calls this a cross-correlation. Networks learn w: no flip is needed.)

    python examples/04_convolution.py
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

import minidl as dl
from minidl import functional as F
from minidl.data.drawn import draw_cats_and_dogs

SIZE, KERNEL = 5, 3
PLACES = SIZE - KERNEL + 1  # positions of the window along an axis


def sliding_window(x: np.ndarray, w: np.ndarray) -> np.ndarray:
    """The definition, word for word: put the window everywhere, multiply, add."""
    y = np.zeros((PLACES, PLACES), x.dtype)
    for a in range(PLACES):
        for b in range(PLACES):
            for i in range(KERNEL):
                for j in range(KERNEL):
                    y[a, b] += x[a + i, b + j] * w[i, j]
    return y


def im2col(x: np.ndarray) -> np.ndarray:
    """What the window sees, one column for each of its places: (5, 5) → (9, 9)."""
    columns = [x[a : a + KERNEL, b : b + KERNEL].ravel() for a in range(PLACES) for b in range(PLACES)]
    return np.stack(columns, axis=1)


def three_ways() -> None:
    """Loops, a matrix product and conv2d give the same numbers."""
    x = np.zeros((SIZE, SIZE), np.float32)
    x[:, 2:] = 1  # dark on the left, light on the right: one vertical edge
    x[4, 1] = 1
    w = np.array([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]], np.float32)  # Sobel: right minus left

    by_loops = sliding_window(x, w)
    by_matrix = (w.reshape(1, 9) @ im2col(x)).reshape(PLACES, PLACES)
    by_conv2d = F.conv2d(dl.Tensor(x[None, None]), dl.Tensor(w[None, None])).numpy()[0, 0]

    print("The picture x, the filter w and the result y:\n")
    for row in range(SIZE):
        parts = [" ".join(f"{v:3.0f}" for v in x[row])]
        parts += [
            " ".join(f"{v:3.0f}" for v in m[row - 1]) if 1 <= row <= 3 else " " * 11 for m in (w, by_loops)
        ]
        print("   " + "      ".join(parts))
    print("\n  loops, one multiplication after the other   ", by_loops.ravel())
    print("  one product, w (1, 9) · columns (9, 9)      ", by_matrix.ravel())
    print("  minidl.functional.conv2d                    ", by_conv2d.ravel())
    assert np.array_equal(by_loops, by_matrix)
    assert np.array_equal(by_loops, by_conv2d)


def draw_im2col(out: Path) -> None:
    """The picture beside its matrix of columns; a pixel has the same number and colour in both."""
    pixels = np.arange(SIZE * SIZE).reshape(SIZE, SIZE)
    columns = im2col(pixels)
    unfolded = F.unfold(dl.Tensor(pixels[None, None], dtype="float32"), KERNEL).numpy()[0]
    assert np.array_equal(columns, unfolded)

    figure = Figure(figsize=(12, 5.4), layout="constrained", dpi=150)
    left, right = figure.subplots(1, 2, width_ratios=[5, 9])
    for axes, numbers in ((left, pixels), (right, columns)):
        axes.imshow(numbers, cmap="Spectral", alpha=0.75)
        for (row, column), number in np.ndenumerate(numbers):
            axes.text(column, row, number, ha="center", va="center", fontsize=11)
        axes.tick_params(length=0)
    left.set_title("the picture, 5 × 5, pixels numbered")
    left.set_xticks([])
    left.set_yticks([])
    right.set_title("its columns, 9 × 9: column k is what the window sees in place k")
    right.set_xticks(range(9), [f"({a}, {b})" for a in range(PLACES) for b in range(PLACES)])
    right.set_yticks(range(9), [f"w[{i}, {j}]" for i in range(KERNEL) for j in range(KERNEL)])
    right.set_xlabel("place (a, b) of the window, which is the pixel of y that it makes")

    for a, b, colour in ((0, 0, "#111111"), (1, 2, "#0b4fa8")):  # two windows, and their columns
        frame = {"fill": False, "edgecolor": colour, "linewidth": 3}
        left.add_patch(Rectangle((b - 0.47, a - 0.47), KERNEL - 0.06, KERNEL - 0.06, **frame))
        right.add_patch(Rectangle((a * PLACES + b - 0.47, -0.47), 0.94, KERNEL**2 - 0.06, **frame))
    figure.savefig(out / "im2col.png")
    print(
        f"\nim2col: {pixels.size} pixels become a matrix of {columns.size} numbers, because windows overlap: "
        f"the middle pixel,\nnumber {pixels[2, 2]}, is seen from all nine places and fills the anti-diagonal."
    )


FILTERS = {
    "Sobel, left to right": np.array([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]]),
    "Sobel, top to bottom": np.array([[-1, -2, -1], [0, 0, 0], [1, 2, 1]]),
    "blur": np.outer([1, 4, 6, 4, 1], [1, 4, 6, 4, 1]) / 256,
    "sharpen": np.array([[0, -1, 0], [-1, 5, -1], [0, -1, 0]]),
}


def draw_filters(out: Path) -> None:
    """What four filters, and the strength of the edges, make of a cat."""
    pictures, _ = draw_cats_and_dogs(1, size=160, seed=4)
    x = dl.Tensor(pictures[0].mean(axis=2)[None, None] / 255, dtype="float32")
    # A little blur first: derivatives see noise above all.
    blur = FILTERS["blur"].astype(np.float32)[None, None]
    x = F.conv2d(x, dl.Tensor(blur), padding=2)
    seen = {
        name: F.conv2d(x, dl.Tensor(w.astype(np.float32)[None, None]), padding=len(w) // 2).numpy()[
            0, 0, 3:-3, 3:-3
        ]
        for name, w in FILTERS.items()
    }
    edges = np.hypot(seen["Sobel, left to right"], seen["Sobel, top to bottom"])

    figure = Figure(figsize=(12, 8.4), layout="constrained", dpi=120)
    panels = {"a drawn cat, in grey": x.numpy()[0, 0, 3:-3, 3:-3], **seen, "edges, √(Sobel² + Sobel²)": edges}
    for axes, (name, picture) in zip(figure.subplots(2, 3).ravel(), panels.items(), strict=True):
        largest = float(picture.max())
        if name.startswith("Sobel"):
            axes.imshow(picture, cmap="gray", vmin=-largest, vmax=largest)
        elif name.startswith("edges"):
            axes.imshow(picture, cmap="gray_r", vmin=0, vmax=largest)
        else:
            axes.imshow(picture, cmap="gray", vmin=0, vmax=1)
        axes.set_title(name)
        axes.axis("off")
    figure.savefig(out / "filters.png")
    print(
        "\nSobel's filters give 0 (grey) where nothing changes, and a number of either sign at an edge.\n"
        "The first layer of a trained network is full of such filters: it found them by itself."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="Convolution: sliding window, im2col, and what filters see.")
    parser.add_argument("--out", type=Path, default=Path("runs/examples/04_convolution"))
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)

    three_ways()
    draw_im2col(out)
    draw_filters(out)
    print(f"\nThe pictures are in {out}/")


if __name__ == "__main__":
    main()
