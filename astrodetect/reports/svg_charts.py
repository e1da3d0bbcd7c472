"""SVG charts as text, coloured by the page's CSS, so that they follow its colour scheme and print well."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup, escape

from astrodetect.evaluation.metrics import Estimate, Reals, ReliabilityCurve, wilson_interval
from astrodetect.records import Floats

WIDTH, LEFT, RIGHT, TOP, BOTTOM = 360.0, 46.0, 14.0, 12.0, 42.0  # of a chart and its margins
SQUARE = WIDTH - LEFT - RIGHT + TOP + BOTTOM  # the height that gives both axes the same length
MAX_LINE_POINTS = 200  # more cannot be told apart
MAX_AXIS_LABEL = 6  # characters of a class name
MAX_DOTS = 30  # on a line of more points, dots are left out

MAX_MARKED_CLASSES = 24  # the largest classes with a marker of their own
OTHER_CLASSES = "others"
MARKER_COLOURS = 8
# Relative SVG path steps around the marker's centre, about 8 units wide.
MARKER_SHAPES = (
    "m-3.5 0a3.5 3.5 0 1 0 7 0a3.5 3.5 0 1 0-7 0",  # disc
    "m-3.2-3.2h6.4v6.4h-6.4z",  # square
    "m0-4.4l4.2 7.4h-8.4z",  # triangle
    "m0-4.6l4.6 4.6l-4.6 4.6l-4.6-4.6z",  # diamond
    "m-1.3-4.2h2.6v2.9h2.9v2.6h-2.9v2.9h-2.6v-2.9h-2.9v-2.6h2.9z",  # cross
    "m0 4.4l4.2-7.4h-8.4z",  # triangle pointing down
)


@dataclass(frozen=True, slots=True)
class ChartLine:
    """A line through points; `kind` is its CSS class: first, second or chance."""

    title: str
    x: Sequence[float] | Reals
    y: Sequence[float] | Reals
    kind: str = "first"


@dataclass(frozen=True, slots=True)
class ChartAxes:
    """The ranges of both axes and the mapping from values to chart coordinates."""

    x: tuple[float, float]
    y: tuple[float, float]
    height: float = SQUARE
    bottom: float = BOTTOM
    whole_x: bool = False  # x counts something: ticks at whole numbers only
    whole_y: bool = False

    def x_at(self, value: float) -> float:
        """The horizontal coordinate of a value, from the left edge."""
        return LEFT + (value - self.x[0]) / (self.x[1] - self.x[0]) * (WIDTH - LEFT - RIGHT)

    def y_at(self, value: float) -> float:
        """The vertical coordinate of a value, from the top edge."""
        return (
            self.height
            - self.bottom
            - (value - self.y[0]) / (self.y[1] - self.y[0]) * (self.height - self.bottom - TOP)
        )

    def render(self, x_title: str, y_title: str) -> str:
        """Grid lines, tick labels and axis titles."""
        floor = self.height - self.bottom
        parts = []
        for value in _ticks(*self.x, whole=self.whole_x):
            x = self.x_at(value)
            parts.append(f'<text class="tick" x="{x:.1f}" y="{floor + 15:.1f}" text-anchor="middle">{value:g}</text>')
        for value in _ticks(*self.y, whole=self.whole_y):
            y = self.y_at(value)
            parts.append(f'<path class="grid" d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}"/>')
            parts.append(f'<text class="tick" x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{value:g}</text>')
        middle = (TOP + floor) / 2
        parts.append(
            f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{floor + 34:.1f}" text-anchor="middle">{x_title}</text>'
        )
        parts.append(f'<text transform="translate(12 {middle:.1f}) rotate(-90)" text-anchor="middle">{y_title}</text>')
        return "".join(parts)


def line_chart(
    label: str, lines: Sequence[ChartLine], axes: ChartAxes, titles: tuple[str, str], *, chosen: float | None = None
) -> Markup:
    """Lines on axes; `label` is the accessible name, `chosen` an x value to mark."""
    parts = [axes.render(*titles)]
    if chosen is not None:
        x = axes.x_at(chosen)
        anchor, shift = ("end", -5) if x > WIDTH / 2 else ("start", 5)
        parts.append(f'<path class="chosen" d="M{x:.1f} {TOP}V{axes.height - axes.bottom}"/>')
        parts.append(f'<text x="{x + shift:.1f}" y="{TOP + 11}" text-anchor="{anchor}">chosen</text>')
    parts.extend(_line(line, axes) for line in lines)
    return _svg(label, axes.height, parts)


def reliability_diagram(label: str, curve: ReliabilityCurve, title: str) -> Markup:
    """Observed frequency with Wilson intervals against mean probability, over a histogram of the images."""
    axes = ChartAxes((0, 1), (0, 1), SQUARE + 52, BOTTOM + 52)
    parts = [axes.render(title, "observed frequency"), _line(ChartLine("", (0, 1), (0, 1), "chance"), axes)]
    bins, highest = len(curve.counts), max(curve.counts.max(), 1)
    for index, (count, probability, frequency) in enumerate(
        zip(curve.counts, curve.mean_probability, curve.frequency, strict=True)
    ):
        if not count:
            continue
        interval = wilson_interval(frequency * count, count)
        x, middle = axes.x_at(probability), axes.x_at((index + 0.5) / bins)
        parts.append(
            f'<path class="whisker" d="M{x:.1f} {axes.y_at(interval.low):.1f}V{axes.y_at(interval.high):.1f}"/>'
        )
        parts.append(f'<circle class="dot" cx="{x:.1f}" cy="{axes.y_at(frequency):.1f}" r="3.5"/>')
        bar, floor = 26 * count / highest, axes.height - 14
        parts.append(f'<rect class="bar" x="{middle - 8:.1f}" y="{floor - bar:.1f}" width="16" height="{bar:.1f}"/>')
        parts.append(f'<text class="count" x="{middle:.1f}" y="{floor + 11}" text-anchor="middle">{count:.0f}</text>')
    return _svg(label, axes.height, parts)


def score_histogram(label: str, counts: tuple[Reals, Reals], names: tuple[str, str], threshold: float) -> Markup:
    """Positive images upwards and negative ones downwards, on a square-root scale, with a movable threshold line."""
    positives, negatives = counts
    axes = ChartAxes((0, 1), (-1, 1), 220.0)
    highest = math.sqrt(max(positives.max(), negatives.max(), 1))
    width = (WIDTH - LEFT - RIGHT) / len(positives)
    middle, parts = axes.y_at(0), []
    for index, (positive, negative) in enumerate(zip(positives, negatives, strict=True)):
        x = axes.x_at(index / len(positives))
        for count, kind in ((positive, "bar"), (-negative, "bar other")):
            if count:
                edge = axes.y_at(math.copysign(math.sqrt(abs(count)) / highest, count))
                box = f'y="{min(edge, middle):.1f}" height="{abs(edge - middle):.1f}"'
                parts.append(f'<rect class="{kind}" x="{x + 0.5:.1f}" width="{width - 1:.1f}" {box}/>')
    floor = axes.height - axes.bottom
    for value in _ticks(0, 1):
        x = axes.x_at(value)
        parts.append(f'<text class="tick" x="{x:.1f}" y="{floor + 15}" text-anchor="middle">{value:g}</text>')
    parts.append(f'<path class="axis" d="M{LEFT} {middle:.1f}H{WIDTH - RIGHT}"/>')
    for y, name in zip(((TOP + middle) / 2, (middle + floor) / 2), names, strict=True):
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{escape(_shorten(name))}</text>')
    parts.append(f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{floor + 34}" text-anchor="middle">score</text>')
    ends = f'data-left="{axes.x_at(0)}" data-right="{axes.x_at(1)}" d="M0 {TOP}V{floor}"'
    parts.append(f'<path id="mark" class="chosen" {ends} transform="translate({axes.x_at(threshold):.1f} 0)"/>')
    return _svg(label, axes.height, parts)


def interval_bar(estimate: Estimate) -> Markup:
    """A share and its interval on a line from 0 to 1, hidden from screen readers, which get the number beside it."""
    if math.isnan(estimate.value):
        return Markup("")
    parts = [
        '<path class="grid" d="M2 7H98"/>',
        f'<path class="whisker" d="M{2 + 96 * estimate.low:.1f} 7H{2 + 96 * estimate.high:.1f}"/>',
        f'<circle class="dot" cx="{2 + 96 * estimate.value:.1f}" cy="7" r="2.5"/>',
    ]
    return Markup(f'<svg class="spark" viewBox="0 0 100 14" aria-hidden="true">{"".join(parts)}</svg>')  # noqa: S704


@dataclass(frozen=True, slots=True)
class Marker:
    """The markers of one class on a map, as one SVG path."""

    name: str
    count: int
    colour: int
    shape: str
    path: str


def class_markers(labels: Sequence[str], xy: Floats) -> list[Marker]:
    """The markers of each class, distinct in shape and colour, the largest class first; `xy` (n, 2) are positions."""
    counts = Counter(labels)
    names = sorted(counts, key=lambda name: (-counts[name], name))
    own = names if len(names) <= MAX_MARKED_CLASSES else names[: MAX_MARKED_CLASSES - 1]
    groups = {name: [index for index, label in enumerate(labels) if label == name] for name in own}
    if others := [index for index, label in enumerate(labels) if label not in groups]:
        groups[OTHER_CLASSES] = others
    markers = []
    for number, (name, indices) in enumerate(groups.items()):
        shape = MARKER_SHAPES[number % len(MARKER_SHAPES)]
        path = "".join(f"M{x:.0f} {y:.0f}{shape}" for x, y in xy[indices].tolist())
        markers.append(Marker(name, len(indices), number % MARKER_COLOURS, shape, path))
    return markers


def _svg(label: str, height: float, parts: Sequence[str]) -> Markup:
    content = "".join(parts)
    return Markup(  # noqa: S704 - numbers and escaped names
        f'<svg class="chart" viewBox="0 0 {WIDTH:g} {height:g}" role="img" aria-label="{escape(label)}">{content}</svg>'
    )


def _line(line: ChartLine, axes: ChartAxes) -> str:
    x, y = _thin_out(np.asarray(line.x, dtype=float), np.asarray(line.y, dtype=float))
    points = [(axes.x_at(a), axes.y_at(b)) for a, b in zip(x, y, strict=True)]
    parts = [f'<path class="line {line.kind}" d="M{" ".join(f"{a:.1f},{b:.1f}" for a, b in points)}"/>']
    if len(points) <= MAX_DOTS and line.kind != "chance":
        parts += [f'<circle class="dot {line.kind}" cx="{a:.1f}" cy="{b:.1f}" r="2.5"/>' for a, b in points]
    return "".join(parts)


def _thin_out(x: Reals, y: Reals) -> tuple[Reals, Reals]:
    """At most MAX_LINE_POINTS finite points, evenly along the line."""
    finite = np.isfinite(x) & np.isfinite(y)
    x, y = x[finite], y[finite]
    if len(x) > MAX_LINE_POINTS:  # of a step curve, the corners suffice
        level = [(np.diff(values[:-1]) == 0) & (np.diff(values[1:]) == 0) for values in (x, y)]
        corners = np.pad(~(level[0] | level[1]), 1, constant_values=True)
        x, y = x[corners], y[corners]
    if len(x) <= MAX_LINE_POINTS:
        return x, y
    length = np.concatenate([[0], np.cumsum(np.abs(np.diff(x)) + np.abs(np.diff(y)))])
    indices = np.unique(np.searchsorted(length, np.linspace(0, length[-1], MAX_LINE_POINTS)).clip(max=len(x) - 1))
    return x[indices], y[indices]


def _ticks(low: float, high: float, *, whole: bool = False) -> list[float]:
    """About four round numbers; `whole` ones if what they count has no parts."""
    rough = (high - low) / 4
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(unit * m for m in (1, 2, 2.5, 5, 10) if unit * m >= rough * 0.999)
    if whole:
        step = max(1.0, math.ceil(step))
    first = math.ceil(low / step - 1e-9)
    return [round(n * step, 10) for n in range(first, math.floor(high / step + 1e-9) + 1)]


def _shorten(name: str) -> str:
    return name if len(name) <= MAX_AXIS_LABEL else name[: MAX_AXIS_LABEL - 1] + "…"
