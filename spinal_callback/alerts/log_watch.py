"""The Trainer's own log, watched between probes: when it moves fast, the policy is probed at once. It raises no alert.

A batch's rewards are noisy and fall in every long alignment, so they cannot say that a run is breaking. But they come
every few steps and cost nothing, so they can say when it is worth a look.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .trajectory import HORIZON

FAST = 0.10  # share of an answer's log-probability by which the policy left the reference within 20 steps
QUIET = 20  # training steps after a probe that the log has asked for, before it may ask again; doubled each time
LONGEST_QUIET = 640


@dataclass
class LogWatch:
    """Takes the Trainer's log rows as they come; says when to probe.

    Attributes:
        rows: (step, distance) of the rows of the last 20 steps, and of the one before them. The distance is the mean
            |log-ratio| of policy to reference over chosen and rejected answers, as a share of the chosen answers'
            log-probability under the reference.
        asked: step at which it last asked for a probe.
        quiet: steps after that before it may ask again.
    """

    rows: list[tuple[int, float]] = field(default_factory=list)
    asked: int = -LONGEST_QUIET
    quiet: int = QUIET

    def update(self, step: int, row: Mapping[str, Any]) -> bool:
        """True if the policy should be probed soon. A row without DPO's numbers says nothing."""
        distance = _distance(row)
        if not math.isfinite(distance):
            return False
        recent = [(s, d) for s, d in self.rows if s >= step - HORIZON]
        self.rows = [*(recent or self.rows[-1:]), (step, distance)]
        fastest = max((distance - d) * HORIZON / max(HORIZON, step - s) for s, d in self.rows)
        if fastest < FAST or step < self.asked + self.quiet:
            return False
        self.quiet = min(2 * self.quiet, LONGEST_QUIET) if self.asked >= 0 else QUIET
        self.asked = step
        return True

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> LogWatch:
        """What `to_json` gave; a new watch for a state that an earlier version saved, without any."""
        if not data:
            return cls()
        return cls([(int(step), float(value)) for step, value in data["rows"]], int(data["asked"]), int(data["quiet"]))


def _distance(row: Mapping[str, Any]) -> float:
    """See `LogWatch.rows`; NaN where the row does not have the numbers. reward = beta log(policy / reference)."""
    names = ("rewards/chosen", "rewards/rejected", "logps/chosen", "beta")
    values = (row.get(name) for name in names)
    chosen, rejected, logps, beta = (float(v) if isinstance(v, int | float) else math.nan for v in values)
    if not beta > 0:
        return math.nan
    reference = abs(logps - chosen / beta)
    return (abs(chosen) + abs(rejected)) / 2 / beta / reference if reference > 0 else math.nan
