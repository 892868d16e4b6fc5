"""Module: a part of a network that knows its parameters and the modules inside it.

Assigning is registering: `self.weight = Parameter(…)` and `self.conv1 = Conv2d(…)` go into the module's
registries, in that order, and every question about "all parameters" is a walk over them. A dotted name such
as `features.0.weight` is the path of attributes from the outermost module.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import numpy as np

from minidl import complaints
from minidl.backend import Array, to_device
from minidl.errors import ShapeError
from minidl.nn.hooks import RemovableHandle
from minidl.nn.parameter import Parameter, zero_grad
from minidl.nn.state import IncompatibleKeys, load_state
from minidl.recording import here
from minidl.tensor import Tensor
from minidl.words import module_html, module_text

Self = TypeVar("Self", bound="Module")


class ModuleCall:
    """One call of a module, which the operations recorded in it remember (`Function.made_in`).

    Attributes:
        module: a weak reference: the graph does not keep the model, which may itself keep some output.
        outer: the call that this one happened in, None for the outermost.
    """

    __slots__ = ("module", "outer")

    def __init__(self, module: Module, outer: ModuleCall | None) -> None:
        self.module, self.outer = weakref.ref(module), outer


class Module:
    """Base class of layers and networks. Subclass it, make the parts in `__init__`, use them in `forward`:

        class Net(Module):
            def __init__(self):
                super().__init__()
                self.hidden = Linear(784, 100)
                self.output = Linear(100, 10)

            def forward(self, x):
                return self.output(self.hidden(x).relu())

    Attributes:
        training: True in training mode, False in evaluation mode (dropout and batch norm behave differently).
    """

    training: bool
    forward: Callable[..., Any]

    def __init__(self) -> None:
        self.__dict__.update(_parameters={}, _buffers={}, _modules={})
        self._forward_pre_hooks: dict[int, Callable] = {}
        self._forward_hooks: dict[int, Callable] = {}
        self.training = True

    # Registration

    def __setattr__(self, name: str, value: Any) -> None:
        if "_modules" not in self.__dict__:
            raise AttributeError(f"call super().__init__() in {type(self).__name__} before setting {name!r}")
        if isinstance(value, Parameter):
            home = "_parameters"
        elif isinstance(value, Module):
            home = "_modules"
        else:
            home = next((kind for kind in _REGISTRIES if name in self.__dict__[kind]), "")
        if not home:
            object.__setattr__(self, name, value)
            return
        if value is not None and not isinstance(value, _REGISTRIES[home]):
            kind = _REGISTRIES[home].__name__
            raise TypeError(f"{type(self).__name__}.{name} is a {kind} and cannot become {_kind(value)}")
        if hasattr(type(self), name):
            raise AttributeError(f"{name!r} is a method of {type(self).__name__}: choose another name")
        for kind in _REGISTRIES:
            if kind != home:
                self.__dict__[kind].pop(name, None)
        self.__dict__.pop(name, None)
        self.__dict__[home][name] = value

    def __getattr__(self, name: str) -> Any:  # asked only where the ordinary look-up found nothing
        for kind in _REGISTRIES:
            registry = self.__dict__.get(kind, {})
            if name in registry:
                return registry[name]
        raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")

    def __delattr__(self, name: str) -> None:
        for kind in _REGISTRIES:
            if name in self.__dict__[kind]:
                del self.__dict__[kind][name]
                return
        object.__delattr__(self, name)

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *self._parameters, *self._buffers, *self._modules]

    def register_buffer(self, name: str, value: Any) -> None:
        """Keep an array that belongs to the state but is not learned, such as a running mean (or None)."""
        self._buffers[name] = value if value is None or isinstance(value, Tensor) else Tensor(value)

    def add_module(self, name: str, module: Module) -> None:
        """`setattr(self, name, module)` for names that are no Python names, such as "0"."""
        if not isinstance(module, Module):
            raise TypeError(f"{type(self).__name__} holds Modules, and {name!r} is {_kind(module)}")
        if not name or "." in name:
            raise ValueError(f"a module cannot be called {name!r}: dots separate the names of a path")
        setattr(self, name, module)

    # Walks

    def named_modules(self, prefix: str = "") -> Iterator[tuple[str, Module]]:
        """(path, module) of this module and all inside it, each before its children; a shared one once."""
        seen = set()
        stack = [(prefix, self)]
        while stack:
            path, module = stack.pop()
            if module not in seen:
                seen.add(module)
                yield path, module
                below = f"{path}." if path else ""
                stack.extend(reversed([(below + name, child) for name, child in module.named_children()]))

    def modules(self) -> Iterator[Module]:
        return (module for _, module in self.named_modules())

    def named_children(self) -> Iterator[tuple[str, Module]]:
        """(name, module) of the modules directly inside this one."""
        return ((name, module) for name, module in self._modules.items() if module is not None)

    def children(self) -> Iterator[Module]:
        return (module for _, module in self.named_children())

    def get_submodule(self, path: str) -> Module:
        """The module at a path such as "features.0"; "" is this module itself."""
        module = self
        for name in path.split(".") if path else ():
            if name not in module._modules:
                known = ", ".join(module._modules) or "none"
                raise AttributeError(
                    f"no module {name!r} of {path!r} in {type(module).__name__}, which has: {known}"
                )
            module = module._modules[name]
        return module

    def _named_tensors(self, registry: str) -> Iterator[tuple[str, Tensor]]:
        seen = set()
        for path, module in self.named_modules():
            for name, tensor in getattr(module, registry).items():
                if tensor is not None and tensor not in seen:
                    seen.add(tensor)
                    yield f"{path}.{name}" if path else name, tensor

    def named_parameters(self) -> Iterator[tuple[str, Parameter]]:
        """(path, parameter) in the order of registration; a shared one once."""
        return self._named_tensors("_parameters")  # type: ignore[return-value]

    def parameters(self) -> Iterator[Parameter]:
        return (parameter for _, parameter in self.named_parameters())

    def named_buffers(self) -> Iterator[tuple[str, Tensor]]:
        return self._named_tensors("_buffers")

    def buffers(self) -> Iterator[Tensor]:
        return (buffer for _, buffer in self.named_buffers())

    def apply(self: Self, function: Callable[[Module], Any]) -> Self:
        """Call `function` on every module inside, then on this one."""
        for child in self.children():
            child.apply(function)
        function(self)
        return self

    # Calling

    def __call__(self, *inputs: Any, **options: Any) -> Any:
        """`forward`, with the hooks around it. A ShapeError on its way out learns the path from here.

        Raises:
            TypeError: an input has not what forward wants of it, and Tensors have.
        """
        for hook in [*self._forward_pre_hooks.values()]:
            replaced = hook(self, inputs)
            if replaced is not None:
                inputs = replaced if isinstance(replaced, tuple) else (replaced,)
        state = here.state
        outer = state.call
        state.call = ModuleCall(self, outer)
        try:
            output = self.forward(*inputs, **options)
        except ShapeError as error:
            if error.module is None:
                error.module = self
            for path, module in self.named_modules():
                if module is error.module:
                    error.place = f"{path} ({module.describe()})" if path else module.describe()
            raise
        except AttributeError as error:
            given = any(error.obj is x for x in (*inputs, *options.values()))
            if given and error.name and hasattr(Tensor, error.name):
                raise complaints.unwrapped(self.describe(), error.obj) from None
            raise
        finally:
            state.call = outer
        for hook in [*self._forward_hooks.values()]:
            replaced = hook(self, inputs, output)
            if replaced is not None:
                output = replaced
        return output

    def register_forward_pre_hook(self, hook: Callable) -> RemovableHandle:
        """Call `hook(module, inputs)` before each forward; what it returns, unless None, are the inputs."""
        return RemovableHandle(self._forward_pre_hooks, hook)

    def register_forward_hook(self, hook: Callable) -> RemovableHandle:
        """Call `hook(module, inputs, output)` after each forward; what it returns, unless None, comes out."""
        return RemovableHandle(self._forward_hooks, hook)

    # State

    def state_dict(self) -> dict[str, np.ndarray]:
        """Path → NumPy array, of every parameter and buffer. On the CPU they share the model's memory."""
        return {path: tensor.numpy() for path, tensor in self._state()}

    def load_state_dict(self, state: Any, strict: bool = True, assign: bool = False) -> IncompatibleKeys:
        """Copy arrays into the parameters and buffers of the same path, in place and in their own dtype.

        Args:
            state: a mapping of path to array (anything with a shape and a dtype).
            strict: also refuse paths that one side has and the other has not.
            assign: take the arrays themselves where they fit as they are, and copy only the others. They
                belong to the module then.

        Returns:
            (missing_keys, unexpected_keys), both empty where strict.

        Raises:
            WeightsError: names every missing, unexpected or mismatched path. Nothing was changed.
        """
        return load_state(dict(self._state()), state, strict, assign, type(self).__name__)

    def _state(self) -> Iterator[tuple[str, Tensor]]:
        """(path, tensor) of every parameter and buffer, shared ones under each of their paths."""
        yield from ((name, t) for name, t in (self._parameters | self._buffers).items() if t is not None)
        for name, child in self.named_children():
            yield from ((f"{name}.{path}", tensor) for path, tensor in child._state())

    # All at once

    def train(self: Self, mode: bool = True) -> Self:
        """Training mode, or evaluation mode, for this module and all inside it."""
        for module in self.modules():
            module.training = mode
        return self

    def eval(self: Self) -> Self:
        """Evaluation mode: dropout passes everything, batch norm uses its running statistics."""
        return self.train(False)

    def freeze(self: Self) -> Self:
        """Learn no more: no parameter inside requires a gradient, and gradients that are there are dropped.

        Batch norm goes on collecting running statistics unless it is also put into `eval()` mode.
        """
        for parameter in self.parameters():
            parameter.requires_grad_(False)
            parameter.grad = None
        return self

    def unfreeze(self: Self) -> Self:
        """Every parameter inside requires its gradient."""
        for parameter in self.parameters():
            parameter.requires_grad_(True)
        return self

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drop every gradient; or, with set_to_none=False, fill it with zeros."""
        zero_grad(self.parameters(), set_to_none)

    def to(self: Self, device: str) -> Self:
        """Move parameters, gradients and buffers to `"cpu"` or `"gpu"`; the Parameter objects stay."""
        return self._convert(lambda array: to_device(array, device))

    def astype(self: Self, dtype: Any) -> Self:
        """Convert floating-point parameters, gradients and buffers to `dtype`.

        Raises:
            ValueError: dtype is no floating-point type. Nothing was changed.
        """
        if np.dtype(dtype).kind != "f":
            raise ValueError(
                f"{self.describe()}: expected a floating-point type such as 'float32', got {dtype!r}"
            )
        return self._convert(lambda x: x.astype(dtype, copy=False) if x.dtype.kind == "f" else x)

    def double(self: Self) -> Self:
        """float64, for checking gradients."""
        return self.astype(np.float64)

    def _convert(self: Self, function: Callable[[Array], Array]) -> Self:
        for tensor in [*self.parameters(), *self.buffers()]:
            tensor.data = function(tensor.data)
            if tensor.grad is not None:
                tensor.grad = Tensor(function(tensor.grad.data))
        return self

    # Words

    def describe(self) -> str:
        """This module in a few words, for error messages: `Linear 25088→4096`."""
        return type(self).__name__

    def extra_repr(self) -> str:
        """What stands in the parentheses of the repr: the options of a layer."""
        return ""

    def multiply_adds(self, input_shape: tuple[int, ...], output_shape: tuple[int, ...]) -> int:
        """How many multiplications, each with its addition, one forward takes in sums of products."""
        return 0

    __repr__, _repr_html_ = module_text, module_html


_REGISTRIES: dict[str, type] = {"_parameters": Parameter, "_buffers": Tensor, "_modules": Module}


def _kind(value: Any) -> str:
    return f"the class {value.__name__}" if isinstance(value, type) else f"a {type(value).__name__}"
