"""The statistics of the report: shares with Wilson's intervals, AUROC, medians, bootstrap. Standard library only."""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Callable, Sequence
from typing import Any

Z = 1.959964  # of a 95 % interval
DRAWS = 1000

Interval = tuple[float, float, float]  # value, and the two ends; NaN where there is nothing to tell


def wilson(hits: int, of: int, scale: float = 1.0) -> Interval:
    """The share `hits / of` times `scale`, with Wilson's score interval: right near 0 and 1 and for few runs."""
    if of == 0:
        return math.nan, math.nan, math.nan
    share, extra = hits / of, Z * Z / of
    middle = (share + extra / 2) / (1 + extra)
    half = Z / (1 + extra) * math.sqrt(share * (1 - share) / of + extra / (4 * of))
    return scale * share, scale * max(middle - half, 0.0), scale * min(middle + half, 1.0)


def auroc(harmed: Sequence[float], healthy: Sequence[float]) -> float:
    """Chance that a harmed run scores higher than a healthy one; ties count half."""
    if not harmed or not healthy:
        return math.nan
    wins = sum((a > b) + 0.5 * (a == b) for a in harmed for b in healthy)
    return wins / (len(harmed) * len(healthy))


def median(values: Sequence[float]) -> float:
    return statistics.median(values) if values else math.nan


def bootstrap(groups: Sequence[Sequence[float]], statistic: Callable[..., float], draws: int = DRAWS) -> Interval:
    """A statistic of groups of runs, with the percentile interval over runs drawn again within each group."""
    value = statistic(*groups)
    if not all(groups):
        return value, math.nan, math.nan
    draw = random.Random(0)
    again: list[Any] = sorted(statistic(*(draw.choices(g, k=len(g)) for g in groups)) for _ in range(draws))
    return value, again[int(0.025 * draws)], again[int(0.975 * draws)]
