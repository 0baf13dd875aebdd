"""Alert rules: readings in, alerts out. Plain floats, no torch, so a saved trace can be replayed through them.

A rule (`rules.RULES`) is a measure of the trajectory and two limits in its units. A cumulative sum over *training
steps* decides when a measure has been over a limit for long enough (`Alarm`); between two readings the measure is taken
to go in a straight line, so that the verdict does not hang on how often one probes.
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
from .trajectory import HORIZON, Trajectory

PATIENCE = 1  # training steps for which a measure at twice its limit must hold
COOLDOWN = 20  # training steps between two alerts of one rule and level
CHOSEN_LOST = 2.0  # reward (nats times beta) that chosen answers may lose before it counts against the run
FULL = 1 - 1e-9  # sum at which an alarm is raised: ten tenths make 0.9999999999999999
CAP = 2.0  # times its limit that a measure counts at most: one wild reading is not many


def accumulated(total: float, before: float, now: float, elapsed: int, patience: float = PATIENCE) -> float:
    """A cumulative sum, in [0, 1], `elapsed` training steps on, as if there had been a reading at each of them.

    Args:
        total: the sum before.
        before, now: the measure at the last reading and at this one, as multiples of its limit.
    """
    before, now = min(before, CAP), min(now, CAP)
    for step in range(1, elapsed + 1):
        total = min(max(total + (before + (now - before) * step / elapsed - 1) / patience, 0.0), 1.0)
    return total


@dataclass
class Alarm:
    """One rule at one level: a cumulative sum (CUSUM) over training steps of how far a measure is above its limit.

    Each training step adds `(min(measure / limit, CAP) - 1) / PATIENCE`; below 0 the sum is 0, at 1 the alarm is
    raised. So a measure at twice its limit must hold for 1 step, one at 1.2 times for 5, whatever the interval. It is
    armed again once the sum has been back at 0 and COOLDOWN steps are over.
    """

    sum: float = 0.0
    ratio: float = 0.0  # the measure at the last reading, as a multiple of its limit
    calm: int = -1  # step of the last reading without a sign
    since: int = -1  # step of the first with one
    layers: list[int] = field(default_factory=list)
    raised: bool = False
    confirmed: bool = False  # the Trainer's own numbers have raised this warning to an error
    last: int = -COOLDOWN  # step of the last alert

    def update(self, ratio: float, elapsed: int, path: Trajectory) -> bool:
        """Takes a measure as a multiple of its limit; True at the reading that raises the alarm."""
        was = self.sum
        self.sum, self.ratio = accumulated(was, self.ratio, ratio, elapsed), min(ratio, CAP)
        if was == 0.0 and self.sum > 0:
            self.since, self.layers = path.now.step, path.now.movers
        if self.sum == 0.0:
            self.calm, self.raised, self.confirmed = path.now.step, False, False
        if self.raised or self.sum < FULL or path.now.step - self.last < COOLDOWN:
            return False
        self.raised, self.last = True, path.now.step
        return True


# --- all rules over one run ------------------------------------------------------------------------------------------


class Detector:
    """All rules at once. Feed it a run's readings in the order of their steps; it says which alerts each raises.

    Args:
        window: first and last layer of the late window.
        limits: rule -> limits that replace the default ones (`calibrate.load_rules`); rules left out keep theirs.
    """

    def __init__(self, window: tuple[int, int], limits: Mapping[str, Limit] | None = None) -> None:
        self.limits = {name: rule.limit for name, rule in RULES.items()} | dict(limits or {})
        self._path = Trajectory(window)
        self._alarms = {name: {level: Alarm() for level in LEVELS} for name in RULES}

    def update(self, reading: Reading) -> list[Alert]:
        """The alerts that this reading raises; of a rule that raises both levels, the error alone."""
        elapsed = reading.step - self._path.now.step if self._path.points else 0
        self._path.add(reading)
        found = [self._judge(name, rule, elapsed, reading) for name, rule in RULES.items()]
        return [alert for alert in found if alert is not None]

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

    def _judge(self, name: str, rule: Rule, elapsed: int, reading: Reading) -> Alert | None:
        value, limit, alarms = rule.measure(self._path), self.limits[name], self._alarms[name]
        if rule.at_once:
            elapsed = HORIZON  # what a reading cannot be is not waited for
        warning, error = alarms["warn"], alarms["error"]
        warned = warning.update(_ratio(value, limit.warn), elapsed, self._path)
        failed = error.update(_ratio(value, limit.error), elapsed, self._path)
        agreed = "" if error.raised or warning.confirmed or not warning.raised else confirmation(reading.trainer)
        warning.confirmed = warning.confirmed or bool(agreed)
        if not (warned or failed or agreed):
            return None
        level: Literal["warn", "error"] = "error" if failed or agreed else "warn"
        threshold = limit.error if failed else limit.warn
        return self._alert(name, rule, level, value, threshold, warning, agreed)

    def _alert(
        self,
        name: str,
        rule: Rule,
        level: Literal["warn", "error"],
        value: float,
        threshold: float,
        first: Alarm,
        agreed: str,
    ) -> Alert:
        now = self._path.now
        layers = first.layers
        words = f"{rule.what}: {value:.3g} {rule.unit} at step {now.step} (limit {threshold:.3g})"
        words += f", first seen at step {first.since}"
        if not rule.at_once:
            words += (
                f"; late contraction {now.alpha:+.1%} ± {now.alpha_se:.1%}, late transport {now.transport:+.1%} ±"
                f" {now.transport_se:.1%} since the start"
            )
        if layers:
            words += f"; first to move: layers {', '.join(map(str, layers))}"
        return Alert(
            step=now.step,
            rule=name,
            level=level,
            layers=layers,
            value=value,
            threshold=threshold,
            message=words + agreed,
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


def confirmation(trainer: Mapping[str, float]) -> str:
    """How the Trainer's own numbers confirm a warning, in words; empty if they do not.

    A loss that is not finite does, and chosen answers that lose `CHOSEN_LOST` in reward while the margin is positive
    (likelihood displacement). A smaller decline of the chosen log-probabilities is what DPO does to healthy runs too.
    """
    loss, chosen, margin = (trainer.get(k) for k in ("loss", "rewards/chosen", "rewards/margins"))
    if loss is not None and not math.isfinite(loss):
        return "; and the Trainer's loss is not finite"
    if chosen is not None and margin is not None and chosen < -CHOSEN_LOST and margin > 0:
        return f"; and chosen answers have lost {-chosen:.2f} of reward while the margin is {margin:+.2f}"
    return ""


def _ratio(value: float, limit: float) -> float:
    return value / limit if limit > 0 else math.inf if value > 0 else 0.0


def replay(trace: Trace, limits: Mapping[str, Limit] | None = None) -> list[Alert]:
    """The alerts that the rules raise over a saved trace, in the order of its steps.

    Raises:
        ValueError: no readings, or the first is not step 0's: changes since the start cannot be told.
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
