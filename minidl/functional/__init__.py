"""The operations. Each is a Function with forward and backward side by side, and a function that calls it."""

from minidl.functional import methods  # noqa: F401  (binds the operators of Tensor)
from minidl.functional.activation import (
    gelu,
    leaky_relu,
    log_softmax,
    relu,
    sigmoid,
    softmax,
    softplus,
    tanh,
)
from minidl.functional.arithmetic import (
    absolute,
    add,
    astype,
    clip,
    divide,
    equal,
    exp,
    greater,
    greater_equal,
    less,
    less_equal,
    log,
    maximum,
    minimum,
    multiply,
    negative,
    not_equal,
    power,
    sqrt,
    subtract,
    where,
)
from minidl.functional.convolution import conv2d, conv_transpose2d
from minidl.functional.dropout import dropout
from minidl.functional.loss import (
    binary_cross_entropy_with_logits,
    cross_entropy,
    mse_loss,
    nll_loss,
)
from minidl.functional.matmul import linear, matmul
from minidl.functional.normalization import batch_norm, local_response_norm
from minidl.functional.pooling import (
    adaptive_avg_pool2d,
    avg_pool2d,
    global_avg_pool2d,
    global_max_pool2d,
    max_pool2d,
    max_unpool2d,
)
from minidl.functional.reduction import argmax, logsumexp, max, mean, min, sum, var
from minidl.functional.shape import (
    broadcast_to,
    concatenate,
    flatten,
    getitem,
    pad,
    permute,
    reshape,
    squeeze,
    stack,
    transpose,
    unsqueeze,
)
from minidl.functional.unfold import fold, unfold

__all__ = [name for name in dir() if not name.startswith("_")]
