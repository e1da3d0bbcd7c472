"""Fits the autoencoder with Keras; `anomalies.detectors.autoencoder` holds its weights as plain arrays."""

from collections.abc import Sequence

from astrodetect.anomalies.detectors.autoencoder import Autoencoder
from astrodetect.anomalies.whitening import Standardisation
from astrodetect.errors import DataError
from astrodetect.learning.keras_runtime import keras
from astrodetect.progress import ProgressBar
from astrodetect.records import Floats

WIDTHS = (1024, 512, 256, 128, 64)  # of the published study, for 2048 features
LEARNING_RATE = 1e-4
EPOCHS = 50
BATCH_SIZE = 32


def fit_autoencoder(features: Floats, *, epochs: int = EPOCHS, seed: int = 0) -> Autoencoder:
    """Fit to features (images, features) after standardisation; deterministic per seed and machine."""
    scaling = Standardisation.fit(features)
    if not scaling.scale.any():
        raise DataError("all training images are identical: the autoencoder needs images that differ")
    keras.utils.set_random_seed(seed)
    network = _network(scaling.width)
    network.compile(
        keras.optimizers.Adam(LEARNING_RATE), "mse", jit_compile="auto" if keras.backend.backend() == "jax" else False
    )
    standard = scaling.transform(features)
    with ProgressBar("autoencoder", epochs) as bar:
        callbacks = [_EpochCallback(bar)]
        network.fit(standard, standard, batch_size=BATCH_SIZE, epochs=epochs, verbose=0, callbacks=callbacks)
    weights = [layer.get_weights() for layer in network.layers if isinstance(layer, keras.layers.Dense)]
    return Autoencoder(scaling, tuple(kernel for kernel, _ in weights), tuple(bias for _, bias in weights))


def _network(features: int) -> keras.Model:
    encoder = [width for width in WIDTHS if width < features] or [max(1, features // 2)]
    widths: Sequence[int] = [*encoder, *encoder[-2::-1]]
    hidden = [keras.layers.Dense(width, activation="relu") for width in widths]
    return keras.Sequential([keras.Input((features,)), *hidden, keras.layers.Dense(features)])


class _EpochCallback(keras.callbacks.Callback):
    """Advances the progress bar."""

    def __init__(self, bar: ProgressBar) -> None:
        super().__init__()
        self._bar = bar

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:  # noqa: ARG002
        self._bar.step(note=f"loss {(logs or {})['loss']:.4f}")
