"""The schedules: PyTorch's learning rate at each of 50 steps, and after a resumption."""

from __future__ import annotations

import warnings

import pytest

from minidl import Tensor, nn, optim

SCHEDULES = {
    "StepLR": lambda o, opt: o.StepLR(opt, step_size=7, gamma=0.5),
    "MultiStepLR": lambda o, opt: o.MultiStepLR(opt, [5, 20, 20, 33]),
    "LinearLR": lambda o, opt: o.LinearLR(opt),
    "LinearLR, down": lambda o, opt: o.LinearLR(opt, 1.0, 0.1, total_iters=30),
    "CosineAnnealingLR": lambda o, opt: o.CosineAnnealingLR(opt, T_max=20, eta_min=1e-3),
    "OneCycleLR": lambda o, opt: o.OneCycleLR(opt, max_lr=0.5, total_steps=51),
    "OneCycleLR, linear": lambda o, opt: o.OneCycleLR(
        opt, [0.5, 2.0], epochs=3, steps_per_epoch=20, pct_start=0.1, anneal_strategy="linear", div_factor=10
    ),
    "OneCycleLR, momentum kept": lambda o, opt: o.OneCycleLR(opt, 1.0, total_steps=60, cycle_momentum=False),
    "SequentialLR": lambda o, opt: o.SequentialLR(
        opt,
        [o.LinearLR(opt, 0.1, 1.0, 5), o.CosineAnnealingLR(opt, 30), o.StepLR(opt, 4)],
        milestones=[5, 30],
    ),
}


def optimizer_of(library, parameter, name="SGD"):
    options = {"SGD": {"momentum": 0.9}, "Adam": {"betas": (0.9, 0.99)}}[name]
    groups = [{"params": [parameter()], "lr": 0.2}, {"params": [parameter()], "lr": 0.3}]
    return getattr(library, name)(groups, lr=0.1, **options)


def ours(name="SGD"):
    return optimizer_of(optim, lambda: nn.Parameter([1.0]), name)


def settings_of(optimizer):
    """What a schedule may change, of every group."""
    return [(g["lr"], g.get("momentum"), g.get("betas")) for g in optimizer.param_groups]


def flat(settings):
    return [
        x
        for group in settings
        for value in group
        if value is not None
        for x in (value if isinstance(value, tuple) else (value,))
    ]


@pytest.mark.parity
@pytest.mark.parametrize("optimizer_name", ["SGD", "Adam"])
@pytest.mark.parametrize("name", SCHEDULES)
def test_fifty_steps_like_pytorch(name, optimizer_name):
    torch = pytest.importorskip("torch")
    a = ours(optimizer_name)
    b = optimizer_of(torch.optim, lambda: torch.nn.Parameter(torch.ones(1)), optimizer_name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch's remarks on the order of the calls
        schedule, theirs = SCHEDULES[name](optim, a), SCHEDULES[name](torch.optim.lr_scheduler, b)
        for step in range(50):
            assert flat(settings_of(a)) == pytest.approx(flat(settings_of(b)), rel=1e-9, abs=1e-12), step
            assert schedule.get_last_lr() == [group["lr"] for group in a.param_groups]
            schedule.step()
            theirs.step()


@pytest.mark.parametrize("name", SCHEDULES)
def test_resumed_schedules_go_on_exactly(name):
    through = ours()
    schedule = SCHEDULES[name](optim, through)
    for _ in range(23):
        schedule.step()
    resumed = ours()
    resumed.load_state_dict(through.state_dict())
    continued = SCHEDULES[name](optim, resumed)
    continued.load_state_dict(schedule.state_dict())
    for _ in range(20):
        assert settings_of(resumed) == settings_of(through)
        schedule.step()
        continued.step()


def test_steps_of_the_optimizer_use_the_rate():
    p = nn.Parameter([1.0])
    optimizer = optim.SGD([p], lr=0.5)
    schedule = optim.StepLR(optimizer, 1, gamma=0.5)
    for _ in range(2):
        p.grad = Tensor([1.0])
        optimizer.step()
        schedule.step()
    assert p.item() == 0.25


def test_wrong_arguments():
    with pytest.raises(TypeError, match="a schedule needs an Optimizer, got Linear"):
        optim.StepLR(nn.Linear(1, 1), 3)
    with pytest.raises(ValueError, match="needs total_steps, or both epochs and steps_per_epoch"):
        optim.OneCycleLR(ours(), 1.0, epochs=3)
    with pytest.raises(ValueError, match='"cos" or "linear", got \'cubic\''):
        optim.OneCycleLR(ours(), 1.0, 5, anneal_strategy="cubic")
    with pytest.raises(ValueError, match="one for each of 2 groups, got 3"):
        optim.OneCycleLR(ours(), [1.0, 1.0, 1.0], 5)
    schedule = optim.OneCycleLR(ours(), 1.0, total_steps=2)
    schedule.step()
    schedule.step()
    with pytest.raises(ValueError, match="step 3 lies beyond the 2 steps"):
        schedule.step()
    optimizer = ours()
    schedules = [optim.StepLR(optimizer, 1), optim.StepLR(optimizer, 2)]
    with pytest.raises(ValueError, match="2 schedules need 1 milestones, got 0"):
        optim.SequentialLR(optimizer, schedules, [])
    with pytest.raises(ValueError, match="made on its own optimizer"):
        optim.SequentialLR(ours(), [optim.StepLR(ours(), 1)], [])
