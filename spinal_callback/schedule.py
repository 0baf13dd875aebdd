"""When to probe: a step is due or not, by its number and by what all ranks have agreed on alone. What it cost."""

from __future__ import annotations

import math
import time

FIRST = 5  # the first probe after step 0 with every="auto": by then a training step has a time
FLOOR, CEILING = 1, 500  # steps between probes with every="auto"


class Schedule:
    """`due(step)` is the same on every rank: it never looks at a clock.

    Args:
        every: steps between probes, or "auto".
        overhead: share of wall time that probes may take with "auto".
    """

    def __init__(self, every: int | str, overhead: float) -> None:
        self._every, self._overhead = every, overhead
        self.last, self.interval = 0, FIRST if every == "auto" else int(every)

    def due(self, step: int) -> bool:
        if self._every != "auto":
            return step % self.interval == 0
        return step >= self.last + self.interval

    def proposed(self, probe_seconds: float, step_seconds: float) -> int:
        """Steps until the next probe that keep probing under its share of wall time. Rank zero's word counts."""
        if self._every != "auto":
            return self.interval
        if not step_seconds > 0:
            return FIRST
        share = probe_seconds * (1 - self._overhead) / (self._overhead * step_seconds)
        return min(max(math.ceil(share), FLOOR), CEILING)

    def probed(self, step: int, interval: int) -> None:
        """Notes a probe at `step` and the interval that all ranks adopt after it."""
        self.last, self.interval = step, interval


class Clock:
    """Wall time since training began, and how much of it went into probing."""

    def __init__(self, step: int) -> None:
        self._began, self._probing, self._first = time.perf_counter(), 0.0, step

    def probed(self, seconds: float) -> float:
        """Adds a probe; returns the share of wall time spent probing so far."""
        self._probing += seconds
        return self._probing / max(time.perf_counter() - self._began, 1e-9)

    def step_seconds(self, step: int) -> float:
        """Mean time of a training step without probes; 0 before the first."""
        steps = step - self._first
        return (time.perf_counter() - self._began - self._probing) / steps if steps else 0.0
