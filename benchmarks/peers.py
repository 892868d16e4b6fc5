"""PyTorch as a peer: the same networks with the same weights, in both of its layouts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

import minidl as dl
from minidl import nn

if TYPE_CHECKING:  # else imported where it is used: it takes 200 MB, and we measure memory
    import torch

LAYOUTS = {"PyTorch NCHW": "contiguous_format", "PyTorch channels-last": "channels_last"}


def memory_format(layout: str) -> Any:
    """What PyTorch calls one of LAYOUTS."""
    import torch

    return getattr(torch, LAYOUTS[layout])


def same_network(model: nn.Module) -> torch.nn.Sequential:
    """A chain of minidl layers in PyTorch."""
    import torch

    layers: list[torch.nn.Module] = []
    undrawn = torch.nn.utils.skip_init  # the weights are copied, below
    for layer in model.children():
        match layer:
            case nn.Conv2d():
                options = (
                    layer.in_channels,
                    layer.out_channels,
                    layer.kernel_size,
                    layer.stride,
                    layer.padding,
                )
                layers.append(undrawn(torch.nn.Conv2d, *options))
            case nn.BatchNorm2d():
                layers.append(torch.nn.BatchNorm2d(layer.num_features))
            case nn.Linear():
                layers.append(undrawn(torch.nn.Linear, layer.in_features, layer.out_features))
            case nn.MaxPool2d():
                layers.append(torch.nn.MaxPool2d(2))
            case nn.AvgPool2d():
                layers.append(torch.nn.AvgPool2d(2))
            case nn.ReLU():
                layers.append(torch.nn.ReLU())
            case nn.Flatten():
                layers.append(torch.nn.Flatten())
    peer = torch.nn.Sequential(*layers)
    with torch.no_grad():
        for theirs, ours in zip(peer.parameters(), model.parameters(), strict=True):
            theirs.copy_(torch.from_numpy(ours.numpy()))
    return peer


def layouts(model: nn.Module, x: np.ndarray) -> Iterator[tuple[str, torch.nn.Sequential, torch.Tensor]]:
    """(name, network, pictures) for each layout."""
    import torch

    for name in LAYOUTS:
        layout = memory_format(name)
        yield (
            name,
            same_network(model).to(memory_format=layout),
            torch.from_numpy(x).contiguous(memory_format=layout),
        )


def minidl_step(model: nn.Module, x: np.ndarray, y: np.ndarray, lr: float = 1e-4) -> Callable[[], float]:
    """One step of training with momentum; returns the loss."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = dl.optim.SGD(parameters, lr=lr, momentum=0.9)

    def step() -> float:
        loss = dl.functional.cross_entropy(model(dl.Tensor(x)), dl.Tensor(y))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def torch_step(
    model: torch.nn.Module, x: torch.Tensor, y: np.ndarray, lr: float = 1e-4
) -> Callable[[], float]:
    """The same."""
    import torch

    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(parameters, lr=lr, momentum=0.9)
    labels = torch.from_numpy(y).to(x.device)

    def step() -> float:
        loss = torch.nn.functional.cross_entropy(model(x), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    return step
