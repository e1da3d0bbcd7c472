"""The shapes of the answers about models, and how they are found."""

import asyncio
import datetime as dt
from dataclasses import asdict
from typing import Annotated, Any, TypeAlias

from fastapi import Path, Query
from pydantic import BaseModel, ConfigDict, Field

from astrodetect.model_store import archive
from astrodetect.model_store.manifest import Manifest, ModelTask, list_manifests
from astrodetect.service.model_registry import ModelRegistry

NAME = r"^\w[\w.-]*$"  # of a model: no path leads elsewhere by it
NAME_OR_NONE = rf"{NAME}|^$"
LONGEST_NAME = 100  # characters
VERSION = r"^[0-9a-f]{12}$"  # of a model: the beginning of a sum

ModelName: TypeAlias = Annotated[
    str | None,
    Query(
        pattern=NAME, max_length=LONGEST_NAME, description="a name from /models; the one that serves if none is given"
    ),
]
ModelPath: TypeAlias = Annotated[str, Path(pattern=NAME, max_length=LONGEST_NAME)]


class EarlierVersionResponse(BaseModel):
    """A version of a model that a newer one replaced, whole on disk."""

    version: str
    created: dt.datetime
    recipe: str
    metrics: dict[str, dict[str, float]]


class ModelResponse(BaseModel):
    """What is known of a model, from its manifest; the one that is `serving` answers where none is named.

    `problem` says why it could not be loaded when that was last tried: what was loaded before goes on. `earlier` are
    the versions that it can be rolled back to, the one replaced last first.
    """

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "name": "resnet50_model",
                "version": "5f0c3a9be214",
                "serving": True,
                "loaded": True,
                "problem": None,
                "task": "binary",
                "recipe": "resnet50",
                "classes": ["SB", "E"],
                "positive": "E",
                "threshold": 0.5,
                "temperature": 1.0,
                "image": {"size": 227, "crop": 1.0, "bands": "RGB", "stretch": "none", "resample": "bilinear"},
                "metrics": {"test": {"images": 10057, "accuracy": 0.86, "balanced_accuracy": 0.86, "auc": 0.93}},
                "created": "2026-11-20T21:00:00+00:00",
                "earlier": [
                    {
                        "version": "9be2145f0c3a",
                        "created": "2026-11-13T21:00:00+00:00",
                        "recipe": "resnet50",
                        "metrics": {"test": {"images": 10057, "accuracy": 0.85, "auc": 0.92}},
                    }
                ],
            }
        }
    )

    name: str
    version: str
    serving: bool
    loaded: bool
    problem: str | None
    task: ModelTask
    recipe: str
    classes: list[str]
    positive: str | None
    threshold: float | None  # of a model of two classes
    temperature: float
    image: dict[str, Any]
    metrics: dict[str, dict[str, float]]
    created: dt.datetime
    earlier: list[EarlierVersionResponse]

    @classmethod
    def of(cls, manifest: Manifest, models: ModelRegistry) -> "ModelResponse":
        """The manifest as callers see it."""
        loaded = models.loaded.get(manifest.name)
        in_memory = loaded is not None and loaded.manifest.files == manifest.files
        older = archive.earlier_versions(models.folder, manifest.name).values()
        return cls(
            **{name: getattr(manifest, name) for name in AS_THEY_ARE},
            serving=in_memory and manifest.name == models.default_name,
            loaded=in_memory,
            problem=models.failed.get(manifest.name),
            threshold=manifest.threshold if manifest.task == "binary" else None,
            image=asdict(manifest.image),
            earlier=[EarlierVersionResponse.model_validate(one, from_attributes=True) for one in older],
        )


AS_THEY_ARE = ("name", "version", "task", "recipe", "classes", "positive", "temperature", "metrics", "created")


class RollbackRequest(BaseModel):
    """Which version to go back to."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"example": {"version": "9be2145f0c3a"}})

    version: str | None = Field(default=None, pattern=VERSION, description="the one that was replaced last, if null")


def listed(models: ModelRegistry) -> list[ModelResponse]:
    """Every trained model here."""
    return [ModelResponse.of(manifest, models) for manifest in list_manifests(models.folder)]


async def rolled_back(models: ModelRegistry, name: str, said: RollbackRequest | None) -> ModelResponse:
    """The version that is in place then."""
    manifest = await models.rollback(name, said.version if said else None)
    return await asyncio.to_thread(ModelResponse.of, manifest, models)
