"""Settings of the programs, from environment variables, `.env` or files in /run/secrets: name, default, unit, meaning.

A clone keeps `data`, `models` and `.env` at its top; a wheel has them in the folder that a program is started in.
"""

import os
import warnings
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote, unquote

from dotenv.parser import parse_stream
from pydantic import Field, SecretStr, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict, SettingsError

from astrodetect import atomic_files
from astrodetect.fetch_policy import AllowedHosts
from astrodetect.records import parse_prior
from astrodetect.storage.references import is_url, is_web

PACKAGE = Path(__file__).resolve().parent
INSTALLED = (PACKAGE / "programs").is_dir()  # from a wheel, not a clone
PROGRAMS = PACKAGE / "programs" if INSTALLED else PACKAGE.parent  # folder of main.py, train_model.py and the others
ROOT = Path.cwd() if INSTALLED else PACKAGE.parent
TRAIN_COMMAND = "astrodetect train" if INSTALLED else "python train_model.py"  # for messages
SETUP_DB_COMMAND = "astrodetect setup-db" if INSTALLED else "python setup_db.py"
SECRETS = Path("/run/secrets")  # where Docker, Podman and Kubernetes mount secrets: a file each, named like the setting
MIRRORS = "mirrors"  # folder of the copies of models that are stored on an object store, each named by its URL
HTTP = r"^https?://.*[^/]$"
ENV_PREFIX = "ASTRODETECT_"  # of every setting but DATABASE_URL
SIMILARITY = 0.85  # of a misspelt name to that of a setting; 0.76 of a name by Kubernetes, MODELS_PORT to MODELS_DIR


class Settings(BaseSettings):
    """Environment variables, `.env` and secrets."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX,
        env_file=ROOT / ".env",
        secrets_dir=SECRETS if os.access(SECRETS, os.R_OK | os.X_OK) else None,
        extra="ignore",
    )

    database_url: SecretStr | None = Field(
        default=None,
        validation_alias="DATABASE_URL",
        description="PostgreSQL for the predictions; the embedded one where unset",
    )
    database_connections: int = Field(default=8, ge=1, le=100, description="maximum number of connections")
    database_timeout_s: float = Field(
        default=5.0, gt=0, le=86_400, description="timeout of a connection or a statement, seconds"
    )

    data_dir: Path = Field(
        default=ROOT / "data", description="folder of images, caches, the outbox and the embedded PostgreSQL"
    )
    models_dir: Path = Field(
        default=ROOT / "models",
        description="folder of trained models, or its URL on an object store; this machine's copy is in data_dir then",
    )
    model: str = Field("resnet50_model", pattern=r"^[\w.-]+$", description="name of the default model in models_dir")

    require_signed: str = Field(
        default="",
        pattern=r"^[A-Za-z0-9+/=, ]*$",
        description="public keys, separated by commas: models that none of them has signed are not loaded",
    )

    precision: Literal["auto", "int8", "bf16", "f32"] = Field(
        default="auto",
        description="arithmetic of the network; auto is the one chosen by measurement at the end of training",
    )

    prior: str = Field(
        default="",
        description="share of classes among your images, such as E=0.1; models that have these classes correct for it",
    )

    threads: int = Field(
        default=0,
        ge=0,
        le=1024,
        description="threads of the network in each process of the service; 0: by the processors and the workers",
    )

    max_models: int = Field(default=4, ge=1, le=100, description="loaded models besides the default one")
    max_in_flight: int = Field(
        default=128, ge=1, le=10_000, description="images processed at a time; more are rejected with 503"
    )
    request_timeout_s: float = Field(
        default=15.0,
        gt=0,
        description="timeout for reading an image's bytes, and again for answering, seconds",
    )
    max_watchers: int = Field(
        default=100, ge=1, le=10_000, description="clients of the live feed at a time; more are rejected with 503"
    )
    drain_s: float = Field(
        default=0.0,
        ge=0,
        description="after SIGTERM, time that /health/ready fails while requests are still answered, seconds",
    )
    shutdown_timeout_s: float = Field(default=20.0, gt=0, description="wait for running requests at shutdown, seconds")
    outbox_dir: Path = Field(
        default_factory=lambda fields: fields["data_dir"] / "outbox",
        description="folder of rows that wait for PostgreSQL; each process makes one of its own in it",
    )
    outbox_max_bytes: int = Field(
        default=256_000_000,
        ge=10_000,
        description="maximum size of the outbox, which stores rows while PostgreSQL is unavailable, bytes",
    )

    thumbnail_px: int = Field(
        default=512,
        ge=16,
        le=4096,
        description="longer side of the stored pictures, pixels; smaller images are stored whole",
    )
    thumbnail_days: int = Field(
        default=365, ge=1, le=36_500, description="age at which thumbnails of unlabelled images are deleted, days"
    )
    thumbnail_max_bytes: int = Field(
        default=2_000_000_000,
        ge=0,
        description="maximum size of all thumbnails and FITS values, the oldest are deleted; 0 keeps none, bytes",
    )
    fits_values_px: int = Field(
        default=512,
        ge=0,
        le=4096,
        description="longer side of the values stored of FITS uploads, pixels: averaged down to it; 0 stores none",
    )

    max_body_bytes: int = Field(
        default=20_000_000, ge=1_000, description="maximum request body, bytes; 131,072 where it has no image"
    )
    max_batch_bytes: int = Field(
        default=1_000_000_000, ge=1_000, description="maximum body of a request to /detect/batch, bytes"
    )
    max_batch_images: int = Field(
        default=10_000, ge=1, description="maximum number of images in a request to /detect/batch"
    )
    max_image_pixels: int = Field(
        default=4096 * 4096, ge=10_000, description="maximum size of an image, width × height in pixels"
    )

    max_anomaly_images: int = Field(
        default=100, ge=1, le=1_000, description="maximum number of images in a request to /detect-anomalies"
    )
    fetch_timeout_s: float = Field(
        default=10.0, gt=0, description="timeout for fetching an image from a URL, including redirects, seconds"
    )
    fetch_allow: str = Field(
        default="",
        description="hosts to fetch from besides public ones: names, *.names, address blocks, each with :port",
    )
    api_key: SecretStr | None = Field(
        default=None, description="bearer key required for every POST; several separated by commas"
    )
    private: bool = Field(
        default=False, description="require the key for reading too, except on /key, /static and /health"
    )

    allowed_hosts: str = Field(
        default="",
        description="names in the Host header, *.names, or * for all, besides addresses and localhost; "
        "by default none for connections from this machine, all for others",
    )

    train_on_page: bool = Field(
        default=True,
        description="whether Models → Train may start trainings: for a browser on this machine, or with an API key",
    )

    aladin: Path | None = Field(
        default=None,
        description="file dist/aladin.js of the npm package aladin-lite: pages of predictions show the sky around them",
    )
    aladin_hips: str = Field(
        "https://alasky.cds.unistra.fr/DSS/DSSColor",
        pattern=r"^https?://[\w.:\[\]-]+(/[^\s;,]*)?[^/\s;,]$",
        description="HiPS, by its URL, whose tiles the browser loads for that",
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
    online_catalogues: str = Field(
        default="",
        pattern=r"^((simbad|ned|vizier:[\w/.+-]+)(,\s*|$))*$",
        description="online catalogues that crossmatch sends positions to, of simbad, ned, vizier:TABLE, with commas",
    )
    online_max_age_days: int = Field(
        default=90,
        ge=0,
        le=36_500,
        description="age at which the answers of online catalogues are asked for again, days",
    )
    mosaic_cache_bytes: int = Field(
        default=100 * 10**9,
        ge=0,
        description="maximum total size of the copies of mosaics at URLs in data_dir/cache/mosaics, bytes",
    )
    simbad_tap_url: str = Field(
        "https://simbad.cds.unistra.fr/simbad/sim-tap", pattern=HTTP, description="TAP service of SIMBAD"
    )
    ned_tap_url: str = Field("https://ned.ipac.caltech.edu/tap", pattern=HTTP, description="TAP service of NED")
    vizier_tap_url: str = Field(
        "https://tapvizier.cds.unistra.fr/TAPVizieR/tap", pattern=HTTP, description="TAP service of VizieR"
    )
    collect_requests_per_s: float = Field(
        default=3.0,
        gt=0,
        description="maximum rate of requests to a source of images or an online catalogue, per second",
    )
    collect_timeout_s: float = Field(default=30.0, gt=0, description="timeout of a source without data, seconds")
    collect_backoff_s: float = Field(
        default=1.0, ge=0, description="wait before a failed request is repeated, doubled each time, seconds"
    )
    collect_max_bytes: int = Field(default=50_000_000, ge=1_000, description="maximum size of a collected file, bytes")

    @field_validator("models_dir", mode="before")
    @classmethod
    def _mirror_of_url(cls, value: object, info: ValidationInfo) -> object:
        if not is_url(text := str(value)):
            return value
        if is_web(text):
            raise ValueError("models are stored in a folder, or on an object store (s3://, gs://, az://)")
        return info.data["data_dir"] / MIRRORS / quote(text.rstrip("/"), safe="")

    @field_validator("aladin")
    @classmethod
    def _readable_script(cls, path: Path | None) -> Path | None:
        if path is not None and not path.is_file():
            raise ValueError(f"there is no file {path}: npm pack aladin-lite, unpack it, name its dist/aladin.js")
        return path

    @field_validator("fetch_allow")
    @classmethod
    def _valid_hosts(cls, text: str) -> str:
        AllowedHosts.parse(text)
        return text

    @field_validator("prior")
    @classmethod
    def _valid_prior(cls, text: str) -> str:
        parse_prior(text)
        return text

    @field_validator("api_key")
    @classmethod
    def _key_or_unset(cls, keys: SecretStr | None) -> SecretStr | None:
        if keys and not any(map(str.strip, keys.get_secret_value().split(","))):
            raise ValueError("has blanks and commas only: write a key, or leave it unset")
        return keys

    @field_validator("private")
    @classmethod
    def _private_with_key(cls, private: bool, info: ValidationInfo) -> bool:
        if private and not info.data.get("api_key"):
            raise ValueError("needs an API key: set ASTRODETECT_API_KEY")
        return private

    def as_environment(self) -> dict[str, str]:
        """The environment variables of the settings that are not defaults, and of the folder of models."""
        names = {name for name in self.model_fields_set if getattr(self, name) is not None} | {"models_dir"}
        return {_variable((_alias(name),)): _as_text(getattr(self, name)) for name in sorted(names)}

    @property
    def postgres_dir(self) -> Path:
        """Folder of the embedded PostgreSQL cluster."""
        return self.data_dir / "postgres"

    @property
    def descriptions_dir(self) -> Path:
        """Folder of the feature cache."""
        return self.data_dir / "cache" / "descriptions"


@cache
def settings() -> Settings:
    """The settings of this process, read once; SystemExit names invalid ones."""
    try:
        _check_names([*os.environ, *_read_env_names(Settings.model_config.get("env_file"))])
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)  # of a secret that is no file: its setting would be unset
            return Settings()
    except ValidationError as error:
        problems = "; ".join(f"{_variable(problem['loc'])}: {problem['msg']}" for problem in error.errors())
        raise SystemExit(f"invalid setting: {problems}") from error
    except (SettingsError, UserWarning) as error:
        raise SystemExit(f"cannot read a setting: {error.__cause__ or error}") from error


def _read_env_names(path: Any) -> list[str]:
    """The names in it; SystemExit if it cannot be read, or for a line that would be left out, such as that of a key."""
    if path is None or not path.exists():
        return []
    try:
        atomic_files.refuse_device(path)
        with path.open(encoding="utf-8") as file:
            bindings = list(parse_stream(file))
    except (OSError, UnicodeDecodeError) as error:
        raise SystemExit(f"cannot read {path}: {error}") from error
    if lines := [binding.original.line for binding in bindings if binding.error]:
        raise SystemExit(f"cannot read {path}: line {lines[0]} is not NAME=value, or lacks a quotation mark")
    return [binding.key for binding in bindings if binding.key]


def _check_names(names: Iterable[str]) -> None:
    """SystemExit for a name that is almost one of a setting; Kubernetes adds others, such as ASTRODETECT_PORT."""
    known = {_variable((_alias(field),)) for field in Settings.model_fields}
    for name in names:
        variable = name.upper()
        if variable.startswith(ENV_PREFIX) and variable not in known:
            from difflib import get_close_matches  # noqa: PLC0415 - hardly ever

            without_prefix = {other.removeprefix(ENV_PREFIX): other for other in known}
            if meant := get_close_matches(variable.removeprefix(ENV_PREFIX), without_prefix, 1, SIMILARITY):
                raise SystemExit(f"invalid setting: there is no {name}, but {without_prefix[meant[0]]}")


def _variable(location: tuple[int | str, ...]) -> str:
    name = str(location[0])
    return name if name == "DATABASE_URL" else f"{ENV_PREFIX}{name}".upper()


def _alias(name: str) -> str:
    return str(Settings.model_fields[name].validation_alias or name)


def _as_text(value: object) -> str:
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    if isinstance(value, Path) and value.parent.name == MIRRORS and is_url(url := unquote(value.name)):
        return url
    return str(value.absolute() if isinstance(value, Path) else value)
