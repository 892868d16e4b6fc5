"""Reverse-mode differentiation: how the graph is recorded, and how the chain rule walks back through it.

Recording. Every operation is a `Function`: its `forward` computes y = f(x) on plain arrays, its `backward`
takes ∂L/∂y and returns ∂L/∂x. Calling a function on tensors runs `forward` and leaves in the result a
pointer to the function, which holds pointers (edges) to the functions its own inputs came from.

Walking. For a diamond   x → a, x → b, (a, b) → L   the gradient of x is a sum over both paths,

    ∂L/∂x = ∂L/∂a · ∂a/∂x + ∂L/∂b · ∂b/∂x,

so x may be visited only when both a and b have sent their part. Visiting the functions in reverse
topological order, each one after every function that used its result, is exactly that promise.
"""

from __future__ import annotations

import itertools
import operator
import os
import sys
import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Any, ClassVar

from minidl.backend import Array, array_module
from minidl.backend.memory import owns_memory
from minidl.backend.switch import Switch
from minidl.errors import DeviceError, GradientError
from minidl.tensor import Tensor

_recording = Switch(True)
inside = threading.local()  # inside.call: the call of a Module that is running (nn.ModuleCall)
_here = os.path.dirname(__file__) + os.sep
_counter = itertools.count()


def set_grad_enabled(enabled: bool) -> AbstractContextManager[None]:
    """Record the graph, or do not, in this thread inside the `with` block."""
    return _recording.turned(enabled)


def no_grad() -> AbstractContextManager[None]:
    """Compute without recording: for evaluation, and for writing into parameters. Also a decorator."""
    return _recording.turned(False)


def is_grad_enabled() -> bool:
    return _recording.on


def _line_of_user() -> tuple[str, int]:
    """Where, outside minidl, the operation being recorded was called from."""
    frame = sys._getframe(2)
    while frame.f_code.co_filename.startswith(_here) and frame.f_back is not None:
        frame = frame.f_back
    return frame.f_code.co_filename, frame.f_lineno


class Function:
    """One operation: how it is computed, and how a gradient passes back through it.

        class Square(Function):
            def forward(self, x):
                self.save(x=x)
                return x * x

            def backward(self, dy):
                (x,) = self.saved
                return dy * 2.0 * x

        y = Square()(x)

    `forward` sees arrays. `backward` sees and returns tensors, one for each input (None where
    `needs_grad[i]` is False), and is made of operations itself: that is why a gradient can be
    differentiated again. An instance is used once; options go to its constructor.
    """

    needs_grad: Sequence[bool]  # for each input: is its gradient asked for?
    edges: Sequence[Any]  # for each input: the Function or leaf it came from; None where it needs no gradient
    shape: tuple[int, ...]  # of the output
    shares_memory = False  # True: the output is a view of the first input

    _inputs: ClassVar[dict[str, int]] = {}  # the names of forward's inputs, and their places
    made_at: tuple[str, int]  # the file and line of user code that called it
    made_in: Any  # the nn.ModuleCall that it was part of; None outside of modules
    _number: int  # functions are numbered as they are called
    _saved: Any = ()  # (name, tensor, its array, its version) of what backward needs; None once freed

    def __init_subclass__(cls) -> None:
        code = cls.forward.__code__
        cls._inputs = {name: i for i, name in enumerate(code.co_varnames[1 : code.co_argcount])}

    @property
    def name(self) -> str:
        return type(self).__name__

    def forward(self, *inputs: Any) -> Array:
        raise TypeError(f"{self.name} has no forward: a Function defines forward and backward")

    def backward(self, dy: Tensor) -> Tensor | tuple[Tensor | None, ...] | None:
        raise GradientError(f"{self.name} has no gradient: .detach() its input if none should flow")

    def __call__(self, *inputs: Tensor) -> Tensor:
        """y = f(inputs); records the graph if it is recording and an input requires its gradient."""
        try:
            arrays = [x.data for x in inputs]
            self.needs_grad = [x.requires_grad for x in inputs] if _recording.on else [False] * len(inputs)
            y = Tensor.wrap(self.forward(*arrays))
        except (AttributeError, TypeError):
            self._check_inputs(inputs)
            raise
        if self.shares_memory:
            y._version = inputs[0]._version
        if True in self.needs_grad:
            self.edges = [x.grad_fn or x if x.requires_grad else None for x in inputs]
            self.shape = y.data.shape
            self._number = next(_counter)
            if self._saved:
                self._saved = [self._label(name, array, inputs, y) for name, array in self._saved.items()]
            self.made_at = _line_of_user()
            self.made_in = getattr(inside, "call", None)
            y.requires_grad = True
            y.grad_fn = self
        return y

    def _check_inputs(self, inputs: tuple[Any, ...]) -> None:
        """The likely reasons why forward could not use its inputs, each said in one sentence."""
        for x in inputs:
            if not isinstance(x, Tensor):
                kind = type(x).__name__
                raise TypeError(f"{self.name} works on Tensors, got {kind}: wrap it, Tensor(x)") from None
        if len({x.device for x in inputs}) > 1:
            named = ", ".join(f"{x.shape} on {x.device}" for x in inputs)
            raise DeviceError(f"{self.name} got tensors of two devices: {named}. Use .to()") from None

    def save(self, **values: Array | None) -> None:
        """Keep arrays for `backward`: inputs by the name `forward` gives them, the result as `output`.

        Those come back as part of the graph, so that second derivatives see them; any other name is a
        constant. What is not needed (None) is not kept.
        """
        if True in self.needs_grad:
            self._saved = values

    def _label(self, name: str, array: Array, inputs: Sequence[Tensor], output: Tensor) -> Any:
        """What was saved with the tensor it belongs to, and how often that was written into by now."""
        if array is None:
            return None
        if name in self._inputs:
            tensor = inputs[self._inputs[name]]
        else:  # the output itself points here: keeping it would close a circle
            tensor = output.detach() if name == "output" else Tensor.wrap(array)
        return name, tensor, tensor.data, tensor._version[0]

    @property
    def saved(self) -> list[Any]:
        """What `save` kept, as tensors, in the order it was given."""
        if self._saved is None:
            raise GradientError(
                f"backward through {self.name} a second time: what it saved was freed by the first. "
                "Say retain_graph=True the first time, or compute the loss anew"
            )
        return [entry and self._recall(*entry) for entry in self._saved]

    def _recall(self, name: str, tensor: Tensor, array: Array, version: int) -> Tensor:
        if tensor._version[0] != version or tensor.data is not array:
            raise GradientError(
                f"{self.name} saved its {name} of shape {array.shape} for backward at version {version}, but "
                f"it was changed in place since (now version {tensor._version[0]}): change a copy, or call "
                "backward() first"
            )
        if name == "output" and _recording.on:
            tensor = tensor.detach()
            tensor.grad_fn, tensor.requires_grad = self, True
        return tensor


# The walk back


def topological_order(root: Function | Tensor) -> list[Function]:
    """The functions that `root` was computed by, each after every function that used its result.

    A function is called after those that computed its inputs, so this is the order of the calls, backwards.
    """
    found = {root} if isinstance(root, Function) else set()
    stack = list(found)
    while stack:
        for edge in stack.pop().edges:
            if isinstance(edge, Function) and edge not in found:
                found.add(edge)
                stack.append(edge)
    return sorted(found, key=operator.attrgetter("_number"), reverse=True)


def unbroadcast(gradient: Tensor, shape: tuple[int, ...], function: Function) -> Tensor:
    """∂L/∂x for an x of `shape` that was broadcast: the sum over every axis along which it was repeated."""
    if not isinstance(gradient, Tensor):
        raise GradientError(f"{function.name}.backward returned {type(gradient).__name__}: return Tensors")
    added = gradient.ndim - len(shape)
    if added < 0 or any(n not in (1, m) for n, m in zip(shape, gradient.shape[added:], strict=True)):
        raise GradientError(
            f"{function.name}.backward returned a gradient of shape {gradient.shape} "
            f"for an input of shape {shape}"
        )
    stretched = [axis for axis, n in enumerate(shape, added) if n == 1 != gradient.shape[axis]]
    return gradient.sum(axis=(*range(added), *stretched)).reshape(shape)


def _first_gradient(output: Tensor, gradient: Tensor | None) -> Tensor:
    """The gradient that the walk starts with: ∂L/∂L = 1 unless one is given."""
    if not output.requires_grad:
        raise GradientError(
            "this tensor does not depend on anything that requires a gradient: "
            "set requires_grad=True on a leaf, and compute outside no_grad()"
        )
    if gradient is None:
        if output.numel() != 1:
            raise GradientError(
                f"backward starts from one number, and this tensor has shape {output.shape}: "
                "reduce it, e.g. .sum(), or give the gradient"
            )
        return Tensor.wrap(array_module(output.data).ones_like(output.data))
    if (gradient.shape, gradient.dtype) != (output.shape, output.dtype):
        raise GradientError(
            f"the gradient is {gradient.dtype} of shape {gradient.shape}, the tensor {output.dtype} "
            f"of shape {output.shape}: they must be equal"
        )
    return gradient


def walk(
    output: Tensor,
    gradient: Tensor,
    retain_graph: bool,
    wanted: set[Any] | None = None,
    observe: Callable[[Function, Tensor, tuple[Any, ...]], None] | None = None,
) -> dict[Any, Tensor]:
    """The chain rule: ∂L/∂node for the wanted nodes, on the paths to them; None wants every leaf.

    `observe(node, ∂L/∂y, what backward returned)` is called for each function that was walked through.
    """
    order = topological_order(output.node)
    gradients: dict[Any, Tensor] = {output.node: gradient}
    if wanted is not None:
        leading = set(wanted)
        for node in reversed(order):
            if not leading.isdisjoint(node.edges):
                leading.add(node)
    for node in order:
        dy = gradients.get(node) if wanted and node in wanted else gradients.pop(node, None)
        recorded = node.needs_grad
        asked = recorded if wanted is None else [edge in leading for edge in node.edges]
        if dy is None or True not in asked:
            continue
        node.needs_grad = asked
        try:
            results = node.backward(dy)
        finally:
            node.needs_grad = recorded
        if not isinstance(results, tuple):
            results = (results,)
        if len(results) != len(node.edges):
            raise GradientError(
                f"{node.name}.backward returned {len(results)} gradients for {len(node.edges)} inputs: "
                "return one for each, None where there is none"
            )
        if observe is not None:
            observe(node, dy, results)
        for edge, dx, needed in zip(node.edges, results, asked, strict=True):
            if dx is None or not needed:
                continue
            if type(dx) is not Tensor or dx.data.shape != edge.shape:
                dx = unbroadcast(dx, edge.shape, node)
            gradients[edge] = gradients[edge] + dx if edge in gradients else dx
        if not retain_graph:
            node._saved = None
    return gradients


def backward(
    output: Tensor,
    gradient: Tensor | None = None,
    retain_graph: bool | None = None,
    create_graph: bool = False,
) -> None:
    """Add ∂L/∂x to the `grad` of every leaf x that `output` = L was computed from.

    Args:
        gradient: ∂L/∂output, where output itself is not one number.
        retain_graph: keep what the operations saved, to go backward again (default: create_graph).
        create_graph: record the backward pass too, so that the gradients can be differentiated.

    Raises:
        GradientError: output requires no gradient, or `gradient` does not fit it, or the graph was freed.
    """
    first = _first_gradient(output, gradient)
    with set_grad_enabled(create_graph):
        gradients = walk(output, first, create_graph if retain_graph is None else retain_graph)
        taken = {id(first.data)}
        for leaf, dx in gradients.items():
            if leaf.grad is not None:
                leaf.grad = leaf.grad + dx
            elif owns_memory(dx.data) and dx.data.flags.c_contiguous and id(dx.data) not in taken:
                leaf.grad = dx
            else:  # y = a + b gives a and b one and the same array, but each shall own its gradient
                leaf.grad = dx * 1 if create_graph else Tensor.wrap(dx.data.copy())
            taken.add(id(dx.data))


def grad(
    output: Tensor,
    inputs: Tensor | Iterable[Tensor],
    gradient: Tensor | None = None,
    retain_graph: bool | None = None,
    create_graph: bool = False,
    allow_unused: bool = False,
) -> Any:
    """∂output/∂x for each x of `inputs`, leaves or not, leaving every `.grad` as it is.

    Only the paths that lead to the inputs are walked. One tensor in, one gradient out; several, a tuple.
    Raises GradientError as `backward`, and for an input that output does not depend on, unless `allow_unused`
    (then None).
    """
    xs = [inputs] if isinstance(inputs, Tensor) else list(inputs)
    first = _first_gradient(output, gradient)
    with set_grad_enabled(create_graph):
        retain_graph = create_graph if retain_graph is None else retain_graph
        found = walk(output, first, retain_graph, {x.node for x in xs})
    for i, x in enumerate(xs):
        if x.node not in found and not allow_unused:
            raise GradientError(
                f"input {i} of shape {x.shape} took no part in computing the output: "
                "check that it requires a gradient, or say allow_unused=True to get None"
            )
    results = tuple(found.get(x.node) for x in xs)
    return results[0] if isinstance(inputs, Tensor) else results
