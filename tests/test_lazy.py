"""The gradient of a large dense layer: computed when it is looked at, and otherwise never as a whole."""

from __future__ import annotations

import copy
import tracemalloc

import numpy as np
import pytest

import minidl as dl
from minidl import Tensor, lazy, nn, optim
from minidl.lazy import LazyProduct


@pytest.fixture
def layer(monkeypatch):
    """A dense layer that is large already, 60 → 50, and a batch of 4 for it."""
    monkeypatch.setattr(lazy, "LARGE", 1000)
    dl.seed(0)
    return nn.Linear(60, 50), Tensor(dl.backend.generator().standard_normal((4, 60), np.float32))


def loss(model, x):
    return (model(x) ** 2).mean()


def plain_gradient(model, x):
    """As it was before anything was lazy: (∂L/∂y)ᵀ x"""
    return (2 / 200 * model(x).numpy()).T @ x.numpy()


def test_it_is_computed_when_it_is_read(layer):
    model, x = layer
    loss(model, x).backward()
    grad = model.weight.grad
    assert type(grad) is LazyProduct
    assert (grad.shape, grad.dtype) == ((50, 60), np.float32)
    assert grad.product is not None
    np.testing.assert_allclose(grad.numpy(), plain_gradient(model, x), rtol=1e-5, atol=1e-7)
    assert grad.product is None
    assert grad.data is grad.data
    assert isinstance(model.bias.grad, Tensor)
    assert (grad.shape, grad.dtype, grad.is_leaf) == ((50, 60), np.float32, True)


def test_it_stays_what_it_is(layer):
    """Whoever fills the next batch into the same array, or moves the weights, does not change it."""
    model, x = layer
    loss(model, x).backward()
    expected = plain_gradient(model, x)
    x.data[...] = 0
    model.weight.data[...] = 0
    np.testing.assert_allclose(model.weight.grad.numpy(), expected, rtol=1e-5, atol=1e-7)


def test_gradients_add_up(layer):
    model, x = layer
    for _ in range(3):
        loss(model, x).backward()
    np.testing.assert_allclose(model.weight.grad.numpy(), 3 * plain_gradient(model, x), rtol=1e-5, atol=1e-7)


def test_one_weight_used_twice(layer):
    model, x = layer
    (loss(model, x) + loss(model, x)).backward()
    np.testing.assert_allclose(model.weight.grad.numpy(), 2 * plain_gradient(model, x), rtol=1e-5, atol=1e-7)


def test_only_a_leaf_waits(layer):
    """What flows on is needed at once, and both summands own their gradient."""
    model, x = layer
    a, b = model.weight, Tensor(np.ones((50, 60), np.float32), requires_grad=True)
    (dl.functional.linear(x, a + b) ** 2).mean().backward()
    assert type(a.grad) is type(b.grad) is Tensor
    assert a.grad.data is not b.grad.data


def test_grad_and_second_derivatives(layer):
    model, x = layer
    first = dl.grad(loss(model, x), model.weight)
    np.testing.assert_allclose(first.numpy(), plain_gradient(model, x), rtol=1e-5, atol=1e-7)
    second = dl.grad(loss(model, x), model.weight, create_graph=True)
    assert type(second) is Tensor
    (second**2).sum().backward()
    assert model.weight.grad is not None


def test_it_can_be_set_and_copied(layer):
    model, x = layer
    loss(model, x).backward()
    twin = copy.deepcopy(model.weight.grad)
    np.testing.assert_array_equal(twin.numpy(), model.weight.grad.numpy())
    loss(model, x).backward()
    model.weight.grad.data = np.zeros((50, 60), np.float32)
    before = model.weight.numpy().copy()
    optim.SGD([model.weight], 1.0).step()
    np.testing.assert_array_equal(model.weight.numpy(), before)


def test_one_of_ones_own_operation_has_to_fit_and_goes_to_one_leaf_only(layer):
    model, x = layer
    loss(model, x).backward()
    lazy_gradient = model.weight.grad

    class Sum(dl.Function):
        def forward(self, a, b):
            return a + b

        def backward(self, dy):
            return lazy_gradient, lazy_gradient

    a, b = (Tensor(np.zeros((50, 60), np.float32), requires_grad=True) for _ in range(2))
    Sum()(a, b).sum().backward()
    b.grad *= 2.0
    np.testing.assert_array_equal(b.grad.numpy(), 2 * a.grad.numpy())
    c = Tensor(np.zeros((3, 50, 60), np.float32), requires_grad=True)
    with pytest.raises(dl.errors.GradientError, match="shape"):
        Sum()(a, c).sum().backward()


def test_small_ones_and_large_batches_do_not_wait(layer):
    model, x = layer
    small = nn.Linear(60, 5)
    loss(small, x).backward()
    assert type(small.weight.grad) is Tensor
    many = Tensor(np.ones((40, 60), np.float32))
    loss(model, many).backward()
    assert type(model.weight.grad) is Tensor


OPTIMIZERS = {
    "plain": lambda p: optim.SGD(p, 0.1),
    "momentum": lambda p: optim.SGD(p, 0.1, momentum=0.9, weight_decay=0.1, nesterov=True),
    "adam": lambda p: optim.Adam(p, 0.1),
    "adamw": lambda p: optim.AdamW(p, 0.1),
    "rmsprop": lambda p: optim.RMSprop(p, 0.1, momentum=0.9, centered=True),
}


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_looking_at_it_changes_no_bit(layer, make):
    model, x = layer
    looked_at = copy.deepcopy(model)
    for one, look in ((model, False), (looked_at, True)):
        optimizer = make(one.parameters())
        for _ in range(3):
            optimizer.zero_grad()
            loss(one, x).backward()
            if look:
                assert np.isfinite(one.weight.grad.numpy()).all()
            optimizer.step()
            assert (one.weight.grad.product is None) == look
    np.testing.assert_array_equal(model.weight.numpy(), looked_at.weight.numpy())


def test_an_optimizer_of_ones_own_gets_an_array(layer):
    class Sign(optim.Optimizer):
        def update(self, p, grad, state, group):
            assert type(grad) is np.ndarray
            p -= group["lr"] * np.sign(grad)

    model, x = layer
    optimizer = Sign(model.parameters(), lr=0.1)
    loss(model, x).backward()
    optimizer.step()


@pytest.mark.parametrize("make", [optim.SGD, optim.Adam, optim.RMSprop])
def test_an_optimizer_made_of_another_gets_an_array(layer, make):
    class Clipped(make):
        def update(self, p, grad, state, group):
            super().update(p, np.clip(grad, -1e-3, 1e-3), state, group)

    model, x = layer
    loss(model, x).backward()
    Clipped(model.parameters(), lr=0.1).step()


def test_clipping_reaches_it(layer):
    model, x = layer
    loss(model, x).backward()
    norm = optim.clip_grad_norm_(model.parameters(), 1e-3)
    assert norm > 1e-3
    total = sum(float((p.grad.data**2).sum()) for p in model.parameters())
    assert total**0.5 == pytest.approx(1e-3, rel=1e-2)


def test_a_step_never_has_the_whole_gradient():
    """A layer of 32 MB: with its momentum there, a step takes a small part of that."""
    model = nn.Linear(4096, 2048)
    optimizer = optim.SGD(model.parameters(), 0.1, momentum=0.9)
    x = Tensor(np.ones((4, 4096), np.float32))

    def step():
        optimizer.zero_grad()
        loss(model, x).backward()
        optimizer.step()

    step()
    tracemalloc.start()
    step()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < model.weight.data.nbytes / 4
