"""The study's autoencoder, fitted by Keras: what the detectors of the unusual take over as plain arrays."""

from collections.abc import Sequence

import keras

from astrodetect.anomalies.detectors.autoencoder import Autoencoder
from astrodetect.anomalies.whitening import Standardisation
from astrodetect.errors import DataError
from astrodetect.progress import Bar
from astrodetect.records import Floats

WIDTHS = (1024, 512, 256, 128, 64)  # of the study, whose networks gave 2048 numbers
LEARNING_RATE = 1e-4
EPOCHS = 50
BATCH_SIZE = 32


def fit(features: Floats, *, epochs: int = EPOCHS, seed: int = 0, batch_size: int = BATCH_SIZE) -> Autoencoder:
    """From images, described one a row, after standardising; the same seed gives the same on the same machine."""
    scaling = Standardisation.fit(features)
    if not scaling.scale.any():
        raise DataError("all these images are alike: give images that differ, to learn what is usual from")
    keras.utils.set_random_seed(seed)
    network = _network(scaling.width)
    network.compile(
        keras.optimizers.Adam(LEARNING_RATE), "mse", jit_compile="auto" if keras.backend.backend() == "jax" else False
    )
    standard = scaling.of(features)
    with Bar("autoencoder", epochs) as bar:
        network.fit(standard, standard, batch_size=batch_size, epochs=epochs, verbose=0, callbacks=[_Steps(bar)])
    weights = [layer.get_weights() for layer in network.layers if isinstance(layer, keras.layers.Dense)]
    return Autoencoder(scaling, tuple(kernel for kernel, _ in weights), tuple(bias for _, bias in weights))


def _network(width: int) -> keras.Model:
    narrower = [each for each in WIDTHS if each < width] or [max(1, width // 2)]
    layers: Sequence[int] = [*narrower, *narrower[-2::-1]]
    hidden = [keras.layers.Dense(each, activation="relu") for each in layers]
    return keras.Sequential([keras.Input((width,)), *hidden, keras.layers.Dense(width)])


class _Steps(keras.callbacks.Callback):
    """Moves the bar."""

    def __init__(self, bar: Bar) -> None:
        super().__init__()
        self._bar = bar

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:  # noqa: ARG002
        self._bar.step(note=f"loss {(logs or {})['loss']:.4f}")
