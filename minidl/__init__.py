"""minidl: a deep learning framework small enough to read."""

from minidl import functional, nn, optim
from minidl.anomaly import detect_anomaly
from minidl.autograd import Function
from minidl.backend import seed
from minidl.backend.release import release_memory
from minidl.backend.threads import get_num_threads, set_num_threads
from minidl.draw import draw
from minidl.errors import MinidlError
from minidl.explain import explain
from minidl.functional.convolution import conv_algorithm
from minidl.gradcheck import GradcheckResult, gradcheck
from minidl.paths import grad
from minidl.recording import is_grad_enabled, no_grad, set_grad_enabled
from minidl.tensor import Tensor

__version__ = "0.1.0"
__all__ = [
    "Function",
    "GradcheckResult",
    "MinidlError",
    "Tensor",
    "conv_algorithm",
    "detect_anomaly",
    "draw",
    "explain",
    "functional",
    "get_num_threads",
    "grad",
    "gradcheck",
    "is_grad_enabled",
    "nn",
    "no_grad",
    "optim",
    "release_memory",
    "seed",
    "set_grad_enabled",
    "set_num_threads",
]
