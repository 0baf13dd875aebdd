"""Alert rules: readings in, alerts out. Plain floats, no torch, so a saved trace can be replayed through them.

A rule (`rules.RULES`) is a measure of the trajectory and two limits in its units. Two readings in a row over a limit
raise an alert (`Alarm`): one stray reading raises none, however long the interval. So that a run that is probed seldom
does not wait a whole interval for the second reading, the first one asks for another probe a few steps later
(`Detector.unconfirmed`).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from ..records import LEVELS, Alert, Reading
from ..traces import Trace
from .rules import RULES, Limit, Rule
from .trajectory import Trajectory

AT_ONCE = 1.5  # times its limit at which one reading is enough
COOLDOWN = 20  # training steps between two alerts of one rule and level
CONFIRM_AFTER = 5  # training steps after which a first reading over a limit is read again


@dataclass
class Alarm:
    """One rule at one level. Raised by the second reading in a row that is over the limit.

    It is raised once, and again after a reading under the limit and `COOLDOWN` steps after its last alert at least.

    Attributes:
        calm: step of the last reading under the limit (-1: none).
        since: step of the first reading over it, of those in a row up to now (-1: none).
        layers: the layers that had moved farthest at that reading.
        raised: an alert has been raised since the last reading under the limit.
        last: step of the last alert.
    """

    calm: int = -1
    since: int = -1
    layers: list[int] = field(default_factory=list)
    raised: bool = False
    last: int = -COOLDOWN

    @property
    def pending(self) -> bool:
        """The last reading was over the limit, and no alert has been raised for it."""
        return self.since >= 0 and not self.raised

    def update(self, ratio: float, path: Trajectory, at_once: bool = False) -> bool:
        """Takes a measure as a multiple of its limit; True at the reading that raises the alarm."""
        step = path.now.step
        if not ratio > 1:
            self.calm, self.since, self.raised = step, -1, False
            return False
        first = self.since < 0
        if first:
            self.since, self.layers = step, path.now.movers
        if self.raised or (first and ratio < AT_ONCE and not at_once) or step - self.last < COOLDOWN:
            return False
        self.raised, self.last = True, step
        return True


# --- all rules over one run ------------------------------------------------------------------------------------------


class Detector:
    """All rules at once. Feed it a run's readings in the order of their steps; it returns the alerts that each raises.

    Args:
        window: first and last layer of the late window.
        limits: rule -> limits that replace the default ones (`calibration.load_rules`); rules left out keep theirs.
    """

    def __init__(self, window: tuple[int, int], limits: Mapping[str, Limit] | None = None) -> None:
        self.limits = {name: rule.limit for name, rule in RULES.items()} | dict(limits or {})
        self._path = Trajectory(window)
        self._alarms = {name: {level: Alarm() for level in LEVELS} for name in RULES}

    def update(self, reading: Reading) -> list[Alert]:
        """The alerts that this reading raises; of a rule that raises both levels, the error alone."""
        self._path.add(reading)
        found = [self._judge(name, rule, reading) for name, rule in RULES.items()]
        return [alert for alert in found if alert is not None]

    @property
    def unconfirmed(self) -> bool:
        """A rule is over a limit at one reading only: another probe, `CONFIRM_AFTER` steps later, decides."""
        return any(alarm.pending for both in self._alarms.values() for alarm in both.values())

    @property
    def tension(self) -> float:
        """How near the nearest rule that has not warned is to it, 0..1: 0 up to half its limit, 1 from the limit on."""
        if not self._path.points:
            return 0.0
        calm = [ratio for name, ratio in self.measures().items() if not self._alarms[name]["warn"].raised]
        return min(max(2 * max(calm, default=0.0) - 1, 0.0), 1.0)

    def calm(self, rule: str) -> int:
        """Step of the last reading before the first sign of what `rule` warns of; -1: there was none."""
        return self._alarms[rule]["warn"].calm

    def measures(self) -> dict[str, float]:
        """Each rule's measure at the last reading, as a multiple of its warn limit; `inf` where that limit is 0."""
        return {name: _ratio(rule.measure(self._path), self.limits[name].warn) for name, rule in RULES.items()}

    def _judge(self, name: str, rule: Rule, reading: Reading) -> Alert | None:
        value, limit, alarms = rule.measure(self._path), self.limits[name], self._alarms[name]
        raised = [
            level
            for level, alarm in alarms.items()
            if alarm.update(_ratio(value, getattr(limit, level)), self._path, rule.at_once)
        ]
        if not raised:
            return None
        level: Literal["warn", "error"] = "error" if "error" in raised else "warn"
        return self._alert(name, rule, level, value, alarms["warn"])

    def _alert(self, name: str, rule: Rule, level: Literal["warn", "error"], value: float, first: Alarm) -> Alert:
        now, limit = self._path.now, getattr(self.limits[name], level)
        words = f"{rule.what}: {value:.3g} {rule.unit} at step {now.step} (limit {limit:.3g})"
        words += f", first seen at step {first.since}"
        if not rule.at_once:
            words += (
                f"; late contraction {now.alpha:+.1%} ± {now.alpha_se:.1%}, late transport {now.transport:+.1%} ±"
                f" {now.transport_se:.1%} since the start"
            )
        if first.layers:
            words += f"; first to move: layers {', '.join(map(str, first.layers))}"
        return Alert(
            step=now.step,
            rule=name,
            level=level,
            layers=first.layers,
            value=value,
            threshold=limit,
            message=words,
            action=rule.action,
            since=first.since,
        )

    def state(self) -> dict[str, Any]:
        """What a resumed run goes on from, as JSON."""
        alarms = {n: {level: dataclasses.asdict(a) for level, a in both.items()} for n, both in self._alarms.items()}
        return {"path": self._path.to_json(), "alarms": alarms}

    def restore(self, state: dict[str, Any]) -> None:
        """Goes on from a `state`; a rule that it does not know begins anew.

        So do all if another version wrote it or if it is of another late window: it cannot be compared with.
        """
        try:
            path = Trajectory.from_json(state["path"])
            alarms = {n: {level: Alarm(**both[level]) for level in LEVELS} for n, both in state["alarms"].items()}
        except (KeyError, TypeError):
            return
        if path.window == self._path.window:
            self._path = path
            self._alarms |= {name: both for name, both in alarms.items() if name in RULES}


def _ratio(value: float, limit: float) -> float:
    return value / limit if limit > 0 else math.inf if value > 0 else 0.0


def replay(trace: Trace, limits: Mapping[str, Limit] | None = None) -> list[Alert]:
    """The alerts that the rules raise over a saved trace, in the order of its steps.

    Raises:
        ValueError: no readings, or the first is not step 0's: changes are measured from it.
    """
    detector = Detector(trace.header.window, limits)
    return [alert for reading in _from_start(trace) for alert in detector.update(reading)]


def peaks(trace: Trace, limits: Mapping[str, Limit] | None = None) -> dict[str, float]:
    """The greatest value that each rule's measure took over a saved trace, as a multiple of its warn limit.

    Raises:
        ValueError: as `replay` does.
    """
    detector, greatest = Detector(trace.header.window, limits), dict.fromkeys(RULES, 0.0)
    for reading in _from_start(trace):
        detector.update(reading)
        greatest = {name: max(greatest[name], value) for name, value in detector.measures().items()}
    return greatest


def _from_start(trace: Trace) -> list[Reading]:
    if not trace.readings:
        raise ValueError("the trace has no readings")
    if trace.readings[0].step != 0:
        raise ValueError(f"the trace begins at step {trace.readings[0].step}: the rules need the reading of step 0")
    return trace.readings
