"""VGG: the layers by name, the parameters by number, and a new head."""

from __future__ import annotations

import math

import numpy as np
import pytest

import minidl as dl
from minidl.functional import cross_entropy
from minidl.models import VGG, vgg16
from minidl.nn import init

SMALL = {"blocks": ((4, 4), (8,)), "dense": (6,), "num_classes": 3, "pooled": 2, "dropout": 0.0}


def picture(n=2, size=8):
    return dl.Tensor(np.random.default_rng(0).standard_normal((n, 3, size, size)).astype(np.float32))


def test_vgg16_is_that_of_the_paper():
    with init.skip_init():
        model = vgg16()
    convolutions = [f"conv{b}_{c}" for b, n in enumerate((2, 2, 3, 3, 3), start=1) for c in range(1, n + 1)]
    names = [name for name, layer in model.named_children() if list(layer.parameters())]
    assert names == [*convolutions, "fc6", "fc7", "fc8"]
    assert sum(parameter.numel() for parameter in model.parameters()) == 138_357_544
    assert model.fc6.weight.shape == (4096, 25088)
    assert model.last == "fc8"


def test_two_classes_and_batch_norm():
    with init.skip_init():
        assert sum(p.numel() for p in vgg16(num_classes=2).parameters()) == 134_268_738
        model = vgg16(batch_norm=True)
    assert sum(p.numel() for p in model.parameters()) == 138_357_544 + 2 * (
        2 * 64 + 2 * 128 + 3 * 256 + 6 * 512
    )
    assert list(dict(model.named_children()))[:3] == ["conv1_1", "bn1_1", "relu1_1"]


def test_config_builds_the_same_architecture():
    model = VGG(**SMALL, batch_norm=True)
    twin = VGG(**model.config)
    twin.load_state_dict(model.state_dict())
    x = picture()
    np.testing.assert_array_equal(twin.eval()(x).data, model.eval()(x).data)


def test_trunk_and_head_make_the_whole():
    model = VGG(**SMALL).eval()
    x = picture()
    trunk, head = model.between(until="pool2"), model.between(after="pool2")
    assert next(iter(dict(head.named_children()))) == "avgpool"
    assert trunk.conv1_1 is model.conv1_1
    np.testing.assert_array_equal(head(trunk(x)).data, model(x).data)
    with pytest.raises(KeyError, match="no layer called 'pool9': the layers are conv1_1, relu1_1"):
        model.between(after="pool9")


def test_pictures_of_another_size_are_pooled():
    assert VGG(**SMALL).eval()(picture(size=21)).shape == (2, 3)


def test_replacing_the_last_layer():
    dl.seed(0)
    model = VGG(**SMALL)
    before = {name: array.copy() for name, array in model.state_dict().items()}
    new = model.replace_last(5, ["a", "b", "c", "d", "e"])
    assert model.fc4 is new
    assert (new.in_features, new.out_features) == (6, 5)
    assert model.classes == ["a", "b", "c", "d", "e"]
    assert VGG(**model.config).fc4.out_features == 5
    after = model.state_dict()
    for name in before.keys() - {"fc4.weight", "fc4.bias"}:
        np.testing.assert_array_equal(after[name], before[name])
    loss = cross_entropy(model.eval()(picture()), dl.Tensor([0, 4]))
    assert loss.item() == pytest.approx(math.log(5))  # all classes equally likely


def test_a_model_without_dense_layers():
    model = VGG(**{**SMALL, "num_classes": None})
    assert model.eval()(picture()).shape == (2, 8 * 2 * 2)
    model.replace_last(2)
    assert model.last == "fc3"
    assert model(picture()).shape == (2, 2)
    assert VGG(**model.config)(picture()).shape == (2, 2)


def test_the_variance_survives_the_layers():
    """He et al. 2015: with N(0, 2/fan_in) neither signal dies or explodes on its way."""
    dl.seed(0)
    model = VGG(((32,) * 4, (64,) * 4), (256, 256), 10, pooled=8, dropout=0.0)
    scale = model(picture(4, 32)).numpy().std()
    assert 0.1 < scale < 10
