"""Simulated images: reproducible and as varied as surveys; classes differ in shape more than in colour."""

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from astrodetect import atomic_files, images
from astrodetect.datasets.simulation import generator
from astrodetect.datasets.simulation.generator import CLASSES, make_dataset, make_sample, render_image
from astrodetect.errors import DataError
from astrodetect.records import Pixels

COUNT = 60


@pytest.fixture(scope="module")
def ellipticals() -> list[Pixels]:
    return [render_image("E", seed) for seed in range(COUNT)]


@pytest.fixture(scope="module")
def barred() -> list[Pixels]:
    return [render_image("SB", seed) for seed in range(COUNT)]


def _files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*.jpg"))}


def _middle(pixels: Pixels) -> NDArray[np.float64]:
    third = pixels.shape[0] // 3
    return pixels[third:-third, third:-third].astype(float)


def _asymmetry(pixels: Pixels) -> float:
    """Fraction of the central light that an elliptical profile does not explain."""
    light = pixels[57:170, 57:170].mean(axis=2).astype(float)
    y, x = np.indices(light.shape)
    bright = np.where(light > np.median(light), light, 0)
    mean_x, mean_y = (np.average(axis, weights=bright) for axis in (x, y))
    u, v = x - mean_x, y - mean_y
    spread = np.cov(np.stack([u.ravel(), v.ravel()]), aweights=bright.ravel())
    inverse = np.linalg.inv(spread / np.sqrt(np.linalg.det(spread)))
    r = np.sqrt(inverse[0, 0] * u * u + 2 * inverse[0, 1] * u * v + inverse[1, 1] * v * v)
    ring = r.astype(int)
    profile = np.bincount(ring.ravel(), light.ravel()) / np.maximum(np.bincount(ring.ravel()), 1)
    inside = r < 40
    return float(np.abs(light - profile[ring])[inside].sum() / light[inside].sum())


def _best_threshold(first: list[float], second: list[float]) -> float:
    """Accuracy of the best single threshold."""
    best = 0.0
    for cut in first + second:
        right = sum(value <= cut for value in first) + sum(value > cut for value in second)
        best = max(best, right / (len(first) + len(second)), 1 - right / (len(first) + len(second)))
    return best


@pytest.mark.parametrize("kind", CLASSES)
def test_every_class_shows_an_object_on_a_dark_unclipped_sky(kind: str) -> None:
    for seed in range(3):
        pixels = render_image(kind, seed)
        assert pixels.shape == (227, 227, 3)
        assert pixels.dtype == np.uint8
        assert np.median(pixels) < 70  # a ghost's glow is the brightest
        assert (pixels > 0).mean() > 0.25  # the sky is not clipped to black
        assert pixels.max() > 80
        assert len(np.unique(pixels)) > 50


def test_sky_background_of_ordinary_galaxies_is_nearly_black(ellipticals: list[Pixels], barred: list[Pixels]) -> None:
    medians = [float(np.median(pixels)) for pixels in ellipticals + barred]
    assert np.median(medians) < 15
    assert max(medians) < 45


@pytest.mark.parametrize("size", [64, 300])
def test_rendered_size_does_not_change_the_field(size: int) -> None:
    pixels = render_image("SB", 1, size)
    assert pixels.shape == (size, size, 3)
    whole = render_image("SB", 1)
    assert np.allclose(pixels.mean(axis=(0, 1)), whole.mean(axis=(0, 1)), rtol=0.05)


def test_rendering_is_reproducible_across_processes_and_threads() -> None:
    code = (
        "import hashlib; from astrodetect.datasets.simulation.generator import CLASSES, render_image;"
        "print(hashlib.sha256(b''.join(render_image(k, 7).tobytes() for k in CLASSES)).hexdigest())"
    )
    runs = {
        subprocess.run(
            [sys.executable, "-c", code],
            env=os.environ | {"PYTHONHASHSEED": hash_seed, "OPENBLAS_NUM_THREADS": threads},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for hash_seed, threads in (("1", "1"), ("2", "2"))
    }
    assert len(runs) == 1


def test_seed_and_class_determine_the_image() -> None:
    assert len({render_image("E", seed).tobytes() for seed in range(10)}) == 10
    assert render_image("E", 0).tobytes() != render_image("SB", 0).tobytes()


def test_number_of_workers_does_not_change_the_images(tmp_path: Path) -> None:
    for workers in (1, 2):
        make_dataset(tmp_path / str(workers), {"E": 20, "ring": 3}, seed=5, size=64, workers=workers)
    alone = _files(tmp_path / "1")
    assert sorted(alone) == sorted([f"E/{n:05}.jpg" for n in range(1, 21)] + [f"ring/{n:05}.jpg" for n in range(1, 4)])
    assert _files(tmp_path / "2") == alone


def test_simulated_train_and_test_share_no_image(tmp_path: Path) -> None:
    make_sample(tmp_path, 12, 8, seed=3, size=64, workers=1)
    train, test = _files(tmp_path / "train"), _files(tmp_path / "test")
    assert (len(train), len(test)) == (24, 16)
    assert len(set(train.values()) | set(test.values())) == 40


def test_samples_of_neighbouring_seeds_share_no_image(tmp_path: Path) -> None:
    for seed in (0, 1):
        make_sample(tmp_path / str(seed), 4, 4, classes=("E",), seed=seed, size=64, workers=1)
    assert len(set(_files(tmp_path).values())) == 16


def test_interrupted_simulation_resumes_with_the_missing_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = _files(make_dataset(tmp_path / "whole", {"E": 6}, seed=1, size=64, workers=1))
    write = images.write_jpeg
    written: list[str] = []

    def interrupted_at(last: int) -> Callable[[Path, Pixels], None]:
        def write_jpeg(path: Path, pixels: Pixels) -> None:
            if len(written) == last:
                raise KeyboardInterrupt
            written.append(path.name)
            write(path, pixels)

        return write_jpeg

    monkeypatch.setattr(images, "write_jpeg", interrupted_at(4))
    with pytest.raises(KeyboardInterrupt):
        make_dataset(tmp_path / "halves", {"E": 6}, seed=1, size=64, workers=1)
    monkeypatch.setattr(images, "write_jpeg", interrupted_at(100))
    make_dataset(tmp_path / "halves", {"E": 6}, seed=1, size=64, workers=1)
    assert written == [f"{n:05}.jpg" for n in range(1, 7)]  # each once
    assert _files(tmp_path / "halves") == whole


@dataclass(frozen=True)
class KilledTask:
    """A task whose worker is killed, as without memory."""

    numbers: tuple[int, ...] = (1,)

    def run(self) -> int:
        """End the process."""
        os._exit(9)


def test_a_worker_that_is_killed_is_one_line() -> None:
    with pytest.raises(DataError, match="a worker was killed, as without memory: run the same command again"):
        generator._run([KilledTask(), KilledTask()], 2)  # type: ignore[list-item]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no limit on the size of files")
def test_after_a_full_disk_the_same_command_continues(tmp_path: Path) -> None:
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, hard))  # bytes, as on a disk that is nearly full
    try:
        with pytest.raises(OSError, match="too large"):
            make_dataset(tmp_path, {"E": 1}, seed=1, size=16)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    make_dataset(tmp_path, {"E": 1}, seed=1, size=16)
    assert (tmp_path / "E" / "00001.jpg").exists()


def test_folder_simulated_with_another_seed_is_refused(tmp_path: Path) -> None:
    make_dataset(tmp_path, {"E": 1}, seed=1, size=64, workers=1)
    with pytest.raises(DataError, match="another seed"):
        make_dataset(tmp_path, {"E": 2}, seed=2, size=64, workers=1)


def test_a_folder_of_other_images_is_refused_and_not_marked_as_simulated(tmp_path: Path) -> None:
    (tmp_path / "E").mkdir()
    (tmp_path / "E" / "00001.jpg").write_bytes(b"observed")
    with pytest.raises(DataError, match=r"E/00001.jpg was not simulated: choose another folder"):
        make_dataset(tmp_path, {"E": 2}, seed=1, size=64, workers=1)
    assert [path.name for path in tmp_path.rglob("*")] == ["E", "00001.jpg"]


@pytest.mark.parametrize(
    "attempt", [lambda _: render_image("X", 0), lambda folder: make_dataset(folder, {"X": 1}, seed=0)]
)
def test_unknown_simulated_class_is_a_one_line_error(tmp_path: Path, attempt: Callable[[Path], object]) -> None:
    with pytest.raises(DataError) as error:
        attempt(tmp_path / "new")
    assert "'X'" in str(error.value)
    assert "SB" in str(error.value)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "new").exists()


def test_barred_spirals_and_ellipticals_differ_in_shape(ellipticals: list[Pixels], barred: list[Pixels]) -> None:
    smooth, structured = ([_asymmetry(pixels) for pixels in group] for group in (ellipticals, barred))
    assert np.median(structured) > 1.5 * np.median(smooth)
    assert _best_threshold(smooth, structured) > 0.65  # noise and neighbours limit this simple measure


@pytest.mark.parametrize(
    ("measure", "limit"),
    [
        (lambda pixels: pixels.mean(), 0.7),
        (lambda pixels: _middle(pixels).mean(), 0.75),
        (lambda pixels: _middle(pixels).max(), 0.75),
        (lambda pixels: _middle(pixels)[..., 0].mean() / _middle(pixels)[..., 2].mean(), 0.9),
    ],
    ids=["brightness", "brightness of the middle", "brightest pixel", "colour"],
)
def test_brightness_and_colour_alone_do_not_separate_barred_spirals_from_ellipticals(
    ellipticals: list[Pixels], barred: list[Pixels], measure: Callable[[Pixels], float], limit: float
) -> None:
    values = [[float(measure(pixels)) for pixels in group] for group in (ellipticals, barred)]
    assert _best_threshold(*values) < limit


def test_ellipticals_are_redder_than_spirals_as_in_surveys(ellipticals: list[Pixels], barred: list[Pixels]) -> None:
    red, blue = (
        [_middle(pixels)[..., 0].mean() / _middle(pixels)[..., 2].mean() for pixels in group]
        for group in (ellipticals, barred)
    )
    assert np.median(red) > 1.15 * np.median(blue)


def test_images_of_one_class_vary_in_brightness_noise_and_sharpness_as_surveys_do(ellipticals: list[Pixels]) -> None:
    corners = [pixels[:40, :40].astype(float) for pixels in ellipticals]
    noise = [np.median(np.abs(np.diff(corner.mean(axis=2), n=4))) for corner in corners]
    peaks = [_middle(pixels).mean(axis=2).max() for pixels in ellipticals]
    assert np.percentile(noise, 90) > 2 * np.percentile(noise, 10)
    assert np.percentile(peaks, 90) > 1.4 * np.percentile(peaks, 10)


def test_without_shared_memory_images_are_simulated_in_one_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(generator, "ProcessPoolExecutor", refuse)
    generator.make_dataset(tmp_path, {"E": 20}, seed=0, size=32, workers=2)
    assert len(list((tmp_path / "E").iterdir())) == 20
    assert "shared memory (/dev/shm) cannot be used: Permission denied" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["colours independent of the class", "brightness independent of the class"])
def test_the_benchmark_fixes_the_variation_that_it_names(name: str) -> None:
    from benchmarks import simulation

    drawn = render_image("E", 3)
    with simulation.fixed_galaxies("one seeing"):
        assert np.array_equal(render_image("E", 3), drawn)
    with simulation.fixed_galaxies(name):
        fixed = [render_image("E", seed) for seed in range(8)]
    assert any(not np.array_equal(image, render_image("E", seed)) for seed, image in enumerate(fixed))


def test_of_two_simulations_at_once_with_other_seeds_one_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = '{"recipe": 3, "seed": 2, "size": 64}\n'
    monkeypatch.setattr(atomic_files, "remove_abandoned", lambda path: path.write_text(other))
    with pytest.raises(DataError, match="holds images made with another seed"):
        make_dataset(tmp_path, {"E": 1}, seed=1, size=64, workers=1)
    assert [path.read_text() for path in tmp_path.iterdir()] == [other]
