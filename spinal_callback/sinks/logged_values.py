"""What trackers log: a reading as {name: value}, and an alert as text."""

from __future__ import annotations

import math

from ..records import Alert, Reading

STEP = "train/global_step"  # the x axis that the Trainer's own rows carry in W&B


def alert_text(alert: Alert) -> str:
    """The text of a tracker's alert: what was seen, and what to try."""
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
