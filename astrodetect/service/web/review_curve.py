"""What labelling has found so far: as a curve, and in words."""

from collections.abc import Sequence
from itertools import accumulate

from markupsafe import Markup

from astrodetect.anomalies.active_learning import INTERESTING, LabelValue
from astrodetect.reports.svg_charts import ChartAxes, ChartLine, line_chart

LATELY = 100  # images
LEAST = 12  # that an axis reaches to: the ticks of a shorter one would fall between images
HEIGHT = 220.0
TITLES = "looked at", "interesting"


def curve(labels: Sequence[LabelValue], said: str) -> Markup:
    """Interesting images found among those looked at, in the order in which they were; `said` says the same."""
    found = list(accumulate((label == INTERESTING for label in labels), initial=0))
    axes = ChartAxes((0, max(len(labels), LEAST)), (0, max(found[-1], LEAST)), HEIGHT)
    ends = ChartLine("", (0, len(labels)), (0, found[-1]), "chance")
    return line_chart(said, [ends, ChartLine("", range(len(found)), found)], axes, TITLES)


def in_words(labels: Sequence[LabelValue]) -> str:
    """The same as a sentence."""
    found = labels.count(INTERESTING)
    said = f"{found:,} interesting among {len(labels):,} looked at: {100 * found / len(labels):.0f} per hundred."
    if len(labels) > LATELY:
        said += f" Of the last hundred, {labels[-LATELY:].count(INTERESTING)}."
    return said
