"""Text filters of the page templates."""

import datetime as dt

import pytest

from astrodetect.service.web import rendering


@pytest.mark.parametrize(
    ("name", "escaped"),
    [
        ("m51.jpg", "m51.jpg"),
        ("Ναός 銀河 🌌.jpg", "Ναός 銀河 🌌.jpg"),
        ("gpj.\u202exe.jpg", "gpj.⟨U+202E⟩xe.jpg"),
        ("a\nb\x00c\u2028d\u200be", "a⟨U+000A⟩b⟨U+0000⟩c⟨U+2028⟩d⟨U+200B⟩e"),
        ("\u2066x\u2069", "⟨U+2066⟩x⟨U+2069⟩"),
    ],
)
def test_invisible_and_bidirectional_characters_of_a_name_are_escaped(name: str, escaped: str) -> None:
    assert rendering.escape_invisible(name) == rendering.shorten(name) == escaped


def test_a_long_name_is_shortened_in_the_middle() -> None:
    name = "a" * 5000 + "b" * 5000 + ".jpg"
    shortened = rendering.shorten(name)
    assert len(shortened) == rendering.MAX_NAME_LENGTH
    assert shortened.startswith("aaa")
    assert shortened.endswith("bbb.jpg")
    assert rendering.shorten("x" * rendering.MAX_NAME_LENGTH) == "x" * rendering.MAX_NAME_LENGTH


def test_markup_in_a_name_is_escaped() -> None:
    template = rendering.TEMPLATE.from_string("{{ name | short }}|{{ name | plain }}")
    assert "<" not in template.render(name="<script>alert(1)</script>")


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0.0 %"), (0.0002, "< 0.1 %"), (0.5, "50.0 %"), (0.9842, "98.4 %"), (0.99999, "> 99.9 %"), (1, "100.0 %")],
)
def test_a_share_is_never_rounded_to_0_or_100_percent(value: float, text: str) -> None:
    assert rendering.format_share(value) == text


def test_times_are_formatted_in_utc() -> None:
    moment = dt.datetime(2026, 11, 21, 1, 30, tzinfo=dt.timezone(dt.timedelta(hours=2)))
    assert rendering.format_time(moment) == "2026-11-20 23:30:00"
