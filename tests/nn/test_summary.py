"""summary: the numbers, the table, and that the model is left as it was."""

from __future__ import annotations

import numpy as np
import pytest

import minidl as dl
from minidl import Tensor, nn
from minidl.errors import ShapeError
from minidl.models import vgg16

TABLE = """\
Layer (type)       Output shape  Parameters  Multiply-adds
──────────────────────────────────────────────────────────
conv (Conv2d)      (2, 4, 8, 8)         112         13,824
bn (BatchNorm2d)   (2, 4, 8, 8)           8
relu (ReLU)        (2, 4, 8, 8)
pool (MaxPool2d)   (2, 4, 4, 4)
flatten (Flatten)  (2, 64)
dropout (Dropout)  (2, 64)
fc (Linear)        (2, 10)              650          1,280
unused (Linear)    not used               2
──────────────────────────────────────────────────────────
Parameters         772 (0.00 MB)
Trainable          770
Multiply-adds      15,104 for an input of (2, 3, 8, 8)
Kept for backward  0.00 MB"""


class Small(nn.Sequential):
    def __init__(self):
        super().__init__(
            conv=nn.Conv2d(3, 4, 3, padding=1),
            bn=nn.BatchNorm2d(4),
            relu=nn.ReLU(),
            pool=nn.MaxPool2d(2),
            flatten=nn.Flatten(),
            dropout=nn.Dropout(),
            fc=nn.Linear(64, 10),
        )
        self.unused = nn.Linear(1, 1).freeze()

    def forward(self, x):
        return self[:-1](x)


def test_the_table():
    found = nn.summary(Small(), (2, 3, 8, 8))
    assert str(found) == repr(found)
    lines, expected = str(found).splitlines(), TABLE.splitlines()
    assert lines == expected


def test_vgg16():
    with nn.init.skip_init():
        model = vgg16()
    found = nn.summary(model, (3, 224, 224))
    assert found.input_size == (1, 3, 224, 224)
    assert found.parameters == found.trainable == 138_357_544
    assert found.parameter_bytes == 4 * 138_357_544
    assert found.multiply_adds == 15_470_264_320
    assert "Multiply-adds      15.47 G" in str(found)
    assert 35e6 < found.kept_bytes < 40e6


def test_what_is_kept_is_counted_once_and_nothing_of_a_frozen_model():
    model = nn.Sequential(nn.Linear(10, 20), nn.ReLU(), nn.Linear(20, 30))
    assert nn.summary(model, (5, 10)).kept_bytes == 4 * 5 * 20  # relu's output, which fc keeps too
    assert nn.summary(model.freeze(), (5, 10)).kept_bytes == 0


def test_the_model_is_left_as_it_was():
    model = Small()
    model.dropout.eval()
    random_state = dl.backend.get_rng_state()
    state = {name: array.copy() for name, array in model.state_dict().items()}
    nn.summary(model, (1, 3, 8, 8))
    with pytest.raises(ShapeError, match="conv"):
        nn.summary(model, (1, 4, 8, 8))
    assert [m.training for m in model.modules()] == [m is not model.dropout for m in model.modules()]
    assert not any(m._forward_hooks for m in model.modules())
    assert dl.backend.get_rng_state() == random_state
    assert all(p.grad is None for p in model.parameters())
    for name, array in model.state_dict().items():
        np.testing.assert_array_equal(array, state[name])


def test_a_layer_used_twice_and_a_model_that_is_one_layer():
    layer = nn.Linear(4, 4)
    found = nn.summary(nn.Sequential(layer, nn.Sequential(nn.Tanh(), layer)), (4,))
    assert (found.parameters, found.multiply_adds) == (20, 32)
    assert [(row.name, row.parameters) for row in found.layers] == [("0", 20), ("1.0", 0)]
    assert str(nn.summary(layer, (1, 4))).splitlines()[2].startswith("Linear")


def test_a_module_without_parameters_that_returns_several_tensors():
    class Both(nn.Module):
        def forward(self, x):
            return x, [x + 1.0]

    found = nn.summary(Both(), (2, 3))
    assert (found.parameters, found.kept_bytes, found.layers[0].output_shape) == (0, 0, None)
    assert isinstance(Both()(Tensor([1.0])), tuple)
