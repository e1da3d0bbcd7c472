"""Cutouts of mosaics: their pixels and positions, bands, edges, and what is refused in one line."""

import csv
import os
import pickle
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

import colour_models
import numpy as np
import pytest
from mosaic_files import COLOURS, DEC, PIXEL_ARCSEC, RA, MosaicSky, write_catalogue, write_image
from programs import run_here
from worker_in_process import InProcessPool

import astrodetect
from astrodetect import __main__, images
from astrodetect.errors import DataError, ImageBlank
from astrodetect.inference.engine import Engine, load_verified
from astrodetect.records import ImageContract, ScoredImage
from astrodetect.scoring import batch_scoring
from astrodetect.settings import settings
from astrodetect.sky import mosaic_cache, source_detection
from astrodetect.sky.catalogue import ObjectCatalogue, read_objects
from astrodetect.sky.cutouts import Cutout, CutoutMaker, CutoutSize, CutoutSource, cut_out_objects
from astrodetect.sky.mosaics import MosaicFiles
from astrodetect.sky.source_detection import DetectionOptions, detect_sources
from astrodetect.storage import objects

SIDE = 4  # objects along each axis
SIZE = CutoutSize(32, in_pixels=True)
RGB = ImageContract(24, stretch="asinh")


@pytest.fixture(scope="module")
def sky() -> MosaicSky:
    return MosaicSky(SIDE)


@pytest.fixture(scope="module")
def folder(sky: MosaicSky, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of each band, and a catalogue."""
    folder = tmp_path_factory.mktemp("mosaic")
    for name, band in zip("gri", sky.bands(), strict=True):
        write_image(folder / f"survey-{name}.fits", band, sky.header())
    write_catalogue(folder / "objects.fits", sky)
    return folder


def open_files(*files: Path | str, bands: str = "", size: CutoutSize = SIZE) -> CutoutMaker:
    return CutoutSource(MosaicFiles(tuple(map(str, files)), tuple(filter(None, bands.split(",")))), size).open()


def three_bands(folder: Path, size: CutoutSize = SIZE) -> CutoutSource:
    files = tuple(str(folder / f"survey-{name}.fits") for name in "irg")  # in any order
    return CutoutSource(MosaicFiles(files, ("g", "r", "i")), size)


@pytest.mark.parametrize("kind", ["float", "integers", "tiles", "cube"])
def test_a_cutout_has_the_pixels_around_its_object_in_any_kind_of_file(
    sky: MosaicSky, folder: Path, tmp_path: Path, kind: str
) -> None:
    from astropy.io import fits

    values = fits.getdata(folder / "survey-g.fits")
    path = tmp_path / "mosaic.fits"
    if kind == "integers":
        values = np.rint(values * 10).astype(np.int16)
        values[:3] = -999
        write_image(path, values, sky.header(), BSCALE=0.1, BZERO=2.0, BLANK=-999)
        values = np.where(values == -999, np.nan, values * 0.1 + 2)
    elif kind == "tiles":
        hdu = fits.CompImageHDU(values, sky.header(), compression_type="GZIP_1", quantize_level=0)
        fits.HDUList([fits.PrimaryHDU(), hdu]).writeto(path)
    elif kind == "cube":
        values = np.stack([values, 2 * values, 3 * values])
        write_image(path, values, sky.header())
    else:
        write_image(path, values, sky.header())
    maker = open_files(path)
    for ra, dec in sky.positions[:3]:
        (x,), (y,) = maker.bands[0][0].grid.pixels([ra], [dec])
        left, bottom = round(x - 15.5), round(y - 15.5)
        cutout = maker.planes(ra, dec)
        expected = values[..., bottom : bottom + 32, left : left + 32]
        assert np.allclose(cutout, expected if kind == "cube" else expected[np.newaxis], equal_nan=True)
        assert abs(x - (left + 15.5)) <= 0.5 >= abs(y - (bottom + 15.5))


def test_the_decoder_sees_a_fits_cube_of_the_bands_by_increasing_wavelength(
    sky: MosaicSky, folder: Path, tmp_path: Path
) -> None:
    maker = three_bands(folder).open()
    planes = maker.planes(*sky.positions[5])
    write_image(tmp_path / "cube.fits", planes, None)
    decoded = images.decode(maker.read(*sky.positions[5]), RGB)
    assert np.array_equal(decoded, images.decode((tmp_path / "cube.fits").read_bytes(), RGB))
    peaks = planes[:, 14:18, 14:18].mean(axis=(1, 2))
    assert peaks / peaks[1] == pytest.approx(COLOURS, rel=0.25)
    assert decoded[12, 12, 0] > decoded[12, 12, 2]  # red is the last


def test_other_grids_are_interpolated_and_shifted_ones_are_not(sky: MosaicSky, tmp_path: Path) -> None:
    y, x = np.mgrid[: sky.pixels, : sky.pixels].astype(np.float32)

    def smooth(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return np.asarray(np.sin(x / 9) + np.cos(y / 7) + 5, np.float32)

    write_image(tmp_path / "g.fits", smooth(x, y), sky.header())
    from astropy.io.fits import Header
    from astropy.wcs import WCS

    turned = Header(sky.header(scale=1.3, rotation_deg=20), copy=True)
    side = int(sky.pixels / 1.3)
    v, u = np.mgrid[:side, :side]
    ra, dec = WCS(turned).all_pix2world(u, v, 0)
    write_image(tmp_path / "r.fits", smooth(*WCS(sky.header()).all_world2pix(ra, dec, 0)), turned)
    shifted = Header(sky.header(), copy=True)
    shifted["CRPIX1"] -= 7
    write_image(tmp_path / "i.fits", smooth(x, y)[:, 7:], shifted)
    maker = open_files(*(tmp_path / f"{name}.fits" for name in "gri"), bands="g,r,i")
    g, r, i = maker.planes(RA, DEC)
    assert np.array_equal(g, i)
    assert np.abs(g - r).max() < 0.02


def test_objects_outside_at_edges_and_on_undefined_pixels_are_counted(sky: MosaicSky, tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=(sky.pixels, sky.pixels)).astype(np.float32)
    values[:, :60] = np.nan
    maker = open_files(write_image(tmp_path / "m.fits", values, sky.header()))
    grid = maker.bands[0][0].grid
    x = [sky.pixels / 2, sky.pixels - 3.0, 30.0, sky.pixels + 50.0, -1.0]
    ra, dec = grid.positions(x, [80.0] * 5)
    coverage = maker.coverage([*ra, 10.0], [*dec, -80.0])  # the last on the other side of the sky
    assert (coverage.inside, coverage.padded, coverage.outside) == ([0, 1, 2], 1, 3)
    assert np.isnan(maker.planes(ra[1], dec[1])).any()
    with pytest.raises(ImageBlank, match="100% of the cutout's pixels are undefined"):
        maker.read(ra[2], dec[2])
    with pytest.raises(ImageBlank, match="outside of the mosaics"):
        maker.read(ra[3], dec[3])
    images.decode(maker.read(ra[1], dec[1]), RGB)


def test_of_overlapping_mosaics_the_one_is_taken_whose_edges_are_farther(sky: MosaicSky, tmp_path: Path) -> None:
    from astropy.io.fits import Header

    values, parts = np.zeros((sky.pixels, sky.pixels), np.float32), []
    for number, (start, stop) in enumerate(((0, 110), (70, sky.pixels))):
        header = Header(sky.header(), copy=True)
        header["CRPIX1"] -= start
        parts.append(write_image(tmp_path / f"{number}.fits", values[:, start:stop] + number, header))
    maker = open_files(*parts)
    grid = open_files(parts[0]).bands[0][0].grid
    for x, part in ((75.0, 0), (105.0, 1)):
        (ra,), (dec,) = grid.positions([x], [80.0])
        assert np.all(maker.planes(ra, dec) == part)


def test_a_mosaic_that_changes_while_it_is_open_is_one_line_and_is_read_anew_next_time(
    folder: Path, tmp_path: Path
) -> None:
    source = CutoutSource(MosaicFiles((str(shutil.copy(folder / "survey-g.fits", tmp_path)),)), SIZE)
    cutout = cut_out_objects(source, read_objects(folder / "objects.fits"))[0][0]
    before, version = cutout.read(), source.mosaics.version()
    shutil.copy(folder / "survey-r.fits", tmp_path / "survey-g.fits")
    assert source.mosaics.version() != version  # so that score does not go on with other rows
    with pytest.raises(DataError, match=r"survey-g\.fits has changed while it was read"):
        cutout.read()
    assert cut_out_objects(source, read_objects(folder / "objects.fits"))[0][0].read() != before
    os.truncate(tmp_path / "survey-g.fits", 5760)  # reading the mapped pages would be a SIGBUS
    with pytest.raises(DataError, match="has changed while it was read"):
        cutout.read()


def test_a_galactic_mosaic_has_the_same_positions(tmp_path: Path) -> None:
    from astropy.coordinates import SkyCoord
    from astropy.wcs import WCS

    centre = SkyCoord(RA, DEC, unit="deg")
    wcs = WCS(naxis=2)
    wcs.wcs.ctype, wcs.wcs.cdelt = ["GLON-TAN", "GLAT-TAN"], [-PIXEL_ARCSEC / 3600, PIXEL_ARCSEC / 3600]
    wcs.wcs.crval, wcs.wcs.crpix = [centre.galactic.l.deg, centre.galactic.b.deg], [33, 41]
    grid = (
        open_files(write_image(tmp_path / "m.fits", np.zeros((80, 70), np.float32), wcs.to_header())).bands[0][0].grid
    )
    assert [at.item() for at in grid.pixels([RA], [DEC])] == pytest.approx([32, 40], abs=1e-3)
    assert [at.item() for at in grid.positions([32], [40])] == pytest.approx([RA, DEC], abs=1e-8)


def test_every_position_is_in_a_map_of_the_whole_sky(tmp_path: Path) -> None:
    from astropy.wcs import WCS

    wcs = WCS(naxis=2)
    wcs.wcs.ctype, wcs.wcs.cdelt = ["RA---CAR", "DEC--CAR"], [-2, 2]
    wcs.wcs.crval, wcs.wcs.crpix = [180, 0], [90.5, 45.5]
    maker = open_files(write_image(tmp_path / "m.fits", np.zeros((90, 180), np.float32), wcs.to_header()))
    assert len(maker.coverage([1, 90, 180, 270, 359, 30], [0, 10, 0, -80, 1, 89]).inside) == 6


def test_a_cutout_travels_to_other_processes_by_its_name_and_position(sky: MosaicSky, folder: Path) -> None:
    cutout = Cutout("a@b, c", three_bands(folder), sky.positions[0])
    again = pickle.loads(pickle.dumps(cutout))  # noqa: S301 - our own
    parsed = Cutout.parse(cutout.describe(), CutoutSource.of_message(cutout.source.as_message()))
    for other in (again, parsed):
        assert (other, other.source, other.position) == ("a@b, c", cutout.source, cutout.position)
    assert images.read_bytes(again) == cutout.read()


def test_a_mosaic_on_an_object_store_is_downloaded_once_and_anew_when_it_changes(
    sky: MosaicSky, folder: Path, tmp_path: Path, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, url = folder / "survey-g.fits", f"{bucket}/survey-g.fits"
    objects.write_bytes(url, file.read_bytes())
    position = sky.positions[3]
    expected = open_files(file).planes(*position)
    stored = tmp_path / "data" / "cache" / "mosaics"
    inodes = set()
    for _ in range(2):
        maker = CutoutMaker(CutoutSource(MosaicFiles((f"{url}[0]",), ("g",)), SIZE))  # found by the name of the object
        assert np.array_equal(maker.planes(*position), expected, equal_nan=True)
        [copy] = stored.glob("*/*.fits")
        inodes.add(copy.stat().st_ino)
    assert len(inodes) == 1
    write_image(tmp_path / "other.fits", np.zeros((sky.pixels, sky.pixels), np.float32), sky.header())
    objects.write_bytes(url, (tmp_path / "other.fits").read_bytes())
    monkeypatch.setenv("ASTRODETECT_MOSAIC_CACHE_BYTES", str(copy.stat().st_size + 5000))
    settings.cache_clear()
    with pytest.raises(DataError, match="mosaics by ASTRODETECT_MOSAIC_CACHE_BYTES and its free space"):
        open_files(url)  # the first is in use
    mosaic_cache._in_use.clear()  # as in another process
    assert not open_files(url).planes(*position).any()
    assert (copy.exists(), len([*stored.glob("*/*")])) == (False, 1)  # there was no room for both
    monkeypatch.setenv("ASTRODETECT_MOSAIC_CACHE_BYTES", "1000")
    settings.cache_clear()
    objects.write_bytes(f"{bucket}/large.fits", file.read_bytes())
    for name, message in (("large", "bytes, and 1,000 are allowed in"), ("gone", "gone.fits does not exist")):
        with pytest.raises(DataError, match=message):
            open_files(f"{bucket}/{name}.fits")


def test_the_python_api_predicts_and_ranks_the_objects_of_mosaics(sky: MosaicSky, folder: Path, tmp_path: Path) -> None:
    colour_models.publish(tmp_path / "models", "fits_model", colour_models.TWO_CLASSES, stretch="asinh")
    model = astrodetect.load_model(tmp_path / "models" / "fits_model")
    files = [folder / f"survey-{name}.fits" for name in "gri"]
    objects_of = partial(astrodetect.cutouts, files, catalogue=folder / "objects.fits", size="32px")
    cutouts = objects_of(bands=["g", "r", "i"])
    assert [cutout.position for cutout in cutouts] == sky.positions
    predictions = model.predict(cutouts)
    assert [(row.image_name, row.ra, row.dec) for row in predictions] == [(cut, *cut.position) for cut in cutouts]
    ranking = astrodetect.rank(cutouts, labels={cutouts[0]: "interesting", str(cutouts[1]): "ordinary"})
    table = ranking.to_pandas().set_index("path")
    assert tuple(table.loc[cutouts[5], ["ra", "dec"]]) == sky.positions[5]
    assert len(ranking.gallery().html) > 1000
    with pytest.raises(DataError, match="increasing wavelength: --bands g,r,i"):
        model.predict(objects_of(bands=["i", "r", "g"]))
    with pytest.raises(DataError, match="either cutouts of mosaics or paths"):
        astrodetect.rank([*cutouts, folder / "survey-g.fits"])
    with pytest.raises(DataError, match="a size such as 8arcsec"):
        astrodetect.cutouts(files, catalogue=folder / "objects.fits", size="8")


def test_scores_of_cutouts_are_named_as_objects_with_the_columns_of_their_catalogue(
    sky: MosaicSky, folder: Path, tmp_path: Path
) -> None:
    colour_models.publish(tmp_path / "models", "fits_model", colour_models.TWO_CLASSES, stretch="asinh")
    engine = Engine(load_verified(tmp_path / "models", "fits_model"))
    source, catalogue = three_bands(folder), read_objects(folder / "objects.fits")
    names = [item.object_id for item in catalogue.objects]
    recorded: list[ScoredImage] = []

    def score(source: CutoutSource, catalogue: ObjectCatalogue) -> str:
        cutouts, _ = cut_out_objects(source, catalogue)
        task = batch_scoring.ScoringTask((), tmp_path / "scores.csv", restart=False, cutouts=cutouts)
        task.check()
        with InProcessPool(engine, lambda scored, *_: recorded.extend(scored), cutouts=source.as_message()) as pool:
            return batch_scoring.score_task(replace(task, catalogue=catalogue), engine.manifest, pool).text

    assert f"{SIDE**2} files scored" in score(source, catalogue)
    with (tmp_path / "scores.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["path"] for row in rows] == names
    assert [float(rows[3][name]) for name in ("ra", "dec")] == list(sky.positions[3])
    assert float(rows[3]["mag"]) == pytest.approx(17 + 3 * 3 / (SIDE**2 - 1))
    assert (recorded[3].object_id, recorded[3].ra) == (names[3], sky.positions[3][0])
    pixels = images.decode(source.open().read(*sky.positions[3]), engine.manifest.image)
    assert recorded[3].score == pytest.approx(float(engine.run(pixels[np.newaxis]).scores[0]), abs=1e-4)


@pytest.mark.parametrize("tile", [2048, 96])
def test_sources_are_found_once_within_a_pixel_of_where_they_are(
    sky: MosaicSky, folder: Path, tile: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source_detection, "TILE_PX", tile)
    monkeypatch.setattr(source_detection, "MARGIN_PX", 32)
    source = three_bands(folder)
    twice = replace(source.mosaics, files=source.mosaics.files * 2)
    for mosaics in (source.mosaics, twice):  # each image twice: none of the second is new
        rows = detect_sources(CutoutSource(mosaics, SIZE).open(), DetectionOptions())
        assert len(rows) == len({row[0] for row in rows}) == SIDE**2
        found = np.array([row[1:3] for row in rows])
        for ra, dec in sky.positions:
            nearest = np.hypot((found[:, 0] - ra) * np.cos(np.radians(dec)), found[:, 1] - dec).min()
            assert nearest * 3600 < PIXEL_ARCSEC
    with pytest.raises(DataError, match="no source is above 900 standard deviations"):
        detect_sources(source.open(), DetectionOptions(depth=900))


def test_objects_without_identifiers_are_named_by_position_and_duplicates_are_refused(tmp_path: Path) -> None:
    (tmp_path / "objects.csv").write_text("ra,dec,mag\n10.5,-20.25,17\n10.5,-20.25,18\n,,19\n")
    catalogue = read_objects(tmp_path / "objects.csv")
    assert [name for name, _ in catalogue.name_objects()] == ["J004200.00-201500.0", "J004200.00-201500.0-2"]
    assert catalogue.join(["path"]).cells("J004200.00-201500.0-2")[3:] == ["18"]
    (tmp_path / "twice.csv").write_text("id,ra,dec\na,1,2\na,3,4\n")
    twice = read_objects(tmp_path / "twice.csv")
    with pytest.raises(DataError, match="several objects a: name a column"):
        twice.name_objects()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("", "no images: name a DATA, or --mosaic FILES"),
        ("--size 8arcsec", "--size is of mosaics: add --mosaic FILES"),
        ("x --mosaic G", "x and --mosaic: give either images or mosaics"),
        ("--mosaic G", "--mosaic needs the --size of the cutouts, such as --size 8arcsec"),
        ("--mosaic G --size 8px", "--size is 8 pixels of 0.25″: 16 to 4096 are read"),
        ("--mosaic gone.fits --size 8arcsec", "gone.fits cannot be read: No such file or directory"),
        ("--mosaic objects --size 8arcsec", "objects.fits has no image: a mosaic is a FITS image with a celestial WCS"),
        ("--mosaic a.fits.gz --size 8arcsec", "a.fits.gz is packed by gzip, of which no window can be read"),
        ("--mosaic http://x/a.fits.gz --size 8arcsec", "a.fits.gz is packed by gzip, of which no window can be read"),
        ("--mosaic plain --size 8arcsec", "the mosaic plain.fits has no celestial WCS"),
        ("--mosaic spectra --size 8arcsec", "the mosaic spectra.fits has another axis before those of the sky"),
        ("--mosaic cut --size 8arcsec", "the mosaic cut.fits is truncated"),
        (
            "--mosaic G R --bands g --size 8arcsec",
            "none of the bands g, by its headers and its name (case counts)",
        ),
        ("--mosaic G R --bands g,r,z --size 8arcsec", "no mosaic is of the band z"),
        ("--mosaic G R --bands g,r --size 8arcsec", "the mosaics have 2 bands, and the model reads one or three"),
        ("--mosaic G R I --bands i,r,g --size 8arcsec", "reads bands by increasing wavelength: --bands g,r,i"),
        ("--mosaic G[7] --size 8arcsec", "survey-g.fits[7] has no image"),
        ("--mosaic G --size 8arcsec --catalogue far", "none of the 1 objects of the catalogue is in the mosaics"),
        ("--mosaic G --size 8arcsec --catalogue far --depth 2", "find sources where there is no --catalogue"),
    ],
)
def test_what_is_wrong_with_mosaics_is_one_line(
    sky: MosaicSky, folder: Path, tmp_path: Path, arguments: str, message: str
) -> None:
    write_image(tmp_path / "plain.fits", np.zeros((40, 40), np.float32), None)
    axes = {"CTYPE1": "WAVE", "CTYPE2": "RA---TAN", "CTYPE3": "DEC--TAN"}
    spectra = write_image(tmp_path / "spectra.fits", np.zeros((40, 40, 40), np.float32), None, **axes)
    whole = write_image(tmp_path / "cut.fits", np.zeros((200, 200), np.float32), sky.header())
    whole.write_bytes(whole.read_bytes()[:20_000])
    (tmp_path / "far.csv").write_text("id,ra,dec\na,10,-80\n")
    paths: dict[str, object] = {"objects": folder / "objects.fits", "far": tmp_path / "far.csv", "cut": whole}
    paths["spectra"] = spectra
    paths |= {name.upper(): folder / f"survey-{name}.fits" for name in "gri"}
    paths |= {"plain": tmp_path / "plain.fits", "G[7]": f"{folder / 'survey-g.fits'}[7]"}
    command = [paths.get(word, word) for word in arguments.split()]
    done = run_here(__main__.main, "anomalies", *command, folder=tmp_path)
    assert done.returncode != 0
    assert message in done.stderr.splitlines()[-1]
    assert not (tmp_path / "anomalies").exists()
