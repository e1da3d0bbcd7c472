"""A bar chart in SVG of two systems compared."""

from collections.abc import Sequence
from html import escape
from pathlib import Path

WIDTH, LEFT, ROW, GAP, TOP = 760, 190, 18, 16, 56
OURS, THEIRS, INK = "#1f6feb", "#9aa4af", "#24292f"
LONGEST = WIDTH - LEFT - 150  # of a bar; its value is printed beside it

Row = tuple[str, float, float, str]  # quantity, our value, the other's, ratio


def write_bar_chart(path: Path, title: str, names: tuple[str, str], rows: Sequence[Row], note: str) -> None:
    """Write the chart; each row has its own scale."""
    height = TOP + len(rows) * (2 * ROW + GAP) + 28
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif" '
        f'font-size="13" fill="{INK}"><rect width="100%" height="100%" fill="white"/>',
        svg_text(16, 22, title, 'font-size="16" font-weight="bold"'),
    ]
    for at, (name, colour) in enumerate(zip(names, (OURS, THEIRS), strict=True)):
        parts += [bar(LEFT + 200 * at, 34, 12, 12, colour), svg_text(LEFT + 200 * at + 18, 44, name)]
    for number, (name, ours, theirs, ratio) in enumerate(rows):
        y = TOP + number * (2 * ROW + GAP)
        parts.append(svg_text(16, y + ROW + 4, name))
        for index, (value, colour) in enumerate(((ours, OURS), (theirs, THEIRS))):
            length = max(LONGEST * value / max(ours, theirs), 1)
            label = f"{value:,.1f}" + (f" · {ratio}" if index == 0 else "")
            parts.append(bar(LEFT, y + index * ROW, length, ROW - 3, colour))
            parts.append(svg_text(LEFT + length + 6, y + index * ROW + ROW - 6, label))
    parts += [svg_text(16, height - 10, note, 'font-size="11"'), "</svg>"]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(parts) + "\n", encoding="utf-8")


def bar(x: float, y: float, width: float, height: float, colour: str) -> str:
    """A filled rectangle."""
    return f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" rx="2" fill="{colour}"/>'


def svg_text(x: float, y: float, text: str, style: str = "") -> str:
    """A line of text."""
    return f'<text x="{x:.1f}" y="{y:.1f}" {style}>{escape(text)}</text>'
