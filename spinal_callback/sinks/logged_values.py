"""What trackers log: a reading as {name: value}, and an alert as text. The names come from `report.labels`."""

from __future__ import annotations

import math

from ..records import Alert, Reading
from ..report.labels import CURVES, NUMBERS
from ..traces import numbers

STEP = "spinal/step"  # the x axis of our rows in W&B: training steps, as in the Trainer's `train/global_step`
ALERTS = "spinal/alerts"  # number of alerts so far
LAYERS = "spinal_layers/"  # of a section of their own in W&B: a deep model has hundreds of them
LOGGED = {f"spinal/{column}": column for column, number in NUMBERS.items() if number.logged}


def headlines(record: Reading | Alert, alerts: int) -> dict[str, float]:
    """One row for a tracker: the count of alerts, and the numbers of a reading that are one per reading. No NaN."""
    return finite({ALERTS: float(alerts), **(scalars(record) if isinstance(record, Reading) else {})})


def scalars(reading: Reading) -> dict[str, float]:
    """The numbers that are one per reading; NaN where there is no value."""
    values = numbers(reading)
    return {name: float(values[column]) for name, column in LOGGED.items()}


def layer_scalars(reading: Reading) -> dict[str, float]:
    """Contraction and transport of each layer; NaN where there is no value."""
    values = [value for field in CURVES for value in getattr(reading, field)]
    return dict(zip(layer_names(len(reading.alpha)), values, strict=True))


def layer_names(layers: int) -> list[str]:
    """`spinal_layers/alpha_01` and so on, padded with zeros so that names sort by layer.

    Transport is named after the layer at which its step ends.
    """
    digits = max(len(str(layers)), 2)
    return [
        f"{LAYERS}{field}_{layer:0{digits}d}"
        for field, curve in CURVES.items()
        for layer in range(curve.first, layers + 1)
    ]


def finite(row: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in row.items() if math.isfinite(value)}


def alert_text(alert: Alert) -> str:
    """The text of a tracker's alert: what was seen, and what to try."""
    return f"{alert.message}. Try: {alert.action}."
