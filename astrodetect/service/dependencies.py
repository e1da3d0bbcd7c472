"""Typed FastAPI dependencies: routes and pages ask for the parts of `Services` that they need.

A route names its parts in its signature and never touches `app.state`:

    @router.get("/predictions/{id}")
    def prediction(database: DatabaseDep, id: PredictionId) -> Prediction: ...

What has only a request or a scope, such as an error page or a middleware, calls `services_of`.
"""

from collections.abc import Callable
from typing import Annotated, Any, TypeAlias

from fastapi import Depends, FastAPI
from starlette.requests import HTTPConnection

from astrodetect.service.anomaly_detection import AnomalyDetection
from astrodetect.service.batch_detection import BatchDetection
from astrodetect.service.detection import DetectionService
from astrodetect.service.live_feed import LiveFeed
from astrodetect.service.metrics import Metrics
from astrodetect.service.middleware.auth import ApiKeys
from astrodetect.service.model_registry import ModelRegistry
from astrodetect.service.projection_jobs import ProjectionJobs
from astrodetect.service.review_queue import ReviewQueue
from astrodetect.service.services import ServiceDatabase, Services
from astrodetect.service.thumbnails import ThumbnailStore
from astrodetect.settings import Settings


def attach(app: FastAPI, services: Services) -> None:
    """Makes the services available to the application's requests."""
    app.state.services = services


def services_of(connection: HTTPConnection) -> Services:
    """The services of the application that answers this request."""
    services: Services = connection.app.state.services
    return services


def _part(select: Callable[[Services], object]) -> Any:
    async def dependency(connection: HTTPConnection) -> object:  # async: FastAPI runs other ones in a thread
        return select(services_of(connection))

    return Depends(dependency)


ServicesDep: TypeAlias = Annotated[Services, _part(lambda services: services)]
SettingsDep: TypeAlias = Annotated[Settings, _part(lambda services: services.settings)]
MetricsDep: TypeAlias = Annotated[Metrics, _part(lambda services: services.metrics)]
ApiKeysDep: TypeAlias = Annotated[ApiKeys, _part(lambda services: services.api_keys)]
ModelsDep: TypeAlias = Annotated[ModelRegistry, _part(lambda services: services.models)]
DatabaseDep: TypeAlias = Annotated[ServiceDatabase, _part(lambda services: services.database)]
ThumbnailsDep: TypeAlias = Annotated[ThumbnailStore, _part(lambda services: services.thumbnails)]
ReviewQueueDep: TypeAlias = Annotated[ReviewQueue, _part(lambda services: services.review_queue)]
ProjectionsDep: TypeAlias = Annotated[ProjectionJobs, _part(lambda services: services.projections)]
LiveFeedDep: TypeAlias = Annotated[LiveFeed, _part(lambda services: services.live_feed)]
DetectionDep: TypeAlias = Annotated[DetectionService, _part(lambda services: services.detection)]
BatchDetectionDep: TypeAlias = Annotated[BatchDetection, _part(lambda services: services.batch_detection)]
AnomalyDetectionDep: TypeAlias = Annotated[AnomalyDetection, _part(lambda services: services.anomaly_detection)]
