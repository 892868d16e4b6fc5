"""What is known of one wrong gradient: all of it, and the numerical one for every element or a sample.

For the element x_k of the input the differences give the column ∂y/∂x_k of the Jacobian, one number for each
output. The right gradient for the incoming dy is Jᵀ·dy, so the columns also tell what it would be for any
other dy: for one that is transposed, reversed, or summed up. That is how a cause is tested and not guessed.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from minidl.backend import as_numpy, to_device
from minidl.diagnosis.findings import InputCheck
from minidl.tensor import Tensor

if TYPE_CHECKING:
    from minidl.gradcheck import Check

FEW = 400  # inputs of up to so many elements are known whole; of others a sample is
SAMPLE = 48  # elements in a sample
SMALL_SAMPLE = 12  # of a large network, where each of them costs two long forward passes
LARGE = 10**6  # elements in all leaves together
STEP = 1e-2  # of the check's: five digits are enough here, and fewer kinks are crossed
KINKY_STEP = 1e-3


@dataclass
class Evidence:
    """One leaf whose gradient is wrong."""

    check: Check
    found: InputCheck
    gradients: dict[str, np.ndarray]  # by backward

    @property
    def name(self) -> str:
        return self.found.name

    @property
    def leaf(self) -> Tensor:
        return self.check.leaves[self.name]

    @property
    def gradient(self) -> np.ndarray:
        """By backward, whole."""
        return np.atleast_1d(self.gradients[self.name])

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the input; a single number counts as an array of one, here and in y and dy."""
        return self.leaf.shape or (1,)

    @property
    def whole(self) -> bool:
        """Whether every element is known."""
        return self.leaf.numel() <= FEW and not self.found.left_out

    @cached_property
    def y(self) -> np.ndarray:
        return np.atleast_1d(as_numpy(self.check.y))

    @cached_property
    def dy(self) -> np.ndarray:
        return np.atleast_1d(as_numpy(self.check.v))

    @cached_property
    def places(self) -> np.ndarray:
        """The flat indices of the elements that are known: all that have a derivative, or a sample."""
        size = self.leaf.numel()
        if size <= FEW:
            return np.setdiff1d(np.arange(size), self.found.left_out)
        count = SAMPLE if self.check.size <= LARGE else SMALL_SAMPLE
        rng = np.random.default_rng(self.check.seed)
        somewhere, arriving = rng.integers(size, size=count // 4), np.flatnonzero(self.gradient)
        return np.union1d(somewhere, rng.permutation(arriving)[: count - count // 4])

    @property
    def index(self) -> tuple[np.ndarray, ...]:
        """The same as one array of indices for each axis."""
        return np.unravel_index(self.places, self.shape)

    @cached_property
    def x(self) -> np.ndarray:
        """The input at those places."""
        return self.leaf.numpy().ravel()[self.places]

    @cached_property
    def a(self) -> np.ndarray:
        """The gradient by backward at those places."""
        return self.gradient.ravel()[self.places]

    @cached_property
    def n(self) -> np.ndarray:
        """The numerical gradient at those places."""
        return self.pull(self.dy)

    @cached_property
    def columns(self) -> np.ndarray:
        """∂y/∂x_k for the element x_k at each place: (places, outputs)."""
        return self.jacobian(self.leaf)

    @cached_property
    def wrong(self) -> np.ndarray:
        """At which places the gradient is wrong."""
        return ~self.agrees(self.a, self.n)

    @cached_property
    def kinky(self) -> bool:
        return self.check.kinky or self.found.kinks > 0

    def agrees(self, a: np.ndarray, n: np.ndarray) -> np.ndarray:
        """Where a and n are equal up to the error of differences."""
        tol, share = (1e-4, 1e-2) if self.kinky else (1e-5, 1e-3)
        scale = np.maximum(abs(a), abs(n))
        return np.asarray(abs(a - n) <= tol * np.maximum(scale, share * scale.max(initial=0.0)))

    def equal(self, a: np.ndarray, n: np.ndarray) -> bool:
        """Whether they agree everywhere; and not because there is nothing to compare."""
        return a.shape == n.shape and n.size > 0 and bool(n.any()) and bool(self.agrees(a, n).all())

    def pull(self, dy: np.ndarray) -> np.ndarray:
        """Jᵀ·dy at those places: the right gradient for that dy."""
        return self.columns @ dy.ravel()

    def jacobian(self, leaf: Tensor) -> np.ndarray:
        """∂y/∂leaf at those places."""
        step = self.check.eps * (KINKY_STEP if self.kinky else STEP)
        columns = np.empty((len(self.places), self.y.size))
        for row, place in enumerate(self.places):
            u = np.zeros(leaf.shape)
            u.flat[place] = max(1.0, abs(float(leaf.data.flat[place])))
            slopes = self.check.centred_difference(leaf, to_device(u, leaf.device), step)
            columns[row] = as_numpy(slopes).ravel() / u.flat[place]
        return columns

    @cached_property
    def others(self) -> dict[str, Tensor]:
        """The other leaves of the same shape, not more than a few."""
        alike = (
            (k, x) for k, x in self.check.leaves.items() if k != self.name and x.shape == self.leaf.shape
        )
        return dict(itertools.islice(alike, 4))

    @cached_property
    def others_right(self) -> dict[str, np.ndarray]:
        """Their numerical gradients at those places."""
        return {name: self.jacobian(x) @ self.dy.ravel() for name, x in self.others.items()}

    def analytic(self, dy: np.ndarray) -> np.ndarray:
        """The gradient that backward gives for another dy, at those places."""
        gradients = self.check.analytic(
            self.check.f(), to_device(dy.reshape(self.check.v.shape), self.leaf.device)
        )
        return gradients[self.name].ravel()[self.places]

    def rearranged(self, places: tuple[np.ndarray, ...]) -> np.ndarray:
        """The gradient by backward, read at other places."""
        return self.gradient[places]

    @property
    def elementwise(self) -> bool:
        """Whether y[k] depends on x[k] alone."""
        if self.y.shape != self.shape:
            return False
        diagonal = np.zeros_like(self.columns)
        rows = np.arange(len(self.places))
        diagonal[rows, self.places] = self.columns[rows, self.places]
        return bool((abs(self.columns - diagonal).max(initial=0.0)) <= 1e-9 * abs(diagonal).max(initial=0.0))

    def axis_sets(self) -> Iterator[tuple[int, ...]]:
        """Each axis of x, each pair of neighbours, all together: what one reverses in practice."""
        axes = range(len(self.shape))
        seen = [(k,) for k in axes] + [(k, k + 1) for k in axes[:-1]] + [tuple(axes)]
        return iter(dict.fromkeys(axes_ for axes_ in seen if axes_))
