"""The layers: PyTorch's names, defaults, reprs, numbers, and initial distributions."""

from __future__ import annotations

import numpy as np
import pytest

import minidl as dl
from minidl import Tensor, nn
from minidl.errors import ShapeError
from minidl.nn.container import LARGE

# Each is built by the same words in both libraries, and fed an input of the shape.
LAYERS = {
    "Linear": (lambda n: n.Linear(4, 3), (2, 4)),
    "Linear, no bias": (lambda n: n.Linear(4, 3, bias=False), (2, 5, 4)),
    "Conv2d": (lambda n: n.Conv2d(3, 4, 3, padding=1), (2, 3, 5, 6)),
    "Conv2d, options": (
        lambda n: n.Conv2d(4, 6, (3, 2), stride=(2, 1), padding=(0, 1), dilation=2, groups=2, bias=False),
        (2, 4, 8, 7),
    ),
    "ConvTranspose2d": (lambda n: n.ConvTranspose2d(3, 4, 2, 2), (2, 3, 4, 5)),
    "ConvTranspose2d, options": (
        lambda n: n.ConvTranspose2d(4, 6, 3, 2, 1, 1, groups=2, bias=False, dilation=2),
        (2, 4, 4, 5),
    ),
    "MaxPool2d": (lambda n: n.MaxPool2d(2), (2, 3, 5, 6)),
    "MaxPool2d, options": (lambda n: n.MaxPool2d((3, 2), 2, 1, ceil_mode=True), (2, 3, 6, 7)),
    "AvgPool2d": (lambda n: n.AvgPool2d(3, 2, 1), (2, 3, 5, 6)),
    "AdaptiveAvgPool2d": (lambda n: n.AdaptiveAvgPool2d((2, 3)), (2, 3, 5, 7)),
    "Flatten": (lambda n: n.Flatten(), (2, 3, 4)),
    "Identity": (lambda n: n.Identity(), (2, 3)),
    "BatchNorm1d": (lambda n: n.BatchNorm1d(3), (4, 3)),
    "BatchNorm1d, (N, C, L)": (lambda n: n.BatchNorm1d(3, affine=False), (4, 3, 5)),
    "BatchNorm2d": (lambda n: n.BatchNorm2d(3, eps=1e-3, momentum=0.2), (4, 3, 2, 2)),
    "BatchNorm2d, mean of all": (lambda n: n.BatchNorm2d(3, momentum=None), (4, 3, 2, 2)),
    "BatchNorm2d, no statistics": (lambda n: n.BatchNorm2d(3, track_running_stats=False), (4, 3, 2, 2)),
    "LocalResponseNorm": (lambda n: n.LocalResponseNorm(5), (2, 7, 3, 3)),
    "Sigmoid": (lambda n: n.Sigmoid(), (3, 4)),
    "Tanh": (lambda n: n.Tanh(), (3, 4)),
    "ReLU": (lambda n: n.ReLU(), (3, 4)),
    "LeakyReLU": (lambda n: n.LeakyReLU(0.2), (3, 4)),
    "Softplus": (lambda n: n.Softplus(), (3, 4)),
    "GELU": (lambda n: n.GELU(), (3, 4)),
    "Softmax": (lambda n: n.Softmax(dim=1), (3, 4)),
}
WITHOUT_PYTORCHS_OPTIONS = ("Softplus", "GELU")  # the repr shows options that minidl does not have


@pytest.mark.parity
@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_is_pytorchs(name):
    torch = pytest.importorskip("torch")
    build, shape = LAYERS[name]
    ours, theirs = build(nn), build(torch.nn)
    if name not in WITHOUT_PYTORCHS_OPTIONS:
        assert repr(ours) == repr(theirs)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    ours.load_state_dict({key: value.numpy() for key, value in theirs.state_dict().items()})
    rng = np.random.default_rng(0)
    for training in (True, True, False):
        x = rng.standard_normal(shape).astype(np.float32)
        y, t = ours.train(training)(Tensor(x)), theirs.train(training)(torch.tensor(x))
        assert y.dtype == np.float32
        np.testing.assert_allclose(y.numpy(), t.detach().numpy(), rtol=2e-5, atol=2e-6)
    for key, value in theirs.state_dict().items():
        np.testing.assert_allclose(ours.state_dict()[key], value.numpy(), rtol=1e-5, atol=1e-6)


def small_vgg(n):
    return n.Sequential(
        n.Sequential(
            n.Conv2d(3, 8, kernel_size=3, padding=1),
            n.BatchNorm2d(8),
            n.ReLU(),
            n.MaxPool2d(kernel_size=2, stride=2),
        ),
        n.AdaptiveAvgPool2d((7, 7)),
        n.Flatten(),
        n.Linear(392, 16),
        n.ReLU(),
        n.Dropout(p=0.5),
        n.Linear(16, 2, bias=False),
    )


@pytest.mark.parity
def test_the_repr_of_a_small_vgg_is_pytorchs():
    torch = pytest.importorskip("torch")
    assert repr(small_vgg(nn)) == repr(small_vgg(torch.nn))


@pytest.mark.parity
def test_the_losses_are_pytorchs():
    torch = pytest.importorskip("torch")
    x = np.random.default_rng(0).standard_normal((4, 3)).astype(np.float32)
    targets, t = np.array([0, 2, 1, 1]), torch.tensor([0, 2, 1, 1])
    weight = np.array([1, 2, 3], np.float32)
    ours = nn.CrossEntropyLoss(weight, label_smoothing=0.1)
    theirs = torch.nn.CrossEntropyLoss(torch.tensor(weight), label_smoothing=0.1)
    assert ours(Tensor(x), targets).item() == pytest.approx(theirs(torch.tensor(x), t).item())
    assert repr(ours) == repr(theirs)
    y = np.ones((4, 3), np.float32)
    for name, options in (("MSELoss", {"reduction": "sum"}), ("BCEWithLogitsLoss", {})):
        ours, theirs = getattr(nn, name)(**options), getattr(torch.nn, name)(**options)
        assert ours(Tensor(x), y).item() == pytest.approx(theirs(torch.tensor(x), torch.tensor(y)).item())


@pytest.mark.parametrize(
    "build",
    [
        lambda: nn.Linear(50, 400),
        lambda: nn.Conv2d(8, 200, 5, groups=2),
        lambda: nn.ConvTranspose2d(100, 40, 3, groups=2),
    ],
)
def test_initial_weights_and_biases_are_uniform_within_pytorchs_bound(build):
    dl.seed(0)
    layer = build()
    bound = 1 / np.sqrt(np.prod(layer.weight.shape[1:]))
    for values in (layer.weight.numpy(), layer.bias.numpy()):
        assert values.dtype == np.float32
        assert 0.8 * bound < np.abs(values).max() <= bound
        assert abs(values.mean()) < 0.2 * bound


def test_dropout_follows_the_mode():
    layer = nn.Dropout(0.5)
    x = Tensor(np.ones(1000, np.float32))
    assert (layer(x).numpy() == 0).any()
    assert layer.eval()(x) is x
    with pytest.raises(ValueError, match=r"the dropout probability lies in \[0, 1\], got -0.5"):
        nn.Dropout(-0.5)


@pytest.mark.parametrize(
    ("layer", "shape", "message"),
    [
        (nn.BatchNorm2d(3), (2, 3), r"BatchNorm2d 3: expected \(N, 3, H, W\), got \(2, 3\)"),
        (nn.BatchNorm2d(3), (2, 4, 5, 5), r"BatchNorm2d 3: expected \(N, 3, …\), got \(2, 4, 5, 5\)"),
        (
            nn.BatchNorm1d(3),
            (2, 3, 4, 4),
            r"BatchNorm1d 3: expected \(N, 3\) or \(N, 3, L\), got \(2, 3, 4, 4\)",
        ),
        (nn.Conv2d(3, 8, 3), (2, 4, 5, 5), r"^Conv2d 3→8, 3×3: .*got \(2, 4, 5, 5\)"),
        (nn.ConvTranspose2d(3, 8, 2), (2, 4, 5, 5), r"^ConvTranspose2d 3→8, 2×2: .*got \(2, 4, 5, 5\)"),
    ],
)
def test_a_wrong_input_names_the_layer(layer, shape, message):
    with pytest.raises(ShapeError, match=message):
        layer(Tensor(np.zeros(shape, np.float32)))


def test_impossible_convolutions_are_refused_at_once():
    with pytest.raises(
        ValueError, match=r"in_channels \(=3\) and out_channels \(=4\) must be divisible by groups \(=2\)"
    ):
        nn.Conv2d(3, 4, 1, groups=2)
    with pytest.raises(ShapeError, match="stride must be an integer ≥ 1 or a pair of them, got 0"):
        nn.Conv2d(3, 4, 1, stride=0)


# Sequential


def test_sequential_by_position_by_name_and_by_slice():
    a, b, c = nn.Linear(1, 1), nn.ReLU(), nn.Tanh()
    for net in (nn.Sequential(a, b, c), nn.Sequential([a, b, c])):
        assert [name for name, _ in net.named_children()] == ["0", "1", "2"]
        assert [net[0], net[-1], net["1"]] == [a, c, b]
    for net in (nn.Sequential({"a": a, "b": b, "c": c}), nn.Sequential(a=a, b=b, c=c)):
        assert list(net) == [a, b, c]
        assert net["b"] is net.b is b
        tail = net[1:]
        assert type(tail) is nn.Sequential
        assert list(tail.state_dict()) == []
        assert [name for name, _ in tail.named_children()] == ["b", "c"]
        net["c"] = b
        net[0] = c
        assert list(net) == [c, b, b]


def test_sequential_appends_under_a_free_name():
    net = nn.Sequential(nn.ReLU(), nn.Tanh())[1:].append(nn.Sigmoid())
    assert [name for name, _ in net.named_children()] == ["1", "2"]
    assert len(nn.Sequential()) == 0
    assert nn.Sequential()


def test_a_convolution_does_the_relu_after_it_where_nobody_looks_between():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.ReLU(), nn.Conv2d(4, 2, 1), nn.Tanh())
    x = Tensor(np.random.default_rng(0).standard_normal((2, 3, 6, 5), dtype=np.float32))
    one_by_one = x
    for layer in net:
        one_by_one = layer(one_by_one)

    def called():
        seen = []
        relu = nn.ReLU.forward
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(nn.ReLU, "forward", lambda self, x: seen.append(self) or relu(self, x))
            np.testing.assert_array_equal(net(x).numpy(), one_by_one.numpy())
        return seen

    assert called() == [net[1], net[2]]  # recorded: an operation for each layer
    with dl.no_grad():
        assert called() == [net[2]]
        with net[0].register_forward_hook(lambda module, inputs, y: None):
            assert called() == [net[1], net[2]]
        with net[1].register_forward_pre_hook(lambda module, inputs: None):
            assert called() == [net[1], net[2]]
        with dl.detect_anomaly():
            assert called() == [net[1], net[2]]
        net[0].forward = lambda x, layer=net[0]: nn.Conv2d.forward(layer, x)
        assert called() == [net[1], net[2]]
        del net[0].forward
    for parameter in net.parameters():
        parameter.requires_grad = False
    assert called() == [net[2]]
    x.requires_grad = True
    assert called() == [net[1], net[2]]


HALVES = [nn.MaxPool2d(2), nn.MaxPool2d((2, 2)), nn.MaxPool2d([2, 2], (2, 2), (0, 0), (1, 1))]


@pytest.mark.parametrize("size", [(16, 16), (9, 14), (2, 3)])
@pytest.mark.parametrize("halve", HALVES, ids=repr)
def test_a_convolution_does_relu_and_pooling_where_nobody_looks_between(size, halve):
    net = nn.Sequential(nn.Conv2d(32, 40, 3, padding=1), nn.ReLU(), halve)
    x = Tensor(np.random.default_rng(0).standard_normal((80, 32, *size), dtype=np.float32))
    expected = net[2](net[1](net[0](x))).numpy()

    def called():
        seen = []
        pool = nn.MaxPool2d.forward
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(nn.MaxPool2d, "forward", lambda self, x: seen.append(self) or pool(self, x))
            np.testing.assert_array_equal(net(x).numpy(), expected)
        return seen

    large = expected.size * 4 >= LARGE
    assert called() == ([] if large else [net[2]])  # recorded
    with dl.no_grad():
        assert called() == []
        for layer in net:
            with layer.register_forward_hook(lambda module, inputs, y: None):
                assert called() == [net[2]]
        with dl.detect_anomaly():
            assert called() == [net[2]]


@pytest.mark.parametrize("recording", [True, False])
def test_of_a_map_that_is_too_small_the_pooling_complains(recording):
    net = nn.Sequential(nn.Conv2d(32, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2))
    x = Tensor(np.zeros((256, 32, 1, 8), np.float32))
    with dl.set_grad_enabled(recording), pytest.raises(ShapeError, match=r"^2 \(MaxPool2d\): a window"):
        net(x)


@pytest.mark.parametrize(
    "options",
    [{"stride": 1}, {"stride": (2, 1)}, {"padding": (0, 1)}, {"ceil_mode": True}, {"dilation": 2}],
)
def test_other_poolings_come_after_the_convolution(options):
    net = nn.Sequential(nn.Conv2d(32, 32, 3), nn.ReLU(), nn.MaxPool2d(2, **options))
    x = Tensor(np.random.default_rng(0).standard_normal((16, 32, 15, 15), dtype=np.float32))
    with dl.no_grad():
        np.testing.assert_array_equal(net(x).numpy(), net[2](net[1](net[0](x))).numpy())


GAPS = nn.MaxPool2d(2, padding=1, dilation=3)  # some of its windows may see the border alone


@pytest.mark.parametrize("pool", [nn.MaxPool2d(2), nn.MaxPool2d((3, 2), 2, 1, ceil_mode=True), GAPS])
def test_a_relu_waits_for_the_pooling_after_it_and_every_number_is_the_same(pool):
    """Value, first and second gradient; with ties and infinities."""
    x = np.random.default_rng(0).integers(-2, 3, (2, 3, 7, 6)).astype(np.float32)
    x[0, 0, :2, :4] = [[np.inf, 1, -np.inf, -1], [0, 1, -np.inf, -np.inf]]
    net = nn.Sequential(nn.ReLU(), pool)

    def results():
        leaf = Tensor(x, requires_grad=True)
        y = net(leaf)
        (dx,) = dl.grad((y * y).sum(), [leaf], create_graph=True)
        (dx2,) = dl.grad((dx * dx).sum(), [leaf])
        return y.grad_fn.name, y.numpy(), dx.numpy(), dx2.numpy()

    last, *found = results()
    assert last == ("MaxPool2d" if pool is GAPS else "ReLU")
    with net[0].register_forward_hook(lambda module, inputs, y: None):
        last, *expected = results()
    assert last == "MaxPool2d"
    for got, right in zip(found, expected, strict=True):
        np.testing.assert_array_equal(got, right)


def test_a_relu_does_not_wait_where_somebody_looks_between():
    net, x = nn.Sequential(nn.ReLU(), nn.MaxPool2d(2)), Tensor(np.ones((1, 1, 2, 2)), requires_grad=True)
    for layer in net:
        with layer.register_forward_hook(lambda module, inputs, y: None):
            assert net(x).grad_fn.name == "MaxPool2d"
        with layer.register_forward_pre_hook(lambda module, inputs: None):
            assert net(x).grad_fn.name == "MaxPool2d"
        layer.forward = lambda x, layer=layer: type(layer).forward(layer, x)
        assert net(x).grad_fn.name == "MaxPool2d"
        del layer.forward
    with dl.detect_anomaly():
        assert net(x).grad_fn.name == "MaxPool2d"
    assert net(x).grad_fn.name == "ReLU"


class Doubled(nn.MaxPool2d):
    def forward(self, x):
        return 2.0 * super().forward(x) - 1.0


class Leaky(nn.ReLU):
    def forward(self, x):
        return dl.functional.leaky_relu(x)


@pytest.mark.parametrize("layers", [(nn.ReLU(), Doubled(2)), (Leaky(), nn.MaxPool2d(2))])
def test_a_layer_of_the_users_own_kind_keeps_its_place(layers):
    x = Tensor(-np.ones((40, 32, 8, 8), np.float32))
    assert np.array_equal(nn.Sequential(*layers)(x).numpy(), layers[1](layers[0](x)).numpy())
    with dl.no_grad():
        convolution = nn.Conv2d(32, 32, 3)
        expected = layers[1](layers[0](convolution(x))).numpy()
        np.testing.assert_array_equal(nn.Sequential(convolution, *layers)(x).numpy(), expected)


@pytest.mark.parametrize("replaced", [0, 1])
def test_a_forward_that_was_put_in_the_place_of_a_layers_own_is_called(replaced):
    net = nn.Sequential(nn.Conv2d(1, 1, 3), nn.ReLU())
    net[replaced].forward = lambda x: x * 0.0 + 7.0
    with dl.no_grad():
        assert net(Tensor(np.ones((1, 1, 3, 3), np.float32))).max().item() == 7.0


def test_sequential_refuses_what_is_no_module():
    with pytest.raises(TypeError, match="Sequential holds Modules, and '1' is a builtin_function_or_method"):
        nn.Sequential(nn.ReLU(), abs)
    with pytest.raises(TypeError, match="Sequential holds Modules, and '0' is the class ReLU"):
        nn.Sequential(nn.ReLU)
    net = nn.Sequential(a=nn.ReLU())
    with pytest.raises(KeyError, match="no module 'b' in Sequential; it has: a"):
        net["b"]
    with pytest.raises(IndexError, match="index 1 is out of range for a Sequential of 1 modules"):
        net[1]


def test_relu_in_place_is_refused():
    assert nn.ReLU(inplace=False)(Tensor([-1.0, 2.0])).tolist() == [0, 2]
    with pytest.raises(ValueError, match="ReLU writes into a new array: leave out inplace=True"):
        nn.ReLU(inplace=True)
