"""Means over seeds and over tasks, each with the interval that it deserves."""

import math
import statistics
from collections.abc import Sequence

from scipy import stats

from tessera.evaluation.metrics import Interval, wilson


def over_seeds(hits: Sequence[int], images: int) -> Interval:
    """Return the mean accuracy of several seeds on the same images, with its 95 % interval.

    It answers for both sources of chance: which images the test has (Wilson's score interval at
    the mean) and which seed was drawn (Student's t over the seeds), whose half-widths add in
    squares (Zou and Donner, 2008). A single seed tells nothing about others, so its interval is
    that of the test images alone.

    Raises:
        ValueError: There are no images, or no seeds.
    """
    if not hits:
        raise ValueError("a mean needs at least one seed")
    mean = statistics.fmean(hits) / images
    around = wilson(round(mean * images), images)
    draws = 0.0
    if len(hits) > 1:
        spread = statistics.stdev(hits) / images
        draws = float(stats.t.ppf(0.975, len(hits) - 1)) * spread / math.sqrt(len(hits))
    low = mean - math.hypot(around.value - around.low, draws)
    high = mean + math.hypot(around.high - around.value, draws)
    return Interval(mean, max(0.0, low), min(1.0, high))


def over_tasks(scores: Sequence[Interval]) -> Interval:
    """Return the plain mean of independent scores with its 95 % interval.

    Distances to the bounds add in squares (Zou and Donner, 2008). The tasks are taken as they are:
    the interval says nothing about other tasks.

    Raises:
        ValueError: There are no scores.
    """
    if not scores:
        raise ValueError("a mean needs at least one task")
    count = len(scores)
    mean = statistics.fmean(score.value for score in scores)
    low = math.hypot(*(score.value - score.low for score in scores)) / count
    high = math.hypot(*(score.high - score.value for score in scores)) / count
    return Interval(mean, max(0.0, mean - low), min(1.0, mean + high))
