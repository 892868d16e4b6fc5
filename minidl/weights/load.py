"""A VGG16 file as a model that is ready to use."""

from __future__ import annotations

import os

from minidl.models.vgg import VGG, vgg16
from minidl.nn import init
from minidl.weights.vgg16 import read_vgg16


def load_vgg16(path: str | os.PathLike) -> VGG:
    """The VGG16 in a weight file, in evaluation mode, with the preprocessing that its weights expect.

    A file without the dense layers gives a model without them: `replace_last` adds one.

    Raises:
        WeightsError, MissingExtraError: see `read_vgg16`.
    """
    file = read_vgg16(path)
    with init.skip_init():
        model = vgg16(file.num_classes, file.batch_norm)
    model.load_state_dict(file.state, assign=True)  # twice 553 MB would be too much
    model.preprocessing = file.preprocessing
    return model.eval()


__all__ = ["load_vgg16"]
