"""Anomaly mode: stop at the operation that first made NaN or ±∞, and name the line that called it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from minidl.backend import Array, array_module
from minidl.errors import AnomalyError
from minidl.recording import Place, calling_place, here
from minidl.tensor import Tensor


@contextlib.contextmanager
def detect_anomaly() -> Iterator[None]:
    """Look at every result, and at every gradient, of the `with` block: the first NaN or ±∞ stops it.

        with dl.detect_anomaly():
            loss = criterion(model(x), y)
            loss.backward()

    It costs a pass over each array, so it is for finding out, not for training.

    Raises:
        AnomalyError: names the operation, the line of user code that called it, and what went in.
    """
    state = here.state
    before, state.anomaly = state.anomaly, Anomaly()
    try:
        with np.errstate(all="ignore"):  # NumPy's warnings would come first, and say less
            yield
    finally:
        state.anomaly = before


def looking_back() -> contextlib.AbstractContextManager[Any]:
    """For the walk back: who observes it, if anybody. What backward computes is looked at by nobody else."""
    return _nobody if here.state.anomaly is None else _only_back()


_nobody = contextlib.nullcontext()  # made once: in a small backward it would be felt


@contextlib.contextmanager
def _only_back() -> Iterator[Any]:
    state = here.state
    anomaly, state.anomaly = state.anomaly, None
    try:
        yield anomaly.backward
    finally:
        state.anomaly = anomaly


class Anomaly:
    """Who looks: `forward` at what an operation computed, `backward` at the gradients that it sends on."""

    def forward(self, function: Any, inputs: Sequence[Tensor], y: Tensor) -> None:
        """Raise AnomalyError if y is not finite, or if it is because an input was not finite before."""
        found = _not_finite(y.data)
        if not found:
            return
        place, names = Place(*calling_place(2)), _names(function, inputs)
        for name, x in zip(names, inputs, strict=True):
            if before := _not_finite(x.data):
                raise AnomalyError(
                    f"{place}: {function.name} was given {before} in its {name} of shape {x.shape}: "
                    "that came with the data, or was computed outside of anomaly mode"
                )
        ranges = [
            f"{name} from {x.data.min():.4g} to {x.data.max():.4g}"
            for name, x in zip(names, inputs, strict=True)
        ]
        raise AnomalyError(
            f"{place}: {function.name} made {found} in its output of shape {y.shape}: {', '.join(ranges)}"
        )

    def backward(self, function: Any, dy: Tensor, results: Sequence[Any]) -> None:
        """Raise AnomalyError if backward of the function, called with ∂L/∂y, returned what is not finite."""
        for name, dx in zip(_names(function, results), results, strict=True):
            if isinstance(dx, Tensor) and (found := _not_finite(dx.data)):
                raise AnomalyError(
                    f"{function.made_at}: backward of {function.name} made {found} in the gradient of its "
                    f"{name}, out of {_not_finite(dy.data) or 'a finite gradient'} of shape {dy.shape}"
                )


def _names(function: Any, inputs: Sequence[Any]) -> list[str]:
    """What forward calls its inputs."""
    names = [*function._inputs]
    return [names[i] if i < len(names) else f"input {i}" for i in range(len(inputs))]


def _not_finite(array: Array) -> str:
    """How many NaN and ±∞ there are, in words; "" for none."""
    xp = array_module(array)
    if array.dtype.kind != "f" or xp.isfinite(array).all():
        return ""
    counts = (int(xp.isnan(array).sum()), "NaN"), (int(xp.isinf(array).sum()), "±∞")
    return " and ".join(f"{n} {word}" for n, word in counts if n)
