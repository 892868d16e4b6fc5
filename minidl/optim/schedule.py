"""Learning-rate schedules: the learning rate as a function of the step.

`schedule.step()` goes one step on, once an epoch or once a batch as you choose, and writes the new rate into
each group of the optimizer. Every schedule is a closed formula of the step t = 0, 1, 2, …, so that it can be
continued anywhere. Names, arguments and numbers are PyTorch's.
"""

from __future__ import annotations

import bisect
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from minidl.optim.optimizer import Optimizer


class LRScheduler(ABC):
    """Base class. A subclass gives the formula, in `options`.

    Attributes:
        last_epoch: the step t, 0 at first.
        base_lrs: the learning rate that each group started with.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        if not isinstance(optimizer, Optimizer):
            raise TypeError(f"a schedule needs an Optimizer, got {type(optimizer).__name__}")
        self.optimizer = optimizer
        self.last_epoch = 0
        self.base_lrs = [group.setdefault("initial_lr", group["lr"]) for group in optimizer.param_groups]
        self._apply()

    @abstractmethod
    def options(self, t: int, number: int) -> dict[str, Any]:
        """What group `number` gets at step t: {"lr": …}."""

    def step(self) -> None:
        """Go one step on: call it after `optimizer.step()`."""
        self.last_epoch += 1
        self._apply()

    def _apply(self) -> None:
        for number, group in enumerate(self.optimizer.param_groups):
            group.update(self.options(self.last_epoch, number))

    def get_last_lr(self) -> list[float]:
        """The learning rate of each group now."""
        return [group["lr"] for group in self.optimizer.param_groups]

    def state_dict(self) -> dict[str, Any]:
        """Plain numbers; the arguments of the constructor are not among them."""
        return {"last_epoch": self.last_epoch, "base_lrs": list(self.base_lrs)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where `state` was taken, with the learning rates of that step."""
        self.last_epoch, self.base_lrs = state["last_epoch"], list(state["base_lrs"])
        self._apply()


class StepLR(LRScheduler):
    """lr = base · γ^⌊t / step_size⌋"""

    def __init__(self, optimizer: Optimizer, step_size: int, gamma: float = 0.1) -> None:
        self.step_size, self.gamma = step_size, gamma
        super().__init__(optimizer)

    def options(self, t: int, number: int) -> dict[str, Any]:
        return {"lr": self.base_lrs[number] * self.gamma ** (t // self.step_size)}


class MultiStepLR(LRScheduler):
    """lr = base · γ^(number of milestones ≤ t)"""

    def __init__(self, optimizer: Optimizer, milestones: Sequence[int], gamma: float = 0.1) -> None:
        self.milestones, self.gamma = sorted(milestones), gamma
        super().__init__(optimizer)

    def options(self, t: int, number: int) -> dict[str, Any]:
        return {"lr": self.base_lrs[number] * self.gamma ** bisect.bisect_right(self.milestones, t)}


class LinearLR(LRScheduler):
    """Warm-up: lr = base · (a + (b − a) · min(t / total_iters, 1)), from start_factor a to end_factor b."""

    def __init__(
        self, optimizer: Optimizer, start_factor: float = 1 / 3, end_factor: float = 1.0, total_iters: int = 5
    ) -> None:
        self.start_factor, self.end_factor, self.total_iters = start_factor, end_factor, total_iters
        super().__init__(optimizer)

    def options(self, t: int, number: int) -> dict[str, Any]:
        progress = min(t / self.total_iters, 1.0)
        factor = self.start_factor + (self.end_factor - self.start_factor) * progress
        return {"lr": self.base_lrs[number] * factor}


class CosineAnnealingLR(LRScheduler):
    """lr = eta_min + (base − eta_min) (1 + cos(π t / T_max)) / 2   (Loshchilov & Hutter 2017, eq. 5)"""

    def __init__(self, optimizer: Optimizer, T_max: int, eta_min: float = 0.0) -> None:
        self.T_max, self.eta_min = T_max, eta_min
        super().__init__(optimizer)

    def options(self, t: int, number: int) -> dict[str, Any]:
        return {"lr": _cosine(self.base_lrs[number], self.eta_min, t / self.T_max)}


class OneCycleLR(LRScheduler):
    """Up from max_lr / div_factor to max_lr, then down to 1 / final_div_factor of the start   (Smith 2018)

    While the learning rate rises the momentum falls from max_momentum to base_momentum, and then back:
    `momentum` of SGD and RMSprop, β₁ of Adam.

    Args:
        max_lr: the highest rate; one number, or one for each group.
        total_steps: the length of the cycle; or give epochs and steps_per_epoch.
        pct_start: the share of the steps that rise.
        anneal_strategy: "cos" or "linear".

    Raises:
        ValueError: no length, an unknown strategy, no momentum to cycle, or `step()` beyond the end.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        max_lr: float | Sequence[float],
        total_steps: int | None = None,
        epochs: int | None = None,
        steps_per_epoch: int | None = None,
        pct_start: float = 0.3,
        anneal_strategy: str = "cos",
        cycle_momentum: bool = True,
        base_momentum: float = 0.85,
        max_momentum: float = 0.95,
        div_factor: float = 25.0,
        final_div_factor: float = 1e4,
    ) -> None:
        if total_steps is None:
            if epochs is None or steps_per_epoch is None:
                raise ValueError("OneCycleLR needs total_steps, or both epochs and steps_per_epoch")
            total_steps = epochs * steps_per_epoch
        if anneal_strategy not in _ANNEAL:
            raise ValueError(f'anneal_strategy is "cos" or "linear", got {anneal_strategy!r}')
        groups = optimizer.param_groups
        if cycle_momentum and not all("betas" in group or "momentum" in group for group in groups):
            raise ValueError(f"{type(optimizer).__name__} has no momentum: say cycle_momentum=False")
        rates = list(max_lr) if isinstance(max_lr, Sequence) else [max_lr] * len(groups)
        if len(rates) != len(groups):
            raise ValueError(
                f"expected one max_lr, or one for each of {len(groups)} groups, got {len(rates)}"
            )
        for group, rate in zip(groups, rates, strict=True):
            group["initial_lr"] = rate / div_factor
        self.total_steps, self.pct_start, self.anneal = total_steps, pct_start, _ANNEAL[anneal_strategy]
        self.div_factor, self.final_div_factor = div_factor, final_div_factor
        self.cycle_momentum, self.base_momentum, self.max_momentum = (
            cycle_momentum,
            base_momentum,
            max_momentum,
        )
        super().__init__(optimizer)

    def options(self, t: int, number: int) -> dict[str, Any]:
        if t > self.total_steps:
            raise ValueError(f"step {t} lies beyond the {self.total_steps} steps of this OneCycleLR")
        start = self.base_lrs[number]
        highest, lowest = start * self.div_factor, start / self.final_div_factor
        top, end = self.pct_start * self.total_steps - 1.0, self.total_steps - 1.0
        if t <= top:
            progress = t / top if top > 0 else 1.0
            lr = self.anneal(start, highest, progress)
            momentum = self.anneal(self.max_momentum, self.base_momentum, progress)
        else:
            progress = min((t - top) / (end - top), 1.0) if end > top else 1.0
            lr = self.anneal(highest, lowest, progress)
            momentum = self.anneal(self.base_momentum, self.max_momentum, progress)
        if not self.cycle_momentum:
            return {"lr": lr}
        group = self.optimizer.param_groups[number]
        if "betas" in group:
            return {"lr": lr, "betas": (momentum, *group["betas"][1:])}
        return {"lr": lr, "momentum": momentum}


class SequentialLR(LRScheduler):
    """One schedule after another: at step milestones[i] schedule i + 1 takes over, from its own t = 0 on.

    Warm-up and then a cosine:

        SequentialLR(optimizer, [LinearLR(optimizer, 0.1, 1.0, 5), CosineAnnealingLR(optimizer, 45)], [5])

    Raises:
        ValueError: there must be one milestone fewer than schedules, and all on this optimizer.
    """

    def __init__(
        self, optimizer: Optimizer, schedulers: Sequence[LRScheduler], milestones: Sequence[int]
    ) -> None:
        if len(milestones) != len(schedulers) - 1:
            raise ValueError(
                f"{len(schedulers)} schedules need {len(schedulers) - 1} milestones, got {len(milestones)}"
            )
        if any(schedule.optimizer is not optimizer for schedule in schedulers):
            raise ValueError("the schedules of a SequentialLR must be made on its own optimizer")
        self.schedulers, self.milestones = list(schedulers), list(milestones)
        super().__init__(optimizer)

    def options(self, t: int, number: int) -> dict[str, Any]:
        i = bisect.bisect_right(self.milestones, t)
        return self.schedulers[i].options(t - (self.milestones[i - 1] if i else 0), number)

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "schedulers": [schedule.state_dict() for schedule in self.schedulers]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for schedule, its_state in zip(self.schedulers, state["schedulers"], strict=True):
            schedule.load_state_dict(its_state)
        super().load_state_dict(state)


def _cosine(start: float, end: float, progress: float) -> float:
    """From start to end along half a cosine, flat at both ends."""
    return end + (start - end) * (1.0 + math.cos(math.pi * progress)) / 2.0


def _linear(start: float, end: float, progress: float) -> float:
    return start + (end - start) * progress


_ANNEAL = {"cos": _cosine, "linear": _linear}
