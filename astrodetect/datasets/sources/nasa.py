"""Images from NASA's image and video library by keyword; an image found for several classes keeps the first."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import quote, urljoin, urlsplit

from astrodetect import images
from astrodetect.datasets.sources.http import HttpClient, build_url
from astrodetect.datasets.sources.manifest import CollectionManifest, ManifestEntry
from astrodetect.errors import ImageTooSmall, SourceUrlError
from astrodetect.progress import ProgressBar
from astrodetect.records import ImageContract
from astrodetect.settings import Settings

SOURCE = "nasa"
LICENSE = "NASA media usage guidelines"
PAGE_SIZE = 100
MAX_PAGES = 100  # the library returns only the first 10,000 results
MIN_SIDE_PX = 64
SIDES_PX = {"small": 640, "medium": 1280, "large": 1920}  # longer side of the sizes that the library provides
METADATA_KEYS = {"title": "title", "center": "center", "date": "date_created"}  # manifest column → library's key
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")


@dataclass(frozen=True, slots=True)
class SearchQuery:
    """Search words, and the class of the images found by them."""

    label: str
    words: str


class NasaLibrary:
    """Client of NASA's image and video library."""

    def __init__(self, settings: Settings) -> None:
        self._url, self._client, self._max_pixels = settings.nasa_url, HttpClient(settings), settings.max_image_pixels

    def collect(self, manifest: CollectionManifest, queries: Sequence[SearchQuery], *, limit: int, side: int) -> None:
        """Collect up to `limit` images of each class, of about `side` pixels, that are not collected yet."""
        for query in queries:
            with ProgressBar(f"{query.label}: {query.words}", limit) as bar:
                bar.step(manifest.counts[query.label])
                for entry in self._search(query) if manifest.counts[query.label] < limit else ():
                    if manifest.already_tried(entry):
                        continue
                    try:
                        url, data = self._fetch(entry, side)
                    except SourceUrlError as error:
                        manifest.skip(entry, str(error))
                    else:
                        manifest.save(replace(entry, url=url), data, entry.source_id)
                        bar.step(note=f"{manifest.skipped} skipped")
                    if manifest.counts[query.label] >= limit:
                        break

    def _search(self, query: SearchQuery) -> Iterator[ManifestEntry]:
        """Search results, page by page as needed."""
        for page in range(1, MAX_PAGES + 1):
            url = build_url(f"{self._url}/search", q=query.words, media_type="image", page=page, page_size=PAGE_SIZE)
            items, has_next = self._client.get(url, _parse_page)
            for item in items:
                if entry := self._parse_item(item, query.label):
                    yield entry
            if not has_next:
                return

    def _parse_item(self, item: Any, label: str) -> ManifestEntry | None:
        try:
            metadata = item["data"][0]
            source_id = str(metadata["nasa_id"])
            url = f"{self._url}/asset/{quote(source_id, safe='')}"
            columns = {column: str(metadata.get(key) or "") for column, key in METADATA_KEYS.items()}
            return ManifestEntry(label=label, source=SOURCE, source_id=source_id, url=url, license=LICENSE, **columns)
        except (KeyError, IndexError, TypeError, AttributeError):
            return None  # not a downloadable item

    def _fetch(self, entry: ManifestEntry, side: int) -> tuple[str, bytes]:
        """URL and contents of the first of its files that is a valid image, best-fitting size first."""
        urls = self._client.get(
            entry.url, lambda data: [self._absolute(entry.url, href) for href in _parse_files(data)]
        )
        failure = SourceUrlError("no image among its files")
        for url in _by_preference(urls, side):
            try:
                return url, self._client.get(url, self._check)
            except SourceUrlError as error:
                failure = error
        raise failure

    def _absolute(self, base: str, href: str) -> str:
        """Absolute URL with the library's scheme: it lists http links to files served over https."""
        return urlsplit(urljoin(base, href))._replace(scheme=urlsplit(self._url).scheme).geturl()

    def _check(self, data: bytes) -> bytes:
        probe = images.probe(data, max_pixels=self._max_pixels)
        if min(probe.width, probe.height) < MIN_SIDE_PX:
            raise ImageTooSmall(f"{probe.width} × {probe.height} pixels: each side needs {MIN_SIDE_PX}")
        images.decode(data, ImageContract(), max_pixels=self._max_pixels)
        return data


def _by_preference(urls: Sequence[str], side: int) -> list[str]:
    """Sizes of at least `side` pixels, smallest first; then smaller ones, the original, and the thumbnail last."""
    by_size = {name: url for url in urls if (name := _size_name(url))}
    large_enough = sorted((name for name, px in SIDES_PX.items() if px >= side), key=SIDES_PX.__getitem__)
    too_small = sorted((name for name, px in SIDES_PX.items() if px < side), key=SIDES_PX.__getitem__, reverse=True)
    return [by_size[name] for name in (*large_enough, *too_small, "orig", "thumb") if name in by_size]


def _size_name(url: str) -> str | None:
    """`large` for …~large.jpg; None if not an image."""
    stem, dot, suffix = url.rpartition(".")
    return stem.rpartition("~")[2] if f"{dot}{suffix}".lower() in IMAGE_SUFFIXES else None


def _parse_page(data: bytes) -> tuple[list[Any], bool]:
    """Items of one page of results, and whether there is a next page."""
    with _schema_errors():
        collection = json.loads(data)["collection"]
        return list(collection["items"]), any(link["rel"] == "next" for link in collection.get("links", ()))


def _parse_files(data: bytes) -> list[str]:
    with _schema_errors():
        return [str(item["href"]) for item in json.loads(data)["collection"]["items"]]


@contextmanager
def _schema_errors() -> Iterator[None]:
    """JSON with an unexpected structure as ValueError, like invalid JSON."""
    try:
        yield
    except (KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError("unexpected JSON structure") from error
