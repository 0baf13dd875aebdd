"""What trackers are told: names, values, words, and how often."""

from __future__ import annotations

import importlib.util
import math
import time

from ..records import Alert, Reading

STEP = "train/global_step"  # the x axis that the Trainer's own rows carry in W&B
PAUSE = 60.0  # seconds between two alerts of one rule and level; trackers do not hold back what is logged here
PICTURES = 30.0  # seconds between two pictures: training waits a tenth of a second for one


class Pause:
    """Which alerts to hold back: those of a rule and level that was told less than `PAUSE` seconds ago."""

    def __init__(self) -> None:
        self._told: dict[tuple[str, str], float] = {}

    def over(self, alert: Alert) -> bool:
        """Whether this alert may be told; it then counts as told."""
        now, key = time.monotonic(), (alert.rule, alert.level)
        if now - self._told.get(key, -math.inf) < PAUSE:
            return False
        self._told[key] = now
        return True


class Turn:
    """When it is a picture's turn: `PICTURES` seconds after the last one, and at the end if there is something new."""

    def __init__(self) -> None:
        self._last, self._shown = -math.inf, 0

    def has_come(self, seen: int, at_the_end: bool = False) -> bool:
        """Whether to draw now that `seen` readings are there; it then counts as drawn."""
        if seen == self._shown or (not at_the_end and time.monotonic() - self._last < PICTURES):
            return False
        self._last, self._shown = time.monotonic(), seen
        return True


def require(tracker: str) -> None:
    """Raises ImportError, with what to do, if the tracker is not installed."""
    if not installed(tracker):
        raise ImportError(f'sinks asks for "{tracker}", which is not installed: pip install {tracker}')


def installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


def words(alert: Alert) -> str:
    """What a tracker's alert says."""
    return f"{alert.message}. Try: {alert.action}."


def scalars(reading: Reading) -> dict[str, float]:
    """What trackers are given of a reading: every logged name but the count of alerts. NaN where there is no value."""
    late, own = reading.late, (reading.displacement, reading.localization, reading.score)
    cost = (reading.overhead, float(reading.interval))
    values = (late["alpha"], late["transport"], *own, *cost, *reading.alpha, *reading.transport)
    return dict(zip(logged_names(len(reading.alpha))[1:], values, strict=True))


def headlines(record: Reading | Alert, alerts: int) -> dict[str, float]:
    """A row for trackers that make a chart of every name: no layers, and nothing that is not a number."""
    row = {"spinal/alerts": float(alerts)}
    if isinstance(record, Reading):
        row |= {name: value for name, value in scalars(record).items() if "/layer_" not in name}
    return finite(row)


def finite(row: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in row.items() if math.isfinite(value)}


def logged_names(layers: int) -> list[str]:
    """Every name that has a number, the count of alerts first."""
    late = ("late_alpha", "late_transport", "displacement", "localization", "score")
    alpha = [f"spinal/alpha/layer_{i}" for i in range(1, layers + 1)]
    transport = [f"spinal/transport/layer_{i}" for i in range(2, layers + 1)]
    return [*(f"spinal/{name}" for name in ("alerts", *late, "overhead", "interval")), *alpha, *transport]
