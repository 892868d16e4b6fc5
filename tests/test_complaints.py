"""What the engine says when it cannot go on."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from pieces import leaf

from minidl import Function, Tensor
from minidl import functional as F
from minidl.errors import DeviceError, GradientError


def test_only_floats_require_gradients():
    with pytest.raises(
        GradientError, match=r"only floating-point tensors have gradients, and this one is int64"
    ):
        Tensor([1, 2], requires_grad=True)


def test_only_leaves_can_be_asked_for_gradients():
    x = leaf(1)
    with pytest.raises(
        GradientError, match=r"on leaves only, and this tensor was computed by Exp: use \.detach\(\)"
    ):
        F.exp(x).requires_grad_(False)


def test_backward_of_several_numbers():
    with pytest.raises(
        GradientError, match=r"starts from one number, and this tensor has shape \(2,\): reduce it"
    ):
        (leaf(1, 2) * 2.0).backward()


def test_backward_of_something_without_a_gradient():
    for make in (lambda: Tensor([1.0]), lambda: leaf(1).detach() * 2.0):
        with pytest.raises(
            GradientError, match=r"does not depend on anything that requires a gradient: set requ"
        ):
            make().backward()


def test_the_given_gradient_must_be_a_tensor():
    with pytest.raises(GradientError, match=r"the gradient is no Tensor but ndarray: wrap it, Tensor\(x\)"):
        (leaf(1, 2) * 2.0).backward(np.ones(2))


@pytest.mark.parametrize("given", [np.ones(2), np.ones((1, 3)), np.ones(3, "float32")])
def test_the_given_gradient_must_fit(given):
    with pytest.raises(
        GradientError, match=r"the gradient is float.. of shape .*, the tensor float64 of shape \(3,\)"
    ):
        (leaf(1, 2, 3) * 2.0).backward(Tensor(given))


class Returns(Function):
    """y = x₀ + x₁ with whatever gradient the test wants."""

    def __init__(self, *gradients):
        self.gradients = gradients

    def forward(self, x, y):
        return x + y

    def backward(self, dy):
        return self.gradients


@pytest.mark.parametrize(
    ("gradients", "message"),
    [
        (
            (Tensor([1.0]),),
            r"Returns.backward returned 1 gradients for 2 inputs: return one for each, None where",
        ),
        ((Tensor([1.0]),) * 3, r"Returns.backward returned 3 gradients for 2 inputs"),
        ((np.ones((2, 3)), None), r"Returns.backward returned ndarray: return Tensors"),
        ((1.0, None), r"Returns.backward returned float: return Tensors"),
        (
            (Tensor(np.ones((3, 2))), None),
            r"returned a gradient of shape \(3, 2\) for an input of shape \(2, 3\)",
        ),
        ((Tensor(np.ones(6)), None), r"returned a gradient of shape \(6,\) for an input of shape \(2, 3\)"),
        ((Tensor(np.ones(())), None), r"returned a gradient of shape \(\) for an input of shape \(2, 3\)"),
        ((Tensor(np.ones(3)), None), r"returned a gradient of shape \(3,\) for an input of shape \(2, 3\)"),
    ],
)
def test_a_wrong_backward_is_named(gradients, message):
    x, y = (Tensor(np.ones((2, 3)), requires_grad=True) for _ in range(2))
    with pytest.raises(GradientError, match=message):
        Returns(*gradients)(x, y).sum().backward()


def test_a_function_without_backward():
    class Half(Function):
        def forward(self, x):
            return x // 2

    with pytest.raises(
        GradientError, match=r"Half has no gradient: \.detach\(\) its input if none should flow"
    ):
        Half()(leaf(3)).backward()


@pytest.mark.parametrize(("value", "kind"), [(np.ones(2), "ndarray"), (2.0, "float"), ([1.0], "list")])
def test_functions_work_on_tensors(value, kind):
    with pytest.raises(TypeError, match=rf"Multiply works on Tensors, got {kind}: wrap it, Tensor\(x\)"):
        F.arithmetic.Multiply()(leaf(1), value)


ONE, MAP = Tensor([1.0]), Tensor(np.ones((1, 1, 2, 2)))


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda x: F.conv2d(x, MAP), "conv2d|x"),
        (lambda x: F.conv2d(MAP, x), "conv2d|weight"),
        (lambda x: F.conv2d(MAP, MAP, bias=x), "conv2d|bias"),
        (lambda x: F.max_pool2d(x, 2), "max_pool2d|x"),
        (lambda x: F.batch_norm(MAP, ONE, x), "batch_norm|running_var"),
        (lambda x: F.linear(x, Tensor([[1.0]])), "linear|x"),
        (lambda x: F.cross_entropy(x, [0]), "cross_entropy|logits"),
        (lambda x: F.softmax(x, dim=1), "softmax|x"),
        (lambda x: F.relu(x), "relu|x"),
        (lambda x: F.gelu(x=x), "gelu|x"),
        (lambda x: F.argmax(x), "argmax|x"),
        (lambda x: F.reshape(x, 1), "reshape|x"),
        (lambda x: F.concatenate([ONE, x]), "concatenate|x"),
        (lambda x: F.stack([x]), "stack|x"),
    ],
)
@pytest.mark.parametrize("value", [[[1.0]], 2.0])
def test_an_operation_names_what_came_instead_of_a_tensor(call, named, value):
    name, argument = named.split("|")
    kind = type(value).__name__
    message = rf"^{name} works on Tensors, got {kind}: wrap it, Tensor\({argument}\)$"
    with pytest.raises(TypeError, match=message):
        call(value)


@pytest.mark.parametrize("name", ["argmax", "gelu", "global_max_pool2d", "nll_loss"])
def test_an_operation_on_an_array_that_nobody_wrapped(name):
    message = rf"^{name} works on Tensors, got ndarray: wrap it, Tensor\((x|log_probabilities)\)$"
    with pytest.raises(TypeError, match=message):
        getattr(F, name)(np.ones((1, 1, 2, 2)), *[[[[0, 0], [0, 0]]]][: name == "nll_loss"])


def test_other_errors_of_an_operation_come_through():
    with pytest.raises(TypeError, match=r"conv2d\(\) missing 1 required positional argument: 'weight'"):
        F.conv2d(MAP)
    with pytest.raises(TypeError, match="'<=' not supported between instances of 'int' and 'str'"):
        F.unsqueeze(ONE, "0")


def test_an_operation_can_be_pickled():
    assert pickle.loads(pickle.dumps(F.conv2d)) is F.conv2d


def test_who_calls_apply_is_told_how_it_is_done_here():
    class Scale(Function):
        @staticmethod
        def forward(ctx, x, w):
            return x * w

    message = (
        r"Scale\.apply\(x, w\) is written Scale\(\)\(x, w\) here, with forward\(self, x, w\) and "
        r"backward\(self, dy\): self saves what ctx saves in PyTorch, self\.save\(x=x\)"
    )
    with pytest.raises(TypeError, match=message):
        Scale.apply(leaf(1), leaf(2))


def test_an_error_of_forward_itself_comes_through():
    class Broken(Function):
        def forward(self, x):
            return x.no_such_thing

    with pytest.raises(AttributeError, match="no_such_thing"):
        Broken()(leaf(1))


def test_an_error_of_forward_keeps_its_cause():
    class Broken(Function):
        def forward(self, x):
            raise TypeError("inner") from KeyError("outer")

    with pytest.raises(TypeError, match="inner") as caught:
        Broken()(leaf(1))
    assert isinstance(caught.value.__cause__, KeyError)


class FakeGPUArray:
    """Enough of a CuPy array to be mixed up with a NumPy one."""

    __cuda_array_interface__ = True
    shape, dtype = (2,), np.dtype("float64")

    def __array_ufunc__(self, *args, **kwargs):
        return NotImplemented


def test_mixed_devices_are_named():
    with pytest.raises(DeviceError, match=r"Add got tensors of two devices: \(3,\) on cpu, \(2,\) on gpu"):
        leaf(1, 2, 3) + Tensor(FakeGPUArray())
