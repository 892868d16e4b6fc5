"""Reverse-mode differentiation: how the graph is recorded, and how the chain rule walks back through it.

Recording. Every operation is a `Function`: its `forward` computes y = f(x) on plain arrays, its `backward`
takes ∂L/∂y and returns ∂L/∂x. Calling a function on tensors runs `forward` and leaves in the result a
pointer to the function, which holds pointers (edges) to the functions its own inputs came from.

Walking. For a diamond   x → a, x → b, (a, b) → L   the gradient of x is a sum over both paths,

    ∂L/∂x = ∂L/∂a · ∂a/∂x + ∂L/∂b · ∂b/∂x,

so x may be visited only when both a and b have sent their part. Visiting the nodes in reverse topological
order, each one after every node that used it, is exactly that promise (`topological_order`).
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, ClassVar

from minidl.backend import Array, device_of
from minidl.errors import DeviceError, GradientError
from minidl.tensor import Tensor


class _Mode(threading.local):
    recording = True


_mode = _Mode()


@contextlib.contextmanager
def set_grad_enabled(enabled: bool) -> Iterator[None]:
    """Record the graph, or do not, in this thread inside the `with` block."""
    before, _mode.recording = _mode.recording, enabled
    try:
        yield
    finally:
        _mode.recording = before


def no_grad() -> contextlib.AbstractContextManager[None]:
    """Compute without recording: for evaluation, and for writing into parameters. Also a decorator."""
    return set_grad_enabled(False)


def is_grad_enabled() -> bool:
    return _mode.recording


class Function:
    """One operation: how it is computed, and how a gradient passes back through it.

    Subclass it, write `forward` and `backward`, and call an instance on tensors:

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

    needs_grad: tuple[bool, ...]  # for each input: is its gradient asked for?
    edges: tuple[Function | Tensor | None, ...]  # for each input: the node it came from, None if not needed
    shape: tuple[int, ...]  # of the output
    shares_memory: ClassVar[bool] = False  # True: the output is a view of the first input
    input_names: ClassVar[tuple[str, ...]] = ()

    _kept: dict[str, Array] | None = None
    _saved: Sequence[tuple[Any, ...]] | None = ()

    def __init_subclass__(cls) -> None:
        code = cls.forward.__code__
        cls.input_names = code.co_varnames[1 : code.co_argcount]

    @property
    def name(self) -> str:
        return type(self).__name__

    def forward(self, *inputs: Any) -> Array:
        raise TypeError(f"{self.name} has no forward: a Function defines forward and backward")

    def backward(self, dy: Tensor) -> Tensor | None | tuple[Tensor | None, ...]:
        raise GradientError(f"{self.name} has no gradient: .detach() its input if none should flow")

    def __call__(self, *inputs: Tensor) -> Tensor:
        """y = f(inputs); records the graph if it is recording and an input requires its gradient."""
        try:
            needs_grad = tuple([x.requires_grad for x in inputs])
            recording = _mode.recording and True in needs_grad
            self.needs_grad = needs_grad if recording else (False,) * len(needs_grad)
            y = Tensor.wrap(self.forward(*[x.data for x in inputs]))
        except (AttributeError, TypeError):
            self._check_inputs(inputs)
            raise
        if self.shares_memory:
            y._version = inputs[0]._version
        if recording:
            self.edges = tuple([x.node if x.requires_grad else None for x in inputs])
            self.shape = y.data.shape
            y.requires_grad = True
            y.grad_fn = self
            if self._kept:
                self._saved = [self._pack(*item, inputs, y) for item in self._kept.items()]
        self._kept = None
        return y

    def _check_inputs(self, inputs: Sequence[Any]) -> None:
        """The likely reasons why forward could not use its inputs, each said in one sentence."""
        for x in inputs:
            if not isinstance(x, Tensor):
                raise TypeError(f"{self.name} works on Tensors, got {type(x).__name__}: wrap it, Tensor(x)") from None
        if len({device_of(x.data) for x in inputs}) > 1:
            named = ", ".join(f"{x.shape} on {x.device}" for x in inputs)
            raise DeviceError(f"{self.name} got tensors of two devices: {named}. Move one with .to()") from None

    # What backward needs of forward

    def save(self, **values: Array | None) -> None:
        """Keep arrays for `backward`: inputs by the name `forward` gives them, the result as `output`.

        Those come back as part of the graph, so that second derivatives see them; any other name is a
        constant. What is not needed (None) is not kept.
        """
        if True in self.needs_grad:
            self._kept = values

    def _pack(self, name: str, array: Array | None, inputs: Sequence[Tensor], output: Tensor) -> tuple[Any, ...]:
        """(name, array, node it belongs to, its version counter, the count now)."""
        if array is None or (name != "output" and name not in self.input_names):
            return name, array, None, None, 0
        if name == "output":  # the node is self, but pointing at oneself is a cycle: see `saved`
            return name, array, None, output._version, output._version[0]
        x = inputs[self.input_names.index(name)]
        return name, array, x.node if x.requires_grad else None, x._version, x._version[0]

    @property
    def saved(self) -> list[Any]:
        """What `save` kept, as tensors, in the order it was given."""
        if self._saved is None:
            raise GradientError(
                f"backward through {self.name} a second time: what it saved was freed by the first. "
                "Say retain_graph=True the first time, or compute the loss anew"
            )
        return [self._unpack(*item) for item in self._saved]

    def _unpack(self, name: str, array: Array, node: Any, version: list[int] | None, count: int) -> Tensor | None:
        if array is None:
            return None
        if version is not None and version[0] != count:
            raise GradientError(
                f"{self.name} saved its {name} of shape {array.shape} for backward at version {count}, but it was "
                f"changed in place since (now version {version[0]}): change a copy, or call backward() first"
            )
        if isinstance(node, Tensor):
            return node
        tensor = Tensor.wrap(array)
        if version is not None:
            tensor._version = version
            tensor.grad_fn = self if name == "output" else node
            tensor.requires_grad = tensor.grad_fn is not None
        return tensor


# The walk back


def topological_order(root: Function | Tensor) -> list[Function | Tensor]:
    """The nodes that `root` was computed from, root first, each after every node that used it.

    Depth-first search without recursion, because graphs are deeper than Python's stack.
    """
    finished, seen = [], set()
    stack: list[tuple[Function | Tensor, bool]] = [(root, False)]
    while stack:
        node, inputs_done = stack.pop()
        if inputs_done:
            finished.append(node)
        elif node not in seen:
            seen.add(node)
            stack.append((node, True))
            if isinstance(node, Function):
                stack.extend([(edge, False) for edge in node.edges if edge is not None])
    return finished[::-1]


def unbroadcast(gradient: Tensor, shape: tuple[int, ...]) -> Tensor:
    """∂L/∂x for an x of `shape` that was broadcast: the sum over every axis along which it was repeated."""
    added = gradient.ndim - len(shape)
    stretched = [added + i for i, n in enumerate(shape) if n == 1 and gradient.shape[added + i] != 1]
    return gradient.sum(axis=(*range(added), *stretched)).reshape(shape)


def _walk(
    output: Tensor, gradient: Tensor, order: list[Function | Tensor], wanted: set[Any], retain_graph: bool
) -> dict[Function | Tensor, Tensor]:
    """∂L/∂node for every node in `wanted`, visiting the nodes of `order` with their gradients."""
    gradients = {output.node: gradient}
    found = {}
    for node in order:
        dy = gradients.pop(node, None)
        if dy is None:
            continue
        if node in wanted:
            found[node] = dy
        if not isinstance(node, Function) or True not in node.needs_grad:
            continue
        results = node.backward(dy)
        if not isinstance(results, tuple):
            results = (results,)
        if len(results) != len(node.edges):
            raise GradientError(
                f"{node.name}.backward returned {len(results)} gradients for {len(node.edges)} inputs: "
                "return one for each, None where there is none"
            )
        for edge, dx in zip(node.edges, results, strict=True):
            if edge is None or dx is None:
                continue
            if dx.data.shape != edge.shape:
                dx = _fit(dx, edge.shape, node)
            gradients[edge] = gradients[edge] + dx if edge in gradients else dx
        if not retain_graph:
            node._saved = None
    return found


def _fit(gradient: Tensor, shape: tuple[int, ...], function: Function) -> Tensor:
    try:
        return unbroadcast(gradient, shape)
    except (IndexError, ValueError):
        raise GradientError(
            f"{function.name}.backward returned a gradient of shape {gradient.shape} for an input of shape {shape}"
        ) from None


def _seed_gradient(output: Tensor, gradient: Tensor | None) -> Tensor:
    """The gradient that the walk starts with: ∂L/∂L = 1 unless one is given."""
    if not output.requires_grad:
        raise GradientError(
            "this tensor does not depend on anything that requires a gradient: set requires_grad=True on a leaf, "
            "and compute outside no_grad()"
        )
    if gradient is None:
        if output.numel() != 1:
            raise GradientError(
                f"backward starts from one number, and this tensor has shape {output.shape}: "
                "reduce it, e.g. .sum(), or give the gradient"
            )
        return Tensor.wrap(output.data * 0 + 1)
    if gradient.shape != output.shape:
        raise GradientError(f"the gradient has shape {gradient.shape}, the tensor {output.shape}: they must be equal")
    return gradient


def backward(
    output: Tensor, gradient: Tensor | None = None, retain_graph: bool | None = None, create_graph: bool = False
) -> None:
    """Add ∂L/∂x to the `grad` of every leaf x that `output` = L was computed from.

    Args:
        gradient: ∂L/∂output, where output itself is not one number.
        retain_graph: keep what the operations saved, to go backward again (default: create_graph).
        create_graph: record the backward pass too, so that the gradients can be differentiated.
    """
    seed = _seed_gradient(output, gradient)
    order = topological_order(output.node)
    leaves = {node for node in order if isinstance(node, Tensor)}
    with set_grad_enabled(create_graph):
        gradients = _walk(output, seed, order, leaves, create_graph if retain_graph is None else retain_graph)
        taken: set[int] = set() if gradient is None else {id(gradient.data)}
        for leaf, dx in gradients.items():
            assert isinstance(leaf, Tensor)
            if leaf.grad is not None:
                leaf.grad = leaf.grad + dx
            elif dx.data.base is None and id(dx.data) not in taken:
                leaf.grad = dx
            else:  # y = a + b gives a and b one and the same array, but each shall own its gradient
                leaf.grad = dx * 1 if create_graph else dx.clone_data()
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
    Raises GradientError for an input that output does not depend on, unless `allow_unused` (then None).
    """
    single = isinstance(inputs, Tensor)
    xs: list[Tensor] = [inputs] if isinstance(inputs, Tensor) else list(inputs)
    seed = _seed_gradient(output, gradient)
    wanted = {x.node for x in xs}
    order = topological_order(output.node)
    needed: set[Any] = set(wanted)
    masks = []
    for node in reversed(order):  # a node is needed if a wanted one lies behind it
        if isinstance(node, Function):
            mask = tuple([edge in needed for edge in node.edges])
            masks.append((node, node.needs_grad, node.edges))
            node.needs_grad = mask
            node.edges = tuple([edge if use else None for edge, use in zip(node.edges, mask, strict=True)])
            if True in mask:
                needed.add(node)
    try:
        with set_grad_enabled(create_graph):
            found = _walk(
                output,
                seed,
                [node for node in order if node in needed],
                wanted,
                create_graph if retain_graph is None else retain_graph,
            )
    finally:
        for node, needs_grad, edges in masks:
            node.needs_grad, node.edges = needs_grad, edges
    for i, x in enumerate(xs):
        if x.node not in found and not allow_unused:
            raise GradientError(
                f"input {i} of shape {x.shape} took no part in computing the output: "
                "check that it requires a gradient, or say allow_unused=True to get None"
            )
    results = tuple(found.get(x.node) for x in xs)
    return results[0] if single else results
