"""VGG16 of full size in files that Keras and PyTorch wrote: the same picture gives the same logits, and in
training the same gradients.

One set of random weights is saved in every format. Each program reads the picture and prepares it by its own
rules; minidl by those that it finds in the file.
"""

from __future__ import annotations

import math
from collections import OrderedDict

import numpy as np
import pytest
from vgg16_layouts import keras_layers, timm_file, torch_file

import minidl
from minidl.data import ImageFolder, open_picture
from minidl.functional import cross_entropy
from minidl.models import vgg16
from minidl.models.vgg import VGG16_BLOCKS
from minidl.recording import no_grad
from minidl.tensor import Tensor
from minidl.weights.load import load_vgg16

torch = pytest.importorskip("torch")
pytest.importorskip("PIL")
pytest.importorskip("h5py")
safetensors = pytest.importorskip("safetensors.torch")
nn = torch.nn

pytestmark = [pytest.mark.slow, pytest.mark.parity]


@pytest.fixture(scope="module")
def pictures(dogscats):
    """The paths of four real pictures, two of each class."""
    paths = [path for path, _ in ImageFolder(dogscats / "train").samples]
    return paths[:2] + paths[-2:]


@pytest.fixture(scope="module")
def picture(pictures):
    return pictures[0]


def random_state(batch_norm=False):
    """He's random kernels, and nothing left at 0 or 1 that could be mistaken for something else."""
    rng = np.random.default_rng(0)
    minidl.seed(0)
    state = vgg16(batch_norm=batch_norm).state_dict()
    for name, array in state.items():
        if name.endswith(("bias", "running_mean")):
            array[...] = 0.1 * rng.standard_normal(array.shape)
        elif array.ndim == 1:  # the scale and the variance of batch norm
            array[...] = rng.uniform(0.5, 1.5, array.shape)
    return state


def steady_state():
    """Random weights whose gradients can be compared in float32.

    Where a number lies within rounding of a kink, of ReLU's 0 or of a tie in max-pooling, two programs may
    take different sides. Among the 13.5 million numbers of a picture some do. With kernels of mean 0 the
    terms of every gradient nearly cancel, so each such number counts: PyTorch's float32 gradients are then up
    to 9e-3 from its own float64 ones. (In float64 nothing lies so near, and they can be compared.) With a
    small positive mean most inputs of ReLU are positive, the terms add up, and one that is taken from the
    other side of a tie changes little.
    """
    state = random_state()
    for name, array in state.items():
        if array.ndim == 1 or name == "conv1_1.weight":  # whose inputs have both signs
            continue
        n = array[0].size
        if name == "fc8.weight":  # each class has a mean of its own, so that some gradient is left
            array *= 2 / math.sqrt(n)
            array += 3 / n * np.random.default_rng(1).standard_normal((len(array), 1))
        else:
            array *= 0.2
            array += 1 / n
    return state


@pytest.fixture(scope="module")
def state():
    return random_state()


def minidl_input(model, picture):
    return model.preprocessing.transform()(open_picture(picture))[None]


def minidl_outputs(model, picture):
    with no_grad():
        return model(Tensor(minidl_input(model, picture))).numpy()


def assert_close(found, expected, tolerance):
    """max |a − b| ≤ tolerance · max |b|"""
    assert found.shape == expected.shape
    assert found.dtype == expected.dtype
    error = np.abs(found - expected).max() / np.abs(expected).max()
    print(f"relative error {error:.1e}")
    assert error <= tolerance


# Keras


@pytest.fixture
def keras(monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "torch")
    keras = pytest.importorskip("keras")
    if keras.backend.backend() != "torch":
        pytest.skip(f"Keras was imported with the backend {keras.backend.backend()}")
    return keras


@pytest.mark.filterwarnings("ignore::DeprecationWarning:keras")
@pytest.mark.parametrize(
    ("top", "file"),
    [
        pytest.param(True, "vgg16.h5", id="legacy top"),
        pytest.param(False, "vgg16.h5", id="legacy notop"),
        pytest.param(False, "vgg16.weights.h5", id="keras 3 notop"),
    ],
)
def test_outputs_of_keras(keras, state, picture, tmp_path, top, file):
    shape = None if top else (224, 224, 3)
    theirs = keras.applications.VGG16(
        include_top=top, weights=None, input_shape=shape, classifier_activation=None
    )
    layers = keras_layers(state) if top else keras_layers(state)[:13]
    theirs.set_weights([array for layer in layers for array in layer])
    pixels = keras.utils.img_to_array(keras.utils.load_img(picture, target_size=(224, 224)))
    x = keras.applications.vgg16.preprocess_input(pixels[None])
    expected = keras.ops.convert_to_numpy(theirs(x))
    save = theirs.save if file == "vgg16.h5" else theirs.save_weights
    save(tmp_path / file)
    del theirs

    model = load_vgg16(tmp_path / file)
    (tmp_path / file).unlink()
    found = minidl_outputs(model, picture)
    if not top:  # minidl ends with `flatten`, Keras with the feature maps, channels last
        expected = expected.transpose(0, 3, 1, 2).reshape(1, -1)
    assert_close(found, expected, 1e-4)


# PyTorch


class TimmHead(nn.Module):
    """timm's dense layers: two of them are convolutions."""

    def __init__(self):
        super().__init__()
        self.fc1, self.fc2 = nn.Conv2d(512, 4096, 7), nn.Conv2d(4096, 4096, 1)

    def forward(self, x):
        return self.fc2(self.fc1(x).relu()).relu()


def torch_vgg16(tensors):
    """The architecture that a state dict with torchvision's or timm's names is of, with these weights."""
    batch_norm, timm = "features.1.running_mean" in tensors, "head.fc.weight" in tensors
    with torch.device("meta"):
        features, channels = nn.Sequential(), 3
        for block in VGG16_BLOCKS:
            for width in block:
                features.append(nn.Conv2d(channels, width, 3, padding=1))
                if batch_norm:
                    features.append(nn.BatchNorm2d(width))
                features.append(nn.ReLU())
                channels = width
            features.append(nn.MaxPool2d(2))
        if timm:
            head = nn.Sequential(OrderedDict(flatten=nn.Flatten(), fc=nn.Linear(4096, 1000)))
            parts = OrderedDict(features=features, pre_logits=TimmHead(), head=head)
        else:
            classifier = nn.Sequential(
                *(nn.Linear(25088, 4096), nn.ReLU(), nn.Dropout()),
                *(nn.Linear(4096, 4096), nn.ReLU(), nn.Dropout()),
                nn.Linear(4096, 1000),
            )
            parts = OrderedDict(features=features, flatten=nn.Flatten(), classifier=classifier)
        model = nn.Sequential(parts)
    model.load_state_dict(tensors, assign=True)
    return model.eval()


def torch_input(picture):
    """What torchvision's presets do: Resize(256), CenterCrop(224), ToTensor, Normalize."""
    from PIL import Image

    with Image.open(picture) as image:
        w, h = image.size
        shorter = min(w, h)
        image = image.convert("RGB").resize(
            (256 * w // shorter, 256 * h // shorter), Image.Resampling.BILINEAR
        )
    left, top = round((image.width - 224) / 2), round((image.height - 224) / 2)
    pixels = np.array(image.crop((left, top, left + 224, top + 224)))
    x = torch.from_numpy(pixels).permute(2, 0, 1).float() / 255
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    return ((x - mean[:, None, None]) / std[:, None, None])[None]


def as_tensors(arrays):
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


def save_legacy(tensors, path):
    torch.save(OrderedDict(tensors), path, _use_new_zipfile_serialization=False)


def save_zip(tensors, path):
    torch.save(OrderedDict(tensors), path)


def save_safetensors(tensors, path):
    safetensors.save_file(tensors, path, {"format": "pt"})


@pytest.mark.parametrize(
    ("save", "names", "batch_norm"),
    [
        pytest.param(save_legacy, torch_file, False, id="legacy"),
        pytest.param(save_safetensors, torch_file, False, id="safetensors"),
        pytest.param(save_safetensors, timm_file, False, id="safetensors timm"),
        pytest.param(save_zip, torch_file, True, id="zip batch norm"),
    ],
)
def test_logits_of_pytorch(request, picture, tmp_path, save, names, batch_norm):
    options = {"batch_norm": True} if batch_norm else {}
    state = random_state(batch_norm=True) if batch_norm else request.getfixturevalue("state")
    theirs = torch_vgg16(as_tensors(names(state, **options)))
    with torch.no_grad():
        expected = theirs(torch_input(picture)).numpy()
    path = tmp_path / "vgg16"
    save(theirs.state_dict(), path)
    del theirs, state

    model = load_vgg16(path)
    path.unlink()
    assert_close(minidl_outputs(model, picture), expected, 1e-4)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_gradients_of_pytorch(request, pictures, tmp_path, dtype):
    """Of one cross-entropy step on four pictures, without dropout: all 32 arrays.

    In float64 with the weights that the logits are compared with, and one array of pixels for both programs:
    what they round differently in preparing it, 1e-7, would be enough to cross kinks. In float32 with
    steadier weights, and each program's own preparation.
    """
    targets = [281, 282, 207, 208]
    state = request.getfixturevalue("state") if dtype == "float64" else steady_state()
    theirs = torch_vgg16(as_tensors(torch_file(state)))
    save_zip(theirs.state_dict(), tmp_path / "vgg16.pth")
    theirs.to(getattr(torch, dtype))
    x = torch.cat([torch_input(picture) for picture in pictures])
    logits = theirs(x.to(getattr(torch, dtype)))
    nn.functional.cross_entropy(logits, torch.tensor(targets)).backward()
    expected = [parameter.grad.numpy() for parameter in theirs.parameters()]
    del theirs

    model = load_vgg16(tmp_path / "vgg16.pth").astype(dtype)
    (tmp_path / "vgg16.pth").unlink()
    prepared = np.concatenate([minidl_input(model, picture) for picture in pictures])
    assert_close(prepared, x.numpy(), 1e-6)
    found = model(Tensor(x.numpy() if dtype == "float64" else prepared, dtype=dtype))
    assert_close(found.numpy(), logits.detach().numpy(), 1e-4)
    cross_entropy(found, targets).backward()
    parameters = dict(model.named_parameters())
    assert len(parameters) == len(expected) == 32
    for (name, parameter), gradient in zip(parameters.items(), expected, strict=True):
        print(name, end=" ")
        assert_close(parameter.grad.numpy(), gradient, 1e-3)
