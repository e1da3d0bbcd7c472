"""From a folder of sky images to a trained classifier and a running detection service.

The names of `__all__` are the Python API. They are imported when they are first used.
"""

from importlib import import_module

TYPE_CHECKING = False  # Ctrl-C is handled from __main__ on: nothing slow, such as typing, is imported before
if TYPE_CHECKING:
    from typing import Any

    from astrodetect.api.models import Model, load_model
    from astrodetect.api.mosaics import cutouts
    from astrodetect.api.programs import read_predictions, train_model
    from astrodetect.api.ranking import Ranking, describe, rank
    from astrodetect.errors import AstrodetectError
    from astrodetect.features.extraction import ExtractedFeatures
    from astrodetect.records import PredictionFilters, ScoredImage

__version__ = "0.1.0"
__all__ = [
    "AstrodetectError",
    "ExtractedFeatures",
    "Model",
    "PredictionFilters",
    "Ranking",
    "ScoredImage",
    "cutouts",
    "describe",
    "load_model",
    "rank",
    "read_predictions",
    "train_model",
]
_MODULES = {
    "api.models": ("Model", "load_model"),
    "api.mosaics": ("cutouts",),
    "api.ranking": ("Ranking", "describe", "rank"),
    "api.programs": ("read_predictions", "train_model"),
    "errors": ("AstrodetectError",),
    "features.extraction": ("ExtractedFeatures",),
    "records": ("PredictionFilters", "ScoredImage"),
}


def __getattr__(name: str) -> "Any":
    for module, names in _MODULES.items():
        if name in names:
            return getattr(import_module(f"astrodetect.{module}"), name)
    raise AttributeError(f"module 'astrodetect' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), *__all__]
