"""When to probe (`Schedule`), and how much of the wall time probes have taken (`Clock`)."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

FIRST = 5  # steps to the first probe after step 0 with every="auto": by then the time of a training step is known
FLOOR, CEILING = 1, 500  # fewest and most steps between two probes with every="auto"
CLOSE = 5  # steps between two probes while a rule is about to warn
ADVANCE = 0.5  # share of the remaining run's budget that probes may use in advance


@dataclass(frozen=True)
class Cost:
    """In seconds: the last probe, a training step without probes (0 before the first step), all probes so far."""

    probe: float
    step: float
    spent: float


class Schedule:
    """Which steps to probe. The answer is the same on every rank: it depends on step numbers alone, on no rank's clock.

    Args:
        every: steps between two probes, or "auto".
        overhead: share of wall time that probes may take with "auto", in (0, 1].

    Attributes:
        last: step of the last probe.
        interval: steps from one probe to the next.
        asked: step of a probe that was asked for beside those (-1: none).
    """

    def __init__(self, every: int | str, overhead: float) -> None:
        self._every, self._overhead = every, overhead
        self.last, self.interval, self.asked = 0, FIRST if every == "auto" else int(every), -1

    def due(self, step: int) -> bool:
        usual = step % self.interval == 0 if self._every != "auto" else step >= self.last + self.interval
        return usual or step == self.asked

    def until_next(self, step: int) -> int:
        """Steps from the probe at `step` to the next."""
        usual = self.interval if self._every == "auto" else self.interval - step % self.interval
        return min(usual, self.asked - step) if self.asked > step else usual

    def proposed(self, cost: Cost, step: int, steps: int, raised: float = 0.0) -> int:
        """Steps from `step` until the next probe: `every`, or with "auto" as few as `overhead` allows.

        With "auto" the next probe comes when all probes together, that one and the one at the end of the run included,
        have taken their share of the wall time by then. It comes earlier in two cases, as long as this uses at most
        `ADVANCE` of what probes may take in the rest of the run: during warm-up, after as many steps as the run has
        done; and while a rule is near its limit, after down to `CLOSE` steps. It never comes later than after `CEILING`
        steps, also if probes take more than their share then.

        Args:
            cost: what probes and steps take; the same on every rank.
            step, steps: optimizer steps done, and those of the whole run.
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
        """Takes the step of a probe, and the interval after it that all ranks have agreed on."""
        self.last, self.interval = step, interval

    def ask(self, step: int) -> None:
        """Adds a probe at `step`, beside those at the usual interval. The same on every rank."""
        self.asked = step


class Clock:
    """Wall time since training began, and how much of it probes have taken.

    Args:
        step: optimizer steps done so far, in earlier parts of a resumed run.
        now: seconds on a clock that only runs forward.

    Attributes:
        spent: seconds that probes have taken.
    """

    def __init__(self, step: int, now: Callable[[], float] = time.perf_counter) -> None:
        self._now, self._began, self._first = now, now(), step
        self.spent = 0.0

    def add_probe(self, seconds: float) -> float:
        """Adds a probe; returns the share of the wall time so far that probes have taken."""
        self.spent += seconds
        return self.spent / max(self._now() - self._began, 1e-9)

    def step_seconds(self, step: int) -> float:
        """Mean seconds of a training step up to `step`, without probes; 0 before the first step has ended."""
        steps = step - self._first
        return (self._now() - self._began - self.spent) / steps if steps else 0.0
