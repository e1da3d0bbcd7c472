"""Figures as text: SVG that takes its colours from the page, so that it is as readable in the dark and on paper."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup, escape

from astrodetect.evaluation.metrics import Estimate, Reals, ReliabilityCurve, wilson_interval
from astrodetect.records import Floats

WIDTH, LEFT, RIGHT, TOP, BOTTOM = 360.0, 46.0, 14.0, 12.0, 42.0  # of a figure and its margins
SQUARE = WIDTH - LEFT - RIGHT + TOP + BOTTOM  # the height that makes both axes as long
MOST_POINTS = 200  # of a line: more cannot be seen
FEW_POINTS = 30  # of a line that shows each of them


@dataclass(frozen=True, slots=True)
class ChartLine:
    """A line through points; `kind` is the class that styles it: first, second or chance."""

    title: str
    x: Sequence[float] | Reals
    y: Sequence[float] | Reals
    kind: str = "first"


@dataclass(frozen=True, slots=True)
class ChartAxes:
    """Where values stand in a figure."""

    x: tuple[float, float]
    y: tuple[float, float]
    height: float = SQUARE
    bottom: float = BOTTOM

    def across(self, value: float) -> float:
        """From the left edge of the figure."""
        return LEFT + (value - self.x[0]) / (self.x[1] - self.x[0]) * (WIDTH - LEFT - RIGHT)

    def down(self, value: float) -> float:
        """From its upper edge."""
        return (
            self.height
            - self.bottom
            - (value - self.y[0]) / (self.y[1] - self.y[0]) * (self.height - self.bottom - TOP)
        )

    def drawn(self, x_title: str, y_title: str) -> str:
        """The frame, its ticks and what they measure."""
        floor = self.height - self.bottom
        parts = []
        for value in _ticks(*self.x):
            at = self.across(value)
            parts.append(f'<text class="tick" x="{at:.1f}" y="{floor + 15:.1f}" text-anchor="middle">{value:g}</text>')
        for value in _ticks(*self.y):
            at = self.down(value)
            parts.append(f'<path class="grid" d="M{LEFT} {at:.1f}H{WIDTH - RIGHT}"/>')
            parts.append(f'<text class="tick" x="{LEFT - 6}" y="{at + 4:.1f}" text-anchor="end">{value:g}</text>')
        middle = (TOP + floor) / 2
        parts.append(
            f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{floor + 34:.1f}" text-anchor="middle">{x_title}</text>'
        )
        parts.append(f'<text transform="translate(12 {middle:.1f}) rotate(-90)" text-anchor="middle">{y_title}</text>')
        return "".join(parts)


def line_chart(
    said: str, lines: Sequence[ChartLine], axes: ChartAxes, titles: tuple[str, str], *, chosen: float | None = None
) -> Markup:
    """Lines on axes; `said` is what is read to those who do not see it; `chosen` marks a place on the x axis."""
    parts = [axes.drawn(*titles)]
    if chosen is not None:
        at = axes.across(chosen)
        anchor, shift = ("end", -5) if at > WIDTH / 2 else ("start", 5)
        parts.append(f'<path class="chosen" d="M{at:.1f} {TOP}V{axes.height - axes.bottom}"/>')
        parts.append(f'<text x="{at + shift:.1f}" y="{TOP + 11}" text-anchor="{anchor}">chosen</text>')
    parts.extend(_line(line, axes) for line in lines)
    return _svg(said, axes.height, parts)


def reliability_diagram(said: str, found: ReliabilityCurve, title: str) -> Markup:
    """What came true of what was said, bin by bin with intervals, and how many images each bin holds."""
    axes = ChartAxes((0, 1), (0, 1), SQUARE + 52, BOTTOM + 52)
    parts = [axes.drawn(title, "came true"), _line(ChartLine("", (0, 1), (0, 1), "chance"), axes)]
    bins, most = len(found.counts), max(found.counts.max(), 1)
    for place, (count, mean, share) in enumerate(zip(found.counts, found.said, found.came_true, strict=True)):
        if not count:
            continue
        spread, at, middle = wilson_interval(share * count, count), axes.across(mean), axes.across((place + 0.5) / bins)
        parts.append(f'<path class="whisker" d="M{at:.1f} {axes.down(spread.low):.1f}V{axes.down(spread.high):.1f}"/>')
        parts.append(f'<circle class="dot" cx="{at:.1f}" cy="{axes.down(share):.1f}" r="3.5"/>')
        tall, floor = 26 * count / most, axes.height - 14
        parts.append(f'<rect class="bar" x="{middle - 8:.1f}" y="{floor - tall:.1f}" width="16" height="{tall:.1f}"/>')
        parts.append(f'<text class="count" x="{middle:.1f}" y="{floor + 11}" text-anchor="middle">{count:.0f}</text>')
    return _svg(said, axes.height, parts)


def score_histogram(said: str, sides: tuple[Reals, Reals], names: tuple[str, str], threshold: float) -> Markup:
    """Scores of the positive images upwards and of the others downwards; square roots, so that few are seen too."""
    positives, negatives = sides
    axes = ChartAxes((0, 1), (-1, 1), 220.0)
    most = math.sqrt(max(positives.max(), negatives.max(), 1))
    wide = (WIDTH - LEFT - RIGHT) / len(positives)
    middle, parts = axes.down(0), []
    for place, (above, below) in enumerate(zip(positives, negatives, strict=True)):
        x = axes.across(place / len(positives))
        for count, kind in ((above, "bar"), (-below, "bar other")):
            if count:
                edge = axes.down(math.copysign(math.sqrt(abs(count)) / most, count))
                box = f'y="{min(edge, middle):.1f}" height="{abs(edge - middle):.1f}"'
                parts.append(f'<rect class="{kind}" x="{x + 0.5:.1f}" width="{wide - 1:.1f}" {box}/>')
    floor = axes.height - axes.bottom
    for value in _ticks(0, 1):
        at = axes.across(value)
        parts.append(f'<text class="tick" x="{at:.1f}" y="{floor + 15}" text-anchor="middle">{value:g}</text>')
    parts.append(f'<path class="axis" d="M{LEFT} {middle:.1f}H{WIDTH - RIGHT}"/>')
    for at, name in zip(((TOP + middle) / 2, (middle + floor) / 2), names, strict=True):
        parts.append(f'<text x="{LEFT - 6}" y="{at + 4:.1f}" text-anchor="end">{escape(_short(name))}</text>')
    parts.append(f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{floor + 34}" text-anchor="middle">score</text>')
    ends = f'data-left="{axes.across(0)}" data-right="{axes.across(1)}" d="M0 {TOP}V{floor}"'
    parts.append(f'<path id="mark" class="chosen" {ends} transform="translate({axes.across(threshold):.1f} 0)"/>')
    return _svg(said, axes.height, parts)


def interval_bar(figure: Estimate) -> Markup:
    """A share with its interval on a line from 0 to 1; the number stands beside it for those who read."""
    if math.isnan(figure.value):
        return Markup("")
    parts = [
        '<path class="grid" d="M2 7H98"/>',
        f'<path class="whisker" d="M{2 + 96 * figure.low:.1f} 7H{2 + 96 * figure.high:.1f}"/>',
        f'<circle class="dot" cx="{2 + 96 * figure.value:.1f}" cy="7" r="2.5"/>',
    ]
    return Markup(f'<svg class="spark" viewBox="0 0 100 14" aria-hidden="true">{"".join(parts)}</svg>')  # noqa: S704


def _svg(said: str, height: float, parts: Sequence[str]) -> Markup:
    inside = "".join(parts)
    return Markup(  # noqa: S704 - numbers, and names that were escaped
        f'<svg class="chart" viewBox="0 0 {WIDTH:g} {height:g}" role="img" aria-label="{escape(said)}">{inside}</svg>'
    )


def _line(line: ChartLine, axes: ChartAxes) -> str:
    x, y = _thinned(np.asarray(line.x, dtype=float), np.asarray(line.y, dtype=float))
    points = [(axes.across(a), axes.down(b)) for a, b in zip(x, y, strict=True)]
    parts = [f'<path class="line {line.kind}" d="M{" ".join(f"{a:.1f},{b:.1f}" for a, b in points)}"/>']
    if len(points) <= FEW_POINTS and line.kind != "chance":
        parts += [f'<circle class="dot {line.kind}" cx="{a:.1f}" cy="{b:.1f}" r="2.5"/>' for a, b in points]
    return "".join(parts)


def _thinned(x: Reals, y: Reals) -> tuple[Reals, Reals]:
    """The points that are as far from each other as can be seen."""
    known = np.isfinite(x) & np.isfinite(y)
    x, y = x[known], y[known]
    if len(x) > MOST_POINTS:  # what is between the corners of steps is on their lines
        level = [(np.diff(values[:-1]) == 0) & (np.diff(values[1:]) == 0) for values in (x, y)]
        corners = np.pad(~(level[0] | level[1]), 1, constant_values=True)
        x, y = x[corners], y[corners]
    if len(x) <= MOST_POINTS:
        return x, y
    way = np.concatenate([[0], np.cumsum(np.abs(np.diff(x)) + np.abs(np.diff(y)))])
    kept = np.unique(np.searchsorted(way, np.linspace(0, way[-1], MOST_POINTS)).clip(max=len(x) - 1))
    return x[kept], y[kept]


def _ticks(low: float, high: float) -> list[float]:
    """Some four round numbers."""
    rough = (high - low) / 4
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(unit * m for m in (1, 2, 2.5, 5, 10) if unit * m >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round(n * step, 10) for n in range(first, math.floor(high / step + 1e-9) + 1)]


def _short(name: str, most: int = 6) -> str:
    return name if len(name) <= most else name[: most - 1] + "…"


MAX_MARKED_CLASSES = 24  # with a mark of their own, the largest ones; the others share one
OTHER_CLASSES = "others"
MARKER_COLOURS = 8
# Drawn from the middle of the mark, some 8 units wide; each step is relative, so that a mark can stand anywhere.
MARKER_SHAPES = (
    "m-3.5 0a3.5 3.5 0 1 0 7 0a3.5 3.5 0 1 0-7 0",  # a disc
    "m-3.2-3.2h6.4v6.4h-6.4z",  # a square
    "m0-4.4l4.2 7.4h-8.4z",  # a triangle
    "m0-4.6l4.6 4.6l-4.6 4.6l-4.6-4.6z",  # a diamond
    "m-1.3-4.2h2.6v2.9h2.9v2.6h-2.9v2.9h-2.6v-2.9h-2.9v-2.6h2.9z",  # a cross
    "m0 4.4l4.2-7.4h-8.4z",  # a triangle on its tip
)


@dataclass(frozen=True, slots=True)
class Marker:
    """One class of points: its name, how many there are, and their marks as one path."""

    name: str
    count: int
    colour: int
    shape: str
    path: str


def class_markers(labels: Sequence[str], xy: Floats) -> list[Marker]:
    """A mark for each class, the largest first; `xy` (n, 2) is where its points stand."""
    counted = Counter(labels)
    names = sorted(counted, key=lambda name: (-counted[name], name))
    own = names if len(names) <= MAX_MARKED_CLASSES else names[: MAX_MARKED_CLASSES - 1]
    groups = {name: [place for place, label in enumerate(labels) if label == name] for name in own}
    if rest := [place for place, label in enumerate(labels) if label not in groups]:
        groups[OTHER_CLASSES] = rest
    found = []
    for number, (name, places) in enumerate(groups.items()):
        shape = MARKER_SHAPES[number % len(MARKER_SHAPES)]
        path = "".join(f"M{x:.0f} {y:.0f}{shape}" for x, y in xy[places].tolist())
        found.append(Marker(name, len(places), number % MARKER_COLOURS, shape, path))
    return found
