"""Every layout of VGG16 weights gives the same state dict, and what is not VGG16 is refused with a reason.

Most tests use a VGG16 with few channels (`small`), whose files have the names and layouts of the real ones.
"""

from __future__ import annotations

import json

import numpy as np
import pytest

from minidl.data.preprocessing import Preprocessing
from minidl.errors import WeightsError
from minidl.weights import vgg16
from minidl.weights.vgg16 import read_vgg16

h5py = pytest.importorskip("h5py")
safetensors = pytest.importorskip("safetensors.numpy")

CLASSES = 3
TORCH_CONVOLUTIONS = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)
TORCH_BN_CONVOLUTIONS = (0, 3, 7, 10, 14, 17, 20, 24, 27, 30, 34, 37, 40)
BN = ("weight", "bias", "running_mean", "running_var")
CAFFE_MEAN = (103.939, 116.779, 123.68)


@pytest.fixture(autouse=True)
def small(request, monkeypatch):
    if "slow" in request.keywords:
        return
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


# What the other programs do with a state dict.


def keras_layers(state, theano=False):
    """[(kernel, bias)] in Keras's axes, which einsum spells out."""
    layers = []
    for name in [*(f"conv{layer}" for layer in vgg16.CONVOLUTIONS), "fc6", "fc7", "fc8"]:
        if f"{name}.weight" not in state:
            continue
        weight = state[f"{name}.weight"]
        if weight.ndim == 4:
            kernel = weight[:, :, ::-1, ::-1] if theano else np.einsum("oihw->hwio", weight)
        elif name == "fc6" and not theano:
            outputs = len(weight)
            kernel = np.einsum("ochw->hwco", weight.reshape(outputs, -1, 7, 7)).reshape(-1, outputs)
        else:
            kernel = weight.T
        layers.append((kernel, state[f"{name}.bias"]))
    return layers


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


def torch_file(state, dense=("classifier.0", "classifier.3", "classifier.6"), batch_norm=False):
    positions = TORCH_BN_CONVOLUTIONS if batch_norm else TORCH_CONVOLUTIONS
    theirs = dict(zip(("fc6", "fc7", "fc8"), dense, strict=True))
    for layer, position in zip(vgg16.CONVOLUTIONS, positions, strict=True):
        theirs |= {f"conv{layer}": f"features.{position}", f"bn{layer}": f"features.{position + 1}"}
    split = {name: name.split(".") for name in state}
    return {f"{theirs[layer]}.{item}": state[name] for name, (layer, item) in split.items()}


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
    arrays = torch_file(state, ("pre_logits.fc1", "pre_logits.fc2", "head.fc"))
    for name, size in (("fc1", 7), ("fc2", 1)):
        flat = arrays[f"pre_logits.{name}.weight"]
        arrays[f"pre_logits.{name}.weight"] = flat.reshape(len(flat), -1, size, size)
    file = tensors(arrays)
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


# Real files of full size: the logits must be the same.


def torch_logits(state, x):
    """VGG16's forward by PyTorch, from minidl's state dict. x: (N, 3, 224, 224)"""
    torch = pytest.importorskip("torch")
    F = torch.nn.functional
    weights = {name: torch.from_numpy(array) for name, array in state.items()}
    x = torch.from_numpy(x)
    with torch.no_grad():
        for layer in vgg16.CONVOLUTIONS:
            if layer.endswith("_1") and layer != "1_1":
                x = F.max_pool2d(x, 2)
            x = F.relu(F.conv2d(x, weights[f"conv{layer}.weight"], weights[f"conv{layer}.bias"], padding=1))
        x = F.max_pool2d(x, 2).flatten(1)
        for layer in ("fc6", "fc7"):
            x = F.relu(F.linear(x, weights[f"{layer}.weight"], weights[f"{layer}.bias"]))
        return F.linear(x, weights["fc8.weight"], weights["fc8.bias"]).numpy()


@pytest.mark.slow
@pytest.mark.parity
@pytest.mark.filterwarnings("ignore::DeprecationWarning:keras")
def test_full_size_keras(tmp_path, monkeypatch):
    pytest.importorskip("torch")
    monkeypatch.setenv("KERAS_BACKEND", "torch")
    keras = pytest.importorskip("keras")
    model = keras.applications.VGG16(weights=None, classifier_activation=None)
    trunk = keras.Model(model.input, model.get_layer("block5_pool").output)
    x = np.random.default_rng(0).standard_normal((1, 224, 224, 3)).astype(np.float32) * 100
    expected = keras.ops.convert_to_numpy(model(x))
    model.save(tmp_path / "vgg16.h5")
    trunk.save_weights(tmp_path / "notop.weights.h5")

    file = read_vgg16(tmp_path / "vgg16.h5")
    (tmp_path / "vgg16.h5").unlink()
    found = torch_logits(file.state, np.ascontiguousarray(x.transpose(0, 3, 1, 2)))
    assert np.abs(found - expected).max() <= 1e-4 * np.abs(expected).max()
    assert file.num_classes == 1000
    assert sum(array.size for array in file.state.values()) == 138_357_544

    notop = read_vgg16(tmp_path / "notop.weights.h5")
    assert notop.num_classes is None
    assert_same(notop.state, {name: a for name, a in file.state.items() if name.startswith("conv")})


@pytest.mark.slow
@pytest.mark.parity
def test_full_size_torch(tmp_path):
    torch = pytest.importorskip("torch")
    shapes = vgg16._shapes(False, 1000)
    state = {name: np.random.default_rng(0).random(shape, np.float32) for name, shape in shapes.items()}
    tensors = {name: torch.from_numpy(array) for name, array in torch_file(state).items()}
    torch.save(tensors, tmp_path / "vgg16.pth", _use_new_zipfile_serialization=False)
    file = read_vgg16(tmp_path / "vgg16.pth")
    (tmp_path / "vgg16.pth").unlink()
    assert_same(file.state, state)
