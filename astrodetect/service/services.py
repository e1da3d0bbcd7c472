"""Everything that the service opens at start-up, as one typed record, and the FastAPI dependencies that hand it out.

A route names the parts that it needs in its signature and never touches `app.state`:

    @router.get("/predictions/{id}")
    def prediction(database: DatabaseDep, id: PredictionId) -> Prediction: ...

What has only a request or a scope, such as an error page or a middleware, calls `services_of`.
"""

import asyncio
import logging
import math
import shutil
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import AsyncExitStack, asynccontextmanager, closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Protocol, TypeAlias

from fastapi import Depends, FastAPI
from starlette.requests import HTTPConnection
from threadpoolctl import threadpool_limits

from astrodetect.db.access import AccessTables
from astrodetect.db.descriptions import DescriptionLog
from astrodetect.db.label_batches import LabelBatches
from astrodetect.db.ranked_pages import RankedPages
from astrodetect.db.sky_counts import SkyCounts
from astrodetect.db.tags import TagTable
from astrodetect.errors import ModelMissing
from astrodetect.fetch_policy import AllowedHosts
from astrodetect.labels import Label, LabelValue, StoredLabel
from astrodetect.model_store.mirror import remote_url
from astrodetect.records import Neighbour, Prediction, PredictionFilters, PredictionPage
from astrodetect.service import listening
from astrodetect.service.adaptation_job import AdaptationJob
from astrodetect.service.anomaly_detection import AnomalyDetection
from astrodetect.service.arrival_matcher import ArrivalDatabase, ArrivalMatcher
from astrodetect.service.authentication import ApiKeys, Authenticator
from astrodetect.service.batch_detection import BatchDetection
from astrodetect.service.connection_limits import ConnectionLimits, max_connections
from astrodetect.service.detection import DetectionService
from astrodetect.service.fetch import Fetcher
from astrodetect.service.heat_maps import HeatMaps
from astrodetect.service.http_protocol import limit_connections
from astrodetect.service.image_pipeline import ImagePipeline
from astrodetect.service.live_feed import LiveFeed
from astrodetect.service.metrics import Metrics
from astrodetect.service.model_mirror import ModelMirror
from astrodetect.service.model_registry import ModelRegistry
from astrodetect.service.novelty_updater import NoveltyUpdater
from astrodetect.service.opened_model import OpenedModel
from astrodetect.service.outbox import Outbox
from astrodetect.service.periodic_thread import PeriodicThread
from astrodetect.service.projection_jobs import EmbeddingDatabase, ProjectionJobs
from astrodetect.service.recorder import PredictionDatabase, Recorder, VectorDatabase, VectorIndexer
from astrodetect.service.review_queue import ReviewDatabase, ReviewQueue
from astrodetect.service.row_follower import RowDatabase
from astrodetect.service.shutdown import Shutdown
from astrodetect.service.storage_monitor import DatabaseHeartbeat, StorageMonitor
from astrodetect.service.thumbnails import ThumbnailDatabase, ThumbnailStore
from astrodetect.service.training_jobs import TrainingJobs
from astrodetect.settings import Settings

log = logging.getLogger("uvicorn.error")


class ServiceDatabase(
    PredictionDatabase,
    ReviewDatabase,
    EmbeddingDatabase,
    RowDatabase,
    ThumbnailDatabase,
    VectorDatabase,
    ArrivalDatabase,
    Protocol,
):
    """The predictions database as the whole service uses it: `database.Database`."""

    def prediction(self, id: int) -> Prediction: ...  # noqa: A002
    def predictions(
        self, filters: PredictionFilters, *, limit: int, before: int | None = None, after: int | None = None
    ) -> PredictionPage: ...
    def by_image(self, image_sha256: str, *, limit: int) -> list[Prediction]: ...
    def similar(self, prediction: Prediction, *, limit: int) -> list[Neighbour]: ...
    @property
    def description_log(self) -> DescriptionLog: ...
    @property
    def heartbeat(self) -> DatabaseHeartbeat: ...
    @property
    def access(self) -> AccessTables: ...
    @property
    def label_batches(self) -> LabelBatches: ...
    @property
    def ranked(self) -> RankedPages: ...
    @property
    def sky(self) -> SkyCounts: ...
    @property
    def tags(self) -> TagTable: ...
    def add_label(self, id: int, label: LabelValue, *, who: str | None, note: str | None) -> StoredLabel: ...  # noqa: A002
    def delete_label(self, id: int) -> StoredLabel: ...  # noqa: A002
    def label_pages(self) -> Iterator[list[Label]]: ...
    def labels_of_image(self, prediction: Prediction) -> list[StoredLabel]: ...
    def labels_in_order(self) -> list[LabelValue]: ...
    def labels_by_image(self, predictions: Sequence[Prediction]) -> dict[str, LabelValue]: ...
    def images_with_thumbnails(self, images: Sequence[str]) -> set[str]: ...
    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Services:
    """What `open_services` opened. Routes and pages get the parts that they need as dependencies."""

    settings: Settings
    metrics: Metrics
    api_keys: ApiKeys
    authenticator: Authenticator
    shutdown: Shutdown
    models: ModelRegistry
    database: ServiceDatabase
    thumbnails: ThumbnailStore
    outbox: Outbox
    recorder: Recorder
    review_queue: ReviewQueue
    projections: ProjectionJobs
    live_feed: LiveFeed
    detection: DetectionService
    heat_maps: HeatMaps
    vector_indexer: VectorIndexer
    novelty_updater: NoveltyUpdater
    adaptation: AdaptationJob
    batch_detection: BatchDetection
    anomaly_detection: AnomalyDetection
    training_jobs: TrainingJobs
    storage: StorageMonitor
    background_threads: Sequence[threading.Thread]  # that run as long as the service


@asynccontextmanager
async def open_services(
    settings: Settings,
    metrics: Metrics,
    api_keys: ApiKeys,
    connect: Callable[[], ServiceDatabase],
    restart_database: Callable[[], object] | None = None,
    *,
    opening: Future[OpenedModel] | None = None,
) -> AsyncIterator[Services]:
    """Opens everything, and closes it in reverse order; what was opened before a failure is closed as well.

    `opening` is the default model, where it is being opened already.
    """
    async with AsyncExitStack() as stack:
        shutdown = Shutdown(settings.shutdown_timeout_s, settings.drain_s)
        if server := listening.running_server():
            stack.enter_context(shutdown.handle_signals(server))
            connections = stack.enter_context(closing(ConnectionLimits(metrics, max_connections())))
            limit_connections(server, connections, metrics)
        stack.enter_context(threadpool_limits(1, user_api="blas"))  # the network's passes use the cores
        database = stack.enter_context(closing(connect()))
        thumbnails = stack.enter_context(
            closing(
                ThumbnailStore(
                    database,
                    days=settings.thumbnail_days,
                    max_bytes=settings.thumbnail_max_bytes,
                    fits_px=settings.fits_values_px,
                    max_pixels=settings.max_image_pixels,
                )
            )
        )
        outbox = stack.enter_context(closing(Outbox(settings.outbox_dir, max_bytes=settings.outbox_max_bytes)))
        recorder = stack.enter_context(closing(Recorder(database, outbox, count_rows=metrics.count_rows)))
        pipeline = stack.enter_context(
            closing(
                ImagePipeline(
                    recorder,
                    thumbnails,
                    metrics,
                    max_pixels=settings.max_image_pixels,
                    thumbnail_px=settings.thumbnail_px,
                )
            )
        )
        models = ModelRegistry(
            settings.models_dir,
            settings.model,
            settings.precision,
            threads=settings.threads,
            max_models=settings.max_models,
            score=pipeline.score,
            record=pipeline.record,
            opening=opening,
        )
        stack.push_async_callback(models.close)  # before the recorder: images in a batch still get their rows
        try:
            await models.check()
        except ModelMissing as missing:  # it may be trained while the service runs; a broken model is an error
            log.warning("%s", missing)

        review_queue = stack.enter_context(closing(ReviewQueue(database)))
        projections = stack.enter_context(closing(ProjectionJobs(database)))
        live_feed = stack.enter_context(closing(LiveFeed(database, shutdown, max_clients=settings.max_watchers)))
        detection = stack.enter_context(
            closing(
                DetectionService(
                    models,
                    pipeline,
                    recorder,
                    metrics,
                    max_in_flight=settings.max_in_flight,
                    timeout_s=settings.request_timeout_s,
                )
            )
        )
        vector_indexer = stack.enter_context(closing(VectorIndexer(database, in_flight=detection.in_flight)))
        refresh = partial(asyncio.get_running_loop().call_soon_threadsafe, models.refresh)
        novelty_updater = NoveltyUpdater(
            database, lambda: models.detectors, refresh=refresh, in_flight=detection.in_flight
        )
        stack.enter_context(closing(novelty_updater))
        periodic: list[PeriodicThread] = [vector_indexer, novelty_updater]
        periodic.append(stack.enter_context(closing(ArrivalMatcher(database))))
        if remote_url(settings.models_dir):
            periodic.append(stack.enter_context(closing(ModelMirror(settings.models_dir, refresh))))
        adaptation = stack.enter_context(closing(AdaptationJob(database, settings.models_dir)))
        heat_maps = stack.enter_context(closing(HeatMaps(models, thumbnails, in_flight=detection.in_flight)))
        batch_detection = BatchDetection(
            detection,
            shutdown,
            max_file_bytes=settings.max_body_bytes,
            max_bytes=settings.max_batch_bytes,
            max_images=settings.max_batch_images,
        )
        fetcher = stack.enter_context(
            closing(
                Fetcher(
                    AllowedHosts.parse(settings.fetch_allow),
                    max_bytes=settings.max_body_bytes,
                    timeout_s=settings.fetch_timeout_s,
                )
            )
        )
        anomaly_detection = AnomalyDetection(
            detection,
            shutdown,
            fetcher,
            max_images=settings.max_anomaly_images,
            max_file_bytes=settings.max_body_bytes,
        )
        training_jobs = TrainingJobs(
            settings.models_dir,
            api_keys,
            enabled=settings.train_on_page and not settings.require_signed,  # its model would not be loaded
        )
        stack.push_async_callback(asyncio.to_thread, training_jobs.close)
        storage = stack.enter_context(closing(StorageMonitor(database.heartbeat, recorder, outbox, restart_database)))
        periodic.append(storage)
        background_threads = [recorder.thread, *thumbnails.threads, *(part.thread for part in periodic)]
        metrics.add_gauge("ended_threads", "Background threads that failed", lambda: len(ended(background_threads)))
        for name, folder in (("outbox", settings.outbox_dir), ("data", settings.data_dir)):
            free_bytes = partial(_free_bytes, folder)
            metrics.add_gauge(f"{name}_free_bytes", f"Free space of the file system of the {name} folder", free_bytes)
        metrics.add_gauge("outbox_rows", "Rows queued on disk", lambda: len(outbox))
        metrics.add_gauge(
            "rejected_rows",
            "Rows set aside in the outbox: refused by PostgreSQL, or not readable",
            lambda: outbox.rejected,
        )
        metrics.add_gauge("queue_length", "Images queued for the network", models.queue_length)
        metrics.add_gauge("watchers", "Clients of the live feed", lambda: len(live_feed))
        metrics.add_gauge("images_at_work", "Images being processed", detection.in_flight)
        yield Services(
            settings=settings,
            metrics=metrics,
            api_keys=api_keys,
            authenticator=Authenticator(api_keys, database.access),
            shutdown=shutdown,
            models=models,
            database=database,
            thumbnails=thumbnails,
            outbox=outbox,
            recorder=recorder,
            review_queue=review_queue,
            projections=projections,
            live_feed=live_feed,
            detection=detection,
            heat_maps=heat_maps,
            vector_indexer=vector_indexer,
            novelty_updater=novelty_updater,
            adaptation=adaptation,
            batch_detection=batch_detection,
            anomaly_detection=anomaly_detection,
            training_jobs=training_jobs,
            storage=storage,
            background_threads=background_threads,
        )


def ended(threads: Sequence[threading.Thread]) -> list[str]:
    """The names of those that do not run."""
    return [thread.name for thread in threads if not thread.is_alive()]


def _free_bytes(folder: Path) -> float:
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return math.nan


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
AuthenticatorDep: TypeAlias = Annotated[Authenticator, _part(lambda services: services.authenticator)]
ModelsDep: TypeAlias = Annotated[ModelRegistry, _part(lambda services: services.models)]
DatabaseDep: TypeAlias = Annotated[ServiceDatabase, _part(lambda services: services.database)]
ReviewQueueDep: TypeAlias = Annotated[ReviewQueue, _part(lambda services: services.review_queue)]
LiveFeedDep: TypeAlias = Annotated[LiveFeed, _part(lambda services: services.live_feed)]
DetectionDep: TypeAlias = Annotated[DetectionService, _part(lambda services: services.detection)]
HeatMapsDep: TypeAlias = Annotated[HeatMaps, _part(lambda services: services.heat_maps)]
BatchDetectionDep: TypeAlias = Annotated[BatchDetection, _part(lambda services: services.batch_detection)]
AdaptationDep: TypeAlias = Annotated[AdaptationJob, _part(lambda services: services.adaptation)]
AnomalyDetectionDep: TypeAlias = Annotated[AnomalyDetection, _part(lambda services: services.anomaly_detection)]
