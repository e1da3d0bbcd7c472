"""What comes from outside, as pages write it."""

import datetime as dt

import pytest

from astrodetect.service.web import rendering


@pytest.mark.parametrize(
    ("name", "written"),
    [
        ("m51.jpg", "m51.jpg"),
        ("Ναός 銀河 🌌.jpg", "Ναός 銀河 🌌.jpg"),
        ("gpj.\u202exe.jpg", "gpj.⟨U+202E⟩xe.jpg"),
        ("a\nb\x00c\u2028d\u200be", "a⟨U+000A⟩b⟨U+0000⟩c⟨U+2028⟩d⟨U+200B⟩e"),
        ("\u2066x\u2069", "⟨U+2066⟩x⟨U+2069⟩"),
    ],
)
def test_a_name_is_written_so_that_it_turns_nothing_beside_it(name: str, written: str) -> None:
    assert rendering.plain(name) == rendering.short(name) == written


def test_a_long_name_keeps_its_beginning_and_its_ending() -> None:
    name = "a" * 5000 + "b" * 5000 + ".jpg"
    short = rendering.short(name)
    assert len(short) == rendering.LONGEST_NAME
    assert short.startswith("aaa")
    assert short.endswith("bbb.jpg")
    assert rendering.short("x" * rendering.LONGEST_NAME) == "x" * rendering.LONGEST_NAME


def test_markup_in_a_name_is_text() -> None:
    template = rendering.TEMPLATE.from_string("{{ name | short }}|{{ name | plain }}")
    assert "<" not in template.render(name="<script>alert(1)</script>")


@pytest.mark.parametrize(
    ("value", "written"),
    [(0, "0.0 %"), (0.0002, "< 0.1 %"), (0.5, "50.0 %"), (0.9842, "98.4 %"), (0.99999, "> 99.9 %"), (1, "100.0 %")],
)
def test_a_share_is_never_rounded_to_a_certainty(value: float, written: str) -> None:
    assert rendering.share(value) == written


def test_times_are_in_utc() -> None:
    moment = dt.datetime(2026, 11, 21, 1, 30, tzinfo=dt.timezone(dt.timedelta(hours=2)))
    assert rendering.when(moment) == "2026-11-20 23:30:00"
