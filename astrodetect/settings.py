"""Every setting: its name, default, unit and one line of meaning. Set in the environment or in `.env`."""

from functools import cache
from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from astrodetect.allowed_hosts import AllowedHosts

ROOT = Path(__file__).resolve().parent.parent
HTTP = r"^https?://.*[^/]$"


class Settings(BaseSettings):
    """`DATABASE_URL` goes by its usual name; every other setting by ASTRODETECT_ and its own."""

    model_config = SettingsConfigDict(env_prefix="ASTRODETECT_", env_file=ROOT / ".env", extra="ignore")

    database_url: SecretStr | None = Field(
        default=None, validation_alias="DATABASE_URL", description="PostgreSQL to log to; the embedded one where unset"
    )
    database_connections: int = Field(default=8, ge=1, le=100, description="connections held open at most")
    database_timeout_s: float = Field(
        default=5.0, gt=0, description="longest wait for a connection or a statement, seconds"
    )

    data_dir: Path = Field(default=ROOT / "data", description="images and the embedded PostgreSQL's files")
    models_dir: Path = Field(default=ROOT / "models", description="trained models")
    model: str = Field(
        "resnet50_model", pattern=r"^[\w.-]+$", description="the model that serves: a name in models_dir"
    )

    precision: Literal["auto", "int8", "bf16", "f32"] = Field(
        default="auto", description="arithmetic of the network: auto takes what the model's own check allows"
    )

    max_models: int = Field(
        default=4, ge=1, le=100, description="models that callers name, loaded at a time, beside the one that serves"
    )
    max_in_flight: int = Field(
        default=128, ge=1, le=10_000, description="images at work at a time; more are refused with 503"
    )
    request_timeout_s: float = Field(
        default=15.0,
        gt=0,
        description="longest time for an image's bytes to come in, and again for its answer, seconds",
    )
    max_watchers: int = Field(
        default=100, ge=1, le=10_000, description="pages that watch new predictions come; more are refused with 503"
    )
    shutdown_timeout_s: float = Field(
        default=20.0, gt=0, description="longest wait for requests at work when the service is told to end, seconds"
    )
    outbox_max_bytes: int = Field(
        default=256_000_000, ge=10_000, description="rows kept on disk at most while PostgreSQL is away, bytes"
    )

    thumbnail_px: int = Field(
        default=256, ge=16, le=1024, description="small pictures kept with the log, their longer side, pixels"
    )
    thumbnail_days: int = Field(
        default=365, ge=1, le=36_500, description="how long they are kept; those of labelled images stay, days"
    )
    thumbnail_max_bytes: int = Field(
        default=2_000_000_000, ge=0, description="all of them together at most, the oldest go; 0 keeps none, bytes"
    )

    max_body_bytes: int = Field(default=20_000_000, ge=1_000, description="largest request body, bytes")
    max_batch_bytes: int = Field(
        default=1_000_000_000, ge=1_000, description="largest body of a request to /detect/batch, bytes"
    )
    max_batch_images: int = Field(default=10_000, ge=1, description="most images in a request to /detect/batch")
    max_image_pixels: int = Field(default=4096 * 4096, ge=10_000, description="largest image, width × height in pixels")

    max_anomaly_images: int = Field(
        default=100, ge=1, le=1_000, description="most images in a request to /detect-anomalies"
    )
    fetch_timeout_s: float = Field(
        default=10.0, gt=0, description="longest time for an image to come from its URL, redirects and all, seconds"
    )
    fetch_allow: str = Field(
        default="", description="hosts that may be asked for images beside public ones: names, *.names, blocks, :port"
    )
    api_key: SecretStr | None = Field(
        default=None, description="what callers send as a bearer key to every POST; several with commas"
    )
    private: bool = Field(
        default=False, description="reading needs a key too, on every path but /key, /static and /health"
    )

    nasa_url: str = Field("https://images-api.nasa.gov", pattern=HTTP, description="NASA's image library")
    galaxy10_url: str = Field(
        "https://zenodo.org/records/10845026/files/Galaxy10_DECals.h5", pattern=HTTP, description="Galaxy10's file"
    )
    legacy_url: str = Field(
        "https://www.legacysurvey.org/viewer", pattern=HTTP, description="cutouts of the Legacy Surveys"
    )
    sdss_url: str = Field(
        "https://skyserver.sdss.org/dr18/SkyServerWS/ImgCutout", pattern=HTTP, description="cutouts of SDSS"
    )
    hips_url: str = Field(
        "https://alasky.cds.unistra.fr/hips-image-services", pattern=HTTP, description="cutouts of any HiPS survey"
    )
    collect_requests_per_s: float = Field(
        default=3.0, gt=0, description="requests to a source of images, one at a time, per second at most"
    )
    collect_timeout_s: float = Field(default=30.0, gt=0, description="longest silence of a source, seconds")
    collect_backoff_s: float = Field(
        default=1.0, ge=0, description="wait before a failed request is sent again, doubled each time, seconds"
    )
    collect_max_bytes: int = Field(default=50_000_000, ge=1_000, description="largest file that is collected, bytes")

    @field_validator("fetch_allow")
    @classmethod
    def _hosts(cls, said: str) -> str:
        AllowedHosts.of(said)
        return said

    @field_validator("private")
    @classmethod
    def _keyed(cls, said: bool, info: ValidationInfo) -> bool:
        keys = info.data.get("api_key")
        if said and not (keys and any(map(str.strip, keys.get_secret_value().split(",")))):
            raise ValueError("needs a key to ask for: set ASTRODETECT_API_KEY")
        return said

    @property
    def postgres_dir(self) -> Path:
        """Where the embedded PostgreSQL keeps its files."""
        return self.data_dir / "postgres"

    @property
    def descriptions_dir(self) -> Path:
        """Where images' descriptions are kept, so that no image is described twice."""
        return self.data_dir / "cache" / "descriptions"

    @property
    def maps_dir(self) -> Path:
        """Where maps of the log are kept."""
        return self.data_dir / "maps"

    @property
    def outbox_dir(self) -> Path:
        """Where rows wait while PostgreSQL is away."""
        return self.data_dir / "outbox"


@cache
def settings() -> Settings:
    """The settings of this process, read once; a wrong one ends it with a line that names it."""
    try:
        return Settings()
    except ValidationError as error:
        wrong = "; ".join(f"{_named(found['loc'])}: {found['msg']}" for found in error.errors())
        raise SystemExit(f"a setting cannot be used: {wrong}") from error


def _named(place: tuple[int | str, ...]) -> str:
    name = str(place[0])
    return name if name == "DATABASE_URL" else f"ASTRODETECT_{name}".upper()
