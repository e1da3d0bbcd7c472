"""Positions on the pages: links to archives, and the map of the sky."""

import re
from html import unescape

from programs import query
from starlette.testclient import TestClient

from astrodetect.sky.archives import archive_links
from astrodetect.sky.healpix import cell_index


def test_the_page_of_a_prediction_links_its_position_to_archives(page_client: TestClient, log_url: str) -> None:
    query(
        log_url,
        "INSERT INTO predictions (id, image_name, score, result, ra, dec, object_id)"
        " VALUES (1, 'a', 0.5, 'No Anomaly', NULL, NULL, NULL),"
        " (2, 'b', 0.5, 'No Anomaly', 202.4696, -47.1952, 'M<51>')",
    )
    page = page_client.get("/history/2").text
    assert "M&lt;51&gt;" in page
    assert "13:29:52.70 -47:11:42.7" in page
    assert "Coord=202.469600d-47.195200d&amp;" in page
    links = [unescape(url) for url in re.findall(r'<a href="(https://[^"]+)" target', page)]
    assert links == [url for _, url in archive_links(202.4696, -47.1952)]
    assert "13:29:52.70 -47:11:42.7" in page_client.get("/history").text
    assert 'class="small position"' not in page_client.get("/history/1").text


def test_the_map_of_the_sky_leads_to_a_closer_one_and_to_the_predictions(page_client: TestClient, log_url: str) -> None:
    query(
        log_url,
        "INSERT INTO predictions (id, image_name, score, result, ra, dec, healpix, novelty)"
        " SELECT n, 'a', 0.5, 'No Anomaly', 150, 2, %s, 0.5 FROM generate_series(1, 100) n",
        cell_index(150, 2),
    )
    statement = (
        "INSERT INTO predictions (id, image_name, score, result, ra, dec, healpix, novelty)"
        " VALUES (101, 'b', 0.9, 'Anomaly Detected', 10, -20, %s, 0.999),"
        " (102, 'c', 0.9, 'No Anomaly', NULL, NULL, NULL, 1)"
    )
    query(log_url, statement, cell_index(10, -20))
    page = page_client.get("/map/sky").text
    assert "101 predictions have a position." in page
    assert 'href="/history/101"' in page
    assert "00:40:00.00 -20:00:00.0, unusual" in page
    [closer] = {unescape(url) for url in re.findall(r'href="(/map/sky\?[^"]+)"', page)}
    page = page_client.get(closer).text
    assert "100 predictions have a position within 3.66°" in page
    [closest] = {unescape(url) for url in re.findall(r'href="(/map/sky\?[^"]+)"', page)}
    page = page_client.get(closest.replace("/map/sky", "/history")).text
    assert re.findall(r'class="name" href="/history/(\d+)', page) == [str(id_) for id_ in range(100, 52, -1)]
    page = page_client.get("/map/sky?result=Anomaly+Detected&position=&radius=").text
    assert "1 prediction has a position, Anomaly Detected." in page
    assert "No positions here" in page_client.get("/map/sky?position=1+2&radius=0").text
    refused = page_client.get("/map/sky?position=M51")
    assert (refused.status_code, "“M51” is not a position" in refused.text) == (422, True)
