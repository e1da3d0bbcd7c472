"""What labelling has found so far: as a curve, and in words."""

from collections.abc import Sequence
from itertools import accumulate

from markupsafe import Markup

from astrodetect.anomalies.active_learning import INTERESTING, Label
from astrodetect.reports.svg_charts import Axes, Line, chart

LATELY = 100  # images
LEAST = 12  # that an axis reaches to: the ticks of a shorter one would fall between images
HEIGHT = 220.0
TITLES = "looked at", "interesting"


def curve(labels: Sequence[Label], said: str) -> Markup:
    """Interesting images found among those looked at, in the order in which they were; `said` says the same."""
    found = list(accumulate((label == INTERESTING for label in labels), initial=0))
    axes = Axes((0, max(len(labels), LEAST)), (0, max(found[-1], LEAST)), HEIGHT)
    ends = Line("", (0, len(labels)), (0, found[-1]), "chance")
    return chart(said, [ends, Line("", range(len(found)), found)], axes, TITLES)


def in_words(labels: Sequence[Label]) -> str:
    """The same as a sentence."""
    found = labels.count(INTERESTING)
    said = f"{found:,} interesting among {len(labels):,} looked at: {100 * found / len(labels):.0f} per hundred."
    if len(labels) > LATELY:
        said += f" Of the last hundred, {labels[-LATELY:].count(INTERESTING)}."
    return said
