"""Images described and ranked in Python, and shown in notebooks."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import TYPE_CHECKING, Any, get_args

import numpy as np

from astrodetect.anomalies import active_learning
from astrodetect.anomalies.conformal import FALSE_DISCOVERY_RATE, Discoveries
from astrodetect.anomalies.novelty import Novelty
from astrodetect.anomalies.projection import Projection
from astrodetect.anomalies.results import AnomalyResults, table_columns, table_rows
from astrodetect.api.models import Model, Paths, as_paths
from astrodetect.api.mosaics import check_cutouts
from astrodetect.datasets import listing
from astrodetect.errors import DataError
from astrodetect.extras import require_extra
from astrodetect.features.central_object import FeatureKind
from astrodetect.features.extraction import (
    ExtractedFeatures,
    FeatureExtractor,
    extract_features,
    measured_contract,
    measured_extractor,
)
from astrodetect.inference import pipeline
from astrodetect.labels import LabelValue, parse_label, require_label
from astrodetect.records import ImageContract, ImagePath
from astrodetect.reports.html import ThumbnailReader, display_name, read_thumbnails
from astrodetect.settings import settings
from astrodetect.sky.cutouts import Cutout
from astrodetect.storage.references import base_name

if TYPE_CHECKING:
    import pandas as pd

GALLERY_PX = 128
FIGURE = (
    '<figure style="margin: 0 8px 8px 0; font-size: 12px"><img src="{data}" width="{px}" alt="">'
    "<figcaption>{caption}</figcaption></figure>"
)
NO_MAP = Projection(np.zeros(0, np.int64), np.zeros((0, 2), np.float32), "")


def describe(
    images: Paths,
    *,
    features: FeatureKind = "shapes",
    model: Model | None = None,
    crop: float | None = None,
    planes: str | None = None,
) -> ExtractedFeatures:
    """A vector of features for each image: `features` (n, d), `items` with their paths, and `skipped` files.

    "shapes" are measurements of the central object and the cutout, on the central half of the frame or the share
    `crop`, or as `model` sees it; "network" are features of `model`, and "both" are both. Of FITS cubes of other than
    three planes, `planes` names those for red, green and blue: "2,1,0". Features are cached by the contents of a file.
    """
    paths, extractor = as_paths(images), _extractor(features, model, crop, planes)
    check_cutouts(paths, extractor.contract)
    return extract_features(
        listing.list_images(paths),
        extractor,
        settings().descriptions_dir,
        run_batches=pipeline.read_ahead,
        title=base_name(str(paths[0])) if len(paths) == 1 else f"{len(paths):,} paths",
        max_pixels=settings().max_image_pixels,
    )


@dataclass(frozen=True, slots=True, repr=False)
class Ranking:
    """Images in the order of `rank`, the most unusual first; a notebook shows the first as a gallery."""

    results: AnomalyResults  # by image, in the order of `extracted`
    extracted: ExtractedFeatures  # with the `skipped` files

    def __len__(self) -> int:
        return len(self.results)

    @property
    def paths(self) -> list[ImagePath]:
        """The paths of the images, the most unusual first."""
        return [self.results.paths[image] for image in self.results.order]

    @property
    def flagged(self) -> list[ImagePath]:
        """The paths of the images that are unusual beyond chance, the most unusual first."""
        flags = self.results.discoveries.flagged
        return [self.results.paths[image] for image in self.results.order if flags[image]]

    @property
    def summary(self) -> str:
        """How many images are flagged and how many of them by chance, in one sentence."""
        return self.results.discoveries.text

    def to_pandas(self) -> "pd.DataFrame":
        """The columns of anomalies.csv: rank, path, novelty, strength, flagged, and the score of each detector.

        Of cutouts of mosaics it has their positions, too.
        """
        require_extra("notebook", "a DataFrame")
        import pandas as pd  # noqa: PLC0415 - optional

        table = pd.DataFrame(table_rows(self.results), columns=table_columns(self.results))
        positions = {str(path): path.position for path in self.results.paths if isinstance(path, Cutout)}
        if positions:
            table[["ra", "dec"]] = [positions[path] for path in table["path"]]
        return table.drop(columns=["x", "y", "error"])

    def gallery(self, count: int = 12, *, start: int = 1) -> "Gallery":
        """The images from rank `start` on, to be shown in a notebook."""
        if start < 1 or count < 0:
            raise DataError(f"ranks are counted from 1, not {start}, and images from 0, not {count}")
        reader = ThumbnailReader(self.extracted.contract, settings().max_image_pixels)
        shown = self.results.order[start - 1 : start - 1 + count].tolist()
        thumbnails = read_thumbnails([(self.results.paths[image], GALLERY_PX) for image in shown], reader)
        figures = []
        for number, image in enumerate(shown, start):
            thumbnail = thumbnails[self.results.paths[image], GALLERY_PX]
            caption = f"{number}. {escape(thumbnail.name)}<br>novelty {self.results.novelty.novelty[image]:.3f}"
            figures.append(FIGURE.format(data=thumbnail.data, px=GALLERY_PX, caption=caption))
        return Gallery(f'<div style="display: flex; flex-wrap: wrap">{"".join(figures)}</div>')

    def __repr__(self) -> str:
        return f"<Ranking of {len(self):,} images, first {display_name(self.paths[0])}; {self.summary}>"

    def _repr_html_(self) -> str:
        return f"<p>{escape(self.summary)}</p>{self.gallery().html}"


@dataclass(frozen=True, slots=True)
class Gallery:
    """Images with captions, which a notebook shows."""

    html: str = field(repr=False)

    def _repr_html_(self) -> str:
        return self.html


def rank(
    images: Paths | ExtractedFeatures,
    *,
    normal: Paths | ExtractedFeatures | None = None,
    features: FeatureKind = "shapes",
    model: Model | None = None,
    crop: float | None = None,
    detectors: Sequence[str] | None = None,
    labels: Mapping[Any, LabelValue] | None = None,
    like: LabelValue | None = None,
    fdr: float = FALSE_DISCOVERY_RATE,
) -> Ranking:
    """Images by how unusual they are, compared with `normal` images or with each other.

    `features`, `model` and `crop` are those of `describe`, whose result may be given instead of paths. `labels` of some
    images, by path ("interesting", "ordinary", "artefact" or a name of your own), change the order to what they
    suggest; with `like`, to what is like the images with this label. `fdr` is the false discovery rate of the `flagged`
    images.
    """

    def extracted_of(given: Paths | ExtractedFeatures) -> ExtractedFeatures:
        if isinstance(given, ExtractedFeatures):
            if features not in ("shapes", given.kind) or crop not in (None, given.contract.crop):
                raise DataError(
                    f"they were described by {given.kind}, crop {given.contract.crop:g}: describe them again"
                )
            return given
        return describe(given, features=features, model=model, crop=crop)

    if not 0 < fdr < 1:
        raise DataError(f"a false discovery rate is between 0 and 1, not {fdr}")
    extracted = extracted_of(images)
    if not extracted.items:
        raise DataError("there are no images to rank")
    fitted_to = extracted if normal is None else extracted_of(normal)
    if fitted_to.kind != extracted.kind:
        raise DataError(f"{extracted.kind} features cannot be compared with {fitted_to.kind} features")
    if fitted_to.contract != extracted.contract:
        raise DataError("the normal images were described with another crop or model: describe both in the same way")
    novelty = Novelty.fit(fitted_to.features, feature_kind=extracted.kind, names=detectors)
    result = novelty.score_training_images() if normal is None else novelty.calibrated().score(extracted.features)
    indices = {item.path: index for index, item in enumerate(extracted.items)}
    labels = dict(() if labels is None else labels)  # a pandas Series has no truth value
    given = {
        path if path in indices else image: _as_label(label)
        for image, (path, label) in zip(as_paths(labels), labels.items(), strict=True)
    }
    review_labels = {indices[path]: label for path, label in given.items() if path in indices}
    if labels and not review_labels:
        raise DataError(f"no label is of one of these images, whose paths are such as {extracted.items[0].path}")
    interest = None
    like = require_label(like, review_labels.values())
    if review_labels:
        interest = active_learning.rank_by_labels(
            result.vectors, result.strength, review_labels, blocks=novelty.block_dimensions, like=like
        ).interest
    results = AnomalyResults(
        paths=[item.path for item in extracted.items],
        labels=[item.label for item in extracted.items],
        sha256=extracted.sha256,
        novelty=result,
        discoveries=Discoveries.find(result.strength, fdr, len(fitted_to.items)),
        projection=NO_MAP,
        review_labels=review_labels,
        interest=interest,
        skipped=[],
    )
    return Ranking(results, extracted)


def _as_label(label: LabelValue) -> LabelValue:
    if not isinstance(label, str):
        raise DataError(f"a label is a text, not {label!r}: leave images without a label out")
    try:
        return parse_label(label)
    except ValueError as error:
        raise DataError(str(error)) from error


def _extractor(features: FeatureKind, model: Model | None, crop: float | None, planes: str | None) -> FeatureExtractor:
    if features not in get_args(FeatureKind):
        raise DataError(f"features are {', '.join(get_args(FeatureKind))}, not {features!r}")
    if model is None:
        if features != "shapes":
            raise DataError(f'features="{features}" are those of a network: give a model, load_model("NAME")')
        try:
            return measured_extractor(measured_contract(crop, ImageContract.RGB if planes is None else planes))
        except ValueError as error:
            raise DataError(str(error)) from error
    if not isinstance(model, Model):
        raise DataError(f'a model is what load_model("NAME") returns, not {model!r}')
    if crop is not None or planes is not None:
        raise DataError("the crop and planes of a trained model cannot be changed: leave them out")
    if features == "shapes":
        return measured_extractor(model.manifest.image)
    return pipeline.network_extractor(model.engine, features, model.manifest.version)
