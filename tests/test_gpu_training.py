"""Training on the GPU gives what it gives on the CPU: optimizers, checkpoints, whole runs."""

from __future__ import annotations

import gc
import json

import numpy as np
import pytest
from gpu_cases import assert_close, assert_same_state, both, network, pictures

import minidl as dl
from minidl import Tensor, nn
from minidl import functional as F
from minidl.backend import device_of, products, to_device
from minidl.cli import main
from minidl.data import DataLoader, TensorDataset
from minidl.lazy import LazyProduct
from minidl.models import VGG
from minidl.optim import SGD, Adam, AdamW, OneCycleLR, RMSprop, StepLR, clip_grad_norm_
from minidl.training.checkpoint import load_checkpoint, save_checkpoint
from minidl.training.fit import fit
from minidl.training.interrupt import Interrupted

pytestmark = pytest.mark.gpu


# Networks


@pytest.mark.parametrize("batch_norm", [False, True])
def test_forward_and_backward(batch_norm):
    x, y = pictures()
    (model, _), (twin, _) = both(network(batch_norm))
    for net in (model, twin):
        device = next(net.parameters()).device
        loss = F.cross_entropy(net(x.to(device)), y.to(device))
        loss.backward()
        assert loss.device == device
    assert {p.grad.device for p in twin.parameters()} == {"gpu"}
    for found, expected in zip(twin.parameters(), model.parameters(), strict=True):
        assert_close(found.grad, expected.grad, 1e-3)
    assert_same_state(twin, model)
    model.eval(), twin.eval()
    with dl.no_grad():
        assert_close(twin(x.to("gpu")), model(x))  # Conv2d and ReLU in one pass


OPTIMIZERS = {
    "sgd": lambda p: SGD(p, 0.05),
    "momentum": lambda p: SGD(p, 0.05, momentum=0.9, weight_decay=1e-3),
    "nesterov": lambda p: SGD(p, 0.05, momentum=0.9, nesterov=True),
    "adam": lambda p: Adam(p, 1e-3, weight_decay=1e-3),
    "adamw": lambda p: AdamW(p, 1e-3),
    "rmsprop": lambda p: RMSprop(p, 1e-3, momentum=0.9, centered=True),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizers_clipping_and_schedules(name):
    """The gradients are given: Adam divides by small ones, and a rounding error would become a step."""
    (model, _), (twin, _) = both(nn.Sequential(nn.Linear(30, 20), nn.Linear(20, 7)))
    for net in (model, twin):
        device = next(net.parameters()).device
        optimizer = OPTIMIZERS[name](net.parameters())
        schedule = OneCycleLR(optimizer, 0.05, total_steps=8) if name == "momentum" else StepLR(optimizer, 3)
        rng = np.random.default_rng(0)
        for _ in range(6):
            for p in net.parameters():
                p.grad = Tensor(rng.standard_normal(p.shape).astype(np.float32)).to(device)
            clip_grad_norm_(net.parameters(), 1.0)
            optimizer.step()
            schedule.step()
        remembered = [a for state in optimizer.state.values() for a in state.values() if hasattr(a, "shape")]
        assert {device_of(array) for array in remembered} <= {device}
    assert_same_state(twin, model, 1e-5)


def test_a_wide_dense_layers_gradient_waits_as_its_factors():
    """Large enough to be a LazyProduct, and to be moved block by block."""
    rng = np.random.default_rng(0)
    x = Tensor(rng.standard_normal((4, 2048)).astype(np.float32))
    (model, _), (twin, _) = both(nn.Linear(2048, 4096))
    for net in (model, twin):
        device = next(net.parameters()).device
        optimizer = SGD(net.parameters(), 0.1, momentum=0.9)
        for step in range(2):
            optimizer.zero_grad()
            (net(x.to(device)) ** 2.0).mean().backward()
            assert type(net.weight.grad) is LazyProduct
            if step:
                clip_grad_norm_(net.parameters(), 0.1)  # looks at it as a whole
            optimizer.step()
    assert_same_state(twin, model, 1e-5)


@pytest.mark.parametrize("pieces", [{"cpu": 1 << 21, "gpu": 1000}])
def test_products_in_pieces(monkeypatch, pieces):
    monkeypatch.setattr(products, "PIECE", pieces)
    rng = np.random.default_rng(0)
    x, y = (rng.standard_normal(shape).astype(np.float32) for shape in ((50, 3), (3, 40)))
    product = products.Product(to_device(x, "gpu"), to_device(y, "gpu"))
    assert len(product.pieces()) > 1
    assert_close(product.whole(), x @ y, 1e-6)


def test_training_is_the_cpus_training():
    (model, _), (twin, _) = both(network(dropout=0.5))
    x, y = pictures(12)
    losses = []
    for net in (model, twin):
        device = next(net.parameters()).device
        dl.seed(1)  # the same dropout masks
        optimizer = SGD(net.parameters(), 0.02, momentum=0.9)
        loader = DataLoader(TensorDataset(x.data, y.data), 4, shuffle=True, generator=3)
        losses.append(fit(net, loader, loader, optimizer=optimizer, epochs=2).rows[-1]["train_loss"])
        assert {p.device for p in net.parameters()} == {device}
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)
    assert_same_state(twin, model, 1e-2)


def test_results_repeat_bit_by_bit():
    (model, _), (twin, _) = ((network().to("gpu"), "gpu") for _ in range(2))
    x, y = pictures(8)
    for net in (model, twin):
        optimizer = SGD(net.parameters(), 0.05, momentum=0.9)
        for _ in range(3):
            optimizer.zero_grad()
            F.cross_entropy(net(x.to("gpu")), y.to("gpu")).backward()
            optimizer.step()
    for (name, one), other in zip(model.state_dict().items(), twin.state_dict().values(), strict=True):
        np.testing.assert_array_equal(one, other, err_msg=name)


def test_dropout():
    x = Tensor(np.ones((64, 64), np.float32), requires_grad=True)
    layer = nn.Dropout(0.25)
    dl.seed(3)
    here = layer(x)
    dl.seed(3)
    there = layer(x.to("gpu"))
    np.testing.assert_array_equal(there.numpy(), here.numpy())
    assert layer.eval()(there) is there


def test_memory_stays_flat():
    import cupy

    model, (x, y) = network(dropout=0.5).to("gpu"), pictures(8)
    x, y = x.to("gpu"), y.to("gpu")
    optimizer = Adam(model.parameters())
    pool, used = cupy.get_default_memory_pool(), []
    gc.collect()
    gc.disable()  # the graph needs no garbage collector
    try:
        for step in range(100):
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
            del loss
            if step in (20, 99):
                used.append((pool.used_bytes(), pool.total_bytes()))
    finally:
        gc.enable()
    assert used[1] == used[0]


# State, checkpoints, runs


def test_a_state_dict_crosses_the_devices():
    (model, _), (twin, _) = both(network())
    state = twin.state_dict()
    assert {type(array) for array in state.values()} == {np.ndarray}
    dl.seed(9)
    for target in (VGG(**model.config), VGG(**model.config).to("gpu")):
        target.load_state_dict(state)
        assert_same_state(target, model, 0)
    twin.to("cpu")
    assert {t.device for t in [*twin.parameters(), *twin.buffers()]} == {"cpu"}
    parameter = next(twin.parameters())
    assert next(twin.to("gpu").parameters()) is parameter


@pytest.mark.parametrize("devices", [("cpu", "gpu"), ("gpu", "cpu"), ("gpu", "gpu")])
def test_a_checkpoint_crosses_the_devices(tmp_path, devices):
    pytest.importorskip("safetensors")
    x, y = pictures()

    def step(model, optimizer, device):
        optimizer.zero_grad()
        F.cross_entropy(model(x.to(device)), y.to(device)).backward()
        optimizer.step()

    first, second = devices
    model = network().to(first)
    optimizer = SGD(model.parameters(), 0.01, momentum=0.9)
    step(model, optimizer, first)
    save_checkpoint(tmp_path / "c.safetensors", model, optimizer)
    other = VGG(**model.config).to(second)
    resumed = SGD(other.parameters(), 0.01, momentum=0.9)
    load_checkpoint(tmp_path / "c.safetensors", other, resumed)
    assert_same_state(other, model, 0)
    step(model, optimizer, first)
    step(other, resumed, second)
    assert_same_state(other, model, 1e-3)


def test_interrupted_and_resumed_is_uninterrupted_bit_for_bit(tmp_path):
    pytest.importorskip("safetensors")
    import signal

    x, y = pictures(12)

    class StopAt:
        def __init__(self, loader, batch):
            self.loader, self.left = loader, batch
            self.seed, self.set_epoch = loader.seed, loader.set_epoch

        def __len__(self):
            return len(self.loader)

        def __iter__(self):
            for item in self.loader:
                self.left -= 1
                if self.left == 0:
                    signal.raise_signal(signal.SIGINT)
                yield item

    def run(folder, stop=None, resume=False):
        model = network(dropout=0.5).to("gpu")
        optimizer = Adam(model.parameters(), 1e-3)
        schedule = OneCycleLR(optimizer, 1e-2, total_steps=9)
        loader = DataLoader(TensorDataset(x.data, y.data), 4, shuffle=True, generator=3)
        loader = loader if stop is None else StopAt(loader, stop)
        fit(model, loader, optimizer=optimizer, epochs=3, schedule=schedule, folder=folder, resume=resume)
        return model.state_dict()

    expected = run(tmp_path / "whole")
    with pytest.raises(Interrupted):
        run(tmp_path / "part", stop=5)
    found = run(tmp_path / "part", resume=True)
    for name in expected:
        np.testing.assert_array_equal(found[name], expected[name], err_msg=name)


@pytest.fixture
def run(capsys):
    def call(*arguments):
        status = main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        assert status == 0, err
        return out

    return call


@pytest.mark.parametrize("train", ["last", "dense", "all"])
def test_finetune_evaluate_and_predict(run, drawn_folder, tiny_vgg, home, tmp_path, train):
    out = {}
    for device in ("gpu", "cpu"):
        options = ["--weights", tiny_vgg, "--train", train, "--epochs", 2, "--device", device]
        run("finetune", drawn_folder, *options, "--out", tmp_path / device)
        rows = json.loads((tmp_path / device / "history.json").read_text())
        rows = rows["rows"] if isinstance(rows, dict) else rows
        out[device] = [(row["train_loss"], row["valid_loss"]) for row in rows]
        if train != "all":
            assert len(list((home / "features").iterdir())) == 2  # computed once, for both devices
    np.testing.assert_allclose(out["gpu"], out["cpu"], rtol=1e-2)
    pictures = sorted((drawn_folder / "valid").rglob("*.*"))[:3]
    said = [run("predict", tmp_path / "gpu", *pictures, "--device", device) for device in ("gpu", "cpu")]
    assert [line.split("\t")[:2] for line in said[0].splitlines()] == [
        line.split("\t")[:2] for line in said[1].splitlines()
    ]
    said = [run("evaluate", tmp_path / "gpu", drawn_folder / "valid", "--device", d) for d in ("gpu", "cpu")]
    assert said[0].split()[:2] == said[1].split()[:2]


def test_train_from_scratch(run, drawn_folder, tmp_path):
    run("train", drawn_folder, "--size", 16, "--epochs", 1, "--device", "gpu", "--out", tmp_path / "run")
    assert (tmp_path / "run" / "model.safetensors").exists()
