"""Models in Python: loading, and predictions for files and arrays."""

import hashlib
import uuid
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from astrodetect import images as decoder
from astrodetect.anomalies.novelty import Novelty
from astrodetect.api.mosaics import check_cutouts
from astrodetect.datasets import listing
from astrodetect.errors import DataError, ImageError
from astrodetect.inference import decision, pipeline
from astrodetect.model_store.manifest import Manifest, Precision
from astrodetect.records import ImageContract, ImagePath, ScoredImage
from astrodetect.settings import settings
from astrodetect.sky.cutouts import Cutout
from astrodetect.storage.objects import forget_listed
from astrodetect.storage.references import as_image_path, is_url

if TYPE_CHECKING:
    from astrodetect.inference.engine import Engine

Paths: TypeAlias = str | Path | Iterable[str | Path]  # images, folders of images, or .csv lists
PixelArrays: TypeAlias = NDArray[np.uint8] | Iterable[NDArray[np.uint8]]  # (height, width[, 3 or 4]) each
MODEL_SUFFIXES = (".h5", ".json", ".xml")


class Model:
    """A trained model; `load_model` opens one, `train_model` makes one. Several threads may use it."""

    def __init__(self, engine: "Engine", novelty: Novelty | None) -> None:
        self.engine, self._novelty = engine, novelty

    @property
    def manifest(self) -> Manifest:
        """Everything that is known of the model: its image contract, metrics, training data and settings."""
        return self.engine.manifest

    @property
    def name(self) -> str:
        """The name, such as "resnet50_model"."""
        return self.manifest.name

    @property
    def classes(self) -> list[str]:
        """The names of the classes; of a binary model the second is the anomaly."""
        return list(self.manifest.classes)

    def predict(self, images: Paths | PixelArrays, *, errors: Literal["raise", "skip"] = "raise") -> list[ScoredImage]:
        """A prediction for each image, in order: `label`, `score`, `probabilities`, `novelty`, `in_domain` and more.

        `images` are paths of images (FITS too, if the model was trained with a stretch), folders or .csv lists, or one
        or several arrays of 8 bits, whose masked pixels are black. An unreadable image raises an error; with
        `errors="skip"` it is left out, and `image_name` says which image a prediction is of. Nothing is recorded in the
        database.
        """
        if errors not in {"raise", "skip"}:
            raise DataError(f'errors is "raise" or "skip", not {errors!r}')
        names, read = _readers(images, self.manifest.image)
        predictions = []
        for batch in pipeline.score_files(iter(names), self.engine, read, self._novelty):
            for file in batch:
                if file.error and errors == "raise":
                    raise ImageError(f"{file.path}: {file.error}")
                if not file.error:
                    predictions.append(decision.decide_file(self.manifest, file, uuid.uuid4()))
        return predictions

    def __repr__(self) -> str:
        return f"<Model {self.name}, version {self.manifest.version}: {' or '.join(self.classes)}>"


def load_model(model: str | Path | None = None, *, precision: Precision | Literal["auto"] = "auto") -> Model:
    """A trained model by its name in the models folder, or by a path such as "models/resnet50_model".

    Without a name it is the default model. What everyone who uses the model should know, such as that it was trained on
    simulated images, is a warning.
    """
    from astrodetect.inference import engine  # noqa: PLC0415 - importing OpenVINO takes a second

    if is_url(str(model)):
        raise DataError(f"{model}: set ASTRODETECT_MODELS_DIR to the URL of its folder, and give the model's name")
    path = Path(model or settings().model)
    folder = path.parent if len(path.parts) > 1 else settings().models_dir
    name = path.stem if path.suffix in MODEL_SUFFIXES else path.name
    verified = engine.load_verified(folder, name, precision)
    for warning in verified.manifest.warnings:
        warnings.warn(f"model {name}: {warning}", stacklevel=2)
    novelty = None if verified.novelty is None else Novelty.load(verified.novelty)
    return Model(engine.Engine(verified), novelty)


def as_paths(images: Paths) -> list[ImagePath]:
    """One path or several as a list; cutouts of mosaics as they are. Shards may have changed since the last call."""
    forget_listed()
    several = [images] if isinstance(images, str | Path) else _as_list(images)
    for image in several:
        if not isinstance(image, str | Path):
            raise DataError(f"one of the images is of the type {type(image).__name__}: give paths, str or Path")
    return [image if isinstance(image, Cutout) else as_image_path(image) for image in several]


def _as_list(images: Any) -> list[Any]:
    try:
        images = iter(images)
    except TypeError as error:
        raise DataError(
            f"images of the type {type(images).__name__}: give paths, str or Path, or arrays of 8 bits"
        ) from error
    return list(images)


def _readers(
    images: Paths | PixelArrays, contract: ImageContract
) -> tuple[Sequence[ImagePath], pipeline.ImageReader[ImagePath]]:
    """The names of the images, and a function that reads one."""
    max_pixels = settings().max_image_pixels
    arrays: list[NDArray[np.uint8]]
    if isinstance(images, np.ndarray) and images.dtype.kind not in "biufc":
        images = images.tolist()  # paths, as a column of a table
    elif not isinstance(images, str | Path | np.ndarray):
        images = _as_list(images)  # an iterator, as Path.glob's, gives each image once
    if isinstance(images, np.ndarray):
        is_single = images.ndim == 2 or (images.ndim == 3 and images.shape[2] in {3, 4})
        arrays = [images] if is_single else _as_list(images)
    elif not isinstance(images, str | Path) and all(isinstance(image, np.ndarray) for image in images):
        arrays = [np.asanyarray(image) for image in images]  # no images are no arrays
    else:
        items = listing.list_images(as_paths(images))  # type: ignore[arg-type]  # arrays are excluded above
        paths = [item.path for item in items]
        check_cutouts(paths, contract)
        return paths, pipeline.image_reader(max_pixels)

    def read(name: ImagePath, contract: ImageContract) -> pipeline.ReadImage:
        array = np.asarray(np.ma.filled(arrays[int(str(name))], 0))  # undefined pixels of FITS are black, too
        pixels = decoder.crop_array(array, contract, max_pixels=max_pixels)
        return pipeline.ReadImage(hashlib.sha256(array.tobytes()).hexdigest(), pixels)

    return [str(number) for number in range(len(arrays))], read
