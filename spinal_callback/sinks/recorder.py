"""All sinks of a run as one: opens them, gives each record to every one of them, and drops a sink that fails."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ..records import Header, Notice, Record
from ..run_folder import replaced_trace_path, report_path, trace_path
from .base import Sink
from .registry import make_sinks
from .trace_file import PageSink, TraceFile

KEEPS_HAPPENING = "if this keeps happening, open an issue (training continues)"


class Recorder:
    """The sinks of a run, as one. Until `open` is called there are none: only rank zero calls it.

    A sink that raises is dropped with one warning, and the others get a notice of it: a full disk or a tracker that is
    down must not end the run.

    Args:
        sinks: `Sink` objects and names, beside the trace that is always written. None: all that are installed.

    Attributes:
        asked: what was asked for, names replaced by sinks.
        sinks: the sinks that have not failed.

    Raises:
        ValueError, ImportError: as `registry.make_sinks`.
    """

    def __init__(self, sinks: Iterable[Sink | str] | None) -> None:
        self.asked = make_sinks(sinks)
        self.sinks: list[Sink] = []
        self._open = False
        self._failures: list[str] = []  # of sinks, not yet reported to the others

    def open(self, header: Header, folder: Path, step: int, home: Path | None) -> None:
        """Begins the trace in `folder` at a step, or continues the one in `home`, the folder of the resumed run.

        Raises:
            ValueError: the folder cannot be written.
        """
        path = trace_path(folder)
        if home is None and step > 0 and path.exists():  # measured from another reference: the two must not be mixed
            path.replace(replaced_trace_path(folder, step))
        earlier = None if home is None else trace_path(home)
        trace = TraceFile(path, resume_at=step or None, earlier=earlier)
        report = PageSink(report_path(folder))  # before the trackers: W&B's sink uploads it
        self.sinks, self._failures = [trace, report, *self.asked], []
        self._open, self._step = True, step
        self._call("begin", trace.path, report.path)
        if trace.earlier:
            self._call("resume", trace.earlier)
        self.write(header)

    def write(self, record: Record) -> None:
        """Gives the record to every sink."""
        if not isinstance(record, Header):
            self._step = record.step
        self._call("write", record)
        self._report_failures()

    def notice(self, event: str, step: int, message: str) -> None:
        """Records that something happened to the monitor itself. `event` is one of `records.EVENTS`."""
        self.write(Notice(step, event, message, KEEPS_HAPPENING))

    def complete(self) -> None:
        """The last step's records are written; the trackers' own runs are still open."""
        self._call("complete")
        self._report_failures()

    def close(self) -> None:
        """Closes every sink. A second call does nothing."""
        if self._open:
            self._open = False
            self._call("close")

    def _call(self, hook: str, *args: Any) -> None:
        for sink in list(self.sinks):
            try:
                if work := getattr(sink, hook, None):  # a user's object may have `write` alone
                    work(*args)
            except Exception as error:
                self.sinks.remove(sink)
                name = getattr(sink, "name", type(sink).__name__)
                self._failures.append(f"{name} failed and is dropped: {error!r}")
                warnings.warn(f"spinal: {self._failures[-1]}", stacklevel=3)

    def _report_failures(self) -> None:
        while self._failures:
            self._call("write", Notice(self._step, "sink_failed", self._failures.pop(0), KEEPS_HAPPENING))
