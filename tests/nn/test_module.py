"""Module: what it registers, what it walks, hooks, state dicts, devices, and the place of a shape error."""

from __future__ import annotations

import copy
import re

import numpy as np
import pytest

import minidl as dl
from minidl import Tensor, nn
from minidl.errors import MinidlError, ShapeError, WeightsError
from minidl.paths import topological_order


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter([2.0])
        self.inner = nn.Linear(3, 3)
        self.register_buffer("offset", np.ones(3, np.float32))

    def forward(self, x):
        return self.inner(x) * self.scale + self.offset


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(Block(), nn.ReLU())
        self.head = nn.Linear(3, 2)

    def forward(self, x):
        return self.head(self.features(x))


NAMES = ["features.0.scale", "features.0.inner.weight", "features.0.inner.bias", "head.weight", "head.bias"]


# Registration and walks


def test_walks_follow_the_order_of_registration():
    net = Net()
    assert [name for name, _ in net.named_parameters()] == NAMES
    assert [name for name, _ in net.named_buffers()] == ["features.0.offset"]
    assert [name for name, _ in net.named_modules()] == [
        "",
        "features",
        "features.0",
        "features.0.inner",
        "features.1",
        "head",
    ]
    assert [name for name, _ in net.named_children()] == ["features", "head"]
    assert net.get_submodule("features.0.inner") is net.features[0].inner
    with pytest.raises(
        AttributeError, match=r"no module '9' of 'features\.9' in Sequential, which has: 0, 1"
    ):
        net.get_submodule("features.9")


def test_a_shared_module_is_walked_once_and_saved_under_both_names():
    layer = nn.Linear(2, 2)
    net = nn.Sequential(layer, layer)
    assert [name for name, _ in net.named_parameters()] == ["0.weight", "0.bias"]
    assert list(net.state_dict()) == ["0.weight", "0.bias", "1.weight", "1.bias"]


def test_assigning_replaces_and_deleting_removes():
    net = Net()
    new = nn.Linear(3, 5)
    net.head = new
    assert [name for name, _ in net.named_children()] == ["features", "head"]
    assert net.head is new
    new.bias = None
    assert [name for name, _ in new.named_parameters()] == ["weight"]
    new.bias = nn.Parameter(np.zeros(5, np.float32))
    assert "bias" in dict(new.named_parameters())
    del net.features
    assert [name for name, _ in net.named_children()] == ["head"]
    with pytest.raises(AttributeError, match="Net has no attribute 'features'"):
        _ = net.features


def test_assigning_what_does_not_fit_is_refused():
    net = Net()
    with pytest.raises(TypeError, match=r"Linear\.weight is a Parameter and cannot become a Tensor"):
        net.head.weight = Tensor([1.0])
    with pytest.raises(TypeError, match=r"Net\.head is a Module and cannot become a function"):
        net.head = test_walks_follow_the_order_of_registration
    with pytest.raises(AttributeError, match="'train' is a method of Net: choose another name"):
        net.train = nn.ReLU()
    with pytest.raises(ValueError, match=r"a module cannot be called 'a.b': dots separate"):
        net.add_module("a.b", nn.ReLU())

    class Forgetful(nn.Module):
        def __init__(self):
            self.head = nn.Linear(1, 1)

    with pytest.raises(
        AttributeError, match=r"call super\(\).__init__\(\) in Forgetful before setting 'head'"
    ):
        Forgetful()


def test_a_deep_copy_shares_nothing():
    net = Net()
    twin = copy.deepcopy(net)
    for a, b in zip(net.parameters(), twin.parameters(), strict=True):
        assert isinstance(b, nn.Parameter)
        assert b.requires_grad
        assert not np.shares_memory(a.data, b.data)


def test_apply_reaches_every_module_children_first():
    seen = []
    Net().apply(lambda module: seen.append(type(module).__name__))
    assert seen == ["Linear", "Block", "ReLU", "Sequential", "Linear", "Net"]


# Modes


def test_train_and_eval_reach_every_module():
    net = Net()
    assert all(module.training for module in net.modules())
    assert not any(module.training for module in net.eval().modules())
    assert all(module.training for module in net.train().modules())


def test_a_frozen_part_records_nothing_and_keeps_no_gradient():
    net = Net()
    x = Tensor(np.ones((4, 3), np.float32))
    net(x).sum().backward()
    net.features.freeze()
    assert all(p.grad is None and not p.requires_grad for p in net.features.parameters())
    assert net.features(x).grad_fn is None
    functions = [function.name for function in topological_order(net(x).node)]
    assert "ReLU" not in functions
    net(x).sum().backward()
    assert net.head.weight.grad is not None
    assert net.features[0].scale.grad is None
    net.unfreeze()
    assert all(p.requires_grad for p in net.parameters())


def test_zero_grad():
    net = Net()
    net(Tensor(np.ones((4, 3), np.float32))).sum().backward()
    net.head.weight.grad.data[...] = np.inf
    net.zero_grad(set_to_none=False)
    assert all(not p.grad.numpy().any() for p in net.parameters())
    net.zero_grad()
    assert all(p.grad is None for p in net.parameters())


def test_astype_converts_floats_only_and_keeps_the_parameters():
    net = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    before = list(net.parameters())
    net(Tensor(np.eye(2, dtype=np.float32))).sum().backward()
    net.double()
    assert [id(p) for p in net.parameters()] == [id(p) for p in before]
    assert {p.dtype for p in net.parameters()} == {p.grad.dtype for p in net.parameters()} == {np.dtype("f8")}
    assert net[1].running_mean.dtype == np.float64
    assert net[1].num_batches_tracked.dtype == np.int64
    assert net(Tensor(np.eye(2))).dtype == np.float64


def test_to_a_device_without_a_gpu_changes_nothing():
    net = Net()
    data = [p.data for p in net.parameters()]
    assert net.to("cpu") is net
    if dl.backend.gpu_unavailable():
        with pytest.raises(MinidlError):
            net.to("gpu")
    assert [id(p.data) for p in net.parameters()] == [id(array) for array in data]


# Hooks


def test_hooks_see_and_replace_what_passes():
    layer = nn.ReLU()
    seen = []
    before = layer.register_forward_pre_hook(lambda module, inputs: inputs[0] * -1.0)
    after = layer.register_forward_hook(lambda module, inputs, output: seen.append((inputs, output)))
    x = Tensor([1.0, -2.0])
    assert layer(x).tolist() == [0.0, 2.0]
    assert seen[0][0][0].tolist() == [-1.0, 2.0]
    assert seen[0][1].tolist() == [0.0, 2.0]
    before.remove()
    before.remove()
    with layer.register_forward_hook(lambda module, inputs, output: output + 1.0):
        assert layer(x).tolist() == [2.0, 1.0]
    assert layer(x).tolist() == [1.0, 0.0]
    assert len(seen) == 3
    after.remove()
    layer(x)
    assert len(seen) == 3


# State dicts


def test_a_state_dict_round_trip():
    dl.seed(0)
    net, other = Net(), Net()
    net.features[0].offset.data[...] = 7.0
    state = net.state_dict()
    assert list(state) == [
        "features.0.scale",
        "features.0.offset",
        "features.0.inner.weight",
        "features.0.inner.bias",
        "head.weight",
        "head.bias",
    ]
    assert all(type(array) is np.ndarray for array in state.values())
    parameters = [(p, p.data) for p in other.parameters()]
    assert other.load_state_dict(state) == ([], [])
    assert all(p.data is array for p, array in parameters)  # written in place
    for a, b in zip(state.values(), other.state_dict().values(), strict=True):
        np.testing.assert_array_equal(a, b)
        assert not np.shares_memory(a, b)


def test_loading_takes_tensors_and_other_types_and_keeps_the_own():
    net = nn.Linear(2, 1)
    net.load_state_dict({"weight": Tensor([[1.0, 2.0]]), "bias": np.array([3])})
    assert net.weight.tolist() == [[1.0, 2.0]]
    assert net.bias.tolist() == [3.0]
    assert net.bias.dtype == np.float32


def test_assigning_takes_the_arrays_that_fit_and_copies_the_others():
    net = Net()
    state = {name: array + 1 for name, array in net.state_dict().items()}
    state["head.weight"] = state["head.weight"].astype(np.float64)
    state["head.bias"].setflags(write=False)
    state["features.0.offset"] = np.arange(6, dtype=np.float32)[::2]
    state["features.0.inner.weight"] = np.asfortranarray(state["features.0.inner.weight"])
    net.load_state_dict(state, assign=True)
    taken = [name for name, array in net.state_dict().items() if np.shares_memory(array, state[name])]
    assert taken == ["features.0.scale", "features.0.inner.bias"]
    for name, array in net.state_dict().items():
        np.testing.assert_array_equal(array, state[name])
        assert (array.dtype, array.flags.writeable) == (np.float32, True)


def test_assigned_arrays_that_are_one_become_two():
    layer, array = nn.BatchNorm2d(4), np.full(4, 3.0, np.float32)
    layer.load_state_dict({"weight": array, "bias": array}, strict=False, assign=True)
    assert layer.weight.data is array
    layer.weight.data += 1
    assert layer.bias.tolist() == [3.0] * 4


def test_everything_that_does_not_fit_is_listed_and_nothing_changes():
    net = Net()
    before = {name: array.copy() for name, array in net.state_dict().items()}
    state = {name: array + 1 for name, array in before.items()}
    del state["features.0.scale"], state["head.bias"]
    state.update({"fc8.weight": np.zeros(2), "fc8.bias": np.zeros(2)})
    state["head.weight"] = np.zeros((1000, 3))
    state["features.0.offset"] = "ones"
    with pytest.raises(WeightsError) as caught:
        net.load_state_dict(state)
    assert str(caught.value) == (
        "the state dict does not fit Net; nothing was changed\n"
        "  missing: features.0.scale, head.bias\n"
        "  unexpected: fc8.weight, fc8.bias\n"
        "  mismatched: features.0.offset: expected (3,), got no array of numbers (str), "
        "head.weight: expected (2, 3), got (1000, 3)"
    )
    with pytest.raises(WeightsError, match="mismatched"):
        net.load_state_dict(state, strict=False)
    for name, array in net.state_dict().items():
        np.testing.assert_array_equal(array, before[name])


@pytest.mark.parametrize(
    ("state", "kind"), [(None, "NoneType"), ([1], "list"), ("a.pth", "str"), (nn.ReLU(), "ReLU")]
)
def test_a_state_dict_is_a_mapping(state, kind):
    message = rf"^Net loads a mapping of path to array, as state_dict\(\) returns, got {kind}$"
    with pytest.raises(WeightsError, match=message):
        Net().load_state_dict(state)


def test_paths_that_are_no_text_are_unexpected():
    with pytest.raises(WeightsError, match=r"unexpected: 1, None$"):
        nn.ReLU().load_state_dict({1: np.zeros(2), None: np.zeros(2)})


def test_not_strict_loads_what_is_there():
    net = Net()
    weight = np.full((2, 3), 5.0)
    missing, unexpected = net.load_state_dict({"head.weight": weight, "other": weight}, strict=False)
    assert unexpected == ["other"]
    assert "head.bias" in missing
    assert "head.weight" not in missing
    np.testing.assert_array_equal(net.head.weight.numpy(), weight)


def test_buffers_can_be_replaced_by_tensors_only():
    block = Block()
    block.offset = Tensor([0.0, 0.0, 0.0])
    assert "offset" in block.state_dict()
    with pytest.raises(TypeError, match=r"Block\.offset is a Tensor and cannot become a ndarray"):
        block.offset = np.zeros(3)


# Words


def test_a_shape_error_names_the_innermost_layer_by_its_path():
    net = nn.Sequential(classifier=nn.Sequential(nn.Linear(25, 4)))
    with pytest.raises(ShapeError) as caught:
        net(Tensor(np.zeros((8, 1, 5, 5), np.float32)))
    assert str(caught.value) == (
        "classifier.0 (Linear 25→4): expected (N, 25), got (8, 1, 5, 5). "
        "Flatten the feature maps first: nn.Flatten()"
    )
    with pytest.raises(ShapeError) as caught:
        net.classifier[0](Tensor(np.zeros((8, 3), np.float32)))
    assert str(caught.value) == "Linear 25→4: expected (N, 25), got (8, 3)"


def test_a_shape_error_of_a_forward_names_its_own_module():
    class Odd(nn.Module):
        def forward(self, x):
            return x.reshape(3, 5)

    with pytest.raises(ShapeError, match=r"^1 \(Odd\): cannot reshape \(2,\)"):
        nn.Sequential(nn.ReLU(), Odd())(Tensor([1.0, 2.0]))


@pytest.mark.parametrize(
    ("layer", "described"),
    [
        (nn.Conv2d(3, 4, 3), "Conv2d 3→4, 3×3"),
        (nn.ConvTranspose2d(3, 4, 3), "ConvTranspose2d 3→4, 3×3"),
        (nn.Linear(3, 4), "Linear 3→4"),
        (nn.BatchNorm2d(3), "BatchNorm2d 3"),
        (nn.MaxPool2d(2), "MaxPool2d"),
        (nn.AdaptiveAvgPool2d(2), "AdaptiveAvgPool2d"),
        (nn.Flatten(), "Flatten"),
        (nn.Softmax(1), "Softmax"),
        (nn.Dropout(), "Dropout"),
        (nn.ReLU(), "ReLU"),
    ],
)
@pytest.mark.parametrize(("x", "kind"), [([[1.0]], "list"), (None, "NoneType"), (1.0, "float")])
@pytest.mark.parametrize("recording", [True, False])
def test_a_layer_says_what_came_instead_of_a_tensor(layer, described, x, kind, recording):
    message = rf"^{re.escape(described)}(: \w+)? works on Tensors, got {kind}: wrap it, Tensor\(x\)$"
    for call in (layer, nn.Sequential(nn.Sequential(layer)), lambda x: layer(x=x)):
        with dl.set_grad_enabled(recording), pytest.raises(TypeError, match=message):
            call(x)


@pytest.mark.parity
@pytest.mark.parametrize(
    "layer", [nn.Conv2d(1, 4, 3), nn.Linear(4, 4), nn.BatchNorm2d(1), nn.MaxPool2d(2), nn.ReLU()]
)
def test_a_layer_says_that_a_tensor_is_pytorchs(layer):
    torch = pytest.importorskip("torch")
    with pytest.raises(TypeError, match=r"works on Tensors, got torch\.Tensor: wrap it, Tensor\(x\)$"):
        layer(torch.zeros(2, 1, 4, 4))


def test_an_operation_in_a_forward_names_the_module_it_is_in():
    class Net(nn.Module):
        def forward(self, x):
            return dl.functional.conv2d(x, [[1.0]])

    message = r"^Net: conv2d works on Tensors, got list: wrap it, Tensor\(weight\)$"
    with pytest.raises(TypeError, match=message):
        nn.Sequential(Net())(Tensor(np.ones((1, 1, 3, 3))))


def test_other_mistakes_of_a_forward_stay_as_they_are():
    class Misspelled(nn.Module):
        def forward(self, x, options=None):
            return x.rehsape(3) if options is None else options.deep

    for inputs, message in [
        ((Tensor([1.0]),), "'Tensor' object has no attribute 'rehsape'"),
        (([1.0],), "'list' object has no attribute 'rehsape'"),
        (([1.0], {}), "'dict' object has no attribute 'deep'"),
    ]:
        with pytest.raises(AttributeError, match=message):
            Misspelled()(*inputs)


def test_repr_shows_options_and_children():
    class Documented(nn.Sequential):
        def extra_repr(self):
            return "depth=1"

    assert repr(Documented(nn.ReLU())) == "Documented(\n  depth=1\n  (0): ReLU()\n)"
    assert repr(nn.Sequential()) == "Sequential()"
    assert repr(nn.Parameter([1.0])) == "Parameter([1.], requires_grad=True)"


def test_an_operation_knows_the_call_of_the_module_it_was_part_of():
    relu = nn.ReLU()
    net = nn.Sequential(relu, relu)
    y = net(Tensor([1.0], requires_grad=True)) * 2.0
    assert y.grad_fn.made_in is None
    second = y.grad_fn.edges[0].made_in
    first = y.grad_fn.edges[0].edges[0].made_in
    assert (first.module(), second.module()) == (relu, relu)
    assert first is not second
    assert first.outer is second.outer
    assert (first.outer.module(), first.outer.outer) == (net, None)


def test_after_a_forward_that_failed_no_module_is_running():
    with pytest.raises(ShapeError):
        nn.Linear(3, 1)(Tensor([[1.0]]))
    x = Tensor([1.0], requires_grad=True)
    assert (x * 2.0).grad_fn.made_in is None


def test_a_graph_does_not_keep_its_model():
    net = nn.ReLU()
    y = net(Tensor([1.0], requires_grad=True))
    del net
    assert y.grad_fn.made_in.module() is None


def test_weights_are_floating_point_numbers():
    layer = nn.Linear(3, 2)
    with pytest.raises(
        ValueError, match=r"^Linear 3→2: expected a floating-point type such as 'float32', got 'int64'$"
    ):
        layer.astype("int64")
    assert layer.weight.dtype == np.float32
    assert layer.astype("float64").weight.dtype == np.float64
