"""What the engine says when it cannot go on: each function makes one error, a sentence with a way out."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from minidl.errors import DeviceError, GradientError
from minidl.recording import here


def about_inputs(function: Any, inputs: tuple[Any, ...]) -> None:
    """Raise the likely reason why forward could not use its inputs, unless it is forward's own fault."""
    for x in inputs:
        if not _is_tensor(x):
            raise unwrapped(function.name, x) from None
    about_devices(function.name, inputs)


def on_tensors(operation: Callable[..., Any]) -> Callable[..., Any]:
    """The operation; where it stumbles over what came instead of a Tensor, it says so."""

    @functools.wraps(operation)
    def call(*inputs: Any, **options: Any) -> Any:
        try:
            return operation(*inputs, **options)
        except (AttributeError, TypeError):
            about_arguments(operation, inputs, options)
            raise

    call.__module__ = "minidl.functional"  # where pickle finds it
    return call


def about_arguments(operation: Any, inputs: tuple[Any, ...], options: dict[str, Any]) -> None:
    """Raise TypeError if there is no Tensor where the signature of the operation wants one."""
    kinds = operation.__annotations__
    for argument, value in [*zip(kinds, inputs, strict=False), *options.items()]:
        kind, call = kinds.get(argument, ""), here.state.call
        several = kind == "Sequence[Tensor]" and isinstance(value, (list, tuple))
        for x in value if several else (value,):
            if "Tensor" in kind and not _is_tensor(x) and not (x is None and "None" in kind):
                place = f"{call.module().describe()}: " if call else ""
                raise unwrapped(place + operation.__name__, x, "x" if several else argument) from None


def _is_tensor(x: Any) -> bool:
    return hasattr(x, "increment_version")  # as PyTorch's has not


def unwrapped(name: str, x: Any, argument: str = "x") -> Exception:
    kind = type(x).__name__
    kind = f"{type(x).__module__}.{kind}" if kind == "Tensor" else kind
    return TypeError(f"{name} works on Tensors, got {kind}: wrap it, Tensor({argument})")


def about_devices(name: str, inputs: tuple[Any, ...]) -> None:
    """Raise DeviceError if the tensors that the operation `name` got are not on one device."""
    if len({x.device for x in inputs}) > 1:
        named = ", ".join(f"{x.shape} on {x.device}" for x in inputs)
        raise DeviceError(f"{name} got tensors of two devices: {named}. Use .to()") from None


def refuse_apply(kind: Any, *inputs: Any) -> None:
    """Raise what to write instead of PyTorch's Square.apply(x)."""
    name, given = kind.__name__, ", ".join(kind._inputs) or "*xs"
    raise TypeError(
        f"{name}.apply({given}) is written {name}()({given}) here, with forward(self, {given}) and "
        "backward(self, dy): self saves what ctx saves in PyTorch, self.save(x=x)"
    )


def no_forward(function: Any) -> Exception:
    return TypeError(f"{function.name} has no forward: a Function defines forward and backward")


def no_backward(function: Any) -> Exception:
    return GradientError(f"{function.name} has no gradient: .detach() its input if none should flow")


def freed(function: Any) -> Exception:
    return GradientError(
        f"backward through {function.name} a second time: what it saved was freed by the first. "
        "Say retain_graph=True the first time, or compute the loss anew"
    )


def changed(function: Any, name: str, shape: tuple[int, ...], version: int, now: int) -> Exception:
    return GradientError(
        f"{function.name} saved its {name} of shape {shape} for backward at version {version}, but it was "
        f"changed in place since (now version {now}): change a copy, or call backward() first"
    )


def wrong_number(function: Any, results: tuple[Any, ...]) -> Exception:
    return GradientError(
        f"{function.name}.backward returned {len(results)} gradients for {len(function.edges)} inputs: "
        "return one for each, None where there is none"
    )


def no_tensor(function: Any, gradient: Any) -> Exception:
    return GradientError(f"{function.name}.backward returned {type(gradient).__name__}: return Tensors")


def wrong_shape(function: Any, gradient: Any, shape: tuple[int, ...]) -> Exception:
    return GradientError(
        f"{function.name}.backward returned a gradient of shape {gradient.shape} "
        f"for an input of shape {shape}"
    )


def about_start(output: Any, gradient: Any) -> Exception | None:
    """Why backward cannot start from `output` with `gradient`; None if it can."""
    if not output.requires_grad:
        return GradientError(
            "this tensor does not depend on anything that requires a gradient: "
            "set requires_grad=True on a leaf, and compute outside no_grad()"
        )
    if gradient is None and output.numel() != 1:
        return GradientError(
            f"backward starts from one number, and this tensor has shape {output.shape}: "
            "reduce it, e.g. .sum(), or give the gradient"
        )
    if gradient is not None and not hasattr(gradient, "requires_grad"):
        return GradientError(f"the gradient is no Tensor but {type(gradient).__name__}: wrap it, Tensor(x)")
    if gradient is not None and (gradient.shape, gradient.dtype) != (output.shape, output.dtype):
        return GradientError(
            f"the gradient is {gradient.dtype} of shape {gradient.shape}, the tensor {output.dtype} "
            f"of shape {output.shape}: they must be equal"
        )
    return None


def unused(i: int, x: Any) -> Exception:
    return GradientError(
        f"input {i} of shape {x.shape} took no part in computing the output: "
        "check that it requires a gradient, or say allow_unused=True to get None"
    )


def no_leaf(tensor: Any) -> Exception:
    return GradientError(
        "requires_grad can be set on leaves only, and this tensor was computed by "
        f"{tensor.grad_fn.name}: use .detach() to cut it off"
    )


def no_float(tensor: Any) -> Exception:
    return GradientError(
        f"only floating-point tensors have gradients, and this one is {tensor.dtype}: use .astype('float32')"
    )


def state_to_copy(function: Any) -> Any:
    """What copy.deepcopy and pickle take of a Function. Raise GradientError if it is the past of a tensor."""
    if hasattr(function, "edges"):
        raise GradientError(
            f"a tensor computed by {function.name} can be neither deep-copied nor pickled, for its past "
            "would have to go with it: .detach() it, or copy the leaves and compute it anew"
        )
    return vars(function)


def no_move(tensor: Any) -> Exception:
    return GradientError(
        f"a tensor computed by {tensor.grad_fn.name} cannot move: move its inputs, or .detach() it"
    )
