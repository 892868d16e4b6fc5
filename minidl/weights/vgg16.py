"""Every VGG16 file that users have, as one minidl state dict with the preprocessing that belongs to it.

A file is recognised by its content, never by its name. What differs between them, and how it is known:

- **The names** tell Keras's files from torchvision's, timm's and jcjohnson's. In Keras's they are numbered in
  the order of the layers, except for the dense ones, which the shapes tell apart.
- **The axes of a kernel** follow from its shape: (kh, kw, in, out) in TensorFlow's layout, (out, in, kh, kw)
  in Theano's and PyTorch's. Dense weights are (in, out) in Keras and (out, in) in PyTorch.
- **The order of fc6's inputs** is assumed to follow that layout, because every order has the same shape:
  (h, w, channel) for TensorFlow's, (channel, h, w) for the others.
- **Flipped kernels** (Theano computes true convolutions) and **the order of the colours** are detected where
  conv1_1 is that of the Caffe model which Keras, fast.ai and jcjohnson converted. Otherwise they are assumed:
  Theano's layout in a Keras file is flipped; Keras and jcjohnson take BGR, torchvision and timm RGB.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

from minidl.data.preprocessing import Preprocessing
from minidl.errors import WeightsError
from minidl.models.vgg import VGG16_BLOCKS
from minidl.weights.hdf5 import read_hdf5
from minidl.weights.pth import LEGACY_START, ZIP_START, read_pth
from minidl.weights.reading import reading
from minidl.weights.safetensors_file import read_safetensors

HDF5_START = b"\x89HDF\r\n\x1a\n"

_WIDTHS = {
    f"{block}_{number}": width
    for block, widths in enumerate(VGG16_BLOCKS, start=1)
    for number, width in enumerate(widths, start=1)
}
CONVOLUTIONS = dict(zip(_WIDTHS, zip(_WIDTHS.values(), [3, *_WIDTHS.values()], strict=False), strict=True))
"""The convolutions, "1_1" … "5_3": output and input channels."""

DENSE: dict[str, tuple[int | None, int]] = {
    "fc6": (4096, 7 * 7 * 512),
    "fc7": (4096, 4096),
    "fc8": (None, 4096),
}
"""The dense layers: outputs (fc8: the classes of the file) and inputs."""

COUNTER = "num_batches_tracked"
NORMALIZATION = ("weight", "bias", "running_mean", "running_var", COUNTER)

OTHER_DEPTHS = {8: "VGG11", 10: "VGG13", 16: "VGG19"}
"""VGG nets by their number of 3×3 convolutions."""

TORCH_DENSE = {
    "torchvision": ("classifier.0", "classifier.3", "classifier.6"),
    "caffe-lineage torch": ("classifier.1", "classifier.4", "classifier.6"),
    "timm": ("pre_logits.fc1", "pre_logits.fc2", "head.fc"),
}
"""What the writers of PyTorch files call fc6, fc7 and fc8. The second is jcjohnson's, from Caffe."""

TORCHVISION = Preprocessing(
    resize="crop", scale=1 / 255, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)
)
CAFFE = Preprocessing(resize="crop", order="BGR", mean=(103.939, 116.779, 123.68))
KERAS = replace(CAFFE, resize="squash", filter="nearest")
"""What `keras.utils.load_img(path, target_size=(224, 224))` and VGG16's `preprocess_input` do."""

CAFFE_CORNER = (0.42947057, 0.373467, -0.06136011, 0.27476987)
"""Top left weight for blue in the first four kernels of conv1_1 of the Caffe model by the authors of VGG."""


@dataclass(frozen=True)
class VGG16File:
    """The contents of a weight file.

    Attributes:
        state: float32 arrays by minidl's names: `conv1_1.weight` (64, 3, 3, 3), `conv1_1.bias` (64,), with
            batch norm `bn1_1.weight` (64,), …; `fc6.weight` (4096, 25088), its inputs (channel, h, w), …
        preprocessing: what the weights expect of a picture.
        source: whose weights: "keras", "torchvision", "timm", "caffe-lineage torch" or "minidl".
        batch_norm: whether a batch norm follows each convolution.
        num_classes: outputs of fc8; None for a file without the dense layers.
    """

    state: dict[str, np.ndarray]
    preprocessing: Preprocessing
    source: str
    batch_norm: bool
    num_classes: int | None


def read_vgg16(path: str | os.PathLike) -> VGG16File:
    """Read VGG16 weights from an HDF5, PyTorch or safetensors file, or from a minidl checkpoint.

    Raises:
        WeightsError: no such file, a damaged or hostile one, or not VGG16; the message says which and why.
        MissingExtraError: the file needs h5py or safetensors, which is not installed.
    """
    with reading(path), open(path, "rb") as file:
        start = file.read(16)
    if start.startswith(HDF5_START):
        arrays = read_hdf5(path)
        with reading(path):
            return _from_keras(arrays)
    if start.startswith((ZIP_START, LEGACY_START)):
        arrays = read_pth(path)
        with reading(path):
            return _from_torch(arrays)
    if start[8:9] == b"{":
        arrays, metadata = read_safetensors(path)
        with reading(path):
            return _from_minidl(arrays, metadata["minidl"]) if "minidl" in metadata else _from_torch(arrays)
    raise WeightsError(
        f"{os.fspath(path)}: not a weight file that minidl knows: Keras's HDF5, PyTorch's .pth, safetensors."
    )


# PyTorch: names like features.0.weight, axes as in minidl.


def _from_torch(arrays: dict[str, np.ndarray]) -> VGG16File:
    if all(name.startswith("module.") for name in arrays):  # saved from DataParallel
        arrays = {name.removeprefix("module."): array for name, array in arrays.items()}
    kernels = [array.shape for array in arrays.values() if array.shape[2:] == (3, 3)]
    if (1024, 512, 3, 3) in kernels:
        raise WeightsError(
            "this is SSD's reduced VGG16 (vgg16_reducedfc): fc6 and fc7 are convolutions of 1,024 channels. "
            "Take the whole one, such as torchvision's vgg16-397923af.pth."
        )
    _check_depth(len(kernels))
    batch_norm = any(name.endswith(".running_mean") for name in arrays)
    source, dense = "torchvision", tuple[str, ...]()
    for writer, names in TORCH_DENSE.items():
        if f"{names[0]}.weight" in arrays:
            source, dense = writer, names

    theirs = _torch_names(batch_norm, dense)
    # Files older than PyTorch 0.4.1 have no counters.
    missing = [name for name in theirs.values() if name not in arrays and not name.endswith(COUNTER)]
    if missing:
        raise WeightsError(f"not a whole VGG16: it lacks {_listed(missing)}.")
    if unexpected := sorted(arrays.keys() - theirs.values()):
        raise WeightsError(f"not a VGG16: it also has {_listed(unexpected)}.")
    zero = np.zeros((), np.int64)
    state = {ours: arrays.pop(name, zero) for ours, name in theirs.items()}
    return _imported(state, source, CAFFE if source == "caffe-lineage torch" else TORCHVISION)


def _torch_names(batch_norm: bool, dense: Iterable[str]) -> dict[str, str]:
    """PyTorch's name of each array by minidl's. `features` counts the ReLU and pooling layers too."""
    names: dict[str, str] = {}
    position = 0
    for layer in CONVOLUTIONS:
        if layer.endswith("_1") and layer != "1_1":
            position += 1  # the pooling
        names |= {f"conv{layer}.{item}": f"features.{position}.{item}" for item in ("weight", "bias")}
        position += 1
        if batch_norm:
            names |= {f"bn{layer}.{item}": f"features.{position}.{item}" for item in NORMALIZATION}
            position += 1
        position += 1  # the ReLU
    for ours, theirs in zip(DENSE, dense, strict=False):
        names |= {f"{ours}.{item}": f"{theirs}.{item}" for item in ("weight", "bias")}
    return names


# Keras: each layer is a group with a kernel and a bias, and a number in its name.


def _from_keras(arrays: dict[str, np.ndarray]) -> VGG16File:
    groups: dict[str, list[np.ndarray]] = {}
    for path in list(arrays):
        groups.setdefault(path.rpartition("/")[0], []).append(arrays.pop(path))
    layers = {group: _kernel_and_bias(group, groups.pop(group)) for group in list(groups)}
    convolutions = [group for group, (kernel, _) in layers.items() if kernel.ndim == 4]
    _check_depth(len(convolutions))
    if len({re.sub(r"_?\d+", "", group) for group in convolutions}) > 1:
        raise WeightsError("the names of its convolutions do not number them, so their order is unknown.")
    # The dense layers may have any names. fc6 has the most inputs, fc8 the fewest outputs.
    dense = [group for group in layers if group not in convolutions]
    dense.sort(key=lambda group: layers[group][0].shape, reverse=True)
    if len(dense) not in (0, len(DENSE)):
        raise WeightsError(f"not a VGG16: it has {len(dense)} dense layers instead of 3 or none.")

    theano = layers[convolutions[0]][0].shape[2:] == (3, 3)
    names = [*(f"conv{layer}" for layer in CONVOLUTIONS), *DENSE]
    state: dict[str, np.ndarray] = {}
    for name, group in zip(names, convolutions + dense, strict=False):
        kernel, bias = layers.pop(group)
        state |= {f"{name}.weight": _to_torch_axes(name, kernel, theano), f"{name}.bias": bias}
    del kernel  # from here `state` alone holds the arrays, so that each can go once it is converted
    return _imported(state, "keras", KERAS, flipped=theano)


def _kernel_and_bias(group: str, arrays: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    kernel, *others = sorted(arrays, key=lambda array: -array.ndim)
    if len(others) != 1 or kernel.ndim not in (2, 4) or others[0].ndim != 1:
        shapes = ", ".join(str(array.shape) for array in arrays[:5])
        raise WeightsError(f"not a VGG16: layer {group[:100]!r} is not a kernel and a bias, but {shapes}.")
    return kernel, others[0]


def _to_torch_axes(name: str, kernel: np.ndarray, theano: bool) -> np.ndarray:
    """Keras's kernel seen with PyTorch's axes: (out, in, kh, kw), fc6 (out, channel, h, w), (out, in)."""
    if kernel.ndim == 4:
        return kernel if theano else kernel.transpose(3, 2, 0, 1)
    if name == "fc6" and not theano and len(kernel) == DENSE["fc6"][1]:
        return kernel.reshape(7, 7, -1, kernel.shape[1]).transpose(3, 2, 0, 1)
    return kernel.T


# minidl: arrays named model/conv1_1.weight, and the preprocessing as JSON in the metadata.


def _from_minidl(arrays: dict[str, np.ndarray], facts: str) -> VGG16File:
    try:
        preprocessing = Preprocessing.from_dict(json.loads(facts)["preprocessing"])
    except (ValueError, KeyError, TypeError, RecursionError):
        raise WeightsError("a minidl checkpoint whose preprocessing is missing or damaged.") from None
    names = [name for name in arrays if name.startswith("model/")]
    state = {name.removeprefix("model/"): arrays.pop(name) for name in names}
    return _converted(state, "minidl", preprocessing)


# What all of them pass through.


def _check_depth(convolutions: int) -> None:
    if convolutions != len(CONVOLUTIONS):
        name = OTHER_DEPTHS.get(convolutions)
        raise WeightsError(
            f"{f'this is {name}' if name else 'not a VGG16'}: it has {convolutions} convolutions of 3×3, "
            f"VGG16 has {len(CONVOLUTIONS)}."
        )


def _imported(
    state: dict[str, np.ndarray], source: str, preprocessing: Preprocessing, flipped: bool = False
) -> VGG16File:
    """Put what the weights themselves tell in the place of what their format lets assume."""
    colours = _caffe_colours(state["conv1_1.weight"])
    if colours is not None:
        order, flipped = colours
        mean = CAFFE.mean if order == "BGR" else CAFFE.mean[::-1]
        preprocessing = replace(preprocessing, order=order, scale=CAFFE.scale, mean=mean, std=CAFFE.std)
        source = "keras" if source == "keras" else "caffe-lineage torch"
    return _converted(state, source, preprocessing, flipped)


def _caffe_colours(kernel: np.ndarray) -> tuple[str, bool] | None:
    """Colour order and whether it is flipped, if this is conv1_1 (64, 3, 3, 3) of the Caffe model."""
    if kernel.shape == (64, 3, 3, 3):
        for order, blue in (("BGR", 0), ("RGB", 2)):
            for flipped, corner in ((False, 0), (True, 2)):
                if np.allclose(kernel[:4, blue, corner, corner], CAFFE_CORNER, rtol=1e-3):
                    return order, flipped
    return None


def _converted(
    state: dict[str, np.ndarray], source: str, preprocessing: Preprocessing, flipped: bool = False
) -> VGG16File:
    """Check all names and shapes, then make each array what minidl takes. Empties `state` on the way.

    Dense weights may come as (out, channel, h, w); `flipped` kernels are turned by 180°.
    """
    batch_norm = "bn1_1.weight" in state
    num_classes = state["fc8.bias"].size if "fc8.bias" in state else None
    shapes = _shapes(batch_norm, num_classes)
    if different := sorted(shapes.keys() ^ state.keys()):
        raise WeightsError(f"its layers are not those of VGG16: they differ in {_listed(different)}.")
    for name, shape in shapes.items():
        found = state[name].shape
        if name.startswith("fc") and len(found) == 4:
            found = (found[0], math.prod(found[1:]))
        if found != shape or 0 in shape:
            raise WeightsError(f"not a VGG16: {name} has shape {found} instead of {shape}.")

    converted = {}
    for name, shape in shapes.items():
        array = state.pop(name)
        if flipped and name.startswith("conv") and array.ndim == 4:
            array = array[:, :, ::-1, ::-1]
        converted[name] = _as_numbers(name, array).reshape(shape)
    return VGG16File(converted, preprocessing, source, batch_norm, num_classes)


def _shapes(batch_norm: bool, num_classes: int | None) -> dict[str, tuple[int, ...]]:
    """The shapes of VGG16's arrays by name."""
    shapes: dict[str, tuple[int, ...]] = {}
    for layer, (width, before) in CONVOLUTIONS.items():
        shapes |= {f"conv{layer}.weight": (width, before, 3, 3), f"conv{layer}.bias": (width,)}
        if batch_norm:
            shapes |= {f"bn{layer}.{item}": () if item == COUNTER else (width,) for item in NORMALIZATION}
    if num_classes is not None:
        for layer, (outputs, inputs) in DENSE.items():
            count = outputs or num_classes
            shapes |= {f"{layer}.weight": (count, inputs), f"{layer}.bias": (count,)}
    return shapes


def _as_numbers(name: str, array: np.ndarray) -> np.ndarray:
    """The array in C order as float32 (a counter: int64), if all of it is finite."""
    with np.errstate(over="ignore"):  # a float64 beyond float32 becomes infinite, and is refused for that
        array = np.ascontiguousarray(array, np.int64 if name.endswith(COUNTER) else np.float32)
    if not (np.isfinite(array.min()) and np.isfinite(array.max())):
        raise WeightsError(
            f"{name} holds NaN or infinity, as in vgg16_features-amdegroot, which is for features alone. "
            "Take a whole file, such as torchvision's vgg16-397923af.pth."
        )
    return array


def _listed(names: list[str]) -> str:
    shown = ", ".join(name[:100] for name in names[:3])
    return f"{shown} and {len(names) - 3} more" if len(names) > 3 else shown


__all__ = ["VGG16File", "read_vgg16"]
