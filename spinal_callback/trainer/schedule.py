"""When to probe: a step is due or not, by its number and by what all ranks have agreed on alone. What it cost."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

FIRST = 5  # the first probe after step 0 with every="auto": by then a training step has a time
FLOOR, CEILING = 1, 500  # steps between probes with every="auto"
CLOSE = 5  # steps between probes while a rule is about to warn
ADVANCE = 0.5  # share of the rest of the run's budget that may be spent before it is earned


@dataclass(frozen=True)
class Cost:
    """Seconds: of the last probe, of a training step without probes (0 before the first), of all probes so far."""

    probe: float
    step: float
    spent: float


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

    def proposed(self, cost: Cost, step: int, steps: int, raised: float = 0.0) -> int:
        """Steps from `step` until the next probe, with "auto".

        In a calm run so many that after it probes have taken their share of the time so far, the probe at the end
        counted, and no more. Sooner in warm-up (each interval as long as the run was then) and while a rule is about to
        warn (down to `CLOSE` steps): the rest of the run lends that, up to `ADVANCE` of what probes may take in it.
        `CEILING` goes before the share.

        Args:
            cost: the same on every rank.
            raised: how near the nearest rule is to its limit, 0..1; the same on every rank.
        """
        if self._every != "auto":
            return self.interval
        if not cost.step > 0:
            return FIRST
        share = self._overhead / (1 - self._overhead) if self._overhead < 1 else math.inf  # per second of training
        usual, after = cost.probe / (share * cost.step), cost.spent + cost.probe * (1 + (step < steps))
        wanted = calm = max(after / (share * cost.step) - step, usual)
        if usual < CEILING and after <= share * cost.step * (step + ADVANCE * (steps - step)):
            near = max(calm, CLOSE) ** (1 - raised) * CLOSE**raised
            wanted = min(calm, max(step, FIRST), near)
        return min(max(math.ceil(wanted - 1e-9), FLOOR), CEILING)

    def adopt(self, step: int, interval: int) -> None:
        """Notes a probe at `step` and the interval that all ranks adopt after it."""
        self.last, self.interval = step, interval


class Clock:
    """Wall time since training began, and how much of it went into probing."""

    def __init__(self, step: int) -> None:
        self._began, self._first = time.perf_counter(), step
        self.spent = 0.0

    def add_probe(self, seconds: float) -> float:
        """Adds a probe; returns the share of wall time spent probing so far."""
        self.spent += seconds
        return self.spent / max(time.perf_counter() - self._began, 1e-9)

    def step_seconds(self, step: int) -> float:
        """Mean time of a training step without probes; 0 before the first."""
        steps = step - self._first
        return (time.perf_counter() - self._began - self.spent) / steps if steps else 0.0
