"""Weights & Biases: numbers, images, alerts, and at the end a table and the report."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

from ..failures import warn
from ..records import LEVELS, Alert, Header, Reading, Record
from ..report.labels import NUMBERS
from ..report.verdict import verdict
from ..traces import Trace
from .base import Sink, installed, require
from .history import History, evenly
from .logged_values import ALERTS, LOGGED, STEP, alert_text, finite, headlines, layer_names, layer_scalars
from .throttle import AlertThrottle, ImageThrottle
from .wandb_rows import WandbRows

ROWS = 10_000  # W&B shows no more of a table
SUMMARY = {"spinal/start/late_alpha": "alpha", "spinal/start/late_transport": "transport"}  # the first reading's means
COLUMNS = ("alpha", "alpha_se", "alpha_r2", "effective_rank", "transport", "transport_se")


class WandbSink(Sink):
    """Logs to the W&B run that is open when a record comes; if none is open, it does nothing.

    Rows carry `spinal/step`, the training step, and leave W&B's own counter alone (`WandbRows`). An alert is also sent
    as W&B's own, which can notify people. `SpinalConfig.layer_logging` says how much is logged per layer.

    Raises:
        ImportError: wandb is not installed.
    """

    def __init__(self) -> None:
        require("wandb")
        self._described = ""  # id of the run that has the settings and the names
        self._summarized = (0, 0)  # alerts and readings (2: or more) at that run's last summary
        self._alerts, self._images, self._history = AlertThrottle(), ImageThrottle(), History()
        self._report: Path | None = None
        self._layer_logging, self._rows = "scalars", WandbRows()

    def begin(self, trace: Path, report: Path) -> None:
        self._history, self._images, self._report = History(), ImageThrottle(), report
        self._rows = WandbRows()

    def resume(self, earlier: Sequence[Record]) -> None:
        self._history = History(earlier)

    def write(self, record: Record) -> None:
        self._history.add(record)
        run, trace = _run(), self._history.trace
        if isinstance(record, Header):
            self._layer_logging = record.config.get("layer_logging", "scalars")
        if run is None or trace is None or not isinstance(record, Reading | Alert):
            return
        if self._described != run.id:
            self._described, self._summarized = run.id, (0, 0)
            _describe(run, trace.header, self._layer_logging)
        row = headlines(record, len(trace.alerts))
        if isinstance(record, Reading) and self._layer_logging == "scalars":
            row |= finite(layer_scalars(record))
        self._rows.log(run, {**row, STEP: record.step}, record.step)
        self._summarize(run, trace)
        if isinstance(record, Alert):
            if self._alerts.allows(record):
                run.alert(f"spinal: {record.rule}", alert_text(record), level=record.level.upper())
        elif self._images.allows(self._history.seen):
            self._draw(run, trace)

    def close(self) -> None:
        run, trace = _run(), self._history.trace
        if run is None or trace is None or self._described != run.id or not trace.readings:
            return
        last = trace.readings[-1].step
        if self._images.allows(self._history.seen, at_the_end=True):
            self._draw(run, trace)
        if self._layer_logging != "off":
            self._rows.log(run, {"spinal/layers": _table(trace), STEP: last}, last)
        if self._report is not None and self._report.exists():
            _log_report(run, self._report, last)

    def _draw(self, run: Any, trace: Trace) -> None:
        if installed("PIL"):
            step = trace.readings[-1].step
            self._rows.log(run, {**_images(trace), STEP: step}, step)

    def _summarize(self, run: Any, trace: Trace) -> None:
        """Keeps the verdict in the run's summary up to date, so that a run that is killed has one, too."""
        ends = trace.readings[:2]  # the verdict depends on the alerts, and on whether there is more than one reading
        counts = (len(trace.alerts), len(ends))
        if not ends or counts == self._summarized:
            return
        self._summarized, levels = counts, {alert.level for alert in trace.alerts}
        worst = next((level for level in reversed(LEVELS) if level in levels), "none")
        word = verdict(Trace(trace.header, ends, trace.alerts).to_json())[1]
        start = finite({name: ends[0].late[key] for name, key in SUMMARY.items()})
        run.summary.update({"spinal/verdict": word, "spinal/worst_alert": worst, **start})


def _run() -> Any:
    """The run that is open, or None. Looked up at each use, because it may end or change."""
    return getattr(sys.modules.get("wandb"), "run", None)


def _describe(run: Any, header: Header, layer_logging: str) -> None:
    """Gives a run the settings, and says for each name how it is shown.

    Per-layer names and errors are hidden from the automatic charts: 80 layers would make 159 of them.
    """
    settings = {"version": header.version, "probe": header.probe, "layers": header.layers}
    run.config.update(
        {"spinal": {**settings, "late_window": list(header.window), **header.config}}, allow_val_change=True
    )
    run.define_metric(STEP, hidden=True)
    for name in (ALERTS, *LOGGED, "spinal/heatmaps", "spinal/depth_trace", "spinal/layers"):
        hidden = name in LOGGED and NUMBERS[LOGGED[name]].part == "error"
        run.define_metric(name, step_metric=STEP, hidden=hidden)
    for name in layer_names(header.layers) if layer_logging == "scalars" else ():
        run.define_metric(name, step_metric=STEP, hidden=True, summary="none")
    if not installed("PIL"):
        warn("no images in W&B without Pillow: pip install pillow")


def _images(trace: Trace) -> dict[str, Any]:
    import wandb

    from ..report.images import depth_trace, heatmaps

    images = {"spinal/heatmaps": heatmaps(trace), "spinal/depth_trace": depth_trace(trace)}
    return {name: wandb.Image(image) for name, image in images.items()}


def _table(trace: Trace) -> Any:
    import wandb

    return wandb.Table(["step", "layer", *COLUMNS], _rows(trace), allow_mixed_types=True)


def _log_report(run: Any, report: Path, step: int) -> None:
    import wandb

    artifact = wandb.Artifact(f"spinal-{run.id}", type="spinal-report", description="open it in a browser")
    artifact.add_file(str(report))
    run.log_artifact(artifact, aliases=["latest", f"step-{step}"])


def _rows(trace: Trace) -> list[list[Any]]:
    """One row per reading and layer, at most `ROWS`: of a long run evenly spaced readings. None: no value."""
    rows: list[list[Any]] = []
    for reading in evenly(trace.readings, max(ROWS // trace.header.layers, 2)):
        lists = [([None] if name.startswith("transport") else []) + getattr(reading, name) for name in COLUMNS]
        layers = enumerate(zip_longest(*lists), start=1)
        rows += [[reading.step, layer, *(v if v == v else None for v in values)] for layer, values in layers]
    return rows
