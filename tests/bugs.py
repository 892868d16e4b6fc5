"""Gradients that are wrong in ways people get them wrong, each with the cause that is to be named."""

from __future__ import annotations

import numpy as np

R = np.random.default_rng(1).normal
X, Z, SQUARE, OTHER = R(size=(3, 4)), R(size=(3, 4)), R(size=(3, 3)), R(size=(3, 3))
WIDE, LONG, KERNEL = R(size=(3, 5)), R(size=6), R(size=3)
FEW = np.array([0, 2, 2, 1, 2])


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def softmax(x):
    e = np.exp(x)
    return e / e.sum(axis=1, keepdims=True)


def normalize(x):
    return (x - x.mean(axis=1, keepdims=True)) / x.std(axis=1, keepdims=True)


def correlate(x, w):
    return np.array([x[i : i + len(w)] @ w for i in range(len(x) - len(w) + 1)])


def correlate_dw(d, x):
    return np.array([d @ x[i : i + len(d)] for i in range(len(x) - len(d) + 1)])


def spread(d, length):
    return np.repeat(d[:, None], length, axis=1)


def put(d, length):
    dx = np.zeros(length)
    dx[FEW] += d
    return dx


SAME_ALONG = "the same all along axis 1: is a sum or mean over that axis forgotten, or taken over another?"
WRONG_WAY = "it runs the wrong way along axis 0: is a kernel to be turned over, or a running sum?"
COUNTED_TWICE = "it is 2 times the right one: is a term counted twice, or a half forgotten?"

# what was done, forward, backward, the inputs, the cause named for each input whose gradient is wrong
BUGS = [
    # a number too many or too few
    ("twice", np.tanh, lambda d, y, x: 2 * d * (1 - y * y), [X], [COUNTED_TWICE]),
    (
        "the 2 of x²",
        lambda x: x * x,
        lambda d, y, x: d * x,
        [X],
        ["it is 1/2 times the right one: is a factor 2 forgotten, or a term that comes twice?"],
    ),
    ("sign", np.cos, lambda d, y, x: d * np.sin(x), [X], ["its sign is wrong"]),
    (
        "a mean taken for a sum",
        lambda x: x.mean(axis=1),
        lambda d, y, x: spread(d, 4),
        [X],
        [
            "it is 4 times the right one: "
            "is the division of a mean by 4, the length of axis 1 of input 0, forgotten?"
        ],
    ),
    (
        "a sum taken for a mean",
        lambda x, b: x + b,
        lambda d, y, x, b: (d, d.mean(axis=0)),
        [X, Z[0]],
        [
            "it is 1/3 times the right one: "
            "is a factor 3 forgotten, or is it divided by the length of axis 0 of dy like a mean?"
        ],
    ),
    (
        "n and n − 1",
        lambda x: x.var(axis=1, ddof=1),
        lambda d, y, x: spread(d, 4) * 2 * (x - x.mean(axis=1, keepdims=True)) / 4,
        [X],
        [
            "it is 3/4 times the right one: "
            "is the length of axis 1 of input 0 n in one place and n − 1 in the other?"
        ],
    ),
    (
        "a norm not divided by",
        lambda x: np.sqrt((x * x).sum()),
        lambda d, y, x: d * x,
        [LONG],
        [f"it is {np.linalg.norm(LONG):.6g} times the right one, which is y"],
    ),
    # dy
    (
        "without dy",
        np.sin,
        lambda d, y, x: np.cos(x),
        [X],
        ["dy is not multiplied in: backward gives the same, whatever dy is"],
    ),
    (
        "dy twice",
        np.sin,
        lambda d, y, x: d * d * np.cos(x),
        [X],
        ["dy is multiplied in twice: for 2·dy the gradient is 4 times as large"],
    ),
    (
        "a constant added",
        np.sin,
        lambda d, y, x: d * np.cos(x) + 0.01,
        [X],
        ["a term is not multiplied by dy: there is a gradient where dy is 0"],
    ),
    (
        "dy in a comparison",
        np.sin,
        lambda d, y, x: np.sign(d) * np.sqrt(abs(d)) * np.cos(x),
        [X],
        ["the gradient is not proportional to dy: is dy inside a comparison, a power or a division?"],
    ),
    ("summed dy", np.sin, lambda d, y, x: d.sum() * np.cos(x), [X], ["dy is summed before it is used"]),
    ("dy passed on", lambda x: x**3 + x, lambda d, y, x: d, [X], ["the term 3·dy·x² is missing"]),
    ("sinh", np.sinh, lambda d, y, x: d, [X], ["it is dy itself: no derivative is multiplied in"]),
    (
        "one row of dy",
        lambda x, b: x + b,
        lambda d, y, x, b: (d, d[0]),
        [X, Z[0]],
        ["only index 0 along axis 0 of dy is used"],
    ),
    (
        "the wrong axis",
        lambda x, b: x + b,
        lambda d, y, x, b: (d, d.sum(axis=1)),
        [SQUARE, KERNEL],
        ["it is summed over axis 1 of dy, and should be over axis 0"],
    ),
    # the right numbers in the wrong place
    (
        "transposed",
        lambda x: x.sum(axis=0),
        lambda d, y, x: spread(d, 3),
        [SQUARE],
        ["it is transposed"],
    ),
    (
        "axes in another order",
        lambda x: x.transpose(1, 2, 0),
        lambda d, y, x: d.transpose(1, 2, 0),
        [R(size=(3, 3, 3))],
        ["its axes are in the order (2, 0, 1)"],
    ),
    (
        "reversed",
        lambda x: x[:, ::-1] * 1,
        lambda d, y, x: d,
        [X],
        ["it is reversed along axis 1"],
    ),
    (
        "shifted",
        lambda x: np.pad(x, 1),
        lambda d, y, x: d[:-2, 1:-1],
        [X],
        ["it is shifted by 1 along axis 0"],
    ),
    (
        "reshaped",
        lambda x: x.reshape(4, 3) * 1,
        lambda d, y, x: d.T,
        [X],
        ["its numbers are the right ones, in other places: is a reshape wrong, or an order of axes?"],
    ),
    (
        "swapped inputs",
        lambda x, z: x * z,
        lambda d, y, x, z: (d * x, d * z),
        [X, Z],
        ["this is the gradient of input 1", "this is the gradient of input 0"],
    ),
    (
        "matrix not transposed",
        lambda a, b: a @ b,
        lambda d, y, a, b: (d @ b, a.T @ d),
        [SQUARE, OTHER],
        ["it would be right with input 1 transposed"],
    ),
    (
        "matrices in the other order",
        lambda a, b: a @ b,
        lambda d, y, a, b: (b.T @ d, a.T @ d),
        [SQUARE, OTHER],
        ["it is right for dy and input 1 in the other order: A·B is not B·A"],
    ),
    (
        "kernel not turned over",
        correlate,
        lambda d, y, x, w: (np.convolve(d, w[::-1]), correlate_dw(d, x)),
        [LONG, KERNEL],
        [WRONG_WAY],
    ),
    ("running sum", np.cumsum, lambda d, y, x: np.cumsum(d), [LONG], [WRONG_WAY]),
    (
        "repeated index",
        lambda x: x[FEW],
        lambda d, y, x: put(d, len(x)),
        [R(size=4)],
        ["where several terms add up one is kept: for a repeated index dx[i] += dy adds once, np.add.at all"],
    ),
    # masks
    (
        "relu without its mask",
        lambda x: np.maximum(x, 0),
        lambda d, y, x: d,
        [X],
        [
            f"it is not 0 at {(X < 0).sum()} elements where it should be, those with x < 0, "
            "and right elsewhere: is a mask missing?"
        ],
    ),
    (
        "relu the wrong way round",
        lambda x: np.maximum(x, 0),
        lambda d, y, x: d * (x < 0),
        [X],
        ["it is 0 exactly where the right one is not: is a mask the wrong way round?"],
    ),
    (
        "leaky relu without its leak",
        lambda x: np.where(x > 0, x, 0.1 * x),
        lambda d, y, x: d * (x > 0),
        [X],
        [
            f"it is 0 at {(X < 0).sum()} elements where it should not be, those with x < 0, "
            "and right elsewhere"
        ],
    ),
    (
        "elu without its slope",
        lambda x: np.where(x > 0, x, np.exp(x) - 1),
        lambda d, y, x: d * np.where(x > 0, 1, y),
        [X],
        [f"it is wrong just at {(X < 0).sum()} elements, those with x < 0: is that case treated apart?"],
    ),
    # formulas
    (
        "x for y",
        sigmoid,
        lambda d, y, x: d * x * (1 - x),
        [X],
        ["it is dy·x·(1 − x), and should be dy·y·(1 − y)"],
    ),
    (
        "a square forgotten",
        np.tanh,
        lambda d, y, x: d * (1 - y),
        [X],
        ["it is dy·(1 − y), and should be dy·(1 − y²)"],
    ),
    ("log", np.log, lambda d, y, x: d * x, [abs(X)], ["it is dy·x, and should be dy / x"]),
    (
        "division",
        lambda x, z: x / z,
        lambda d, y, x, z: (d / z, -d * x / z),
        [X, Z],
        ["it is the right one times x: is that too much, or a division by it missing? (x is input 1)"],
    ),
    (
        "product",
        np.prod,
        lambda d, y, x: d * y * x,
        [LONG],
        ["it is the right one times x²: does it multiply by x instead of dividing?"],
    ),
    (
        "a term forgotten",
        lambda x: x * sigmoid(x),
        lambda d, y, x: d * sigmoid(x),
        [X],
        ["the term dy·x·σ(x)·(1 − σ(x)) is missing"],
    ),
    (
        "one-hot forgotten",
        lambda x: -np.log(softmax(x))[[0, 1, 2], [0, 2, 1]].sum(),
        lambda d, y, x: d * softmax(x),
        [X],
        ["the term −dy is missing at 3 elements, and it is right elsewhere"],
    ),
    (
        "softmax as if it were a sigmoid",
        softmax,
        lambda d, y, x: d * y * (1 - y),
        [X],
        ["each element has the gradient of its own output only: that of the other outputs is missing"],
    ),
    (
        "softmax without its sum",
        softmax,
        lambda d, y, x: d * y,
        [X],
        [f"what is missing is y times a number, {SAME_ALONG}"],
    ),
    (
        "a mean without its gradient",
        lambda x: x - x.mean(axis=1, keepdims=True),
        lambda d, y, x: d,
        [X],
        [f"what is missing is a number, {SAME_ALONG}"],
    ),
    (
        "mean and deviation without theirs",
        normalize,
        lambda d, y, x: d / x.std(axis=1, keepdims=True),
        [WIDE],
        [f"what is missing is a number plus y times another, {SAME_ALONG}"],
    ),
    (
        "logsumexp not divided",
        lambda x: np.log(np.exp(x).sum(axis=1)),
        lambda d, y, x: np.exp(x) * d[:, None],
        [X],
        [
            "it is the right one times a number that is the same all along axis 1: "
            "is it to be divided by a sum or mean over that axis, or not to be?"
        ],
    ),
    # f itself
    (
        "rounded",
        np.round,
        lambda d, y, x: d,
        [X],
        ["f does not change with input 0 here, yet a gradient arrives: is it rounded, masked or left out?"],
    ),
    (
        "leaves its domain",
        np.sqrt,
        lambda d, y, x: d / (2 * y),
        [np.array([1e-8, 1.0])],
        ["f is not finite within a step of here: check it further inside its domain"],
    ),
    (
        "nothing",
        np.sin,
        lambda d, y, x: 0 * d,
        [X],
        ["no gradient arrives: backward gives None or zeros, or .data or .detach() cut the graph"],
    ),
    ("not finite", np.sin, lambda d, y, x: d / 0.0, [X], ["backward gives numbers that are not finite"]),
]  # fmt: skip
