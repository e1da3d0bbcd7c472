"""Images of NASA's image and video library, found by words: each once, in the class that it was first found for."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import quote, urljoin, urlsplit

from astrodetect import images
from astrodetect.datasets.sources.http import HttpClient, build_url
from astrodetect.datasets.sources.manifest import CollectionManifest, ManifestEntry
from astrodetect.errors import FetchError, ImageTooSmall
from astrodetect.progress import Bar
from astrodetect.records import ImageContract
from astrodetect.settings import Settings

SOURCE = "nasa"
LICENSE = "NASA media usage guidelines"
PAGE_SIZE = 100
MOST_PAGES = 100  # the library shows the first 10,000 finds alone
SMALLEST_SIDE_PX = 64
SIDES_PX = {"small": 640, "medium": 1280, "large": 1920}  # the longer side of the sizes that the library makes
ABOUT = {"title": "title", "center": "center", "date": "date_created"}  # columns, and what the library calls them
PICTURES = (".jpg", ".jpeg", ".png")


@dataclass(frozen=True, slots=True)
class SearchQuery:
    """Words to search for, and the class of what is found."""

    label: str
    words: str


class NasaLibrary:
    """NASA's image and video library."""

    def __init__(self, chosen: Settings) -> None:
        self._url, self._remote, self._max_pixels = chosen.nasa_url, HttpClient(chosen), chosen.max_image_pixels

    def collect(self, ledger: CollectionManifest, queries: Sequence[SearchQuery], *, limit: int, side: int) -> None:
        """Up to `limit` images of each class, of about `side` pixels; what is here is not asked for again."""
        for query in queries:
            with Bar(f"{query.label}: {query.words}", limit) as bar:
                bar.step(ledger.counts[query.label])
                for found in self._search(query) if ledger.counts[query.label] < limit else ():
                    if ledger.knows(found):
                        continue
                    try:
                        url, data = self._fetch(found, side)
                    except FetchError as error:
                        ledger.skip(found, str(error))
                    else:
                        ledger.save(replace(found, url=url), data, found.source_id)
                        bar.step(note=f"{ledger.skipped} skipped")
                    if ledger.counts[query.label] >= limit:
                        break

    def _search(self, query: SearchQuery) -> Iterator[ManifestEntry]:
        """What is found, page by page as it is needed."""
        for page in range(1, MOST_PAGES + 1):
            url = build_url(f"{self._url}/search", q=query.words, media_type="image", page=page, page_size=PAGE_SIZE)
            items, more = self._remote.get(url, _page)
            for item in items:
                if found := self._found(item, query.label):
                    yield found
            if not more:
                return

    def _found(self, item: Any, label: str) -> ManifestEntry | None:
        try:
            about = item["data"][0]
            name = str(about["nasa_id"])
            url = f"{self._url}/asset/{quote(name, safe='')}"
            told = {column: str(about.get(key) or "") for column, key in ABOUT.items()}
            return ManifestEntry(label=label, source=SOURCE, source_id=name, url=url, license=LICENSE, **told)
        except (KeyError, IndexError, TypeError, AttributeError):
            return None  # nothing that could be asked for

    def _fetch(self, found: ManifestEntry, side: int) -> tuple[str, bytes]:
        """The first of its files that is a good image, the best-sized first, and where it was."""
        files = self._remote.get(found.url, lambda data: [self._absolute(found.url, file) for file in _files(data)])
        failed = FetchError("no picture among its files")
        for url in _by_fitness(files, side):
            try:
                return url, self._remote.get(url, self._checked)
            except FetchError as error:
                failed = error
        raise failed

    def _absolute(self, base: str, file: str) -> str:
        """The library names its files as http, and has them as https."""
        return urlsplit(urljoin(base, file))._replace(scheme=urlsplit(self._url).scheme).geturl()

    def _checked(self, data: bytes) -> bytes:
        shape = images.probe(data, max_pixels=self._max_pixels)
        if min(shape.width, shape.height) < SMALLEST_SIDE_PX:
            raise ImageTooSmall(f"{shape.width} × {shape.height} pixels: each side needs {SMALLEST_SIDE_PX}")
        images.read(data, ImageContract(), max_pixels=self._max_pixels)
        return data


def _by_fitness(files: Sequence[str], side: int) -> list[str]:
    """Pictures at least `side` pixels long, then smaller ones; of unknown size the original, and last the thumbnail."""
    sized = {name: file for file in files if (name := _size_name(file))}
    enough = sorted((name for name, px in SIDES_PX.items() if px >= side), key=SIDES_PX.__getitem__)
    too_small = sorted((name for name, px in SIDES_PX.items() if px < side), key=SIDES_PX.__getitem__, reverse=True)
    return [sized[name] for name in (*enough, *too_small, "orig", "thumb") if name in sized]


def _size_name(file: str) -> str | None:
    """`large` of …~large.jpg; None of what is no picture."""
    stem, dot, suffix = file.rpartition(".")
    return stem.rpartition("~")[2] if f"{dot}{suffix}".lower() in PICTURES else None


def _page(data: bytes) -> tuple[list[Any], bool]:
    """Some of what is found, and whether there is more."""
    with _shaped():
        collection = json.loads(data)["collection"]
        return list(collection["items"]), any(link["rel"] == "next" for link in collection.get("links", ()))


def _files(data: bytes) -> list[str]:
    with _shaped():
        return [str(item["href"]) for item in json.loads(data)["collection"]["items"]]


@contextmanager
def _shaped() -> Iterator[None]:
    """JSON of another shape is as wrong as no JSON."""
    try:
        yield
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError("not an answer of the library") from error
