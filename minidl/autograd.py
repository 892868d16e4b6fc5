"""Reverse-mode differentiation: how the graph is recorded, and how the chain rule walks back through it.

Recording. Every operation is a `Function`: its `forward` computes y = f(x) on plain arrays, its `backward`
takes ∂L/∂y and returns ∂L/∂x. Calling a function on tensors runs `forward` and leaves in the result a
pointer to the function, which holds pointers (edges) to the functions its own inputs came from.

Walking. For a diamond   x → a, x → b, (a, b) → L   the gradient of x is a sum over both paths,

    ∂L/∂x = ∂L/∂a · ∂a/∂x + ∂L/∂b · ∂b/∂x,

so x may be visited only when both a and b have sent their part. They were called after x was computed. So it
is enough to visit the functions in the order of their calls, backwards.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Sequence
from heapq import heappop, heappush
from typing import Any, ClassVar

from minidl import complaints
from minidl.anomaly import looking_back
from minidl.backend import Array, array_module
from minidl.backend.memory import copied, owned
from minidl.lazy import LazyProduct
from minidl.recording import Place, calling_place, here, set_grad_enabled
from minidl.tensor import Tensor

_wrap, _numbers = Tensor.wrap, itertools.count(0, -1)


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

    needs_grad: Sequence[bool] = (False,) * 99  # for each input: is its gradient asked for? Here: of none
    edges: Sequence[Any]  # for each input: the Function or leaf it came from; None where it needs no gradient
    shape: tuple[int, ...]  # of the output
    made_in: Any  # the nn.ModuleCall that it was part of; None outside of modules

    _inputs: ClassVar[dict[str, int]] = {}  # the names of forward's inputs, and their places
    _depth = 3  # user code is at least so many calls up from where `record` looks for it
    _number: int  # functions are numbered as they are called: 0, −1, −2, …
    _place: tuple[Any, int]  # in user code, where it was called
    _saved: Any = {}  # what backward needs: name → (tensor, its array, its version); None once freed  # noqa: RUF012
    apply: Any = classmethod(complaints.refuse_apply)  # PyTorch's way to call it

    def __init_subclass__(cls) -> None:
        code = cls.forward.__code__
        cls._inputs = {name: i for i, name in enumerate(code.co_varnames[1 : code.co_argcount])}
        cls._depth = 4 if cls.__module__.startswith("minidl.functional") else 3  # called by a function there

    @property
    def name(self) -> str:
        return type(self).__name__

    @property
    def made_at(self) -> Place:
        """The line of user code that called it."""
        return Place(*self._place)

    def forward(self, *inputs: Any) -> Array:
        raise complaints.no_forward(self)

    def backward(self, dy: Tensor) -> Tensor | tuple[Tensor | None, ...] | None:
        raise complaints.no_backward(self)

    def __call__(self, *inputs: Tensor) -> Tensor:
        """y = f(inputs); records the graph if it is recording and an input requires its gradient."""
        state = here.state
        try:
            if len(inputs) == 2:  # as below, spelled out: a small x / y in four fifths of the time
                a, b = inputs
                if state.recording:
                    self.needs_grad = a.requires_grad, b.requires_grad
                array = self.forward(a.data, b.data)
            else:
                if state.recording:
                    self.needs_grad = [x.requires_grad for x in inputs]
                array = self.forward(*[x.data for x in inputs])
        except (AttributeError, TypeError):
            complaints.about_inputs(self, inputs)
            raise
        y = _wrap(array)
        if state.recording and True in self.needs_grad:
            self.record(inputs, y, state.call, self._depth)
        if state.anomaly is not None:
            state.anomaly.forward(self, inputs, y)
        return y

    def record(self, inputs: tuple[Tensor, ...], y: Tensor, call: Any, depth: int) -> None:
        """Become the past of y: note where it came from, and what was saved of which tensors."""
        self.edges = edges = []
        for x in inputs:
            edges.append((x.grad_fn or x) if x.requires_grad else None)
        self.shape = y.data.shape
        self.made_in, self._place, self._number = call, calling_place(depth), next(_numbers)
        saved, places = self._saved, self._inputs
        for name, array in saved.items():
            if array is not None:
                if name in places:
                    tensor = inputs[places[name]]
                else:  # the output itself points here: keeping it would close a circle
                    tensor = y.detach() if name == "output" else _wrap(array)
                saved[name] = tensor, tensor.data, tensor._version[0]
        y.requires_grad, y.grad_fn = True, self

    def save(self, **values: Array | None) -> None:
        """Keep arrays for `backward`: inputs by the name `forward` gives them, the result as `output`.

        Those come back as part of the graph, so that second derivatives see them; any other name is a
        constant. What is not needed (None) is not kept, and nothing is if no gradient is asked for.
        """
        self._saved = values

    @property
    def saved(self) -> list[Any]:
        """What `save` kept, as tensors, in the order it was given."""
        if self._saved is None:
            raise complaints.freed(self)
        tensors = []
        for name, entry in self._saved.items():
            tensor = None
            if entry is not None:
                tensor, array, version = entry
                if tensor._version[0] != version or tensor.data is not array:
                    raise complaints.changed(self, name, array.shape, version, tensor._version[0])
                if name == "output" and here.state.recording:
                    tensor = tensor.detach()
                    tensor.grad_fn, tensor.requires_grad = self, True
            tensors.append(tensor)
        return tensors


# The walk back


def walk(
    output: Tensor, gradient: Tensor, retain_graph: bool, keep: Collection[Any] = (), observe: Any = None
) -> dict[Any, Tensor]:
    """The chain rule: ∂L/∂x for every leaf x that output = L was computed from, and every function to keep.

    `observe(node, ∂L/∂y, what backward returned)` is called for each function that was walked through.
    """
    root, state = output.node, here.state
    gradients: dict[Any, Tensor] = {root: gradient}
    pending = [(root._number, root)] if isinstance(root, Function) else []
    sums: set[Any] = set()  # whose gradient is a sum, and so an array of our own
    while pending:
        _, node = heappop(pending)  # of those reached, the one called last: nobody will send it more
        if node not in keep:
            dy = gradients.pop(node)
        elif True in node.needs_grad:
            dy = gradients[node]
        else:
            continue
        results = node.backward(dy)
        results = results if isinstance(results, tuple) else (results,)
        if len(results) != len(node.edges):
            raise complaints.wrong_number(node, results)
        if observe is not None:
            observe(node, dy, results)
        for i, dx in enumerate(results):
            if (edge := node.edges[i]) is None or dx is None:
                continue
            shape = dx.data.shape if type(dx) is Tensor else type(dx) is LazyProduct and dx.shape
            if shape != edge.shape:
                dx = unbroadcast(dx, edge.shape, node)
            if edge not in gradients:
                gradients[edge] = dx
                if isinstance(edge, Function):
                    heappush(pending, (edge._number, edge))
                elif type(dx) is Tensor and any(e and e[1] is dx.data for e in (node._saved or {}).values()):
                    gradients[edge] = dx * 1  # what was saved has an owner, and a leaf owns its gradient
            elif edge in sums and not state.recording:
                gradients[edge].data += dx.data
            else:
                gradients[edge] = gradients[edge] + dx
                sums.add(edge)
        if not retain_graph:
            node._saved = None
    return gradients


def unbroadcast(gradient: Tensor, shape: tuple[int, ...], function: Function) -> Tensor:
    """∂L/∂x for an x of `shape` that was broadcast: the sum over every axis along which it was repeated."""
    if not isinstance(gradient, Tensor):
        raise complaints.no_tensor(function, gradient)
    added = gradient.ndim - len(shape)
    if added < 0 or any(n not in (1, m) for n, m in zip(shape, gradient.shape[added:], strict=True)):
        raise complaints.wrong_shape(function, gradient, shape)
    stretched = [axis for axis, n in enumerate(shape, added) if n == 1 != gradient.shape[axis]]
    return gradient.sum(axis=(*range(added), *stretched)).reshape(shape)


def first_gradient(output: Tensor, gradient: Tensor | None) -> Tensor:
    """The gradient that the walk starts with: ∂L/∂L = 1 unless one is given."""
    if complaint := complaints.about_start(output, gradient):
        raise complaint
    return _wrap(array_module(output.data).ones_like(output.data)) if gradient is None else gradient


def backward(
    output: Tensor,
    gradient: Tensor | None = None,
    retain_graph: bool | None = None,
    create_graph: bool = False,
) -> None:
    """Add ∂L/∂x, in the type of x, to the `grad` of every leaf x that `output` = L was computed from.

    Args:
        gradient: ∂L/∂output, where output itself is not one number.
        retain_graph: keep what the operations saved, to go backward again (default: create_graph).
        create_graph: record the backward pass too, so that the gradients can be differentiated.

    Raises:
        GradientError: output requires no gradient, or `gradient` does not fit it, or the graph was freed.
    """
    first = first_gradient(output, gradient)
    with set_grad_enabled(create_graph), looking_back() as observe:
        gradients = walk(output, first, create_graph if retain_graph is None else retain_graph, (), observe)
        taken = {id(first.data)}
        for leaf, dx in gradients.items():
            if leaf.grad is None and type(dx) is LazyProduct and id(dx) not in taken:  # nobody's yet
                leaf.grad = dx
                taken.add(id(dx))
                continue
            dx = dx if dx.data.dtype is leaf.data.dtype else dx.astype(leaf.data.dtype)
            if leaf.grad is not None:
                leaf.grad = leaf.grad + dx
            elif owned(dx.data, leaf.data) and not taken & {id(dx), id(dx.data)}:
                leaf.grad = dx
            else:  # y = a + b gives a and b one and the same array, but each shall own its gradient
                leaf.grad = dx * 1 if create_graph else _wrap(copied(dx.data, leaf.data))
            taken.add(id(dx.data))
