"""The engine alone: a chain of 2,000 multiplications of 8 numbers each, forward and backward.

The numbers are so few that only the recording of the graph and the walk back through it take time. The
garbage collector rests meanwhile, as in `timeit`: when it runs depends on all that was ever imported.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

import numpy as np

import minidl as dl
from benchmarks.compare import Timing, alternate, check

LENGTH = 2000
X, W = np.linspace(0.5, 1.5, 8, dtype=np.float32), np.full(8, 1.0001, np.float32)


def run(batch: int, repetitions: int, quick: bool) -> dict[str, Any]:
    """A row for each peer that is installed, in microseconds an operation; else why it is not there."""
    rows: dict[str, Any] = {}
    ours = _minidl()
    for name, make in PEERS.items():
        try:
            theirs = make()
            check(ours(), theirs())
        except Exception as error:
            rows[name] = f"not run: {type(error).__name__}: {str(error).splitlines()[0][:100]}"
            continue
        gc.disable()
        try:
            timing = alternate(ours, {name: theirs}, 3 * repetitions, aim=1.0)
        finally:
            gc.enable()
        each = 1000 / LENGTH
        rows[f"multiplication, against {name}"] = Timing(
            timing.ours * each, timing.theirs * each, timing.ratio, timing.spread, name, "µs", timing.aim
        )
    return rows


def _chain(x: Any, w: Any) -> Any:
    for _ in range(LENGTH):
        x = x * w
    return x.sum()


def _minidl() -> Callable[[], np.ndarray]:
    def run() -> np.ndarray:
        x = dl.Tensor(X, requires_grad=True)
        _chain(x, dl.Tensor(W)).backward()
        return x.grad.numpy()

    return run


def _pytorch() -> Callable[[], np.ndarray]:
    import torch

    def run() -> np.ndarray:
        x = torch.tensor(X, requires_grad=True)
        _chain(x, torch.tensor(W)).backward()
        return x.grad.numpy()

    return run


def _hips_autograd() -> Callable[[], np.ndarray]:
    import autograd
    from autograd import numpy

    def loss(x: Any) -> Any:
        for _ in range(LENGTH):
            x = x * W
        return numpy.sum(x)

    return lambda: autograd.grad(loss)(X)


def _mygrad() -> Callable[[], np.ndarray]:
    import mygrad

    def run() -> np.ndarray:
        x = mygrad.tensor(X)
        _chain(x, W).backward()
        return x.grad

    return run


def _dezero() -> Callable[[], np.ndarray]:
    import dezero

    def run() -> np.ndarray:
        x = dezero.Variable(X)
        y = x
        for _ in range(LENGTH):
            y = y * W
        dezero.functions.sum(y).backward()
        return x.grad.data

    return run


def _jax() -> Callable[[], np.ndarray]:
    import jax

    gradient = jax.grad(lambda x: _chain(x, W))  # traced anew at every call, as a define-by-run graph is
    return lambda: np.asarray(gradient(X))


def _tinygrad() -> Callable[[], np.ndarray]:
    import tinygrad

    def run() -> np.ndarray:
        x = tinygrad.Tensor(X)
        return _chain(x, tinygrad.Tensor(W)).gradient(x)[0].numpy()

    return run


PEERS = {
    "PyTorch": _pytorch,
    "HIPS autograd": _hips_autograd,
    "MyGrad": _mygrad,
    "DeZero": _dezero,
    "JAX, not compiled": _jax,
    "tinygrad": _tinygrad,
}
