"""Promises of the whole library: float32 stays float32, training leaks nothing, depth is no limit."""

from __future__ import annotations

import functools
import gc
import tracemalloc

import numpy as np
import pytest

import minidl
from minidl.autograd import Function
from minidl.backend import memory, random, threads
from minidl.data import Preprocessing
from minidl.functional import cross_entropy
from minidl.models import VGG, vgg16
from minidl.optim import SGD, Adam, AdamW, RMSprop
from minidl.paths import grad
from minidl.tensor import Tensor

# float32 in, float32 out


class Watched(np.ndarray):
    """An array that refuses to become float64.

    NumPy calls __array_finalize__ for every array that is computed from a watched one, for views, and for
    temporaries that never get a name, where the line that made them is still on the stack.
    """

    def __array_finalize__(self, source):
        assert self.dtype != np.float64, f"a float64 array of shape {self.shape}"


def watched(function):
    """`function`, whose results are watched: the arrays that come from nowhere."""

    @functools.wraps(function)
    def call(*args, **options):
        result = function(*args, **options)
        return result.view(Watched) if type(result) is np.ndarray else result

    return call


class WatchedGenerator:
    def __init__(self, generator):
        self.generator = generator

    def __getattr__(self, name):
        return watched(getattr(self.generator, name))


@pytest.fixture
def watch(monkeypatch):
    """Everything that NumPy makes from here on is watched; gives the function that watches older arrays."""
    for name, function in vars(np).items():
        if name[0] != "_" and callable(function) and not isinstance(function, (type, np.ufunc)):
            monkeypatch.setattr(np, name, watched(function))
    monkeypatch.setattr(random, "_generator", WatchedGenerator(random.generator()))
    monkeypatch.setattr(threads, "_scratch", threads._Scratch())
    monkeypatch.setattr(memory.Loan, "arena", memory.Arena(memory.KEEP))
    return lambda array: array.view(Watched)


def train_one_step(model, watch, size, make_optimizers):
    """Forward from the pixels on, backward, and a step of every optimizer."""
    for tensor in [*model.parameters(), *model.buffers()]:
        tensor.data = watch(tensor.data)
    pixels = np.random.default_rng(0).integers(0, 256, (2, size, size, 3), np.uint8)
    numbers = Preprocessing(size=size, scale=1 / 255, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    x = Tensor(numbers.normalize(watch(pixels)))
    loss = cross_entropy(model(x), [1, 0], label_smoothing=0.1)
    loss.backward()
    arrays = [x.data, loss.data, *(p.grad.data for p in model.parameters())]
    for make in make_optimizers:
        optimizer = make(model.parameters())
        optimizer.step()
        arrays += [a for state in optimizer.state.values() for a in state.values() if hasattr(a, "dtype")]
    assert {array.dtype for array in arrays} == {np.dtype(np.float32)}
    assert all(isinstance(array, Watched) for array in arrays)  # none escaped


@pytest.mark.slow
def test_a_step_of_vgg16_makes_no_float64_array(watch):
    model = vgg16()
    train_one_step(model, watch, 224, [lambda p: SGD(p, 1e-3, momentum=0.9), Adam])


@pytest.mark.parametrize("size", [32, 40], ids=["as it fits", "adaptive pooling"])
def test_a_step_with_batch_norm_makes_no_float64_array(watch, size):
    model = VGG(((8, 8), (16,)), (16,), 3, pooled=8, batch_norm=True)
    optimizers = [
        lambda p: SGD(p, 1e-3, momentum=0.9, nesterov=True, weight_decay=1e-4),
        lambda p: RMSprop(p, momentum=0.9, centered=True),
        AdamW,
    ]
    train_one_step(model, watch, size, optimizers)
    model.eval()
    model(Tensor(watch(np.zeros((1, 3, size, size), np.float32))))


class Hidden(Function):
    """A float64 array that has no name and does not come out."""

    def forward(self, x):
        return (x * np.float64(2)).astype(np.float32)

    def backward(self, dy):
        return dy


@pytest.mark.parametrize(
    "mistake",
    [
        lambda x: Hidden()(x),
        lambda x: Tensor(x.data.mean(axis=0, dtype=np.float64)),
        lambda x: Tensor.wrap(np.zeros(3)),
        lambda x: Tensor.wrap(minidl.backend.generator().random(3)),
        lambda x: Tensor.wrap(np.exp(np.arange(3))),
        lambda x: x.data.__isub__(np.float64(0.1) * x.data),
        lambda x: threads.scratch(np, "columns", (3,), float),
    ],
)
def test_the_watch_sees(watch, mistake):
    x = Tensor(watch(np.ones((2, 3), np.float32)), requires_grad=True)
    with pytest.raises(AssertionError, match="a float64 array of shape"):
        mistake(x)


# Training leaks nothing


@pytest.mark.slow
def test_a_thousand_steps_of_training_leave_memory_flat_and_no_garbage():
    """A VGG with everything in it: convolution, batch norm, pooling, dense layers, dropout, the optimizer."""
    model = VGG([[2], [2]], [4], 2, pooled=2, batch_norm=True)
    optimizer = Adam(model.parameters())
    x, y = Tensor(np.random.default_rng(0).random((2, 3, 8, 8), np.float32)), Tensor(np.array([0, 1]))

    def steps(count):
        for _ in range(count):
            optimizer.zero_grad()
            cross_entropy(model(x), y).backward()
            optimizer.step()

    gc.collect()
    gc.disable()
    try:
        steps(500)  # fills the caches: Python's of dead tuples, minidl's of scratch arrays
        tracemalloc.start()
        memory = []
        for _ in range(4):
            steps(250)
            memory.append(tracemalloc.get_traced_memory()[0])
        garbage = gc.collect()
    finally:
        tracemalloc.stop()
        gc.enable()
    grown = np.diff(memory)
    print(f"grown by {grown} bytes in 250 steps each, {garbage} objects of garbage")
    # Python may move a table of its own at any time; a leak grows every time, by an object a step or more.
    assert grown.min() < 4_000
    assert garbage == 0


# Depth is no limit


def test_a_chain_of_10_000_operations_is_differentiated_twice():
    """y = xⁿ, one multiplication after the other:  y' = n xⁿ⁻¹,  y'' = n (n − 1) xⁿ⁻²"""
    n = 10_001
    x = Tensor(np.array(1.0), requires_grad=True)
    y = x
    for _ in range(n - 1):
        y = y * x
    first = grad(y, x, create_graph=True)
    assert first.item() == n
    assert grad(first, x).item() == n * (n - 1)
