"""What all optimizers share: groups of parameters with their options, the state, and the walk over both."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any

from minidl.backend import Array, as_numpy, device_of, to_device
from minidl.errors import DeviceError, GradientError, WeightsError
from minidl.lazy import LazyProduct
from minidl.nn import Module
from minidl.nn.parameter import zero_grad
from minidl.tensor import Tensor


def parameter_list(parameters: Any) -> list[Any]:
    """`parameters` as a list.

    Raises:
        TypeError: it is a Module, or no iterable.
        ValueError: it is empty.
    """
    if isinstance(parameters, Module):
        raise TypeError(
            f"expected parameters, got the module {type(parameters).__name__}: pass model.parameters()"
        )
    if isinstance(parameters, Tensor):
        return [parameters]
    if not isinstance(parameters, Iterable):
        raise TypeError(f"expected parameters, got {type(parameters).__name__}: pass model.parameters()")
    listed = list(parameters)
    if not listed:
        raise ValueError(
            "the list of parameters is empty: was the generator model.parameters() used up before?"
        )
    return listed


class Optimizer(ABC):
    """Base class. A subclass hands its options to the constructor, and `update` moves one parameter.

    Args:
        params: parameters, or groups of them: dicts with "params" and the options that differ, such as "lr".
        defaults: the options of every group that does not say otherwise.

    Attributes:
        param_groups: one dict a group: "params", a list, and every option. Change `group["lr"]` at any time.
        state: for each parameter that was updated, what the optimizer remembers of it.
    """

    by_blocks = False  # whether `update` does nothing with grad but hand it to for_each_block
    non_negative: tuple[str, ...] = ("lr", "weight_decay", "momentum", "eps")  # where they exist

    def __init_subclass__(cls) -> None:
        if "update" in vars(cls):  # an `update` of its own has to say so itself
            cls.by_blocks = vars(cls).get("by_blocks", False)

    def __init__(self, params: Any, **defaults: Any) -> None:
        self.defaults = defaults
        self.param_groups: list[dict[str, Any]] = []
        self.state: dict[Tensor, dict[str, Any]] = {}
        listed = parameter_list(params)
        for group in listed if isinstance(listed[0], dict) else [{"params": listed}]:
            self.add_param_group(group)

    def add_param_group(self, group: dict[str, Any]) -> None:
        """Add parameters with options of their own: `{"params": head.parameters(), "lr": 1e-3}`.

        Raises:
            TypeError: something in it is no parameter, or no such option exists.
            ValueError: no parameters, one that is in a group already, or an option out of range.
        """
        params = parameter_list(group["params"])
        known = {id(p) for other in self.param_groups for p in other["params"]}
        for p in params:
            if not isinstance(p, Tensor):
                raise TypeError(f"expected parameters, got {type(p).__name__}")
            if not p.is_leaf:
                raise ValueError(
                    f"only leaves can be optimized, and a tensor of shape {p.shape} was computed"
                )
            if id(p) in known:
                raise ValueError(f"a parameter of shape {p.shape} appears twice: once is enough")
            known.add(id(p))
        complete = {**self.defaults, **group, "params": params}
        self.check(complete)
        self.param_groups.append(complete)

    def check(self, group: dict[str, Any]) -> None:
        """Raise TypeError for an option that does not exist, ValueError for one that makes no sense."""
        for name in group:
            if name not in self.defaults and name not in ("params", "initial_lr"):
                known = ", ".join(self.defaults)
                raise TypeError(f"{type(self).__name__} has no option {name!r}: expected one of {known}")
        for name in self.non_negative:
            if name in group and not group[name] >= 0:
                raise ValueError(f"{name} must not be negative, got {group[name]}")

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drop every gradient; or, with set_to_none=False, fill it with zeros."""
        for group in self.param_groups:
            zero_grad(group["params"], set_to_none)

    def step(self) -> None:
        """Move every parameter that has a gradient.

        Raises:
            GradientError: none has.
        """
        moved = False
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    state = self.state.setdefault(p, {})
                    _check_device(p, state)
                    self.update(p.data, self._gradient(p.grad), state, group)
                    p.increment_version()
                    moved = True
        if not moved:
            raise GradientError(
                "none of the parameters has a gradient: call loss.backward() before step(), with a loss that "
                "was computed from them; zero_grad() belongs before backward()"
            )

    def _gradient(self, grad: Tensor) -> Any:
        """The array; or the Product that nobody has looked at as a whole, where blocks of it are enough."""
        if self.by_blocks and isinstance(grad, LazyProduct) and grad.product is not None:
            return grad.product
        return grad.data

    @abstractmethod
    def update(self, p: Array, grad: Any, state: dict[str, Any], group: dict[str, Any]) -> None:
        """Move the parameter p in place, by its gradient and by what `state` remembers of it.

        `grad` is an array; where `by_blocks` is set it may be a `backend.products.Product`.
        """

    # State

    def state_dict(self) -> dict[str, Any]:
        """PyTorch's form: {"state": {number: {…}}, "param_groups": [{…, "params": [number, …]}]}.

        The parameters are numbered in the order of the groups. The arrays are NumPy's and share memory with
        the optimizer on the CPU.
        """
        numbers = {p: i for i, p in enumerate(p for group in self.param_groups for p in group["params"])}
        return {
            "state": {
                numbers[p]: {name: as_numpy(v) if hasattr(v, "shape") else v for name, v in entry.items()}
                for p, entry in self.state.items()
            },
            "param_groups": [
                {**group, "params": [numbers[p] for p in group["params"]]} for group in self.param_groups
            ],
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue where `state_dict` was taken; the arrays are copied.

        Raises:
            WeightsError: it is of another optimizer, other groups or parameters. Nothing was changed.
        """
        saved = state_dict["param_groups"]
        lengths, expected = ([len(g["params"]) for g in groups] for groups in (saved, self.param_groups))
        if lengths != expected:
            raise WeightsError(
                f"the state has groups of {lengths} parameters, this optimizer has groups of {expected}"
            )
        own, theirs = ({name for g in groups for name in g} for groups in (self.param_groups, saved))
        if missing := sorted(own - theirs):
            raise WeightsError(f"the state has no {', '.join(missing)}: it is not of {type(self).__name__}")
        params = [p for group in self.param_groups for p in group["params"]]
        state = {}
        for number, entry in state_dict["state"].items():
            if not 0 <= int(number) < len(params):
                raise WeightsError(
                    f"the state is of parameter {number}, this optimizer has 0 to {len(params) - 1}"
                )
            p = params[int(number)]
            for name, value in entry.items():
                if hasattr(value, "shape") and value.shape != p.shape:
                    raise WeightsError(
                        f"{name} of parameter {number} has shape {value.shape}, the parameter {p.shape}"
                    )
            state[p] = {
                name: to_device(value.astype(p.dtype), p.device) if hasattr(value, "shape") else value
                for name, value in entry.items()
            }
        for group, options in zip(self.param_groups, saved, strict=True):
            group.update({name: value for name, value in options.items() if name != "params"})
        self.state = state


def _check_device(p: Tensor, state: dict[str, Any]) -> None:
    """Raise DeviceError if the parameter moved since its state was made."""
    for device in {device_of(value) for value in state.values() if hasattr(value, "shape")} - {p.device}:
        raise DeviceError(
            f"the state of a parameter of shape {p.shape} is on {device}, the parameter on {p.device}: make "
            "the optimizer after model.to(), or optimizer.load_state_dict(optimizer.state_dict())"
        )
