"""Positions of FITS files by their WCS, in predictions and tables, beside a catalogue or without one."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import colour_models
import numpy as np
import pytest
from programs import run_here
from worker_in_process import InProcessPool

from astrodetect.__main__ import main
from astrodetect.anomalies import results
from astrodetect.anomalies.conformal import Discoveries
from astrodetect.anomalies.novelty import Novelty
from astrodetect.anomalies.projection import Projection
from astrodetect.anomalies.results import AnomalyResults
from astrodetect.datasets import listing
from astrodetect.features.extraction import extract_features, measured_contract, measured_extractor
from astrodetect.inference.engine import Engine, load_verified
from astrodetect.inference.pipeline import read_ahead
from astrodetect.records import ScoredImage
from astrodetect.scoring import batch_scoring
from astrodetect.sky.catalogue import Catalogue, read_catalogue

COUNT = 24
RA, DEC = 150.0, 2.0  # of the first
STEP_DEG = 0.01


@pytest.fixture(scope="module")
def sky(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """FITS cutouts with a WCS, and a last one without."""
    from astropy.io import fits
    from astropy.wcs import WCS

    folder = tmp_path_factory.mktemp("fits")
    random = np.random.default_rng(0)
    y, x = np.mgrid[:64, :64]
    for number in range(COUNT):
        wcs = WCS(naxis=2)
        wcs.wcs.ctype, wcs.wcs.crval = ["RA---TAN", "DEC--TAN"], [RA + number * STEP_DEG, DEC]
        wcs.wcs.crpix, wcs.wcs.cdelt = [32.5, 32.5], [-1e-4, 1e-4]
        header = wcs.to_header() if number < COUNT - 1 else None
        pixels = random.normal(size=(64, 64)).astype(np.float32)
        width = random.uniform(1.5, 4)
        pixels += 20 * np.exp(-((x - 32) ** 2 + random.uniform(1, 3) * (y - 32) ** 2) / (2 * width**2))
        fits.PrimaryHDU(pixels, header=header).writeto(folder / f"{number:02}.fits")
    return folder


@pytest.fixture(scope="module")
def models_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    colour_models.publish(folder, "fits_model", colour_models.TWO_CLASSES, stretch="asinh")
    return folder


@pytest.fixture(scope="module")
def engine(models_dir: Path) -> Engine:
    return Engine(load_verified(models_dir, "fits_model"))


def catalogue_of_two(folder: Path) -> Catalogue:
    """One object with another position than its image's, and one without a position."""
    (folder / "objects.csv").write_text("id,ra,dec,mag\n01,10,-20,17\n02,,,18\n")
    return read_catalogue([folder / "objects.csv"])


def rows_by_name(table: Path) -> dict[str, dict[str, str]]:
    with table.open(newline="") as file:
        return {Path(row["path"]).stem: row for row in csv.DictReader(file)}


def check_positions(rows: dict[str, dict[str, str]], *, catalogue: bool) -> None:
    first, last = rows["00"], rows[f"{COUNT - 1:02}"]
    assert [float(first[name]) for name in ("ra", "dec")] == pytest.approx([RA, DEC])
    assert (last["ra"], last["dec"]) == ("", "")
    assert ("object_id" in first) == catalogue
    if catalogue:
        assert [float(rows["01"][name]) for name in ("ra", "dec")] == [10, -20]
        assert float(rows["02"]["ra"]) == pytest.approx(RA + 2 * STEP_DEG)
        assert (rows["02"]["object_id"], rows["02"]["mag"]) == ("02", "18")


@pytest.mark.parametrize("with_catalogue", [False, True])
def test_the_table_of_scores_has_the_positions_of_fits_files(
    sky: Path, engine: Engine, tmp_path: Path, with_catalogue: bool
) -> None:
    catalogue = catalogue_of_two(tmp_path) if with_catalogue else None
    recorded: list[ScoredImage] = []
    for name in ("scores.csv", "scores.parquet"):
        task = batch_scoring.ScoringTask([str(sky)], tmp_path / name, restart=False)
        with InProcessPool(engine, lambda scored, *_: recorded.extend(scored)) as pool:
            summary = batch_scoring.score_task(replace(task, catalogue=catalogue), engine.manifest, pool)
    check_positions(rows_by_name(tmp_path / "scores.csv"), catalogue=with_catalogue)
    assert recorded[0].ra == pytest.approx(RA)
    assert (f"{COUNT - 2} of {COUNT} images are not in the catalogue" in summary.text) == with_catalogue
    from pyarrow import parquet

    table = parquet.read_table(tmp_path / "scores.parquet").to_pydict()
    assert table["ra"][0] == pytest.approx(RA)
    assert table["dec"][-1] is None


def test_predictions_in_json_have_the_positions_of_fits_files(sky: Path, engine: Engine, models_dir: Path) -> None:
    environment = {"ASTRODETECT_MODELS_DIR": str(models_dir)}
    files = (sky / "00.fits", sky / f"{COUNT - 1:02}.fits")
    done = run_here(main, "predict", *files, "--model", engine.manifest.name, "--json", environment=environment)
    first, last = map(json.loads, done.stdout.splitlines())
    assert (first["ra"], first["dec"]) == pytest.approx((RA, DEC))
    assert (last["ra"], last["dec"]) == (None, None)


@pytest.mark.parametrize("with_catalogue", [False, True])
def test_the_table_of_anomalies_has_the_positions_of_fits_files(
    sky: Path, tmp_path: Path, with_catalogue: bool
) -> None:
    extracted, again = (
        extract_features(
            listing.list_images([sky]), measured_extractor(measured_contract()), tmp_path / "cache",
            run_batches=read_ahead, title="sky", max_pixels=10**6,
        )
        for _ in range(2)
    )  # fmt: skip
    assert again.computed == 0
    assert again.positions == extracted.positions
    novelty = Novelty.fit(extracted.features, feature_kind="shapes").score_training_images()
    results.write_tables(
        tmp_path,
        AnomalyResults(
            paths=[item.path for item in extracted.items],
            labels=[""] * COUNT,
            sha256=extracted.sha256,
            novelty=novelty,
            discoveries=Discoveries.find(novelty.strength, 0.1, COUNT),
            projection=Projection(np.zeros(0, np.int64), np.zeros((0, 2), np.float32), ""),
            review_labels={},
            interest=None,
            skipped=[],
            catalogue=catalogue_of_two(tmp_path) if with_catalogue else None,
            sky_positions=extracted.positions,
        ),
        "csv",
    )
    check_positions(rows_by_name(tmp_path / "anomalies.csv"), catalogue=with_catalogue)
