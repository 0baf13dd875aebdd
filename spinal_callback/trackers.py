"""Sinks for experiment trackers: they write to the run that is open when a record comes, if one is."""

from __future__ import annotations

import importlib.util
import math
import sys
import time
from typing import Any

from .records import Alert, Header, Reading, Record

STEP = "train/global_step"  # the x axis that the Trainer's own rows carry in W&B
PAUSE = 60.0  # seconds between two alerts of one rule and level; trackers do not hold back what is logged here


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


def installed(tracker: str) -> bool:
    return importlib.util.find_spec(tracker) is not None


class WandbSink:
    """Scalars in the W&B run that is open when a record comes; nothing where none is.

    Rows carry `train/global_step` and no `step=`: with it W&B drops rows once its own counter is ahead. Per-layer
    scalars are defined by exact names, hidden from the automatic charts. An alert is also sent as W&B's own, which can
    write to people.

    Attributes:
        alerts: alerts so far; a resumed run goes on with those of its trace.

    Raises:
        ImportError: wandb is not installed.
    """

    def __init__(self) -> None:
        if not installed("wandb"):
            raise ImportError('sinks asks for "wandb", which is not installed: pip install wandb')
        self._defined: str | None = None  # id of the run whose metrics are defined
        self._header: Header | None = None
        self.alerts = 0
        self._pause = Pause()

    def write(self, record: Record) -> None:
        if isinstance(record, Header):
            self._header = record
            return
        run = getattr(sys.modules.get("wandb"), "run", None)  # looked up at use: a run may end or change
        if run is None:
            return
        self.alerts += isinstance(record, Alert)
        row = {"spinal/alerts": float(self.alerts), **(scalars(record) if isinstance(record, Reading) else {})}
        if self._defined != run.id and self._header is not None:
            self._defined = run.id
            self._introduce(run, self._header)
        run.log({**{name: value for name, value in row.items() if math.isfinite(value)}, STEP: record.step})

        if isinstance(record, Alert) and self._pause.over(record):
            run.alert(f"spinal: {record.rule}", words(record), level=record.level.upper())

    def _introduce(self, run: Any, header: Header) -> None:
        settings = {"version": header.version, "probe": header.probe, **header.config}
        run.config.update({"spinal": settings}, allow_val_change=True)
        for name in logged_names(header.layers):
            per_layer = "/layer_" in name
            run.define_metric(name, step_metric=STEP, hidden=per_layer, summary="none" if per_layer else None)

    def close(self) -> None:
        pass


class TrackioSink:
    """Headline scalars and alerts in the trackio run that is open when a record comes; nothing where none is.

    Trackio makes a chart of every name it is given, so it is not given the layers'.

    Raises:
        ImportError: trackio is not installed.
    """

    def __init__(self) -> None:
        if not installed("trackio"):
            raise ImportError('sinks asks for "trackio", which is not installed: pip install trackio')
        self.alerts = 0
        self._pause = Pause()

    def write(self, record: Record) -> None:
        trackio: Any = sys.modules.get("trackio")  # not imported: nobody has opened a run
        if isinstance(record, Header) or trackio is None or trackio.context_vars.current_run.get() is None:
            return
        self.alerts += isinstance(record, Alert)
        row = {"spinal/alerts": float(self.alerts)}
        if isinstance(record, Reading):
            row |= {name: value for name, value in scalars(record).items() if "/layer_" not in name}
        trackio.log({name: value for name, value in row.items() if math.isfinite(value)}, step=record.step)
        if isinstance(record, Alert) and self._pause.over(record):
            trackio.alert(f"spinal: {record.rule}", words(record), level=trackio.AlertLevel(record.level))

    def close(self) -> None:
        pass


def words(alert: Alert) -> str:
    """What a tracker's alert says."""
    return f"{alert.message}. Try: {alert.action}."


def scalars(reading: Reading) -> dict[str, float]:
    """What trackers are given of a reading: every logged name but the count of alerts. NaN where there is no value."""
    late, own = reading.late, (reading.displacement, reading.localization, reading.score, reading.overhead)
    values = (late["alpha"], late["transport"], *own, *reading.alpha, *reading.transport)
    return dict(zip(logged_names(len(reading.alpha))[1:], values, strict=True))


def logged_names(layers: int) -> list[str]:
    """Every name that trackers see, the count of alerts first."""
    headline = ("alerts", "late_alpha", "late_transport", "displacement", "localization", "score", "overhead")
    alpha = [f"spinal/alpha/layer_{i}" for i in range(1, layers + 1)]
    transport = [f"spinal/transport/layer_{i}" for i in range(2, layers + 1)]
    return [*(f"spinal/{name}" for name in headline), *alpha, *transport]


# The trackers that can be named in `SpinalCallback(sinks=[...])`. A new one is a class above and a row here.
TRACKERS: dict[str, type[WandbSink] | type[TrackioSink]] = {"wandb": WandbSink, "trackio": TrackioSink}
