"""Labelled images of the log as a training set: class folders of their files, or of their stored pictures."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from astrodetect import atomic_files, images
from astrodetect.datasets import splits
from astrodetect.datasets.listing import list_images
from astrodetect.datasets.splits import SplitPlan
from astrodetect.datasets.tables import ListedImage
from astrodetect.errors import DataError, ImageError
from astrodetect.progress import track_progress
from astrodetect.records import Thumbnail

NEEDED_CLASSES = 2
SHA256_DIGITS = 64


def labels_by_sha256(labels: Mapping[str, str]) -> dict[str, str]:
    """Those of the current labels whose image is identified by its SHA-256, and not by the id of its prediction."""
    return {key: label for key, label in labels.items() if len(key) == SHA256_DIGITS}


@dataclass(frozen=True, slots=True)
class LabelledSet:
    """What was written, and which labelled images are not among it."""

    items: list[ListedImage]
    files: int  # images of which the file was found
    missing: int  # images without file and picture


def write_labelled_folders(
    labels: Mapping[str, str],
    picture: Callable[[str], Thumbnail | None],
    output: Path,
    *,
    folder: Path | None,
    plan: SplitPlan,
) -> LabelledSet:
    """Writes part/class folders of the images with these labels, by SHA-256, with duplicates in one part.

    An image is its file in `folder`, if that holds one with its SHA-256, or else its stored picture.
    """
    from astrodetect.datasets import health  # noqa: PLC0415 - slow to import, and the service imports this module

    splits.check_output(output)
    files = _files_by_sha256(folder, labels) if folder else {}
    items, missing = [], 0
    try:
        suffix = atomic_files.part_suffix()  # by which the next run removes that of a killed one
        with TemporaryDirectory(suffix, f".{output.name}.", output.absolute().parent) as temporary:
            for sha256, label in track_progress(list(labels.items()), "reading pictures", len(labels)):
                place = files.get(sha256) or Path(temporary) / f"{sha256}.jpg"
                if sha256 not in files:
                    if not (stored := picture(sha256)):
                        missing += 1
                        continue
                    place.write_bytes(stored.jpeg)
                items.append(ListedImage(place, label))
            classes = {item.label for item in items}
            if len(classes) < NEEDED_CLASSES:
                raise DataError(
                    f"a training set needs images of two labels with pictures: there are {len(items)} images"
                    f" of {', '.join(sorted(classes)) or 'no label'}"
                )
            scan = health.scan_images(items, title="comparing images")
            groups, _ = health.group_duplicates(scan)
            items = splits.split_images([image.item for image in scan.images], groups, plan)
            splits.write_split(items, output)
    except OSError as error:
        raise DataError(f"cannot write {output}: {error.strerror}") from error
    return LabelledSet(items, sum(item.path in set(files.values()) for item in items), missing)


def _files_by_sha256(folder: Path, wanted: Mapping[str, str]) -> dict[str, Path]:
    """The image files of a folder with these hashes."""
    files: dict[str, Path] = {}
    for item in track_progress(items := list_images([folder]), f"reading {folder}", len(items)):
        try:
            digest = hashlib.sha256(images.read_bytes(item.path)).hexdigest()
        except ImageError:
            continue
        if digest in wanted and isinstance(item.path, Path):
            files.setdefault(digest, item.path)
    return files
