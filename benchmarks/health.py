"""`python -m benchmarks.health [FOLDER]`: recall and precision of the dataset health check on injected faults.

FOLDER has a folder for each class; without it galaxies are simulated. A fifth of the images is the test part. Label
errors that real images had before count as false positives, so precision on them is a lower bound.
"""

import argparse
import json
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from astrodetect.datasets import class_folders, health
from astrodetect.datasets.health import DatasetHealth
from astrodetect.datasets.simulation import generator
from benchmarks import hardware

WRONG, COPIES, CORRUPT, LEAKS, TEST = 0.05, 0.03, 0.01, 0.02, 0.2  # shares of the images
SIMULATED = ("E", "SB")
MANY_FROM = 400  # images simulated for the timing; the others are derived from them


@dataclass(frozen=True, slots=True)
class Fault:
    """A kind of fault: how many were injected and detected."""

    kind: str
    planted: int
    found: int  # true positives
    wrongly: int  # false positives

    @property
    def recall(self) -> float:
        """Share of the injected faults that were found."""
        return self.found / max(1, self.planted)

    @property
    def precision(self) -> float:
        """Share of the findings that were injected."""
        return self.found / max(1, self.found + self.wrongly)


@dataclass(slots=True)
class PlantedFaults:
    """The names of the images with injected faults."""

    wrong: set[str]
    copies: set[frozenset[str]]
    corrupt: set[str]
    leaks: set[frozenset[str]]


CHANGES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "re-encoded": lambda image: image,
    "two thirds of the size": lambda image: image.resize((image.width * 2 // 3, image.height * 2 // 3)),
    "larger": lambda image: image.resize((image.width * 3 // 2, image.height * 3 // 2)),
    "turned": lambda image: image.transpose(Image.Transpose.ROTATE_90),
    "mirrored": lambda image: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
    "turned and smaller": lambda image: image.transpose(Image.Transpose.ROTATE_270).resize(
        (image.width * 3 // 4, image.height * 3 // 4)
    ),
    "cropped": lambda image: image.crop(
        (image.width // 32, image.height // 32, image.width - image.width // 32, image.height - image.height // 32)
    ),
    "brighter": lambda image: Image.eval(image, lambda value: min(255, int(1.1 * value + 4))),
}
QUALITY = 80


def main() -> None:
    """Inject faults, run the check, and print a table or JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.health", description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?", help="class folders (default: simulated galaxies)")
    parser.add_argument("--classes", nargs="+", help="of the folder (default: all)")
    parser.add_argument("--images", type=int, default=1500, help="simulated (default: 1500)")
    parser.add_argument("--size", type=int, default=96, help="of the simulated images, pixels (default: 96)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--time", type=int, metavar="N", help="instead: how long the whole check takes for N images")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        home = Path(temporary)
        if arguments.time:
            source = _many(home, arguments.time, arguments.size)
            began = time.monotonic()
            health.examine(source)
            took = time.monotonic() - began
            report: dict[str, object] = {"images": arguments.time, "seconds": round(took, 1)}
        else:
            source = arguments.folder or _simulated(home / "source", arguments.images, arguments.size)
            classes = arguments.classes or class_folders.class_names(source)
            planted = plant(source, classes, home / "planted", arguments.seed)
            found = health.examine(home / "planted")
            faults = compare(found, planted)
            report = {"images": len(found.scan), "classes": classes, "faults": [asdict(fault) for fault in faults]}
    if arguments.json:
        print(json.dumps(report | {"machine": hardware.describe()}))
    elif arguments.time:
        print(f"{report['images']} images of {arguments.size} px in {report['seconds']} s")
    else:
        print(f"{report['images']} images, {', '.join(classes)}")
        for fault in faults:
            print(
                f"{fault.kind:22} planted {fault.planted:4}  found {fault.found:4} ({fault.recall:.0%})  "
                f"wrongly {fault.wrongly:4} (precision {fault.precision:.0%})"
            )


def plant(source: Path, classes: list[str], home: Path, seed: int) -> PlantedFaults:
    """Copy the images into parts train and test and inject faults; the file names identify the images."""
    random = np.random.default_rng(seed)
    paths = [path for name in classes for path in sorted((source / name).iterdir()) if path.is_file()]
    order = [paths[place] for place in random.permutation(len(paths))]
    count = len(order)
    for part in ("train", "test"):
        for name in classes:
            (home / part / name).mkdir(parents=True)
    wrong = set(random.choice(count, round(WRONG * count), replace=False).tolist())
    placed = []
    for number, path in enumerate(order):
        label = path.parent.name
        if number in wrong:
            label = str(random.choice([name for name in classes if name != label]))
        part = "test" if number < TEST * count else "train"
        placed.append(home / part / label / f"{number:06}{path.suffix}")
        shutil.copyfile(path, placed[-1])
    planted = PlantedFaults({placed[number].name for number in wrong}, set(), set(), set())
    tests, learnt = round(TEST * count), count - round(TEST * count)
    originals = tests + random.choice(learnt, round((COPIES + CORRUPT) * count), replace=False)
    copied, broken = np.split(originals, [round(COPIES * count)])
    for turn, number in enumerate(copied.tolist()):
        twin = _copy(placed[number], placed[number].parent, turn, "c")
        planted.copies.add(frozenset({placed[number].name, twin.name}))
    for turn, number in enumerate(random.choice(tests, round(LEAKS * count), replace=False).tolist()):
        twin = _copy(placed[number], home / "train" / placed[number].parent.name, turn, "l")
        planted.leaks.add(frozenset({placed[number].name, twin.name}))
    for number in broken.tolist():
        data = placed[number].read_bytes()
        bad = placed[number].with_name(f"x{placed[number].name}")
        bad.write_bytes(data[: int(len(data) * random.uniform(0.02, 0.9))])
        planted.corrupt.add(bad.name)
    return planted


def compare(found: DatasetHealth, planted: PlantedFaults) -> list[Fault]:
    """Compare findings with injected faults; a copy of a mislabelled image counts as mislabelled too."""
    wrong = set(planted.wrong)
    for pair in planted.copies | planted.leaks:
        if pair & planted.wrong:
            wrong |= pair

    def sets(groups: list[health.DuplicateGroup]) -> set[frozenset[str]]:
        return {frozenset(Path(look.item.path).name for look in found.members(group)) for group in groups}

    def fault(kind: str, expected: set[object], detected: set[object]) -> Fault:
        return Fault(kind, len(expected), len(expected & detected), len(detected - expected))

    doubted: set[object] = {Path(doubt.image.item.path).name for doubt in found.doubtful_labels}
    surest: set[object] = {Path(doubt.image.item.path).name for doubt in found.doubtful_labels[: len(wrong)]}
    return [
        fault("corrupt files", set(planted.corrupt), {Path(file.item.path).name for file in found.unreadable}),
        fault("copies within a part", set(planted.copies), set(sets(found.duplicates))),
        fault("leaks", set(planted.leaks), set(sets(found.leaks))),
        fault("wrong labels", set(wrong), doubted),
        fault("wrong labels, surest", set(wrong), surest),
    ]


def _copy(original: Path, folder: Path, turn: int, mark: str) -> Path:
    """Copy every second image byte for byte, and the others with one of CHANGES."""
    twin = folder / f"{mark}{original.name}"
    if turn % 2 == 0:
        shutil.copyfile(original, twin)
    else:
        change = list(CHANGES.values())[turn // 2 % len(CHANGES)]
        twin = twin.with_suffix(".jpg")
        with Image.open(original) as image:
            change(image.convert("RGB")).save(twin, quality=QUALITY)
    return twin


def _simulated(folder: Path, count: int, size: int) -> Path:
    return generator.make_dataset(folder, dict.fromkeys(SIMULATED, count // len(SIMULATED)), seed=1, size=size)


def _many(home: Path, count: int, size: int) -> Path:
    """Different images: a few simulated ones, repeated with shifts and noise."""
    source = _simulated(home / "simulated", min(count, MANY_FROM), size)
    paths = [path for name in SIMULATED for path in sorted((source / name).iterdir())]
    some = [(path.parent.name, np.asarray(Image.open(path), np.float32)) for path in paths]
    random = np.random.default_rng(0)
    for number in range(count):
        label, pixels = some[number % len(some)]
        place = home / "many" / label / f"{number:06}.jpg"
        place.parent.mkdir(parents=True, exist_ok=True)
        shifted = np.roll(pixels, random.integers(0, size, 2), axis=(0, 1)) + random.normal(0, 12, pixels.shape)
        Image.fromarray(shifted.clip(0, 255).astype(np.uint8)).save(place, quality=90)
    return home / "many"


if __name__ == "__main__":
    main()
