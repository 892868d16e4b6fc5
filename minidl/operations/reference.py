"""The operations on pictures and classes in plain NumPy: each as its definition says it, however slow.

What the fast ones are compared with where PyTorch is not installed. Arguments and shapes are theirs.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from minidl.operations.draw import both


def places(size: tuple[int, ...], extent: Any, stride: Any, padding: Any) -> Iterator[tuple[int, int, Any]]:
    """(a, b, where) for each place of a window on a picture with its border."""
    (h, w), (eh, ew), (sh, sw), (ph, pw) = size, both(extent), both(stride), both(padding)
    for a in range((h + 2 * ph - eh) // sh + 1):
        for b in range((w + 2 * pw - ew) // sw + 1):
            yield a, b, (slice(None), slice(None), slice(a * sh, a * sh + eh), slice(b * sw, b * sw + ew))


def _bordered(x: np.ndarray, padding: Any, fill: float = 0.0) -> np.ndarray:
    ph, pw = both(padding)
    return np.pad(x, [(0, 0), (0, 0), (ph, ph), (pw, pw)], constant_values=fill)


def _spread(w: np.ndarray, dilation: Any) -> np.ndarray:
    """Filters with zeros between their pixels: those of a dilated convolution."""
    (kh, kw), (dh, dw) = w.shape[2:], both(dilation)
    spread = np.zeros((*w.shape[:2], dh * (kh - 1) + 1, dw * (kw - 1) + 1), w.dtype)
    spread[:, :, ::dh, ::dw] = w
    return spread


def _ungrouped(w: np.ndarray, groups: int) -> np.ndarray:
    """(O, C/G, KH, KW) → (O, C, KH, KW), with zeros where a filter does not see a channel."""
    filters = w.reshape(groups, -1, *w.shape[1:])
    full = np.zeros((groups, filters.shape[1], groups, *w.shape[1:]), w.dtype)
    for g in range(groups):
        full[g, :, g] = filters[g]
    return full.reshape(len(w), -1, *w.shape[2:])


def conv2d(
    x: np.ndarray,
    w: np.ndarray,
    b: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
    relu: bool = False,
    pool: bool = False,
) -> np.ndarray:
    """Each number of y: a filter times what it sees, added up; then max(y, 0), and the largest of 2×2."""
    w, seen_in = _spread(_ungrouped(w, groups), dilation), _bordered(x, padding)
    found = {
        (i, j): np.einsum("nchw,ochw->no", seen_in[where], w)
        for i, j, where in places(x.shape[2:], w.shape[2:], stride, padding)
    }
    rows, cols = (1 + max(at) for at in zip(*found, strict=True))
    y = np.stack(list(found.values()), axis=-1).reshape(len(x), len(w), rows, cols)
    y = y if b is None else y + b.reshape(-1, 1, 1)
    y = y.clip(0) if relu else y
    return max_pool2d(y, 2) if pool else y


def conv_transpose2d(
    x: np.ndarray,
    w: np.ndarray,
    b: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
) -> np.ndarray:
    """Each pixel of x stamps its filter, times its value, into y."""
    w = _spread(_ungrouped(w, groups), dilation)
    steps = zip(x.shape[2:], both(stride), w.shape[2:], both(output_padding), strict=True)
    y = np.zeros((len(x), w.shape[1], *((n - 1) * s + e + more for n, s, e, more in steps)), x.dtype)
    (ph, pw), (h, w_) = both(padding), y.shape[2:]
    for i, j, where in places((h, w_), w.shape[2:], stride, 0):
        if i < x.shape[2] and j < x.shape[3]:
            y[where] += np.einsum("no,ochw->nchw", x[:, :, i, j], w)
    y = y[:, :, ph : h - ph, pw : w_ - pw]
    return y if b is None else y + b.reshape(-1, 1, 1)


def _window(kernel_size: Any, dilation: Any) -> tuple[Any, tuple[int, int], tuple[int, int]]:
    """Its pixels as an index into what it spans, its size, and its extent."""
    (kh, kw), (dh, dw) = both(kernel_size), both(dilation)
    return np.s_[:, :, ::dh, ::dw], (kh, kw), (dh * (kh - 1) + 1, dw * (kw - 1) + 1)


def unfold(
    x: np.ndarray, kernel_size: Any, dilation: Any = 1, padding: Any = 0, stride: Any = 1
) -> np.ndarray:
    """One column for each place: what the window sees there."""
    pixels, kernel, extent = _window(kernel_size, dilation)
    bordered, (n, c) = _bordered(x, padding), x.shape[:2]
    columns = [
        bordered[where][pixels].reshape(n, c * math.prod(kernel))
        for _, _, where in places(x.shape[2:], extent, stride, padding)
    ]
    return np.stack(columns, axis=-1)


def fold(
    x: np.ndarray,
    output_size: Any,
    kernel_size: Any,
    dilation: Any = 1,
    padding: Any = 0,
    stride: Any = 1,
) -> np.ndarray:
    """Each column added back to where `unfold` saw it."""
    pixels, kernel, extent = _window(kernel_size, dilation)
    (h, w), (ph, pw), n, c = both(output_size), both(padding), len(x), x.shape[1] // math.prod(kernel)
    y = np.zeros((n, c, h + 2 * ph, w + 2 * pw), x.dtype)
    for k, (_, _, where) in enumerate(places((h, w), extent, stride, padding)):
        y[where][pixels] += x[:, :, k].reshape(n, c, *kernel)
    return y[:, :, ph : ph + h, pw : pw + w]


def _pool_places(n: int, extent: int, stride: int, padding: int, ceil_mode: bool) -> range:
    """The first pixel of each window along an axis of n pixels."""
    starts = range(-padding, n + padding - extent + 1, stride)
    further = starts[-1] + stride
    if ceil_mode and further < n and starts[-1] + extent < n + padding:
        return range(-padding, further + 1, stride)
    return starts


def max_pool2d(
    x: np.ndarray,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
) -> np.ndarray:
    """Of each window the largest pixel that lies on the picture."""
    _, (kh, kw), extent = _window(kernel_size, dilation)
    dh, dw = both(dilation)
    rows, cols = (
        _pool_places(n, e, s, p, ceil_mode)
        for n, e, s, p in zip(
            x.shape[2:], extent, both(kernel_size if stride is None else stride), both(padding), strict=True
        )
    )
    y = np.empty((*x.shape[:2], len(rows), len(cols)), x.dtype)
    for a, top in enumerate(rows):
        for b, left in enumerate(cols):
            seen_rows = [i for i in range(top, top + dh * kh, dh) if 0 <= i < x.shape[2]]
            seen_cols = [j for j in range(left, left + dw * kw, dw) if 0 <= j < x.shape[3]]
            y[:, :, a, b] = x[:, :, seen_rows][:, :, :, seen_cols].max((2, 3))
    return y


def avg_pool2d(
    x: np.ndarray,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> np.ndarray:
    """Of each window the sum over the picture, divided by the pixels that count."""
    (kh, kw), (ph, pw), (h, w) = both(kernel_size), both(padding), x.shape[2:]
    rows, cols = (
        _pool_places(n, k, s, p, ceil_mode)
        for n, k, s, p in zip(
            (h, w), (kh, kw), both(kernel_size if stride is None else stride), (ph, pw), strict=True
        )
    )
    y = np.empty((*x.shape[:2], len(rows), len(cols)), x.dtype)
    for a, top in enumerate(rows):
        for b, left in enumerate(cols):
            seen = x[:, :, max(top, 0) : max(top + kh, 0), max(left, 0) : max(left + kw, 0)]
            on_picture = seen.shape[2] * seen.shape[3]
            with_border = (min(top + kh, h + ph) - top) * (min(left + kw, w + pw) - left)
            y[:, :, a, b] = seen.sum((2, 3)) / (
                divisor_override or (with_border if count_include_pad else on_picture)
            )
    return y


def max_unpool2d(
    x: np.ndarray,
    indices: np.ndarray,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    output_size: Any = None,
) -> np.ndarray:
    """Each number put to its index h·W + w, among zeros."""
    steps = both(kernel_size if stride is None else stride)
    size = output_size or [
        (n - 1) * s - 2 * p + k
        for n, s, p, k in zip(x.shape[2:], steps, both(padding), both(kernel_size), strict=True)
    ]
    y = np.zeros((*x.shape[:2], math.prod(size)), x.dtype)
    for n, c, i, j in np.ndindex(x.shape):
        y[n, c, indices[n, c, i, j]] += x[n, c, i, j]
    return y.reshape(*x.shape[:2], *size)


def adaptive_avg_pool2d(x: np.ndarray, output_size: Any) -> np.ndarray:
    """The mean of each of the windows that cover the picture."""
    oh, ow = (n if o is None else o for n, o in zip(x.shape[2:], both(output_size), strict=True))
    y, (h, w) = np.empty((*x.shape[:2], oh, ow), x.dtype), x.shape[2:]
    for a, b in np.ndindex(oh, ow):
        rows = slice(math.floor(a * h / oh), math.ceil((a + 1) * h / oh))
        cols = slice(math.floor(b * w / ow), math.ceil((b + 1) * w / ow))
        y[:, :, a, b] = x[:, :, rows, cols].mean((2, 3))
    return y


def batch_norm(
    x: np.ndarray, w: Any = 1.0, b: Any = 0.0, mean: Any = None, var: Any = None, eps: float = 1e-5
) -> np.ndarray:
    """(x − μ) / √(Var + ε) · w + b for each channel, with the mean and the variance of x unless given."""
    axes, beside_x = (0, *range(2, x.ndim)), (-1,) + (1,) * (x.ndim - 2)
    if mean is None:
        mean, var = x.mean(axes), x.var(axes)
    w, b, mean, var = (np.asarray(v, x.dtype).reshape(beside_x) for v in (w, b, mean, var))
    return (x - mean) / np.sqrt(var + eps) * w + b


def local_response_norm(
    x: np.ndarray, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0
) -> np.ndarray:
    """Each channel divided by what its neighbours make of it."""
    y = np.empty_like(x)
    for c in range(x.shape[1]):
        first = c - size // 2
        near = x[:, max(first, 0) : first + size]
        y[:, c] = x[:, c] / (k + alpha / size * (near**2).sum(1)) ** beta
    return y


def log_softmax(x: np.ndarray, axis: int = -1) -> np.ndarray:
    return x - np.logaddexp.reduce(x, axis=axis, keepdims=True)


def _reduce(losses: np.ndarray, weights: np.ndarray | None, reduction: str) -> np.ndarray:
    if reduction == "none":
        return losses
    total = losses.sum()
    if reduction == "mean":
        total = total / (losses.size if weights is None else weights.sum())
    return np.asarray(total, losses.dtype)


def nll_loss(
    x: np.ndarray, targets: np.ndarray, weight: Any = None, ignore_index: int = -100, reduction: str = "mean"
) -> np.ndarray:
    """−w_t x_t at each target t."""
    return cross_entropy(x, targets, weight, ignore_index, reduction, log_p=x)


def cross_entropy(
    x: np.ndarray,
    targets: np.ndarray,
    weight: Any = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
    log_p: Any = None,
) -> np.ndarray:
    """−Σ_c q_c w_c ln p_c at each target t, with q_c = ε/C, and 1 − ε more for c = t."""
    log_p, classes = log_softmax(x, 1) if log_p is None else log_p, x.shape[1]
    w = np.ones(classes) if weight is None else np.asarray(weight)
    losses, weights = np.zeros(targets.shape, x.dtype), np.zeros(targets.shape)
    for place in np.ndindex(targets.shape):
        t = targets[place]
        if t != ignore_index:
            q = np.full(classes, label_smoothing / classes)
            q[t] += 1 - label_smoothing
            losses[place] = -(q * w * log_p[place[0], :, *place[1:]]).sum()
            weights[place] = w[t]
    return _reduce(losses, weights, reduction)


def binary_cross_entropy_with_logits(
    x: np.ndarray, t: np.ndarray, pos_weight: Any = 1.0, reduction: str = "mean"
) -> np.ndarray:
    p = 1 / (1 + np.exp(-x))
    losses = -(np.asarray(pos_weight, x.dtype) * t * np.log(p) + (1 - t) * np.log(1 - p))
    return _reduce(losses, None, reduction)


def mse_loss(x: np.ndarray, t: np.ndarray, reduction: str = "mean") -> np.ndarray:
    return _reduce((x - t) ** 2, None, reduction)
