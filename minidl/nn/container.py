"""Modules made of modules."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

from minidl.nn.activation import ReLU
from minidl.nn.convolution import Conv2d
from minidl.nn.module import Module
from minidl.nn.pooling import MaxPool2d
from minidl.recording import here
from minidl.tensor import Tensor

LARGE = 1 << 19  # numbers in a map, about, from where on it is worth saving a pass over it


class Sequential(Module):
    """The modules one after the other, each fed what the one before it returned.

        Sequential(Linear(784, 100), ReLU(), Linear(100, 10))         named "0", "1", "2"
        Sequential({"hidden": Linear(784, 100), "relu": ReLU()})      named as the dict says
        Sequential(hidden=Linear(784, 100), relu=ReLU())              the same

    Neighbours may go a cheaper way to the same numbers, where nobody sees what is between:

    - A Conv2d also does the ReLU that follows it in the same pass, and the MaxPool2d(2) after that; of small
      maps only where nothing is recorded, so that in their graph each layer is an operation.
    - Elsewhere a ReLU waits for the MaxPool2d that follows it. The largest of all max(x, 0) is
      max(largest x, 0), with the same gradient (save in a window with NaN), but there are fewer numbers to
      compute, and the large map is not kept.

    Positions, names and slices work: `net[0]`, `net["hidden"]`, `net[:2]` (which shares the modules and keeps
    their names), `net[-1] = Linear(100, 2)`.
    """

    def __init__(self, *modules: Any, **named: Module) -> None:
        super().__init__()
        if len(modules) == 1 and isinstance(modules[0], Mapping):
            named = {**modules[0], **named}
        else:
            if len(modules) == 1 and isinstance(modules[0], (list, tuple)):
                modules = tuple(modules[0])
            named = {**{str(i): module for i, module in enumerate(modules)}, **named}
        for name, module in named.items():
            self.add_module(name, module)

    def forward(self, x: Any) -> Any:
        modules = deque(self._modules.values())
        while modules:
            module = modules.popleft()
            following = [*islice(modules, 2)]
            if done := _done_in_one_pass(module, following, x):
                x = module(x, relu=True, pool=done == 2)
                for _ in range(done):
                    modules.popleft()
            elif following and _in_either_order(module, following[0]):
                x = module(modules.popleft()(x))
            else:
                x = module(x)
        return x

    def __len__(self) -> int:
        return len(self._modules)

    def __bool__(self) -> bool:
        return True  # a container without modules is still a module

    def __iter__(self) -> Iterator[Module]:
        return iter(self._modules.values())

    def __getitem__(self, index: int | str | slice) -> Any:
        if isinstance(index, slice):
            return Sequential(dict(list(self._modules.items())[index]))
        return self._modules[self._name(index)]

    def __setitem__(self, index: int | str, module: Module) -> None:
        self.add_module(self._name(index), module)

    def append(self, module: Module) -> Sequential:
        """Add a module at the end, named by the first free number from its position on."""
        position = len(self)
        while str(position) in self._modules:  # a slice keeps its names: [1:] of two layers has "1" alone
            position += 1
        self.add_module(str(position), module)
        return self

    def _name(self, index: int | str) -> str:
        names = list(self._modules)
        if isinstance(index, str):
            if index not in self._modules:
                raise KeyError(f"no module {index!r} in Sequential; it has: {', '.join(names) or 'none'}")
            return index
        if not -len(names) <= index < len(names):
            raise IndexError(f"index {index} is out of range for a Sequential of {len(names)} modules")
        return names[index]


def _done_in_one_pass(module: Module, following: list[Module], x: Any) -> int:
    """How many of these a convolution does in its own pass: none, the ReLU, or also a MaxPool2d(2)."""
    if type(module) is not Conv2d or not following or not isinstance(x, Tensor):
        return 0
    relu, *rest = following
    if type(relu) is not ReLU or not _nobody_asks(module, relu):
        return 0
    operands = [t for t in (x, module.weight, module.bias) if t is not None]
    recorded = here.state.recording and any(t.requires_grad for t in operands)
    if recorded and x.data.size // module.in_channels * module.out_channels < LARGE:
        return 0
    if rest and _in_either_order(relu, rest[0]):  # alone the ReLU would be done to all that the pooling drops
        return 2 if _halves(rest[0]) and module.can_pool(x) else 0
    return 1


def _halves(pool: Any) -> bool:
    """Whether it takes the largest of each 2×2, however its options are spelled."""
    options = (pool.kernel_size, 2), (pool.stride, 2), (pool.padding, 0), (pool.dilation, 1)
    return not pool.ceil_mode and all(given in (n, (n, n), [n, n]) for given, n in options)


def _in_either_order(module: Module, following: Module) -> bool:
    """Whether a ReLU may come after the max-pooling behind it."""
    return (
        type(module) is ReLU
        and type(following) is MaxPool2d
        and following.dilation in (1, (1, 1))  # with gaps a window may see nothing but the border, −∞
        and _nobody_asks(module, following)
    )


def _nobody_asks(module: Module, following: Module) -> bool:
    """Whether what is between the two is seen by no hook, no forward of the user's and no search for NaN."""
    hooks = (m._forward_pre_hooks or m._forward_hooks for m in (module, following))
    return not (any(hooks) or "forward" in {**vars(module), **vars(following)} or here.state.anomaly)
