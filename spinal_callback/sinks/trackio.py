"""Trackio: headline scalars, the picture of layers over steps, alerts."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..records import Alert, Header, Record
from .history import History
from .logged_values import Pause, Turn, headlines, require, words


class TrackioSink:
    """Fills the trackio run that is open when a record comes; nothing where none is.

    Trackio makes a chart of every name it is given, so the layers come as a picture.

    Raises:
        ImportError: trackio is not installed.
    """

    def __init__(self) -> None:
        require("trackio")
        self._pause, self._turn, self._history = Pause(), Turn(), History()

    def follow(self, earlier: Sequence[Record], report: Path) -> None:
        """Told before the header: what a resumed run's trace has."""
        self._history, self._turn = History(earlier), Turn()

    def write(self, record: Record) -> None:
        self._history.add(record)
        trackio, trace = _open(), self._history.trace
        if trackio is None or trace is None or isinstance(record, Header):
            return
        trackio.log(headlines(record, len(trace.alerts)), step=record.step)
        if isinstance(record, Alert):
            if self._pause.over(record):
                trackio.alert(f"spinal: {record.rule}", words(record), level=trackio.AlertLevel(record.level))
        else:
            self._draw()

    def complete(self) -> None:
        """Told after the last step's reading: the Trainer's own callback closes the run before `close` comes."""
        self._draw(at_the_end=True)

    def close(self) -> None:
        self._draw(at_the_end=True)

    def _draw(self, at_the_end: bool = False) -> None:
        trackio, trace = _open(), self._history.trace
        if trackio is None or trace is None or not self._turn.has_come(self._history.seen, at_the_end):
            return
        from ..report.images import heatmaps

        trackio.log({"spinal/heatmaps": trackio.Image(heatmaps(trace))}, step=trace.readings[-1].step)


def _open() -> Any:
    """Trackio, if a run is open. It is not imported: then nobody has opened one."""
    trackio: Any = sys.modules.get("trackio")
    return None if trackio is None or trackio.context_vars.current_run.get() is None else trackio
