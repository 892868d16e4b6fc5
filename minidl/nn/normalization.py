"""The normalisation layers."""

from __future__ import annotations

import numpy as np

from minidl import functional as F
from minidl.errors import ShapeError
from minidl.nn.module import Module
from minidl.nn.options import check_counts
from minidl.nn.parameter import Parameter
from minidl.tensor import Tensor


class _BatchNorm(Module):
    """Each channel normalised by the statistics of the batch, in evaluation by their running means.

    Args:
        momentum: the share of the batch in the running statistics; None: of all batches so far the mean.
        affine: learn a scale `weight` and a shift `bias` for each channel.
        track_running_stats: keep running statistics; without them evaluation uses those of the batch, too.
    """

    axes: tuple[int, ...]  # how many axes x may have
    expected: str  # its shape in words

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
    ) -> None:
        super().__init__()
        check_counts(self, num_features=num_features)
        self.num_features, self.eps, self.momentum = num_features, eps, momentum
        self.affine, self.track_running_stats = affine, track_running_stats
        self.weight = Parameter(np.ones(num_features, np.float32)) if affine else None
        self.bias = Parameter(np.zeros(num_features, np.float32)) if affine else None
        track = track_running_stats
        self.register_buffer("running_mean", np.zeros(num_features, np.float32) if track else None)
        self.register_buffer("running_var", np.ones(num_features, np.float32) if track else None)
        self.register_buffer("num_batches_tracked", np.zeros((), np.int64) if track else None)

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim not in self.axes:
            raise ShapeError(f"expected {self.expected.format(C=self.num_features)}, got {x.shape}")
        momentum = self.momentum
        if self.training and self.track_running_stats:
            self.num_batches_tracked.data += 1
            if momentum is None:
                momentum = 1.0 / self.num_batches_tracked.item()
        return F.batch_norm(
            x,
            self.running_mean,
            self.running_var,
            self.weight,
            self.bias,
            training=self.training or not self.track_running_stats,
            momentum=momentum or 0.0,
            eps=self.eps,
        )

    def describe(self) -> str:
        return f"{type(self).__name__} {self.num_features}"

    def extra_repr(self) -> str:
        return (
            f"{self.num_features}, eps={self.eps}, momentum={self.momentum}, affine={self.affine}, "
            f"bias={self.bias is not None}, track_running_stats={self.track_running_stats}"
        )


class BatchNorm1d(_BatchNorm):
    __doc__ = f"(N, C) or (N, C, L) → the same. {_BatchNorm.__doc__}"
    axes, expected = (2, 3), "(N, {C}) or (N, {C}, L)"


class BatchNorm2d(_BatchNorm):
    __doc__ = f"(N, C, H, W) → the same. {_BatchNorm.__doc__}"
    axes, expected = (4,), "(N, {C}, H, W)"


class LocalResponseNorm(Module):
    """x / (k + α/size · Σ x²)^β, the sum over `size` neighbouring channels   (N, C, …) → the same"""

    def __init__(self, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0) -> None:
        super().__init__()
        check_counts(self, size=size)
        self.size, self.alpha, self.beta, self.k = size, alpha, beta, k

    def forward(self, x: Tensor) -> Tensor:
        return F.local_response_norm(x, self.size, self.alpha, self.beta, self.k)

    def extra_repr(self) -> str:
        return f"{self.size}, alpha={self.alpha}, beta={self.beta}, k={self.k}"
