"""The training recipes: what can be trained, and with which defaults. Needs no Keras, so that the command line and the
documentation derive from it; `learning` builds each of them."""

from dataclasses import dataclass
from typing import Literal

AUTO_CROP = "auto"  # the crop is chosen from the training images
FIXED_THRESHOLD = "0.5"
RecipeKind = Literal["network", "cnn", "forest"]


@dataclass(frozen=True, slots=True)
class PixelStatistics:
    """Mean and variance per band, which the normalisation layer uses."""

    mean: tuple[float, ...]
    variance: tuple[float, ...]


NO_NORMALISATION = PixelStatistics((0.0,) * 3, (1.0,) * 3)  # for networks whose weights are loaded afterwards


@dataclass(frozen=True, slots=True)
class Backbone:
    """A network of `keras.applications`, or EfficientNet-Lite0, and the input that its ImageNet weights expect: RGB in
    0…255, normalised."""

    application: str | None  # its name in keras.applications; None: EfficientNet-Lite0, whose weights come in a package
    imagenet: PixelStatistics
    imagenet_bgr: bool = False  # the published weights take BGR; ours always take RGB
    middle: bool = False  # the features of its middle stages, instead of the last one's
    beside: str = ""  # a recipe whose packaged weights add their features, of the image at half its size
    preprocesses: bool = True  # Keras builds normalisation into it unless switched off: ours is a layer before it


@dataclass(frozen=True, slots=True)
class Recipe:
    """A recipe, and the defaults that it gives to the options of train_model.py."""

    name: str
    kind: RecipeKind
    description: str
    backbone: Backbone | None = None  # of kind "network" alone
    size: int = 227  # pixels, of the model's input
    crop: float | str = 1.0  # central share of the frame, or AUTO_CROP
    weights: str = "imagenet"
    epochs: int = 5
    patience: int = 3  # epochs without a lower validation loss, before early stopping
    batch_size: int = 32
    learning_rate: float = 1e-3
    fine_tuning_rate: float = 1e-4  # the learning rate where a pretrained backbone is trained too
    penalty: float | None = None  # L2, of the linear probe; None: chosen on the validation images
    class_weights: Literal["none", "balanced"] = "none"
    views: int = 1  # orientations of each image that the model averages
    threshold: str = FIXED_THRESHOLD  # a rule, of binary models
    # Of fine-tuning after the linear probe: the frozen share of the backbone, and the factor of the learning rate.
    fine_tuning_stages: tuple[tuple[float, float], ...] = ((0.5, 1.0), (0.0, 0.3))


_SIGNED_RANGE = PixelStatistics((127.5, 127.5, 127.5), (16256.25, 16256.25, 16256.25))  # pixels / 127.5 - 1
_UNIT_RANGE = PixelStatistics(  # of ImageNet's pixels; the variances are (0.229 × 255)² and so on
    (123.675, 116.28, 103.53), (3409.977, 3262.694, 3291.891)
)

RESNET50_STATISTICS = PixelStatistics((123.68, 116.779, 103.939), (1.0, 1.0, 1.0))
DEFAULT_RECIPE, FOREST = "resnet50", "forest"
TEACHING_RECIPE = "efficientnet-lite0-mid"  # what `teach` trains
GALAXIES = "galaxies"
RECIPES = {
    recipe.name: recipe
    for recipe in (
        Recipe(
            DEFAULT_RECIPE,
            "network",
            "ResNet50, 24 million weights",
            Backbone("ResNet50", RESNET50_STATISTICS, imagenet_bgr=True, preprocesses=False),
        ),
        Recipe(
            "efficientnet-lite0",
            "network",
            "EfficientNet-Lite0, 3 million weights; those of ImageNet come with the installation",
            Backbone(None, _SIGNED_RANGE),
            size=128,
            crop=AUTO_CROP,
            epochs=12,
            patience=12,  # to the end of the learning rate's decay; the best epoch is published anyway
            fine_tuning_rate=3e-4,
            fine_tuning_stages=((0.2, 1.0),),  # the first fifth is generic, and takes half of the time
        ),
        Recipe(
            TEACHING_RECIPE,
            "network",
            "middle stages of EfficientNet-Lite0, 1 million weights: the better features for a linear head",
            Backbone(None, _SIGNED_RANGE, middle=True),
            size=128,
            crop=AUTO_CROP,
            penalty=0.1,
            epochs=12,
            patience=12,
            fine_tuning_rate=3e-4,
            fine_tuning_stages=((0.2, 1.0),),
        ),
        Recipe(
            GALAXIES,
            "network",
            "both that and ResNet50 pre-trained on simulated skies: the best for galaxies, with a linear head",
            Backbone(None, _SIGNED_RANGE, middle=True, beside=DEFAULT_RECIPE),
            size=128,
            crop=AUTO_CROP,
            penalty=0.2,
            class_weights="balanced",
            views=8,  # all orientations
            threshold="prevalence",
            epochs=12,
            patience=12,
            fine_tuning_rate=3e-4,
            fine_tuning_stages=((0.2, 1.0),),
        ),
        Recipe(
            "efficientnetv2-b0",
            "network",
            "EfficientNetV2-B0, 6 million weights",
            Backbone("EfficientNetV2B0", _UNIT_RANGE),
        ),
        Recipe(
            "mobilenetv3",
            "network",
            "MobileNetV3-Large, 3 million weights",
            Backbone("MobileNetV3Large", _SIGNED_RANGE),
        ),
        Recipe(
            "convnext-tiny",
            "network",
            "ConvNeXt-Tiny, 28 million weights",
            Backbone("ConvNeXtTiny", _UNIT_RANGE),
        ),
        Recipe(
            "cnn",
            "cnn",
            "small convolutional network on grey images",
            size=100,
            weights="none",
            epochs=80,
            patience=20,
        ),
        Recipe(FOREST, "forest", "random forest on grey pixels", size=100, weights="none"),
    )
}
