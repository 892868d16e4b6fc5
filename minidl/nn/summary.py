"""What a model is made of: its layers, their output shapes, and what they cost."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np

from minidl.backend import Array, get_rng_state, set_rng_state
from minidl.nn.module import Module
from minidl.paths import topological_order
from minidl.recording import no_grad, set_grad_enabled
from minidl.tensor import Tensor


@dataclass(frozen=True)
class LayerSummary:
    """One line of the table."""

    name: str  # the path, "" for the model itself
    type: str
    output_shape: tuple[int, ...] | None  # None: not used in forward
    parameters: int
    multiply_adds: int


@dataclass(frozen=True)
class Summary:
    """What `summary` found; its text is the table.

    Attributes:
        parameters, trainable: numbers of parameters, shared ones counted once.
        parameter_bytes: their memory.
        multiply_adds: of one forward pass of the input size asked for.
        kept_bytes: the arrays that forward keeps until backward, without the input and the model itself.
    """

    layers: list[LayerSummary]
    input_size: tuple[int, ...]
    parameters: int
    trainable: int
    parameter_bytes: int
    multiply_adds: int
    kept_bytes: int

    def __str__(self) -> str:
        rows = [("Layer (type)", "Output shape", "Parameters", "Multiply-adds")]
        for layer in self.layers:
            name = f"{layer.name} ({layer.type})" if layer.name else layer.type
            shape = "not used" if layer.output_shape is None else str(layer.output_shape)
            rows.append((name, shape, _number(layer.parameters), _number(layer.multiply_adds)))
        w = [max(len(row[i]) for row in rows) for i in range(4)]
        lines = [f"{a:<{w[0]}}  {b:<{w[1]}}  {c:>{w[2]}}  {d:>{w[3]}}".rstrip() for a, b, c, d in rows]
        rule = "─" * len(lines[0])
        totals = [
            f"Parameters         {self.parameters:,} ({_megabytes(self.parameter_bytes)})",
            f"Trainable          {self.trainable:,}",
            f"Multiply-adds      {_rounded(self.multiply_adds)} for an input of {self.input_size}",
            f"Kept for backward  {_megabytes(self.kept_bytes)}",
        ]
        return "\n".join([lines[0], rule, *lines[1:], rule, *totals])

    __repr__ = __str__


def summary(model: Module, input_size: Sequence[int]) -> Summary:
    """The layers of `model`, found by running zeros through it; the model is left as it was.

    It runs in evaluation mode, so that no running statistic moves and no random number is drawn.

    Args:
        input_size: of a batch, (N, C, H, W) or (N, features), or of one sample, (C, H, W) or (features,).
    """
    size = tuple(input_size) if len(input_size) % 2 == 0 else (1, *input_size)
    parameters = list(model.parameters())
    example = parameters[0].data if parameters else np.zeros(0, np.float32)
    x = Tensor(np.zeros(size, example.dtype)).to(Tensor.wrap(example).device)
    shapes: dict[Module, tuple[int, ...]] = {}
    multiply_adds: dict[Module, int] = {}

    def note(module: Module, inputs: tuple[Any, ...], output: Any) -> None:
        if isinstance(output, Tensor):
            shapes[module] = output.shape
            count = module.multiply_adds(inputs[0].shape, output.shape)
            multiply_adds[module] = multiply_adds.get(module, 0) + count

    modes = [(module, module.training) for module in model.modules()]
    random_state = get_rng_state()
    try:
        with ExitStack() as hooks, no_grad():
            for module in model.modules():
                hooks.enter_context(module.register_forward_hook(note))
            model.eval()(x)
        with set_grad_enabled(True):
            output = model(x)  # as when it learns: where hooks look on, Sequential keeps more
    finally:
        for module, mode in modes:
            module.training = mode
        set_rng_state(random_state)

    layers = []
    seen: set[Tensor] = set()
    for name, module in model.named_modules():
        own = {p for p in module._parameters.values() if p is not None} - seen
        seen |= own
        if own or not module._modules:
            count = sum(p.numel() for p in own)
            layers.append(
                LayerSummary(
                    name, type(module).__name__, shapes.get(module), count, multiply_adds.get(module, 0)
                )
            )
    return Summary(
        layers,
        size,
        parameters=sum(p.numel() for p in parameters),
        trainable=sum(p.numel() for p in parameters if p.requires_grad),
        parameter_bytes=sum(p.data.nbytes for p in parameters),
        multiply_adds=sum(multiply_adds.values()),
        kept_bytes=_kept_bytes(output, [x, *parameters, *model.buffers()]),
    )


def _kept_bytes(output: Any, besides: Sequence[Tensor]) -> int:
    """The memory of all arrays that the graph of `output` keeps, views counted once, `besides` not at all."""
    kept = {}
    for tensor in _tensors(output):
        for function in topological_order(tensor.node):
            for saved in function.saved:
                if saved is not None:
                    memory = _owner(saved.data)
                    kept[id(memory)] = memory
    for tensor in besides:
        kept.pop(id(_owner(tensor.data)), None)
    return sum(memory.nbytes for memory in kept.values())


def _owner(array: Array) -> Array:
    """The array whose memory `array` is a view of, or itself."""
    while isinstance(array.base, type(array)):
        array = array.base
    return array


def _tensors(output: Any) -> Iterator[Tensor]:
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, (list, tuple)):
        for part in output:
            yield from _tensors(part)


def _number(count: int) -> str:
    return f"{count:,}" if count else ""


def _rounded(count: int) -> str:
    if count < 1e6:
        return f"{count:,}"
    return f"{count / 1e9:.2f} G" if count >= 1e9 else f"{count / 1e6:.2f} M"


def _megabytes(count: int) -> str:
    return f"{count / 1e6:,.2f} MB"
