"""Weights & Biases: scalars, pictures, alerts, and at the end a table and the report."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

from ..records import Alert, Header, Reading, Record
from ..traces import Trace
from .base import Sink, installed, require
from .history import History, evenly
from .logged_values import STEP, alert_text, finite, logged_names, scalars
from .throttle import AlertThrottle, ImageThrottle

ROWS = 10_000  # W&B shows no more of a table
START = {"spinal/start/late_alpha": "alpha", "spinal/start/late_transport": "transport"}  # the first reading's means
COLUMNS = ("alpha", "alpha_se", "alpha_r2", "effective_rank", "transport", "transport_se")


class WandbSink(Sink):
    """Fills the W&B run that is open when a record comes; nothing where none is.

    Rows carry `train/global_step` and no `step=`: with it W&B drops rows once its own counter is ahead. Per-layer
    scalars are defined by exact names, hidden from the automatic charts. An alert is also sent as W&B's own, which can
    write to people.

    Raises:
        ImportError: wandb is not installed.
    """

    def __init__(self) -> None:
        require("wandb")
        self._defined = self._begun = ""  # id of the run whose metrics are defined; which knows of the start
        self._alerts, self._images, self._history = AlertThrottle(), ImageThrottle(), History()
        self._report: Path | None = None

    def begin(self, trace: Path, report: Path) -> None:
        self._history, self._images, self._report = History(), ImageThrottle(), report

    def resume(self, earlier: Sequence[Record]) -> None:
        self._history = History(earlier)

    def write(self, record: Record) -> None:
        self._history.add(record)
        run, trace = _run(), self._history.trace
        if run is None or trace is None or not isinstance(record, Reading | Alert):
            return
        if self._defined != run.id:
            self._defined = run.id
            _introduce(run, trace.header)
        row = {"spinal/alerts": float(len(trace.alerts))}
        run.log({**finite(row | (scalars(record) if isinstance(record, Reading) else {})), STEP: record.step})
        if isinstance(record, Alert):
            if self._alerts.allows(record):
                run.alert(f"spinal: {record.rule}", alert_text(record), level=record.level.upper())
            return
        if self._begun != run.id:
            self._begun = run.id
            run.summary.update(finite({name: trace.readings[0].late[key] for name, key in START.items()}))
        if self._images.allows(self._history.seen):
            _draw(run, trace)

    def close(self) -> None:
        run, trace = _run(), self._history.trace
        if run is None or trace is None or self._defined != run.id or not trace.readings:
            return
        if self._images.allows(self._history.seen, at_the_end=True):
            _draw(run, trace)
        import wandb

        table = wandb.Table(["step", "layer", *COLUMNS], _rows(trace), allow_mixed_types=True)
        run.log({"spinal/layers": table, STEP: trace.readings[-1].step})
        if self._report is not None and self._report.exists():
            artifact = wandb.Artifact(f"spinal-{run.id}", type="spinal-report", description="open it in a browser")
            artifact.add_file(str(self._report))
            run.log_artifact(artifact)


def _run() -> Any:
    """The run that is open, looked up at use: it may end or change. None where there is none."""
    return getattr(sys.modules.get("wandb"), "run", None)


def _introduce(run: Any, header: Header) -> None:
    """Tells a run the settings and how each name is to be shown."""
    settings = {"version": header.version, "probe": header.probe, **header.config}
    run.config.update({"spinal": settings}, allow_val_change=True)
    for name in logged_names(header.layers):
        per_layer = "/layer_" in name
        run.define_metric(name, step_metric=STEP, hidden=per_layer, summary="none" if per_layer else None)
    for name in ("spinal/heatmaps", "spinal/depth_trace", "spinal/layers"):
        run.define_metric(name, step_metric=STEP)
    if not installed("PIL"):
        warnings.warn("spinal: no pictures in W&B without Pillow: pip install pillow", stacklevel=2)


def _draw(run: Any, trace: Trace) -> None:
    if not installed("PIL"):
        return
    import wandb

    from ..report.images import depth_trace, heatmaps

    pictures = {"spinal/heatmaps": heatmaps(trace), "spinal/depth_trace": depth_trace(trace)}
    run.log({**{name: wandb.Image(image) for name, image in pictures.items()}, STEP: trace.readings[-1].step})


def _rows(trace: Trace) -> list[list[Any]]:
    """One row per reading and layer, at most `ROWS`: of a long run evenly spaced readings. None: no value."""
    rows: list[list[Any]] = []
    for reading in evenly(trace.readings, max(ROWS // trace.header.layers, 2)):
        lists = [([None] if name.startswith("transport") else []) + getattr(reading, name) for name in COLUMNS]
        layers = enumerate(zip_longest(*lists), start=1)
        rows += [[reading.step, layer, *(v if v == v else None for v in values)] for layer, values in layers]
    return rows
