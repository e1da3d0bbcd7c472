"""The trained models: what is known of each, and rolling back to an earlier version."""

import asyncio
import datetime as dt
from dataclasses import asdict
from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field

from astrodetect.model_store import versions
from astrodetect.model_store.manifest import Manifest, ModelTask, list_manifests
from astrodetect.service.database_route import DatabaseRoute
from astrodetect.service.error_handlers import declared
from astrodetect.service.model_registry import ModelRegistry
from astrodetect.service.query_params import NO_QUERY, VERSION_PATTERN, ModelPath
from astrodetect.service.services import ModelsDep

MANIFEST_FIELDS = (
    "name",
    "version",
    "task",
    "recipe",
    "classes",
    "positive",
    "temperature",
    "metrics",
    "created",
    "simulated",
    "warnings",
)
router = APIRouter(route_class=DatabaseRoute)


class EarlierVersionResponse(BaseModel):
    """A version of a model that was replaced by a newer one and is still on disk."""

    version: str
    created: dt.datetime
    recipe: str
    metrics: dict[str, dict[str, float]]


class ModelResponse(BaseModel):
    """A model, from its manifest; the one that is `serving` answers where a request names none.

    `problem` is the error of the last attempt to load it; the version loaded before stays in use. `earlier` are the
    versions that it can be rolled back to, the one replaced last first.
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
                "simulated": False,
                "warnings": [],
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
    simulated: bool | None  # whether most training images are simulated; null where it was not recorded
    warnings: list[str]  # what everyone who uses the model should know of it
    earlier: list[EarlierVersionResponse]

    @classmethod
    def of(cls, manifest: Manifest, models: ModelRegistry) -> "ModelResponse":
        """From its manifest and what the registry has in memory."""
        loaded = models.loaded.get(manifest.name)
        in_memory = loaded is not None and loaded.manifest.files == manifest.files
        earlier = versions.earlier_versions(models.folder, manifest.name).values()
        return cls(
            **{name: getattr(manifest, name) for name in MANIFEST_FIELDS},
            serving=in_memory and manifest.name == models.default_name,
            loaded=in_memory,
            problem=models.failed.get(manifest.name),
            threshold=manifest.threshold if manifest.task == "binary" else None,
            image=asdict(manifest.image),
            earlier=[EarlierVersionResponse.model_validate(version, from_attributes=True) for version in earlier],
        )


class RollbackRequest(BaseModel):
    """The version to roll back to."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"example": {"version": "9be2145f0c3a"}})

    version: str | None = Field(
        default=None, pattern=VERSION_PATTERN, description="the one that was replaced last, if null"
    )


@router.get("/models", response_model=list[ModelResponse])
def models(models: ModelsDep) -> Any:
    """All trained models, which of them is the default, and the earlier versions of each."""
    return [ModelResponse.of(manifest, models) for manifest in list_manifests(models.folder)]


@router.post(
    "/models/{name}/rollback",
    name="rollback",
    response_model=ModelResponse,
    responses=declared(400, 404, 422, 503),
    dependencies=[NO_QUERY],
)
async def roll_back_model(models: ModelsDep, name: ModelPath, body: RollbackRequest | None = None) -> Any:
    """Rolls a model back to an earlier version, without interrupting requests."""
    manifest = await models.rollback(name, body.version if body else None)
    return await asyncio.to_thread(ModelResponse.of, manifest, models)
