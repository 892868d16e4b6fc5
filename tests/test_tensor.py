"""Tensors as containers: what they hold, what they say of themselves, and how they meet plain arrays."""

from __future__ import annotations

import copy
import operator
import pickle

import numpy as np
import pytest

from minidl import Tensor, nn
from minidl import functional as F
from minidl.errors import GradientError


@pytest.mark.parametrize(
    ("data", "dtype"),
    [
        (1.5, "float32"),
        ([1.0, 2.0], "float32"),
        ([[1, 2]], "int64"),
        (True, "bool"),
        (np.ones(2), "float64"),
        (np.float64(2), "float64"),
        (np.ones(2, "float16"), "float16"),
        (np.ones(2, "uint8"), "uint8"),
        (Tensor([1.0]), "float32"),
    ],
)
def test_dtype_of_new_tensors(data, dtype):
    x = Tensor(data)
    assert x.dtype == dtype
    assert type(x.data) is np.ndarray


def test_an_array_is_not_copied_unless_converted():
    array = np.ones(3)
    assert Tensor(array).data is array
    assert Tensor(array, dtype="float64").data is array
    assert Tensor(array, dtype="float32").dtype == np.float32


@pytest.mark.parametrize("data", ["a", [None], np.array([1j]), [{}]])
def test_tensors_hold_numbers(data):
    with pytest.raises(TypeError, match="a Tensor holds numbers, got an array of "):
        Tensor(data)


def test_what_a_tensor_says_of_itself():
    x = Tensor(np.zeros((2, 3), "float32"))
    assert (x.shape, x.ndim, x.dtype, x.device, x.numel(), len(x)) == ((2, 3), 2, np.float32, "cpu", 6, 2)
    assert [row.shape for row in x] == [(3,), (3,)]
    with pytest.raises(TypeError, match=r"a 0-d tensor has no length: use \.item\(\) for its value"):
        len(Tensor(1.0))


def test_numbers_out_of_tensors():
    assert Tensor([2.5]).item() == 2.5
    assert float(Tensor(2.5)) == 2.5
    assert int(Tensor(2.5)) == 2
    assert bool(Tensor([0])) is False
    assert Tensor([[1, 2]]).tolist() == [[1, 2]]
    with pytest.raises(ValueError, match="size 1"):
        Tensor([1.0, 2.0]).item()


def test_arrays_out_of_tensors():
    x = Tensor([1.0, 2.0])
    assert np.shares_memory(x.numpy(), x.data)
    assert np.asarray(x).dtype == np.float32
    assert np.asarray(x, dtype="float64").tolist() == [1, 2]
    assert not np.shares_memory(np.array(x), x.data)


@pytest.mark.parametrize("name", ["sum", "mean", "max", "min", "squeeze"])
@pytest.mark.parametrize("axis", [None, 0])
def test_a_function_of_numpy_is_ours_where_there_is_one(name, axis):
    x = Tensor(np.array([[1.0, 5.0, 2.0]]), requires_grad=True)
    y = getattr(np, name)(x, axis=axis)
    assert isinstance(y, Tensor)
    assert y.grad_fn is not None
    np.testing.assert_array_equal(y.numpy(), getattr(np, name)(x.numpy(), axis=axis))


@pytest.mark.parametrize("join", [np.concatenate, np.stack])
def test_numpy_joins_tensors_and_their_pasts(join):
    a, b = (Tensor(np.full((1, 2), value), requires_grad=True) for value in (1.0, 2.0))
    y = join([a, b], axis=1)
    np.testing.assert_array_equal(y.numpy(), join([a.numpy(), b.numpy()], axis=1))
    (y * y).sum().backward()
    assert (a.grad.tolist(), b.grad.tolist()) == ([[2, 2]], [[4, 4]])
    with pytest.raises(TypeError, match=f"{join.__name__} works on Tensors, got ndarray: wrap it"):
        join([a, b.numpy()])


def test_other_functions_of_numpy_get_arrays():
    x = Tensor(np.array([[1.0, 3.0]]), requires_grad=True)
    for y in (np.var(x), np.std(x), np.prod(x) - 2, np.where(x > 2, x, 1)[0, 0], np.argmax(x)):
        assert isinstance(y, np.generic)
        assert y == 1
    assert np.size(x) == 2
    assert np.allclose(x, [x, x])
    assert np.vstack([x, x.numpy()]).tolist() == [[1, 3], [1, 3]]


@pytest.mark.parametrize("make", ["tensor", "as_tensor", "from_dlpack"])
def test_pytorch_takes_a_tensor_as_it_does_an_array(make):
    torch = pytest.importorskip("torch")
    map_ = np.arange(24.0).reshape(1, 2, 3, 4).transpose(0, 3, 1, 2)
    for array in (np.float32(1.5), np.ones(3, "float16"), np.array([1, 2]), np.array([True]), map_):
        x = Tensor(array)
        theirs = getattr(torch, make)(x)
        assert theirs.dtype == torch.as_tensor(np.asarray(array)).dtype
        np.testing.assert_array_equal(theirs.numpy(), array)
        assert np.shares_memory(theirs.numpy(), x.data) == (make != "tensor")
    x = Tensor([1.0], requires_grad=True)
    assert getattr(torch, make)(x * 2.0).tolist() == [2]


@pytest.mark.parametrize(
    ("x", "text"),
    [
        (Tensor([1.0, 2.5]), "Tensor([1. , 2.5])"),
        (Tensor([1, 2]), "Tensor([1, 2], dtype=int64)"),
        (Tensor([1.0], requires_grad=True), "Tensor([1.], requires_grad=True)"),
        (F.exp(Tensor([0.0], requires_grad=True)), "Tensor([1.], grad_fn=<Exp>)"),
        (Tensor(np.float64(3)), "Tensor(3., dtype=float64)"),
        (Tensor(np.zeros((0, 2), "float32")), "Tensor([])"),
    ],
)
def test_repr(x, text):
    assert repr(x) == text


def test_a_large_tensor_is_shown_in_part():
    assert len(repr(Tensor(np.zeros((100, 100), "float32")))) < 500


# Operators


@pytest.mark.parametrize("other", [2.0, 3, np.array([1.0, 2.0]), [1.0, 2.0]])
@pytest.mark.parametrize("name", ["add", "sub", "mul", "truediv", "pow", "lt", "le", "gt", "ge", "eq", "ne"])
def test_operators_do_what_numpys_do_on_either_side(name, other):
    apply = getattr(operator, name)
    a, b = np.array([0.5, 2.0]), np.asarray(other)
    left, right = apply(Tensor(a), other), apply(other, Tensor(a))
    assert isinstance(left, Tensor)
    assert isinstance(right, Tensor)
    np.testing.assert_allclose(left.numpy(), apply(a, b))
    np.testing.assert_allclose(right.numpy(), apply(b, a))


def test_an_array_on_the_left_leaves_the_work_to_the_tensor():
    x = Tensor(np.ones(3), requires_grad=True)
    y = np.arange(3.0) * x
    assert isinstance(y, Tensor)
    y.sum().backward()
    np.testing.assert_array_equal(x.grad.numpy(), [0, 1, 2])
    assert isinstance(np.eye(3) @ x, Tensor)
    assert isinstance(np.float64(2) * x, Tensor)


@pytest.mark.parametrize(
    ("x", "other", "dtype"),
    [
        ([1, 2], 3, "int64"),
        ([1, 2], 0.5, "float32"),
        ([True, False], 3, "int64"),
        ([True, False], 0.5, "float32"),
        (np.ones(2, "uint8"), 1, "uint8"),
        (np.ones(2, "float16"), 0.1, "float16"),
        (np.ones(2, "float32"), np.ones(2), "float64"),
        (np.ones(2, "float32"), np.ones(2, int), "float32"),
        (np.ones(2, "float32"), True, "float32"),
    ],
)
def test_dtype_of_results(x, other, dtype):
    assert (Tensor(x) * other).dtype == dtype
    assert (other * Tensor(x)).dtype == dtype


def test_integers_divide_to_floats():
    assert (Tensor([1, 2]) / 2).dtype == np.float32
    assert (Tensor([1, 2]) / Tensor([2, 4])).tolist() == [0.5, 0.5]


def test_logic():
    a, b = Tensor([True, True, False]), Tensor([True, False, False])
    assert (a & b).tolist() == [True, False, False]
    assert (a | b).tolist() == [True, True, False]
    assert (~a).tolist() == [False, False, True]


def test_tensors_are_hashed_by_identity():
    x, y = Tensor([1.0, 2.0]), Tensor([1.0, 2.0])
    assert len({x, y, x}) == 2
    assert {x: 1}[x] == 1


def test_a_leaf_can_be_deep_copied():
    x = nn.Parameter(np.ones(2, "float32"))
    x.grad = Tensor([3.0, 4.0])
    alone, again = copy.deepcopy([x, x])
    assert alone is again
    assert type(alone) is nn.Parameter
    assert alone.requires_grad
    assert alone.grad.tolist() == [3, 4]
    alone.data += 1.0
    alone.increment_version()
    alone.grad.data += 1.0
    assert (x.tolist(), x.grad.tolist(), x._version[0]) == ([1, 1], [3, 4], 0)


def test_a_tensor_with_a_past_can_be_neither_deep_copied_nor_pickled():
    y = F.exp(Tensor([1.0], requires_grad=True))
    message = (
        r"a tensor computed by Exp can be neither deep-copied nor pickled, for its past would "
        r"have to go with it: \.detach\(\) it, or copy the leaves and compute it anew"
    )
    for refused in (copy.deepcopy, pickle.dumps):
        with pytest.raises(GradientError, match=message):
            refused({"y": y})
        with pytest.raises(GradientError, match=message):
            refused(y.grad_fn)
    assert copy.deepcopy(y.detach()).tolist() == y.tolist()
    assert copy.copy(y).grad_fn is y.grad_fn
    uncalled = F.arithmetic.Clip(0.0, 1.0)
    for again in (copy.deepcopy(uncalled), pickle.loads(pickle.dumps(uncalled))):
        assert again(Tensor([2.0])).tolist() == [1]


def test_a_leaf_can_be_pickled():
    x, y = pickle.loads(pickle.dumps([nn.Parameter(np.ones(2, "float32")), Tensor([3.0])]))
    assert (type(x), x.requires_grad, x.tolist()) == (nn.Parameter, True, [1, 1])
    y += 1.0
    assert (y.tolist(), y._version[0]) == ([4], 1)


def test_properties_and_methods_reach_the_operations():
    x = Tensor(np.arange(6.0).reshape(2, 3))
    assert x.T.shape == (3, 2)
    assert x.transpose().shape == (3, 2)
    assert x.reshape(3, -1).shape == (3, 2)
    assert x.unsqueeze(0).squeeze(0).shape == (2, 3)
    assert x.sum().item() == 15
    assert x.max(axis=1).tolist() == [2, 5]
    assert abs(-x).tolist() == x.tolist()


def test_pytorchs_names():
    x = Tensor(np.arange(6.0).reshape(2, 3))
    assert (x.size(), x.size(0), x.size(-1)) == ((2, 3), 2, 3)
    assert x.view(3, -1).shape == x.view((3, 2)).shape == (3, 2)
    assert np.shares_memory(x.view(6).data, x.data)
    assert x.sum(dim=1).tolist() == [3, 12]
    assert x.mean(dim=(0, 1), keepdim=True).tolist() == [[2.5]]
    assert x.var(dim=0, correction=0).tolist() == [2.25] * 3
    assert x.argmax(dim=1).tolist() == [2, 2]
    assert x.softmax(dim=0).tolist() == x.softmax(axis=0).tolist()
    assert F.logsumexp(x, dim=1, keepdim=True).shape == (2, 1)
    assert F.log_softmax(x, dim=0).tolist() == F.log_softmax(x, axis=0).tolist()
    with pytest.raises(TypeError, match="dim"):  # a pair in PyTorch
        x.max(dim=1)
    with pytest.raises(TypeError, match="dim"):
        x.sum(axis=0, dim=1)


def test_writing_into_a_tensor():
    x = Tensor(np.zeros((2, 2)))
    x[0] = Tensor([1.0, 2.0])
    x[Tensor([False, True])] = 3.0
    assert x.tolist() == [[1, 2], [3, 3]]


def test_small_unsigned_numbers_have_a_smallest():
    x, y = Tensor(np.array([0, 5], "uint8")), Tensor(np.array([3, 3], "uint8"))
    assert x.min().item() == 0
    assert F.minimum(x, y).tolist() == [0, 3]


@pytest.mark.parametrize(
    "call",
    [
        lambda x: F.concatenate([x, x], axis=2),
        lambda x: F.stack([x, x], axis=3),
        lambda x: x.permute(0, 3),
        lambda x: x.transpose(0, -3),
        lambda x: x.squeeze(2),
        lambda x: x.unsqueeze(-4),
        lambda x: Tensor(1.0).squeeze(0),
    ],
)
def test_an_axis_that_is_not_there_is_refused(call):
    with pytest.raises(IndexError, match=r"axis -?\d is out of bounds for a tensor of \d dimensions"):
        call(Tensor(np.ones((2, 2))))


def test_moving_to_the_same_device_is_nothing():
    x = Tensor([1.0])
    assert x.to("cpu") is x


@pytest.mark.parametrize(
    "call",
    [
        lambda: nn.Linear(2, 1)(np.ones((1, 2))),
        lambda: nn.Conv2d(1, 1, 1)(np.ones((1, 1, 2, 2))),
        lambda: nn.Sequential(nn.Conv2d(1, 1, 1), nn.ReLU())(np.ones((1, 1, 2, 2))),
        lambda: F.cross_entropy(np.ones((1, 2)), np.array([0])),
        lambda: F.relu(np.ones(2)),
        lambda: F.softmax(np.ones(2)),
    ],
)
def test_arrays_where_tensors_belong(call):
    with pytest.raises(TypeError, match=r"got ndarray: wrap it, Tensor\((x|logits)\)"):
        call()


def test_a_number_can_be_formatted():
    loss = Tensor(1.23456)
    assert f"{loss:.3f}" == "1.235"
    assert f"{loss}" == str(loss)
    with pytest.raises(TypeError, match="unsupported format string"):
        f"{Tensor([1.0, 2.0]):.3f}"


class OfAnotherLibrary:
    """As PyTorch's tensors are: it can be made an array, and its dtype is none of NumPy's."""

    dtype = "torch.float32"

    def __array__(self, dtype=None, copy=None):
        return np.array([1.0, 2.0], np.float32)


def test_arrays_of_another_library_are_taken():
    np.testing.assert_array_equal(Tensor(OfAnotherLibrary()).numpy(), [1, 2])
    np.testing.assert_array_equal((Tensor([1.0, 1.0]) + OfAnotherLibrary()).numpy(), [2, 3])
