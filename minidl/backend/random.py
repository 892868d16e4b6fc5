"""The one source of randomness for initial weights and dropout masks.

It is a NumPy generator on every device, because its state can be written into a checkpoint exactly and a
run on the GPU then draws the same numbers as one on the CPU.
"""

from __future__ import annotations

from typing import Any

import numpy as np

_generator: np.random.Generator | None = None  # made when first asked for: numpy.random is slow to import


def seed(value: int | None) -> None:
    """Start the generator anew: the same seed gives the same weights and the same dropout masks."""
    global _generator
    _generator = np.random.default_rng(value)


def generator() -> np.random.Generator:
    """The generator that initialisers and dropout draw from."""
    if _generator is None:
        seed(None)
    assert _generator is not None
    return _generator


def get_rng_state() -> dict[str, Any]:
    """The generator's state, of plain integers and strings (JSON keeps it exactly)."""
    return dict(generator().bit_generator.state)


def set_rng_state(state: dict[str, Any]) -> None:
    """Put the generator where `get_rng_state` found it."""
    generator().bit_generator.state = state
