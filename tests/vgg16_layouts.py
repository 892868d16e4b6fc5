"""A state dict of minidl's VGG16 as other programs name it and lay it out."""

from __future__ import annotations

import numpy as np

from minidl.weights import vgg16

TORCH_CONVOLUTIONS = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)
TORCH_BN_CONVOLUTIONS = (0, 3, 7, 10, 14, 17, 20, 24, 27, 30, 34, 37, 40)


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


def torch_file(state, dense=("classifier.0", "classifier.3", "classifier.6"), batch_norm=False):
    """torchvision's names, or others for the dense layers."""
    positions = TORCH_BN_CONVOLUTIONS if batch_norm else TORCH_CONVOLUTIONS
    theirs = dict(zip(("fc6", "fc7", "fc8"), dense, strict=True))
    for layer, position in zip(vgg16.CONVOLUTIONS, positions, strict=True):
        theirs |= {f"conv{layer}": f"features.{position}", f"bn{layer}": f"features.{position + 1}"}
    split = {name: name.split(".") for name in state}
    return {f"{theirs[layer]}.{item}": state[name] for name, (layer, item) in split.items()}


def timm_file(state):
    """timm's names: its first two dense layers are convolutions."""
    arrays = torch_file(state, ("pre_logits.fc1", "pre_logits.fc2", "head.fc"))
    for name, size in (("fc1", 7), ("fc2", 1)):
        flat = arrays[f"pre_logits.{name}.weight"]
        arrays[f"pre_logits.{name}.weight"] = flat.reshape(len(flat), -1, size, size)
    return arrays
