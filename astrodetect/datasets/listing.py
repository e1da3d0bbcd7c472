"""Lists of images: those that are named, listed by tables, or under folders, local or on an object store."""

import os
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from astrodetect import images
from astrodetect.datasets.class_folders import list_dataset
from astrodetect.datasets.tables import ListedImage, is_table, read_table
from astrodetect.errors import DataError, ImageError, StorageError, StorageUnavailable
from astrodetect.records import ImagePath, SkyObject
from astrodetect.sky.cutouts import Cutout, CutoutSource
from astrodetect.storage import objects, parquet_shards, shards
from astrodetect.storage.references import (
    PARQUET_SUFFIXES,
    ROW_GROUP,
    SHARD_SUFFIXES,
    is_shard,
    is_url,
    is_web,
    join_reference,
    member_reference,
    split_member,
    suffix_path,
)

SIMULATION_FILE = ".simulated.json"  # marks a folder of simulated images
SIMULATION_LEVELS = 3  # an image's folder and two above it: class, part, data set
LISTED_SUFFIXES = (*images.SUFFIXES, *SHARD_SUFFIXES)
DOWNLOADS = 32  # at a time
MAX_AHEAD = 64  # downloads that are begun or wait to be decoded
MAX_AHEAD_BYTES = 256 * 2**20


@dataclass(frozen=True, slots=True)
class ImageFile:
    """An image to score: its name in tables, and how to read its bytes (ImageError where that fails)."""

    name: str
    read: Callable[[], bytes]
    sky_object: SkyObject | None = None  # that it shows, where that is known before


def count_simulated(paths: Sequence[ImagePath]) -> int:
    """The number of images in folders that are marked as simulated, or stand in such a folder or its parts."""
    folders = Counter(path.parent for path in paths if isinstance(path, Path))
    return sum(
        count
        for folder, count in folders.items()
        if any((parent / SIMULATION_FILE).exists() for parent in [folder, *folder.parents][:SIMULATION_LEVELS])
    )


def list_images(paths: Sequence[ImagePath]) -> list[ListedImage]:
    """The images under these paths, and the rows of tables; labelled by class folders if there is one path only."""
    cutouts = [path for path in paths if isinstance(path, Cutout)]
    if cutouts:
        if len(cutouts) < len(paths):
            raise DataError("give either cutouts of mosaics or paths")
        return [ListedImage(cutout, "") for cutout in cutouts]
    names = [str(path) for path in paths]
    try:
        check_paths(names)
        if len(paths) == 1 and _has_class_folders(paths[0]):
            items = [*_single_items(list_dataset(paths[0]))]
        else:
            items = [item for name in names for item in _unlabelled_images(name)]
    except OSError as error:
        raise DataError(f"cannot read the folder {error.filename}: {error.strerror}") from error
    if not items:
        raise no_images(names)
    return items


def list_references(names: Iterable[str]) -> Iterator[str]:
    """The references of the images, and of the shards as a whole, that are named or under the named folders, sorted.

    Hidden names and links to folders are skipped. A file, or an image of a shard, that is named is listed whatever its
    suffix.
    """
    for name in names:
        path = name if is_url(name) or split_member(name) else str(Path(name))
        if is_table(name):
            for item in read_table(_image_path(name), labelled=False):
                yield from _file_references(str(item.path)) or (str(item.path),)
        elif _is_folder(name):
            yield from _walk_objects(path) if is_url(name) else _walk_folder(_prefix(path))
        elif suffix_path(path).endswith(PARQUET_SUFFIXES):
            yield from parquet_shards.list_row_groups(path) or ()
        else:
            yield path


def open_images(references: Iterable[str]) -> Iterator[ImageFile]:
    """The images of references, in order; objects are downloaded ahead of their turn.

    Shards are read while their images are taken, one after the other. Where a shard cannot be read on, the last of its
    images has the shard's name and its error. Reading raises StorageUnavailable where a server does not answer.
    """
    waiting: deque[ImageFile] = deque()
    downloads = _Downloads()
    try:
        for reference in references:
            if is_shard(reference):
                while waiting:
                    yield waiting.popleft()
                yield from _open_shard(reference)
                continue
            waiting.append(downloads.begin(reference) if is_url(reference) else _local_file(reference))
            while waiting and not (is_url(waiting[0].name) and len(waiting) <= downloads.ahead):
                yield waiting.popleft()
        while waiting:
            yield waiting.popleft()
    except BaseException:
        downloads.cancel()
        raise
    downloads.finish()


def open_cutouts(source: CutoutSource, descriptions: Iterable[str]) -> Iterator[ImageFile]:
    """The cutouts of mosaics that are described, in order."""
    for cutout in (Cutout.parse(description, source) for description in descriptions):
        yield ImageFile(str(cutout), cutout.read, SkyObject(*cutout.position, str(cutout)))


class _Downloads:
    """Downloads in threads; `ahead` is how many may be begun or wait, for all to fit into MAX_AHEAD_BYTES."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(DOWNLOADS, thread_name_prefix="download")  # starts threads as they are needed
        self._count = self._bytes = 0

    @property
    def ahead(self) -> int:
        return max(1, min(MAX_AHEAD, MAX_AHEAD_BYTES * self._count // max(1, self._bytes))) if self._count else 1

    def begin(self, reference: str) -> ImageFile:
        return ImageFile(reference, self._pool.submit(self._read, reference).result)

    def _read(self, reference: str) -> bytes:
        data = images.read_bytes(reference)
        self._bytes += len(data)
        self._count += 1
        return data

    def cancel(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    def finish(self) -> None:
        self._pool.shutdown(wait=False)  # the threads end with the last download


def _local_file(path: str) -> ImageFile:
    return ImageFile(path, partial(images.read_bytes, _image_path(path)))


def _image_path(reference: str) -> ImagePath:
    return reference if is_url(reference) or split_member(reference) else Path(reference)


def _open_shard(shard: str) -> Iterator[ImageFile]:
    try:
        for name, contents in shards.read_shard(shard, images.SUFFIXES, images.MAX_FILE_BYTES):
            yield ImageFile(name, partial(_contents, contents))
    except StorageUnavailable:
        raise
    except StorageError as error:
        yield ImageFile(shards.shard_name(shard), partial(_contents, error))


def _contents(contents: bytes | StorageError) -> bytes:
    if isinstance(contents, StorageError):
        raise ImageError(str(contents))
    return contents


def no_images(names: Sequence[str]) -> DataError:
    """The error for paths without image files."""
    return DataError(f"no images under {' '.join(names)}: image files end in {', '.join(images.SUFFIXES)}")


def check_paths(names: Sequence[str]) -> None:
    """Raises DataError unless each path exists and none contains another, so that each image is listed once."""
    resolved: dict[Path, str] = {}
    for name in names:
        _check_exists(name)
        real = Path(name) if is_url(name) else Path(name).resolve()
        if real in resolved:
            raise DataError(f"{name} and {resolved[real]} are the same: name it once")
        resolved[real] = name
    for real, name in resolved.items():
        for parent in real.parents:
            if parent in resolved:
                raise DataError(f"{name} is inside {resolved[parent]}: name only one of them")


def _check_exists(name: str) -> None:
    split = split_member(name)
    name = split[0] if split else name  # whether the shard has the image, reading it will tell
    if not is_url(name):
        exists = Path(name).is_dir() or Path(name).is_file()
    elif is_web(name) and not _is_folder(name):
        return  # reading it will tell
    else:
        exists = not _is_folder(name) or next(objects.list_names(name), None) is not None
    if not exists:
        raise DataError(f"no such folder or file: {name}")


def _is_folder(name: str) -> bool:
    if not is_url(name):
        return os.path.isdir(name)  # noqa: PTH112 - of names of any length
    if is_web(name) or name.endswith("/"):
        return suffix_path(name).endswith("/")
    is_bucket = "/" not in name.partition("://")[2]
    return is_bucket or not objects.exists(name)


def _single_items(items: Iterable[ListedImage], *, keep_others: bool = False) -> Iterator[ListedImage]:
    """The images in class folders or of a table, those in shards too, with the label, part and group of their shard.

    Parquet files of other things are left out, or with `keep_others` are bad files.
    """
    for item in items:
        if suffix_path(str(item.path)).endswith(SHARD_SUFFIXES):
            named = (str(item.path),) if keep_others else ()
            for image in _single_images(_file_references(str(item.path)) or named):
                yield replace(item, path=_image_path(image))
        else:
            yield item


def _unlabelled_images(name: str) -> Iterable[ListedImage]:
    """The rows of a table, or the images under a path, those in shards too."""
    if is_table(name):
        return _single_items(read_table(_image_path(name), labelled=False), keep_others=True)
    return (ListedImage(_image_path(image), "") for image in _single_images(list_references([name])))


def _single_images(references: Iterable[str]) -> Iterator[str]:
    """The references of single images, those of the members of shards too."""
    for reference in references:
        if is_shard(reference):
            yield from shards.member_references(reference, images.SUFFIXES)
        else:
            yield reference


def _walk_objects(folder: str) -> Iterator[str]:
    for name in objects.list_names(folder):
        if name.lower().endswith(LISTED_SUFFIXES):
            yield from _file_references(join_reference(folder, name))


def _walk_folder(prefix: str) -> Iterator[str]:
    for name in _names(prefix):
        if name.endswith(os.sep):
            yield from _walk_folder(prefix + name)
        else:
            yield from _file_references(prefix + name)


def _file_references(path: str) -> Iterable[str]:
    """A file in a folder: a Parquet file counts where it holds images, or is damaged."""
    if not suffix_path(path).endswith(PARQUET_SUFFIXES):
        return (path,)
    try:
        return parquet_shards.list_row_groups(path) or ()
    except StorageUnavailable:
        raise
    except StorageError:
        return (member_reference(path, f"{ROW_GROUP}0"),)


def _prefix(path: str) -> str:
    return "" if path == "." else path if path.endswith(os.sep) else path + os.sep


def _names(prefix: str) -> list[str]:
    """Images and folders in one folder; a folder's name ends in a separator, so that names sort as paths do."""
    names = []
    try:
        with os.scandir(prefix or ".") as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if entry.is_dir(follow_symlinks=False):
                    names.append(entry.name + os.sep)
                elif entry.name.lower().endswith(LISTED_SUFFIXES) and _is_file(entry):
                    names.append(entry.name)
    except OSError as error:
        raise DataError(f"cannot read the folder {prefix or '.'}: {error.strerror}") from error
    names.sort()
    return names


def _is_file(entry: "os.DirEntry[str]") -> bool:
    """Whether it is a file, or a link that cannot be followed: reading it says why."""
    try:
        return entry.is_file()
    except OSError:
        return True


def _has_class_folders(path: ImagePath) -> bool:
    """Whether it is a folder without images outside its subfolders."""
    if is_url(str(path)):
        return _is_folder(str(path)) and not any(
            "/" not in name and name.lower().endswith(LISTED_SUFFIXES) for name in objects.list_names(str(path))
        )
    return _is_folder(str(path)) and not any(
        file.name.lower().endswith(LISTED_SUFFIXES) for file in Path(path).iterdir() if not file.is_dir()
    )
