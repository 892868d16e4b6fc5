"""The optimizers: PyTorch's numbers, in place, without large temporaries, resumable bit for bit."""

from __future__ import annotations

import copy
import tracemalloc

import numpy as np
import pytest

import minidl as dl
from minidl import Tensor, nn, optim
from minidl.backend.blocks import BLOCK
from minidl.backend.threads import get_num_threads
from minidl.errors import DeviceError, GradientError, WeightsError

CASES = [
    ("SGD", {"lr": 0.1}),
    ("SGD", {"lr": 0.1, "weight_decay": 0.01}),
    ("SGD", {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.01}),
    ("SGD", {"lr": 0.1, "momentum": 0.9, "dampening": 0.3}),
    ("SGD", {"lr": 0.1, "momentum": 0.9, "nesterov": True}),
    ("RMSprop", {}),
    ("RMSprop", {"alpha": 0.8, "weight_decay": 0.1, "eps": 1e-3}),
    ("RMSprop", {"momentum": 0.9}),
    ("RMSprop", {"centered": True}),
    ("RMSprop", {"centered": True, "momentum": 0.5}),
    ("Adam", {}),
    ("Adam", {"lr": 0.1, "betas": (0.8, 0.9), "eps": 1e-4, "weight_decay": 0.1}),
    ("AdamW", {"lr": 0.1}),
    ("AdamW", {"lr": 0.1, "weight_decay": 0.5}),
]
NAMES = ["SGD", "RMSprop", "Adam", "AdamW"]


def gradients(shapes, steps, dtype="float64"):
    rng = np.random.default_rng(0)
    return [[np.asarray(rng.standard_normal(shape), dtype) for shape in shapes] for _ in range(steps)]


def run(optimizer, parameters, all_gradients):
    for values in all_gradients:
        for parameter, value in zip(parameters, values, strict=True):
            parameter.grad = Tensor(value)
        optimizer.step()


@pytest.mark.parity
@pytest.mark.parametrize(("name", "options"), CASES)
def test_twenty_steps_like_pytorch(name, options):
    torch = pytest.importorskip("torch")
    shapes = [(3, 4), (5,), ()]
    values = gradients(shapes, 1)[0]
    ours = [nn.Parameter(value.copy()) for value in values]
    theirs = [torch.nn.Parameter(torch.tensor(value)) for value in values]
    optimizer = getattr(optim, name)(ours, **options)
    their_optimizer = getattr(torch.optim, name)(theirs, **options)
    for step_gradients in gradients(shapes, 20):
        for a, b, value in zip(ours, theirs, step_gradients, strict=True):
            a.grad, b.grad = Tensor(value), torch.tensor(value)
        optimizer.step()
        their_optimizer.step()
        for a, b in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(a.numpy(), b.detach().numpy(), rtol=1e-10)


@pytest.mark.parity
@pytest.mark.parametrize("name", NAMES)
def test_pytorchs_defaults(name):
    torch = pytest.importorskip("torch")
    ours = getattr(optim, name)([nn.Parameter([1.0])]).defaults
    theirs = getattr(torch.optim, name)([torch.nn.Parameter(torch.ones(1))]).defaults
    assert ours == {option: theirs[option] for option in ours}


@pytest.mark.parametrize(("name", "options"), CASES)
def test_resuming_changes_no_bit(name, options):
    shapes = [(40, 1000), (3,)]  # the first takes more than one block
    values, steps = gradients(shapes, 1, "float32")[0], gradients(shapes, 6, "float32")

    through = [nn.Parameter(value.copy()) for value in values]
    run(getattr(optim, name)(through, **options), through, steps)

    before = [nn.Parameter(value.copy()) for value in values]
    first = getattr(optim, name)(before, **options)
    run(first, before, steps[:3])
    state = copy.deepcopy(first.state_dict())
    after = [nn.Parameter(parameter.numpy().copy()) for parameter in before]
    second = getattr(optim, name)(after)
    second.load_state_dict(state)
    run(second, after, steps[3:])
    for a, b in zip(through, after, strict=True):
        assert a.dtype == np.float32
        np.testing.assert_array_equal(a.numpy(), b.numpy())
    for group in second.param_groups:
        assert {name: group[name] for name in options} == options


@pytest.mark.parametrize(("name", "options"), CASES)
def test_no_temporary_of_the_size_of_the_model(name, options):
    parameter = nn.Parameter(np.zeros((2500, 4000), np.float32))
    parameter.grad = Tensor(np.ones((2500, 4000), np.float32))
    optimizer = getattr(optim, name)([parameter], **options)
    optimizer.step()  # makes the state
    tracemalloc.start()
    try:
        optimizer.step()
        optim.clip_grad_norm_([parameter], 1.0)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 5 * 4 * BLOCK["cpu"] * get_num_threads()  # bytes: some blocks for each thread


@pytest.mark.parametrize("name", NAMES)
def test_parameters_and_gradients_of_any_layout(name):
    values = np.random.default_rng(0).standard_normal((2, 6, 5, 4)).astype(np.float32)
    plain = nn.Parameter(values[0].copy())
    strided = nn.Parameter(np.asfortranarray(values[0]))
    view = nn.Parameter(np.repeat(values[0], 2, axis=-1)[..., ::2])
    plain.grad, strided.grad = Tensor(values[1]), Tensor(values[1])
    view.grad = Tensor(np.broadcast_to(values[1], (1, 6, 5, 4))[0])
    memory = [p.data for p in (plain, strided, view)]
    optimizer = getattr(optim, name)([plain, strided, view])
    optimizer.step()
    optimizer.step()
    for p, before in zip((plain, strided, view), memory, strict=True):
        assert p.data is before  # in place
        np.testing.assert_array_equal(p.numpy(), plain.numpy())
    assert (plain.numpy() != values[0]).all()


def test_groups_have_options_of_their_own():
    a, b, c = (nn.Parameter([1.0]) for _ in range(3))
    optimizer = optim.SGD([{"params": [a], "lr": 0.5}, {"params": b}], lr=0.25)
    optimizer.add_param_group({"params": iter([c]), "weight_decay": 1.0})
    for p in (a, b, c):
        p.grad = Tensor([1.0])
    optimizer.step()
    assert [p.item() for p in (a, b, c)] == [0.5, 0.75, 0.5]


def test_without_a_gradient_nothing_moves_and_nothing_is_kept():
    a, b = nn.Parameter([1.0]), nn.Parameter([1.0])
    b.grad = Tensor([1.0])
    optimizer = optim.AdamW([a, b])
    optimizer.step()
    assert a.item() == 1.0
    assert list(optimizer.state) == [b]
    b.grad.data[...] = np.nan
    optimizer.zero_grad(set_to_none=False)
    assert b.grad.item() == 0.0
    optimizer.zero_grad()
    assert b.grad is None


def test_parameters_that_moved_away_from_their_state_are_not_updated(monkeypatch):
    (p,) = parameters = [Tensor(np.ones(3, np.float32), requires_grad=True)]
    optimizer = optim.SGD(parameters, 0.1, momentum=0.9)
    p.grad = Tensor(np.ones(3, np.float32))
    optimizer.step()
    monkeypatch.setattr(optim.optimizer, "device_of", lambda array: "gpu")
    with pytest.raises(DeviceError, match=r"of shape \(3,\) is on gpu, the parameter on cpu: make"):
        optimizer.step()


def test_a_graph_from_before_the_step_refuses_to_go_backward():
    p = nn.Parameter([2.0])
    loss = (p * p).sum()
    p.grad = Tensor([1.0])
    optim.SGD([p]).step()
    with pytest.raises(GradientError, match="changed in place since"):
        loss.backward()


def test_a_real_loss_goes_down():
    dl.seed(0)
    rng = np.random.default_rng(0)
    x = Tensor(rng.standard_normal((64, 5)).astype(np.float32))
    targets = (x.numpy()[:, 0] * x.numpy()[:, 1] > 0).astype(np.int64)
    for name, lr in (("SGD", 0.5), ("RMSprop", 0.01), ("Adam", 0.02), ("AdamW", 0.02)):
        net = nn.Sequential(nn.Linear(5, 32), nn.Tanh(), nn.Linear(32, 2))
        optimizer = getattr(optim, name)(net.parameters(), lr=lr)
        for _ in range(150):
            optimizer.zero_grad()
            loss = dl.functional.cross_entropy(net(x), targets)
            loss.backward()
            optimizer.step()
        assert loss.item() < 0.2, name


def test_wrong_parameters_and_options():
    p = nn.Parameter([1.0])
    with pytest.raises(TypeError, match=r"got the module Linear: pass model.parameters\(\)"):
        optim.SGD(nn.Linear(2, 2))
    with pytest.raises(TypeError, match=r"expected parameters, got int: pass model.parameters\(\)"):
        optim.SGD(3)
    with pytest.raises(TypeError, match="expected parameters, got str"):
        optim.SGD(["weight"])
    with pytest.raises(ValueError, match="the list of parameters is empty"):
        optim.SGD([])
    with pytest.raises(ValueError, match="lr must not be negative, got -1"):
        optim.Adam([p], lr=-1)
    with pytest.raises(ValueError, match="lr must not be negative, got nan"):
        optim.Adam([p], lr=float("nan"))
    with pytest.raises(ValueError, match=r"each beta lies in \[0, 1\), got \(0.9, 1.0\)"):
        optim.Adam([p], betas=(0.9, 1.0))
    with pytest.raises(ValueError, match="nesterov needs momentum > 0 and dampening = 0"):
        optim.SGD([p], nesterov=True)
    with pytest.raises(TypeError, match="SGD has no option 'betas': expected one of lr, momentum"):
        optim.SGD([{"params": [p], "betas": (0.9, 0.99)}])
    with pytest.raises(ValueError, match=r"a parameter of shape \(1,\) appears twice"):
        optim.SGD([{"params": [p]}, {"params": [p]}])
    with pytest.raises(
        ValueError, match=r"only leaves can be optimized, and a tensor of shape \(1,\) was computed"
    ):
        optim.SGD([p * 2.0])


def test_a_state_of_another_model_is_refused_and_changes_nothing():
    p, q = nn.Parameter(np.ones(2, np.float32)), nn.Parameter(np.ones(3, np.float32))
    for parameter in (p, q):
        parameter.grad = Tensor(parameter.numpy())
    first, second = optim.SGD([p], lr=1.0, momentum=0.9), optim.SGD([q], lr=2.0, momentum=0.9)
    first.step()
    second.step()
    velocity = second.state[q]["momentum_buffer"]
    with pytest.raises(
        WeightsError, match=r"momentum_buffer of parameter 0 has shape \(2,\), the parameter \(3,\)"
    ):
        second.load_state_dict(first.state_dict())
    astray = {**first.state_dict(), "state": {-1: {}}}
    with pytest.raises(WeightsError, match="the state is of parameter -1, this optimizer has 0 to 0"):
        second.load_state_dict(astray)
    with pytest.raises(WeightsError, match=r"groups of \[1\] parameters, this optimizer has groups of \[2\]"):
        optim.SGD([p, q]).load_state_dict(first.state_dict())
    assert second.state[q]["momentum_buffer"] is velocity
    assert second.param_groups[0]["lr"] == 2.0


def test_the_state_of_another_kind_of_optimizer_is_refused():
    p = nn.Parameter(np.ones(2))
    sgd, adam = optim.SGD([p], lr=0.5, momentum=0.9), optim.Adam([p], lr=0.25)
    with pytest.raises(WeightsError, match=r"^the state has no betas, eps: it is not of Adam$"):
        adam.load_state_dict(sgd.state_dict())
    with pytest.raises(
        WeightsError, match=r"^the state has no dampening, momentum, nesterov: it is not of SGD$"
    ):
        sgd.load_state_dict(adam.state_dict())
    assert adam.param_groups[0]["lr"] == 0.25


def test_a_step_without_any_gradient():
    used, unused = (nn.Parameter(np.ones(2, "float32")) for _ in range(2))
    optimizer = optim.SGD([used, unused], lr=0.1)
    with pytest.raises(
        GradientError,
        match=r"none of the parameters has a gradient: call loss\.backward\(\) before step\(\), with a loss "
        r"that was computed from them; zero_grad\(\) belongs before backward\(\)",
    ):
        optimizer.step()
    (used * 2.0).sum().backward()
    optimizer.step()
    np.testing.assert_allclose(used.numpy(), 0.8, rtol=1e-6)
    np.testing.assert_array_equal(unused.numpy(), 1)
