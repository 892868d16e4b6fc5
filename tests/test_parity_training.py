"""minidl and PyTorch train the same small VGG on the same real pictures, with the same loss at every step."""

from __future__ import annotations

from collections import OrderedDict

import numpy as np
import pytest

import minidl
from minidl.data import DataLoader, ImageFolder, Preprocessing
from minidl.models import VGG
from minidl.nn import CrossEntropyLoss
from minidl.optim import SGD
from minidl.tensor import Tensor

torch = pytest.importorskip("torch")
pytest.importorskip("PIL")

pytestmark = [pytest.mark.slow, pytest.mark.parity]

STEPS, BATCH = 50, 8


@pytest.fixture(scope="module")
def batches(dogscats):
    """50 batches of real pictures, 64×64, as minidl's loader gives them."""
    numbers = Preprocessing(size=64, scale=1 / 255, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    pictures = ImageFolder(dogscats / "train", transform=numbers.transform())
    loader = DataLoader(pictures, BATCH, shuffle=True)
    return [batch for batch, _ in zip(loader, range(STEPS), strict=False)]


def torch_twin(model):
    """The same architecture in PyTorch, with the same weights."""
    nn = torch.nn
    make = {
        "Conv2d": lambda layer: nn.Conv2d(layer.in_channels, layer.out_channels, 3, padding=1),
        "BatchNorm2d": lambda layer: nn.BatchNorm2d(layer.num_features),
        "ReLU": lambda layer: nn.ReLU(),
        "MaxPool2d": lambda layer: nn.MaxPool2d(2),
        "AdaptiveAvgPool2d": lambda layer: nn.AdaptiveAvgPool2d(7),
        "Flatten": lambda layer: nn.Flatten(),
        "Linear": lambda layer: nn.Linear(layer.in_features, layer.out_features),
        "Dropout": lambda layer: nn.Dropout(layer.p),
    }
    layers = {name: make[type(layer).__name__](layer) for name, layer in model.named_children()}
    twin = nn.Sequential(OrderedDict(layers))
    twin.load_state_dict({name: torch.from_numpy(array.copy()) for name, array in model.state_dict().items()})
    return twin


def train(model, batches, optimizer, loss):
    """The loss of every step."""
    losses = []
    for x, y in batches:
        cost = loss(model(x), y)
        optimizer.zero_grad()
        cost.backward()
        optimizer.step()
        losses.append(cost.item())
    return np.array(losses)


@pytest.mark.parametrize("batch_norm", [False, True], ids=["plain", "batch norm"])
@pytest.mark.parametrize(("dtype", "lr"), [("float32", 1e-5), ("float64", 1e-3)])
def test_fifty_steps_like_pytorch(batches, batch_norm, dtype, lr):
    """Training is chaotic: a rounding error that turns one ReLU over has grown to 1e-1 after 50 steps.

    So float32 agrees with anything, PyTorch's own float64 included, only at a low learning rate. It is enough
    to bring the first loss down; the rate that one would train with is compared in float64.
    """
    minidl.seed(0)
    model = VGG(((16, 16), (32, 32), (64, 64)), (64, 64), 2, batch_norm=batch_norm, dropout=0.0)
    twin = torch_twin(model).to(getattr(torch, dtype))
    model.astype(dtype)
    ours = [(Tensor(x, dtype=dtype), y) for x, y in batches]
    theirs = [(torch.from_numpy(x.numpy()), torch.from_numpy(y.numpy())) for x, y in ours]

    found = train(model, ours, SGD(model.parameters(), lr, momentum=0.9), CrossEntropyLoss())
    sgd = torch.optim.SGD(twin.parameters(), lr, momentum=0.9)
    expected = train(twin, theirs, sgd, torch.nn.CrossEntropyLoss())
    error = np.abs(found - expected) / expected
    print(
        f"worst relative error {error.max():.1e} at step {error.argmax()}: {found[0]:.3f} to {found[-1]:.3f}"
    )
    assert len(found) == STEPS
    assert error.max() <= 1e-3
    assert np.abs(np.diff(found)).max() > 0.05  # the losses are not all the same anyway
