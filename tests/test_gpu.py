"""Tensors, convolutions and what is told of gradients, on the GPU. Operations: see tests/functional."""

from __future__ import annotations

import numpy as np
import pytest
from gpu_cases import assert_close, both, network, pictures

import minidl as dl
from minidl import Tensor, nn
from minidl import functional as F
from minidl.backend import as_numpy, device_of, memory, to_device
from minidl.backend.im2col import Window, col2im, im2col
from minidl.errors import AnomalyError, DeviceError, GradientError
from minidl.functional import gpu_conv, im2col_conv
from minidl.nn.summary import summary
from minidl.optim import Adam

pytestmark = pytest.mark.gpu


# Tensors


def test_a_tensor_says_where_it_is():
    x = Tensor([[1.0, 2.0], [3.0, 4.0]], requires_grad=True).to("gpu")
    assert (x.device, x.shape, x.dtype, x.requires_grad, x.is_leaf) == ("gpu", (2, 2), np.float32, True, True)
    assert x.to("gpu") is x
    assert x.to("cpu").device == "cpu"
    text = "Tensor([[1., 2.],\n        [3., 4.]], device='gpu', requires_grad=True)"
    assert repr(x) == text
    assert repr(x * 2.0) == "Tensor([[2., 4.],\n        [6., 8.]], device='gpu', grad_fn=<Multiply>)"
    assert " · gpu · min 1, mean 2.5, max 4" in x._repr_html_()
    assert x.tolist() == [[1, 2], [3, 4]]
    assert x[1, 0].item() == 3
    assert (float(x[0, 0]), int(x[0, 1]), bool(x[0, 0] > 0), len(x)) == (1.0, 2, True, 2)
    assert [row.tolist() for row in x] == [[1, 2], [3, 4]]
    assert isinstance(x.numpy(), np.ndarray)
    assert np.asarray(x).tolist() == [[1, 2], [3, 4]]


def test_numbers_lists_and_numpy_arrays_come_along():
    x = Tensor([1.0, 2.0]).to("gpu")
    for y in (x + 1, 1 + x, x + np.ones(2, np.float32), np.ones(2, np.float32) + x):
        assert (y.device, y.dtype, y.tolist()) == ("gpu", np.float32, [2, 3])
    x[0] = 5.0
    x[np.array([1])] = np.array([7.0], np.float32)
    x += 1
    assert x.tolist() == [6, 8]


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int32", "int64", "uint8", "bool"])
def test_every_type(dtype):
    here = Tensor(np.array([[0, 1, 2], [3, 1, 0]]).astype(dtype))
    there = here.to("gpu")
    for f in (
        lambda x: x + x,
        lambda x: x * 2,
        lambda x: x.sum(),
        lambda x: x.sum(axis=0),
        lambda x: x.max(axis=1),
        lambda x: x == x,
        lambda x: x > 1,
        lambda x: x / 2,
        lambda x: x.mean(),
        lambda x: x.T.reshape(6),
        lambda x: x.astype("float32").exp(),
        lambda x: x[:, ::-1],
        lambda x: x.argmax(axis=1),
        lambda x: F.concatenate([x, x]),
        lambda x: x @ x.T if x.dtype.kind == "f" else x,
        lambda x: F.softmax(x) if x.dtype.kind == "f" else x,
    ):
        y, z = f(here), f(there)
        assert (z.device, z.dtype, z.shape) == ("gpu", y.dtype, y.shape)
        np.testing.assert_allclose(z.numpy(), y.numpy(), rtol=2e-3 if dtype == "float16" else 1e-6)


@pytest.mark.parametrize("dtype", ["float16", "float64"])
def test_a_network_in_another_type(dtype):
    model, (x, y) = network(batch_norm=False), pictures()
    found = []
    for net, device in both(model.astype("float64")):
        net.astype(dtype if device == "gpu" else "float64")
        loss = F.cross_entropy(net(Tensor(x.data.astype(dtype)).to(device)), y.to(device))
        loss.backward()
        found.append([loss, *(p.grad for p in net.parameters())])
    assert {z.dtype for z in found[1]} == {np.dtype(dtype)}
    for z, expected in zip(found[1], found[0], strict=True):
        assert_close(z.astype("float64"), expected.astype("float64"), 2e-2 if dtype == "float16" else 1e-10)


def test_empty_arrays():
    x = Tensor(np.zeros((0, 3, 8, 8), np.float32), requires_grad=True).to("gpu")
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 2))
    y = model.to("gpu")(x)
    assert (y.shape, y.device) == ((0, 2), "gpu")
    y.sum().backward()
    assert x.grad.shape == x.shape


def test_arrays_that_do_not_lie_in_one_piece():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, 12, 10, 6)).astype(np.float32)
    w = rng.standard_normal((4, 6, 3, 3)).astype(np.float32)
    views = (
        lambda x: x[:, ::2],
        lambda x: x[:, 6:][:, :, ::-1, ::-1],
        lambda x: x.swapaxes(2, 3)[:, :6],
        lambda x: x[:1, :6].repeat(3, 0)[::2],
    )
    for view in views:
        here = Tensor(view(x), requires_grad=True), Tensor(w, requires_grad=True)
        there = Tensor(view(to_device(x, "gpu")), requires_grad=True), Tensor(w, requires_grad=True).to("gpu")
        for a, b in (here, there):
            y = F.max_pool2d(F.relu(F.conv2d(a, b, padding=1)), 2)
            (y * y).sum().backward()
        for z, expected in zip(there, here, strict=True):
            assert_close(z.grad, expected.grad)


def test_infinity_and_nan_are_what_they_are_on_the_cpu():
    x = np.random.default_rng(0).standard_normal((1, 1, 6, 8)).astype(np.float32)
    x[0, 0, 0, 0], x[0, 0, 2, 3], x[0, 0, 5, 5] = np.nan, np.inf, -np.inf
    x[0, 0, 4:6, :2] = -np.inf  # no pixel of this window is larger than another
    found = []
    for device in ("cpu", "gpu"):
        a = Tensor(x, requires_grad=True).to(device)
        y, indices = F.max_pool2d(a, 2, return_indices=True)
        gradients = dl.grad(y, a, y.detach()), dl.grad(F.relu(a), a, a.detach())
        found.append([y, indices, *gradients, F.max_pool2d(a.detach(), 3, 2, 1)])
    for there, here in zip(found[1], found[0], strict=True):
        np.testing.assert_array_equal(there.numpy(), here.numpy())
    window, w = Window((3, 3), padding=(1, 1)), np.ones((1, 1, 3, 3), np.float32)
    with np.errstate(invalid="ignore"):  # ∞ − ∞
        y = im2col_conv.conv2d(x, w, None, window, 1, relu=True)
    z = gpu_conv.conv2d(to_device(x, "gpu"), to_device(w, "gpu"), None, window, 1, relu=True)
    np.testing.assert_allclose(as_numpy(z), y, rtol=1e-5)


# Tensors of two devices: one line that says what to do


def zeros(*shape):
    return Tensor(np.zeros(shape, np.float32))


def convolved_and_pooled(x):
    """Where nothing is recorded, the convolution does all three."""
    network = nn.Sequential(nn.Conv2d(32, 32, 3), nn.ReLU(), nn.MaxPool2d(2)).to("gpu")
    with dl.no_grad():
        return network(x)


def here_and_there():
    return Tensor([[1.0, 2.0]], requires_grad=True), Tensor([[1.0, 2.0]], requires_grad=True).to("gpu")


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda a, b: a + b, "Add"),
        (lambda a, b: b * a, "Multiply"),
        (lambda a, b: a / b, "Divide"),
        (lambda a, b: a**b, "Power"),
        (lambda a, b: a @ b.T, "MatMul"),
        (lambda a, b: b @ a.T, "MatMul"),
        (lambda a, b: F.maximum(a, b), "Maximum"),
        (lambda a, b: a < b, "less"),
        (lambda a, b: b == a, "equal"),
        (lambda a, b: F.concatenate([a, b]), "Concatenate"),
        (lambda a, b: F.where(a > 0, b, b), "Where"),
        (lambda a, b: F.linear(a, b), "Linear"),
        (lambda a, b: F.linear(b, a), "Linear"),
        (lambda a, b: F.mse_loss(a, b.detach()), "Subtract"),
        (lambda a, b: F.cross_entropy(b, Tensor([1])), "the loss"),
        (lambda a, b: F.cross_entropy(a, Tensor([1]).to("gpu")), "the loss"),
        (lambda a, b: F.cross_entropy(b, [1], weight=Tensor([1.0, 2.0])), "the loss"),
        (lambda a, b: nn.Conv2d(1, 2, 3)(zeros(1, 1, 8, 8).to("gpu")), "Conv2d"),
        (lambda a, b: nn.Conv2d(1, 2, 3).to("gpu")(zeros(1, 1, 8, 8)), "Conv2d"),
        (lambda a, b: nn.Conv2d(32, 32, 3).to("gpu")(zeros(4, 32, 32, 32)), "Conv2d"),
        (lambda a, b: convolved_and_pooled(zeros(4, 32, 32, 32)), "Conv2d"),
        (lambda a, b: nn.BatchNorm1d(2).to("gpu")(a[[0, 0]]), "BatchNorm"),
    ],
)
def test_mixed_devices_are_named(call, name):
    with pytest.raises(DeviceError) as caught:
        call(*here_and_there())
    message = str(caught.value)
    assert message.startswith(f"{name} got tensors of two devices: ")
    assert (" on cpu" in message, " on gpu" in message) == (True, True)
    assert message.endswith(". Use .to()")
    assert "\n" not in message


def test_what_was_computed_does_not_move():
    with pytest.raises(GradientError, match="cannot move: move its inputs"):
        (here_and_there()[1] * 2.0).to("cpu")


def test_an_optimizer_that_was_left_behind_says_so():
    model, (x, y) = nn.Linear(3, 3), pictures()
    optimizer = Adam(model.parameters())
    F.cross_entropy(model(x[:, :, 0, 0]), y).backward()
    optimizer.step()
    model.to("gpu")
    message = (
        r"the state of a parameter of shape \(3, 3\) is on cpu, the parameter on gpu: make the optimizer "
    )
    with pytest.raises(DeviceError, match=message):
        optimizer.step()
    optimizer.load_state_dict(optimizer.state_dict())  # the fix that it names
    optimizer.step()


# Convolutions


def test_the_plain_convolution_is_one_switch_away():
    x, _ = pictures()
    model = network(batch_norm=False).eval()
    expected = model(x)
    model.to("gpu")
    before = dl.conv_algorithm()
    try:
        for name in ("im2col", "strips", "rows", "winograd", "auto"):
            dl.conv_algorithm(name)
            assert_close(model(x.to("gpu")), expected)
    finally:
        dl.conv_algorithm(before)


def test_kernels_with_64_bit_integers_compute_the_same(monkeypatch):
    from minidl.backend import kernels

    x = to_device(np.random.default_rng(0).standard_normal((2, 3, 7, 6)).astype(np.float32), "gpu")
    window = Window((3, 2), (2, 1), (1, 1), (1, 2))
    columns = im2col(x, window)
    folded = col2im(columns, window, (7, 6))
    monkeypatch.setattr(kernels, "integer_for", lambda threads: "long long")
    np.testing.assert_array_equal(as_numpy(im2col(x, window)), as_numpy(columns))
    np.testing.assert_array_equal(as_numpy(col2im(columns, window, (7, 6))), as_numpy(folded))


def test_more_elements_than_32_bits_can_count():
    """2³¹ + 2²⁴ columns, of float16: indices that overflow would read or write elsewhere."""
    import cupy

    free, _ = cupy.cuda.Device().mem_info
    if free < 16 << 30:
        pytest.skip("needs 16 GB of GPU memory")
    x = cupy.zeros((1, 129, 4096, 4096), cupy.float16)  # 2.16 · 10⁹ pixels
    x[0, -1] = cupy.arange(4096).astype(cupy.float16)
    columns = im2col(x, Window((1, 1), padding=(0, 0)))
    assert columns.size > 2**31
    assert bool((columns[0, -1, 0, 0] == x[0, -1]).all())
    assert not bool(columns[0, :2].any())
    folded = col2im(columns, Window((1, 1)), (4096, 4096), out=x)
    assert bool((folded[0, -1, 7] == cupy.arange(4096).astype(cupy.float16)).all())
    y = F.relu(Tensor(columns.reshape(-1)))
    assert (y[-1].item(), y[0].item(), y[4097].item()) == (x[0, -1, -1, -1].item(), 0, 0)
    del x, columns, folded, y
    cupy.get_default_memory_pool().free_all_blocks()


# Gradients, and what is told of them


def test_gradcheck():
    rng = np.random.default_rng(0)
    x, w = (to_device(rng.standard_normal(shape), "gpu") for shape in ((2, 3, 5, 5), (4, 3, 3, 3)))
    result = dl.gradcheck(lambda x, w: F.conv2d(x, w, padding=1).tanh(), Tensor(x), Tensor(w), order=2)
    assert result, str(result)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Tanh(), nn.Flatten(), nn.Linear(36, 2))
    result = dl.gradcheck(model.to("gpu"), Tensor(x))
    assert result, str(result)


class WrongTanh(dl.Function):
    """Its backward forgets the square."""

    def forward(self, x):
        from minidl.backend import array_module

        y = array_module(x).tanh(x)
        self.save(output=y)
        return y

    def backward(self, dy):
        (y,) = self.saved
        return dy * (1.0 - y)


def test_a_wrong_gradient_is_diagnosed():
    x = np.random.default_rng(0).standard_normal((3, 4))
    here, there = (dl.gradcheck(WrongTanh, Tensor(to_device(x, device))) for device in ("cpu", "gpu"))
    assert not there
    first = lambda result: [(c.name, c.wrong, c.cause) for c in result.checks]  # noqa: E731
    assert first(there) == first(here)


def test_explain_draw_and_summary():
    told = []
    for device in ("cpu", "gpu"):
        a, b = (Tensor(value, requires_grad=True).to(device) for value in (2.0, [1.0, -3.0]))
        c = F.relu(a * b) + 1.0
        loss = (c * c).sum()
        told.append((str(dl.explain(loss)), str(dl.draw(loss))))
        loss.backward()
    assert told[0] == told[1]
    model = network()
    here = str(summary(model, (3, 16, 16)))
    assert str(summary(model.to("gpu"), (3, 16, 16))) == here
    x, y = pictures()
    loss = F.cross_entropy(model(x.to("gpu")), y.to("gpu"))
    assert "conv1_1" in str(dl.explain(loss, depth=None))
    assert "19 operations, 10,363 parameters that learn" in str(dl.draw(loss))


def test_anomaly_mode_names_the_operation():
    x = Tensor([1.0, -1.0], requires_grad=True).to("gpu")
    message = r"Log made 1 NaN in its output of shape \(2,\): x from -1 to 1"
    with dl.detect_anomaly(), pytest.raises(AnomalyError, match=message):
        x.log()


def test_no_memory_of_the_cpu_is_lent_to_the_gpu():
    import cupy

    lent = [block.memory for block in memory.Loan.arena.blocks]
    x = memory.empty(cupy, (1 << 20,), np.float32)
    assert (device_of(x), x.nbytes) == ("gpu", 4 << 20)
    assert [block.memory for block in memory.Loan.arena.blocks] == lent
