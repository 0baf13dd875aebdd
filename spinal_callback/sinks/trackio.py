"""Trackio: headline numbers, the image of layers over steps, alerts."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..records import Alert, Reading, Record
from .base import Sink, require
from .history import History
from .logged_values import alert_text, headlines
from .throttle import AlertThrottle, ImageThrottle


class TrackioSink(Sink):
    """Logs to the trackio run that is open when a record comes; if none is open, it does nothing.

    Trackio makes a chart of every name that is logged, so the layers are logged as an image.

    Raises:
        ImportError: trackio is not installed.
    """

    def __init__(self) -> None:
        require("trackio")
        self._alerts, self._images, self._history = AlertThrottle(), ImageThrottle(), History()

    def begin(self, trace: Path, report: Path) -> None:
        self._history, self._images = History(), ImageThrottle()

    def resume(self, earlier: Sequence[Record]) -> None:
        self._history = History(earlier)

    def write(self, record: Record) -> None:
        self._history.add(record)
        trackio, trace = _open(), self._history.trace
        if trackio is None or trace is None or not isinstance(record, Reading | Alert):
            return
        trackio.log(headlines(record, len(trace.alerts)), step=record.step)
        if isinstance(record, Reading):
            self._draw()
        elif self._alerts.allows(record):
            trackio.alert(f"spinal: {record.rule}", alert_text(record), level=trackio.AlertLevel(record.level))

    def complete(self) -> None:
        """The last image. The Trainer's own callback closes the trackio run before `close` is called."""
        self._draw(at_the_end=True)

    def close(self) -> None:
        self._draw(at_the_end=True)

    def _draw(self, at_the_end: bool = False) -> None:
        trackio, trace = _open(), self._history.trace
        if trackio is None or trace is None or not self._images.allows(self._history.seen, at_the_end):
            return
        from ..report.images import heatmaps

        trackio.log({"spinal/heatmaps": trackio.Image(heatmaps(trace))}, step=trace.readings[-1].step)


def _open() -> Any:
    """The trackio module, if a run is open. It is not imported here: if nobody imported it, no run is open."""
    trackio: Any = sys.modules.get("trackio")
    return None if trackio is None or trackio.context_vars.current_run.get() is None else trackio
