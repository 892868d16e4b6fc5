"""Every layout of VGG16 weights gives the same state dict, and what is not VGG16 is refused with a reason.

The VGG16 here has few channels (`small`); files of full size, written by Keras and PyTorch, are read in
tests/test_parity_vgg16.py.
"""

from __future__ import annotations

import json

import numpy as np
import pytest
from vgg16_layouts import TORCH_BN_CONVOLUTIONS, TORCH_CONVOLUTIONS, keras_layers, timm_file, torch_file

from minidl.data.preprocessing import Preprocessing
from minidl.errors import WeightsError
from minidl.weights import vgg16
from minidl.weights.vgg16 import read_vgg16

h5py = pytest.importorskip("h5py")
safetensors = pytest.importorskip("safetensors.numpy")

CLASSES = 3
BN = ("weight", "bias", "running_mean", "running_var")
CAFFE_MEAN = (103.939, 116.779, 123.68)


@pytest.fixture(autouse=True)
def small(monkeypatch):
    widths = {layer: (64 if layer == "1_1" else 4) for layer in vgg16.CONVOLUTIONS}
    inputs = dict(zip(widths, [3, *widths.values()], strict=False))
    monkeypatch.setattr(vgg16, "CONVOLUTIONS", {layer: (widths[layer], inputs[layer]) for layer in widths})
    monkeypatch.setattr(vgg16, "DENSE", {"fc6": (6, 7 * 7 * 4), "fc7": (5, 6), "fc8": (None, 5)})


@pytest.fixture
def state():
    return random_state()


def random_state(top=True, batch_norm=False):
    rng = np.random.default_rng(0)
    shapes = vgg16._shapes(batch_norm, CLASSES if top else None)
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items() if shape}


@pytest.fixture
def h5(tmp_path):
    """Writes arrays to an HDF5 file and reads them as VGG16."""

    def write(arrays):
        with h5py.File(tmp_path / "weights.h5", "w") as file:
            for name, array in arrays.items():
                file[name] = array
        return read_vgg16(tmp_path / "weights.h5")

    return write


@pytest.fixture
def tensors(tmp_path):
    """Writes arrays to a safetensors file and reads them as VGG16."""

    def write(arrays, metadata=None):
        arrays = {name: np.array(array, order="C") for name, array in arrays.items()}
        safetensors.save_file(arrays, tmp_path / "weights.safetensors", metadata)
        return read_vgg16(tmp_path / "weights.safetensors")

    return write


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert found[name].dtype == np.float32
        assert found[name].flags.c_contiguous
        np.testing.assert_array_equal(found[name], array, err_msg=name)


# Keras's names.

BLOCKS = [f"block{b}_conv{i}" for b, count in enumerate((2, 2, 3, 3, 3), 1) for i in range(1, count + 1)]
DENSE = ["fc1", "fc2", "predictions"]
NUMBERED = ["", *(f"_{i}" for i in range(1, 13))]
KERAS_NAMES = {
    "keras 1": [f"{name}/{name}_{{}}_1:0" for name in BLOCKS + DENSE],
    "keras 2": [f"{name}/{name}/{{}}:0" for name in BLOCKS + DENSE],
    "keras 3": [f"layers/conv2d{n}/vars/{{}}" for n in NUMBERED]
    + [f"layers/dense{n}/vars/{{}}" for n in NUMBERED[:3]],
    "keras 3 model": [f"model_weights/{name}/{name}/{{}}" for name in BLOCKS + DENSE],
    "fast.ai": [f"convolution2d_{n}/convolution2d_{n}_{{}}" for n in range(1, 14)]
    + [f"dense_{n}/dense_{n}_{{}}" for n in range(1, 4)],
    "gist": [f"layer_{n}/param_{{}}" for n in (1, 3, 6, 8, 11, 13, 15, 18, 20, 22, 25, 27, 29, 32, 34, 36)],
    "new head": [f"{name}/{name}/{{}}" for name in [*BLOCKS, "fc1", "fc2", "a_head"]],
}


def keras_file(state, names, theano=False):
    parts = ("0", "1") if "vars" in names[0] or "param" in names[0] else ("W", "b")
    return {
        name.format(part): array
        for name, layer in zip(names, keras_layers(state, theano), strict=False)
        for part, array in zip(parts, layer, strict=True)
    }


# The layouts.


@pytest.mark.parametrize("names", KERAS_NAMES.values(), ids=KERAS_NAMES.keys())
@pytest.mark.parametrize("theano", [False, True], ids=["tf", "th"])
@pytest.mark.parametrize("top", [True, False], ids=["top", "notop"])
def test_keras(h5, names, theano, top):
    state = random_state(top)
    file = h5(keras_file(state, names, theano))
    assert_same(file.state, state)
    assert (file.source, file.batch_norm, file.num_classes) == ("keras", False, CLASSES if top else None)
    keras = Preprocessing(resize="squash", filter="nearest", order="BGR", mean=CAFFE_MEAN)
    assert file.preprocessing == keras


def test_torchvision(tensors, state):
    file = tensors(torch_file(state))
    assert_same(file.state, state)
    assert (file.source, file.batch_norm, file.num_classes) == ("torchvision", False, CLASSES)
    assert file.preprocessing == Preprocessing(
        size=224,
        resize="crop",
        resize_to=256,
        filter="bilinear",
        order="RGB",
        scale=1 / 255,
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
    )


def test_torchvision_without_the_dense_layers(tensors):
    state = random_state(top=False)
    file = tensors(torch_file(state))
    assert_same(file.state, state)
    assert file.num_classes is None


@pytest.mark.parametrize("counters", [True, False], ids=["now", "before 0.4.1"])
def test_torchvision_with_batch_norm(tensors, counters):
    state = random_state(batch_norm=True)
    arrays = torch_file(state, batch_norm=True)
    if counters:
        arrays |= {f"features.{n + 1}.{vgg16.COUNTER}": np.array(7) for n in TORCH_BN_CONVOLUTIONS}
    file = tensors(arrays)
    assert file.batch_norm
    for layer in vgg16.CONVOLUTIONS:
        counter = file.state.pop(f"bn{layer}.num_batches_tracked")
        assert (counter.dtype, counter.shape, counter) == (np.int64, (), 7 if counters else 0)
    assert_same(file.state, state)


def test_timm(tensors, state):
    file = tensors(timm_file(state))
    assert_same(file.state, state)
    assert file.source == "timm"
    assert file.preprocessing == vgg16.TORCHVISION


def test_jcjohnson(tensors, state):
    file = tensors(torch_file(state, ("classifier.1", "classifier.4", "classifier.6")))
    assert_same(file.state, state)
    assert file.source == "caffe-lineage torch"
    assert file.preprocessing == Preprocessing(resize="crop", order="BGR", mean=CAFFE_MEAN)


def test_data_parallel_and_other_floats(tensors, state):
    half = {name: array.astype(np.float16) for name, array in state.items()}
    file = tensors({f"module.{name}": array for name, array in torch_file(half).items()})
    assert_same(file.state, half)


# The weights of the Caffe model give themselves away.


def caffe_state(order="BGR"):
    state = random_state()
    state["conv1_1.weight"][:4, 0 if order == "BGR" else 2, 0, 0] = vgg16.CAFFE_CORNER
    return state


def test_caffe_weights_under_torchvision_names(tensors):
    file = tensors(torch_file(caffe_state()))
    assert_same(file.state, caffe_state())
    assert file.source == "caffe-lineage torch"
    assert file.preprocessing == Preprocessing(resize="crop", order="BGR", mean=CAFFE_MEAN)


def test_caffe_weights_for_rgb(tensors):
    file = tensors(torch_file(caffe_state("RGB")))
    assert_same(file.state, caffe_state("RGB"))
    assert file.preprocessing == Preprocessing(resize="crop", order="RGB", mean=CAFFE_MEAN[::-1])


@pytest.mark.parametrize("flipped", [True, False])
def test_kernels_in_theano_layout_are_flipped_only_if_they_are(h5, flipped):
    arrays = keras_file(caffe_state(), KERAS_NAMES["keras 1"], theano=True)
    if not flipped:
        arrays = {name: a[:, :, ::-1, ::-1] if a.ndim == 4 else a for name, a in arrays.items()}
    assert_same(h5(arrays).state, caffe_state())


# minidl's own checkpoints.


def test_minidl_checkpoint(tensors):
    state = caffe_state()  # whose preprocessing is what the checkpoint says, not what a Caffe file would need
    preprocessing = Preprocessing(size=200, order="RGB", scale=0.5)
    facts = json.dumps({"preprocessing": preprocessing.to_dict(), "classes": ["cats", "dogs"]})
    arrays = {f"model/{name}": array for name, array in state.items()}
    file = tensors({**arrays, "optimizer/momentum/fc8.bias": np.ones(3)}, {"minidl": facts})
    assert_same(file.state, state)
    assert (file.source, file.num_classes, file.preprocessing) == ("minidl", CLASSES, preprocessing)


@pytest.mark.parametrize(
    "facts", ["", "[", "{}", '{"preprocessing": 3}', '{"preprocessing": {"size": -1}}', "[" * 10**5]
)
def test_damaged_minidl_checkpoint(tensors, state, facts):
    with pytest.raises(WeightsError, match="a minidl checkpoint whose preprocessing is missing or damaged"):
        tensors({f"model/{name}": array for name, array in state.items()}, {"minidl": facts})


def test_minidl_checkpoint_of_another_model(tensors, state):
    facts = json.dumps({"preprocessing": Preprocessing().to_dict()})
    with pytest.raises(WeightsError, match=r"not those of VGG16: they differ in conv1_1\.bias, .* more\."):
        tensors({"model/fc1.weight": np.ones((2, 2))}, {"minidl": facts})


# What is not VGG16.


@pytest.mark.parametrize(("convolutions", "name"), [(8, "VGG11"), (10, "VGG13"), (16, "VGG19")])
def test_other_depths(tensors, h5, convolutions, name):
    message = rf"weights\.\w+: this is {name}: it has {convolutions} convolutions of 3×3, VGG16 has 13\."
    kernels = {f"features.{n}.weight": np.ones((4, 4, 3, 3)) for n in range(convolutions)}
    with pytest.raises(WeightsError, match=message):
        tensors(kernels)
    layers = {f"conv{n}/kernel": np.ones((3, 3, 4, 4)) for n in range(convolutions)}
    with pytest.raises(WeightsError, match=message):
        h5({**layers, **{f"conv{n}/bias": np.ones(4) for n in range(convolutions)}})


def test_no_convolutions(tensors):
    with pytest.raises(WeightsError, match="not a VGG16: it has 0 convolutions"):
        tensors({"fc.weight": np.ones((2, 2))})


def test_nan_in_the_dense_layers(tensors, state):
    state["fc6.weight"][:] = np.nan
    with pytest.raises(WeightsError, match=r"fc6\.weight holds NaN or infinity, as in .*amdegroot"):
        tensors(torch_file(state))


def test_float64_beyond_float32(tensors, state):
    huge = {**state, "fc8.bias": np.full(3, 1e300)}
    with pytest.raises(WeightsError, match=r"fc8\.bias holds NaN or infinity"):
        tensors(torch_file(huge))


def test_reduced_vgg16(tensors):
    arrays = {f"{n}.weight": np.ones((1, 1, 3, 3)) for n in TORCH_CONVOLUTIONS}
    with pytest.raises(WeightsError, match=r"SSD's reduced VGG16 \(vgg16_reducedfc\).*Take the whole one"):
        tensors({**arrays, "31.weight": np.ones((1024, 512, 3, 3), np.int8)})


def test_other_names(tensors, state):
    arrays = torch_file(state)
    with pytest.raises(WeightsError, match=r"not a whole VGG16: it lacks features\.0\.weight"):
        tensors({name.replace("features.0.", "stem."): array for name, array in arrays.items()})
    with pytest.raises(WeightsError, match=r"not a VGG16: it also has classifier\.7\.bias\."):
        tensors({**arrays, "classifier.7.bias": np.ones(3)})
    del arrays["classifier.3.bias"]
    with pytest.raises(WeightsError, match=r"it lacks classifier\.3\.bias\."):
        tensors(arrays)


def test_other_shapes(tensors, h5, state):
    for name, shape in [("conv3_1.weight", (4, 5, 3, 3)), ("fc6.weight", (6, 100)), ("fc8.bias", (0,))]:
        wrong = {**state, name: np.ones(shape)}
        with pytest.raises(WeightsError, match=r"not a VGG16: \w+\.\w+ has shape \(.*\) instead of \("):
            tensors(torch_file(wrong))
    wrong = {**state, "conv2_1.bias": np.ones(5)}
    with pytest.raises(WeightsError, match=r"conv2_1\.bias has shape \(5,\) instead of \(4,\)\."):
        h5(keras_file(wrong, KERAS_NAMES["keras 1"]))


def test_keras_layers_that_vgg16_has_not(h5, state):
    arrays = keras_file(state, KERAS_NAMES["keras 1"])
    norm = {f"batchnormalization_1/{n}": np.ones(5) for n in range(4)}
    with pytest.raises(WeightsError, match="layer 'batchnormalization_1' is not a kernel and a bias, but"):
        h5({**arrays, **norm})
    with pytest.raises(WeightsError, match="it has 2 dense layers instead of 3 or none"):
        h5({name: array for name, array in arrays.items() if not name.startswith("fc2")})


def test_keras_layers_without_numbers(h5, state):
    names = [*(letter + "/{}" for letter in "abcdefghijklm"), *KERAS_NAMES["keras 1"][13:]]
    with pytest.raises(WeightsError, match="do not number them, so their order is unknown"):
        h5(keras_file(state, names))


def test_unknown_files(tmp_path):
    for data in (b"", b"GIF89a" * 10, b"\0" * 100):
        (tmp_path / "vgg16.h5").write_bytes(data)
        with pytest.raises(WeightsError, match=r"vgg16\.h5: not a weight file that minidl knows"):
            read_vgg16(tmp_path / "vgg16.h5")
    with pytest.raises(WeightsError, match="No such file"):
        read_vgg16(tmp_path / "vgg16.pth")
