"""From mosaics to a ranked VOTable: planted oddities are found, at their positions."""

import re
from pathlib import Path

import numpy as np
from mosaic_files import PIXEL_ARCSEC, MosaicSky, write_image
from programs import run_here

from astrodetect import __main__

SIDE = 16  # objects along each axis
ODD = frozenset({21, 40, 133, 212, 250})


def test_planted_oddities_of_a_mosaic_lead_a_votable_at_their_positions(tmp_path: Path) -> None:
    from astropy.io import votable
    from astropy.table import Table

    sky = MosaicSky(SIDE, ODD)
    files = [
        write_image(tmp_path / f"survey-{name}.fits", band, sky.header())
        for name, band in zip("gri", sky.bands(), strict=True)
    ]
    known = {40: "M 51", 212: "=Arp 220", 1: "NGC 1"}  # as a second catalogue has them, half an arcsecond away
    rows = [f"{name},GPair,{ra},{dec + 0.5 / 3600},12" for n, name in known.items() for ra, dec in [sky.positions[n]]]
    (tmp_path / "known.csv").write_text("\n".join(["main_id,otype,ra,dec,nbref", *rows]), encoding="utf-8")
    options = ["--bands", "g,r,i", "--size", "10arcsec", "--format", "vot", "--top", "5", "--known", "known.csv"]
    options += ["--samp"]
    no_hub = {"SAMP_HUB": f"std-lockurl:file://{tmp_path}/none"}
    done = run_here(__main__.main, "anomalies", "--mosaic", *files, *options, folder=tmp_path, environment=no_hub)
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines()[-1] == "not sent: no SAMP hub runs on this machine: start TOPCAT or Aladin"
    lines = done.stdout.splitlines()
    assert lines[0] == f"{SIDE**2:,} sources found: anomalies-sources.fits"
    assert lines[1].startswith(f"{SIDE**2:,} cutouts of {SIDE**2:,} objects")
    table = votable.parse(tmp_path / "anomalies" / "anomalies.vot", verify="exception").get_first_table().to_table()
    assert len(table) == SIDE**2
    first = table[table["rank"] <= len(ODD)]
    for number in ODD:
        ra, dec = sky.positions[number]
        away = np.hypot((first["ra"] - ra) * np.cos(np.radians(dec)), first["dec"] - dec)
        assert away.min() * 3600 < PIXEL_ARCSEC
        row = first[away.argmin()]
        assert bool(row["known"]) == (number in known)
        assert str(row["known_name"] if number in known else "") == known.get(number, "")
        assert number not in known or 0.1 < row["known_arcsec"] < 1
    assert f"3 of {SIDE**2:,} images with a position are within 2″ of one of 3 known objects" in done.stdout
    sources = Table.read(tmp_path / "anomalies-sources.fits")
    assert {*first["path"]} <= {*sources["object_id"]}
    page = (tmp_path / "anomalies" / "anomalies.html").read_text()
    assert 'data-known="false"' in page
    assert "Known: <b>=Arp 220</b>, GPair, 0." in page
    names = [str(name) for name in first["path"]]
    assert all(re.search(rf'src="data:image/jpeg[^>]*alt="[^"]*{re.escape(name)}', page) for name in names)
