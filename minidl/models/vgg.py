"""VGG: the network whose layers already know what a dog looks like.

Simonyan & Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition" (2014), table 1:
blocks of 3×3 convolutions, each block closed by a 2×2 max-pooling that halves the picture, then three dense
layers. Two 3×3 convolutions see as far as one 5×5 with fewer weights and one more non-linearity between.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from minidl.data.preprocessing import Preprocessing
from minidl.nn import (
    AdaptiveAvgPool2d,
    BatchNorm2d,
    Conv2d,
    Dropout,
    Flatten,
    Linear,
    MaxPool2d,
    Module,
    ReLU,
    Sequential,
    init,
)

VGG16_BLOCKS = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))


class VGG(Sequential):
    """A VGG of any width and depth: (N, in_channels, H, W) pictures → (N, num_classes) logits.

    The layers are one list and have the names everybody uses: conv1_1 relu1_1 conv1_2 relu1_2 pool1 …,
    and after the last of B blocks the dense fc{B+1}, fc{B+2}, …: fc6, fc7 and fc8 for VGG16.

    Args:
        blocks: the output channels of the convolutions of each block.
        dense: the widths of the hidden dense layers.
        num_classes: the number of outputs; None leaves the dense layers out, and the model ends with
            `flatten`: (N, C·pooled²) features.
        pooled: feature maps of another size than pooled × pooled are averaged to it before the dense
            layers, so that those fit pictures of any size.
        batch_norm: normalise after every convolution (Ioffe & Szegedy 2015).

    Attributes:
        config: the arguments, from which `VGG(**config)` builds the same architecture.
        preprocessing: what a picture must go through before it enters (None: not known).
        classes: the names of the outputs (None: not known).
    """

    def __init__(
        self,
        blocks: Sequence[Sequence[int]] = VGG16_BLOCKS,
        dense: Sequence[int] = (4096, 4096),
        num_classes: int | None = 1000,
        in_channels: int = 3,
        pooled: int = 7,
        batch_norm: bool = False,
        dropout: float = 0.5,
    ) -> None:
        layers: dict[str, Module] = {}
        channels = in_channels
        with init.skip_init():  # the weights are drawn once, below
            for b, block in enumerate(blocks, start=1):
                for c, width in enumerate(block, start=1):
                    layers[f"conv{b}_{c}"] = Conv2d(channels, width, 3, padding=1)
                    if batch_norm:
                        layers[f"bn{b}_{c}"] = BatchNorm2d(width)
                    layers[f"relu{b}_{c}"] = ReLU()
                    channels = width
                layers[f"pool{b}"] = MaxPool2d(2)
            layers["avgpool"] = AdaptiveAvgPool2d(pooled)
            layers["flatten"] = Flatten()
            if num_classes is not None:
                features = channels * pooled * pooled
                for d, width in enumerate(dense, start=len(blocks) + 1):
                    layers[f"fc{d}"] = Linear(features, width)
                    layers[f"relu{d}"] = ReLU()
                    layers[f"dropout{d}"] = Dropout(dropout)
                    features = width
                layers[f"fc{len(blocks) + len(dense) + 1}"] = Linear(features, num_classes)
        super().__init__(layers)
        self.config: dict[str, Any] = {
            "blocks": [list(block) for block in blocks],
            "dense": list(dense),
            "num_classes": num_classes,
            "in_channels": in_channels,
            "pooled": pooled,
            "batch_norm": batch_norm,
            "dropout": dropout,
        }
        self.preprocessing: Preprocessing | None = None
        self.classes: list[str] | None = None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """He initialisation, N(0, 2/fan_in): the variance survives every ReLU (He et al. 2015, eq. 10)."""
        for layer in self.children():
            if isinstance(layer, (Conv2d, Linear)):
                init.kaiming_normal_(layer.weight)
                if layer.bias is not None:
                    init.zeros_(layer.bias)

    @property
    def last(self) -> str:
        """The name of the last dense layer, the one that knows the classes: fc8 in VGG16.

        A model without dense layers has none yet: then the name that `replace_last` will give it.
        """
        if self.config["num_classes"] is None:
            return f"fc{len(self.config['blocks']) + 1}"
        return list(self._modules)[-1]

    def replace_last(self, num_classes: int, classes: Sequence[str] | None = None) -> Linear:
        """Put a new dense layer with `num_classes` outputs in the place of the last; returns it.

        It is zero: all classes are equally likely at first, the loss is ln C, and what was learned below is
        not shaken by a random layer above.
        A model without dense layers gets its first one, straight on the feature maps.
        """
        if self.config["num_classes"] is None:
            features = self.config["blocks"][-1][-1] * self.config["pooled"] ** 2
            self.config["dense"] = []
        else:
            features = self[self.last].in_features
        with init.skip_init():
            new = Linear(features, num_classes)
        self.add_module(self.last, new)
        self.config["num_classes"] = num_classes
        self.classes = list(classes) if classes is not None else None
        return new

    def between(self, after: str | None = None, until: str | None = None) -> Sequential:
        """The layers behind `after` (None: from the first) up to and with `until` (None: to the last).

        They are this model's own layers, not copies: `between(until="pool5")` is the trunk,
        `between(after="pool5")` the head.

        Raises:
            KeyError: there is no layer of that name.
        """
        names = list(self._modules)
        for name in (after, until):
            if name is not None and name not in names:
                raise KeyError(f"no layer called {name!r}: the layers are {', '.join(names)}")
        start = 0 if after is None else names.index(after) + 1
        stop = len(names) if until is None else names.index(until) + 1
        return Sequential({name: self._modules[name] for name in names[start:stop]})


def vgg16(num_classes: int | None = 1000, batch_norm: bool = False) -> VGG:
    """VGG16, configuration D of the paper: 13 convolutions, 3 dense layers, 138,357,544 parameters."""
    return VGG(num_classes=num_classes, batch_norm=batch_norm)
