"""`python -m benchmarks.intervals [--sets 100]`: coverage of the 95 % intervals of metrics.

How often they hold the true value, of test sets with normal scores whose metrics are known from many images; beside
them the percentile bootstrap.
"""

import argparse

import numpy as np

from astrodetect.evaluation import metrics
from astrodetect.records import Floats

COUNTS = ((10, 10), (50, 50), (20, 200), (20, 1000), (10, 30, 100))  # images of each class
SEPARATIONS = (1.5, 3.0, 4.5)  # of the classes, in standard deviations
NAMES = ("balanced_accuracy", "macro_f1", "auc")
RESAMPLES = 200
POPULATION = 100_000  # images that give the true values
Sample = tuple[metrics.Integers, Floats, metrics.Integers]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.intervals", description=__doc__)
    parser.add_argument("--sets", type=int, default=100, help="test sets of each kind (default: 100)")
    sets = parser.parse_args().sets
    random = np.random.default_rng(0)
    print("images        AUC    | " + " | ".join(f"{name}: bootstrap, ours" for name in NAMES))
    for counts in COUNTS:
        for separation in SEPARATIONS:
            many = np.array(counts) * (POPULATION // sum(counts))
            true = metrics.headline_metrics(*draw(random, many, separation))
            held = np.zeros((len(NAMES), 2))
            for _ in range(sets):
                held += covered(random, draw(random, np.array(counts), separation), true)
            rows = " | ".join(f"{before:4.0%} {ours:4.0%}" for before, ours in held / sets)
            print(f"{' + '.join(map(str, counts)):13} {true['auc']:.3f} | {rows}", flush=True)


def draw(random: np.random.Generator, counts: metrics.Integers, separation: float) -> Sample:
    """True classes, probabilities and predicted classes of so many images of each class."""
    classes = len(counts)
    truth = np.repeat(np.arange(classes), counts)
    logits = random.normal(size=(len(truth), classes)) + separation / np.sqrt(2) * np.eye(classes)[truth]
    odds = np.exp(2 * logits)
    probabilities = (odds / odds.sum(axis=1, keepdims=True)).astype(np.float32)
    return truth, probabilities, metrics.predict_classes(probabilities)


def covered(random: np.random.Generator, sample: Sample, true: dict[str, float]) -> metrics.Reals:
    """For each metric, whether the percentile bootstrap interval and ours hold the true value."""
    indices = random.integers(0, len(sample[0]), (RESAMPLES, len(sample[0])))
    resampled = [metrics.headline_metrics(*(part[chosen] for part in sample)) for chosen in indices]
    ours = metrics.estimate_headline_metrics(*sample)
    held = []
    for name in NAMES:
        low, high = np.nanquantile([values[name] for values in resampled], [0.025, 0.975])
        held.append((low <= true[name] <= high, ours[name].low <= true[name] <= ours[name].high))
    return np.array(held, np.float64)


if __name__ == "__main__":
    main()
