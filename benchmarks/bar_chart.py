"""A picture of bars, ours beside another, as SVG."""

from collections.abc import Sequence
from html import escape
from pathlib import Path

WIDTH, LEFT, ROW, GAP, TOP = 760, 190, 18, 16, 56
OURS, THEIRS, INK = "#1f6feb", "#9aa4af", "#24292f"
LONGEST = WIDTH - LEFT - 150  # what a bar takes at most; its figure stands beside it

Row = tuple[str, float, float, str]  # what is measured, ours, theirs, how much better ours is


def write_bar_chart(path: Path, title: str, names: tuple[str, str], rows: Sequence[Row], note: str) -> None:
    """Each row has a scale of its own: what is compared is ours with theirs."""
    height = TOP + len(rows) * (2 * ROW + GAP) + 28
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif" '
        f'font-size="13" fill="{INK}"><rect width="100%" height="100%" fill="white"/>',
        svg_text(16, 22, title, 'font-size="16" font-weight="bold"'),
    ]
    for at, (name, colour) in enumerate(zip(names, (OURS, THEIRS), strict=True)):
        parts += [bar(LEFT + 200 * at, 34, 12, 12, colour), svg_text(LEFT + 200 * at + 18, 44, name)]
    for number, (name, ours, theirs, better) in enumerate(rows):
        y = TOP + number * (2 * ROW + GAP)
        parts.append(svg_text(16, y + ROW + 4, name))
        for below, (value, colour) in enumerate(((ours, OURS), (theirs, THEIRS))):
            length = max(LONGEST * value / max(ours, theirs), 1)
            said = f"{value:,.1f}" + (f" · {better}" if below == 0 else "")
            parts.append(bar(LEFT, y + below * ROW, length, ROW - 3, colour))
            parts.append(svg_text(LEFT + length + 6, y + below * ROW + ROW - 6, said))
    parts += [svg_text(16, height - 10, note, 'font-size="11"'), "</svg>"]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(parts) + "\n", encoding="utf-8")


def bar(x: float, y: float, width: float, height: float, colour: str) -> str:
    """A filled rectangle."""
    return f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" rx="2" fill="{colour}"/>'


def svg_text(x: float, y: float, said: str, style: str = "") -> str:
    """A line of text."""
    return f'<text x="{x:.1f}" y="{y:.1f}" {style}>{escape(said)}</text>'
