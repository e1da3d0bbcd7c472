"""The networks by name: what is between the normalised pixels and the head, and what their ImageNet weights expect."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras

BATCH_NORM_MOMENTUM = 0.9  # Keras's 0.99 needs hundreds of steps to forget its start; short runs have no more
LAST_OF_A_BLOCK = "_3_bn"  # in ResNet50


@dataclass(frozen=True, slots=True)
class PixelStatistics:
    """The mean and the variance per band that the normalisation takes out."""

    mean: tuple[float, ...]
    variance: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Backbone:
    """A network of Keras's, and how its ImageNet weights want their pixels: RGB in 0…255, less the mean."""

    make: Callable[..., keras.Model]
    imagenet: PixelStatistics
    blue_first: bool = False  # the weights do; the network itself always takes red first
    options: tuple[tuple[str, Any], ...] = (("include_preprocessing", False),)  # it is ours to normalise

    def on(self, normalised: Any) -> Any:
        """Its last map of features, with fresh weights, over this input."""
        network = self.make(include_top=False, weights=None, input_tensor=normalised, **dict(self.options))
        for layer in network.layers:
            if isinstance(layer, keras.layers.BatchNormalization):
                layer.momentum = BATCH_NORM_MOMENTUM
                if layer.name.endswith(LAST_OF_A_BLOCK):  # each block starts as the identity: short runs learn sooner
                    layer.gamma.assign(keras.ops.zeros_like(layer.gamma))
        return network.output

    def published(self) -> keras.Model:
        """Keras's own network with its ImageNet weights, fetched where they are not on this machine yet."""
        return self.make(include_top=False, weights="imagenet", **dict(self.options))


_IN_UNITS_OF_255 = PixelStatistics(
    (123.675, 116.28, 103.53), (3409.977, 3262.694, 3291.891)
)  # (0.229 × 255)² and so on
BACKBONES = {
    "resnet50": Backbone(
        keras.applications.ResNet50,
        PixelStatistics((123.68, 116.779, 103.939), (1.0, 1.0, 1.0)),
        blue_first=True,
        options=(),
    ),
    "efficientnetv2-b0": Backbone(keras.applications.EfficientNetV2B0, _IN_UNITS_OF_255),
    "mobilenetv3": Backbone(
        keras.applications.MobileNetV3Large, PixelStatistics((127.5, 127.5, 127.5), (16256.25, 16256.25, 16256.25))
    ),
    "convnext-tiny": Backbone(keras.applications.ConvNeXtTiny, _IN_UNITS_OF_255),
}
