"""Answers of TAP services: the status in them is found quickly, with and without a namespace's prefix."""

import re
from contextlib import nullcontext
from unittest.mock import Mock

import numpy as np
import pytest

from astrodetect.datasets.sources import tap
from astrodetect.errors import SourceError
from astrodetect.settings import Settings
from astrodetect.sky.votable import VOField, votable


def test_the_status_of_a_tap_service_is_found_in_linear_time() -> None:
    answer = b'<INFO name="QUERY_STATUS" note="->" value="ERROR">a &lt; b</INFO><INFO name="x" value="y"/>'
    assert [text for _, text in tap.INFO.findall(answer)] == [b"a &lt; b", b""]
    for endless in (b"<INFO>", b"<INFO ", b"<INFO/>", b"<INFO><![CDATA[", b"<x.x", b'<INFO "', b"<INFO '"):
        assert len(tap.INFO.findall(endless * 200_000)) in {0, 200_000}  # 1.2 MB, which took an hour


@pytest.mark.parametrize("overflow", [False, True])
def test_an_answer_of_a_tap_service_may_have_a_prefix(overflow: bool) -> None:
    fields = [VOField("main_id"), VOField("otype"), *(VOField(name, "double", unit="deg") for name in ("ra", "dec"))]
    rows = [["M 31", "G", 10.68, 41.27, 5]]
    text = "".join(votable([*fields, VOField("nbref", "long")], rows, title="", overflow=overflow))
    prefixed = re.sub("<(/?)(?=[A-Z])", r"<\1vot:", text).replace("xmlns=", "xmlns:vot=").encode()
    client = Mock(get=lambda _, read, form: read(prefixed) if form else None)
    [simbad] = tap.online_catalogues(Settings(online_catalogues="simbad"))
    with pytest.raises(SourceError, match="more objects") if overflow else nullcontext():
        [(_, objects)] = tap.ask(simbad, np.array([10.68]), np.array([41.27]), 2.0, client)
        assert (objects.texts["name"], objects.references) == (["M 31"], [5])
