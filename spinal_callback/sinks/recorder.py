"""All sinks of a run as one: opens them, gives each record to every one of them, and drops a sink that fails."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ..failures import described, warn
from ..records import Header, Notice, Reading, Record
from ..run_folder import replaced_trace_path, report_path, trace_path
from .base import Sink
from .pace import SHARE, Pace
from .registry import make_sinks
from .trace_file import PageSink, TraceFile, is_written

KEEPS_HAPPENING = "if this keeps happening, open an issue (training continues)"
ACTIONS = {"sink_slow": "probe less often (every=...), or leave this sink out of sinks=[...]"}  # of other events


class Recorder:
    """The sinks of a run, as one. Until `open` is called there are none: only rank zero calls it.

    A sink that raises is dropped with one warning, and the others get a notice of it: a full disk or a tracker that is
    down must not end the run. A sink that is slow gets fewer readings, and the others get a notice of that.

    Args:
        sinks: `Sink` objects and names, beside the trace that is always written. None: all that are installed.

    Attributes:
        asked: what was asked for, names replaced by sinks.
        sinks: the sinks that have not failed.
        number: of this run's trace, among the runs that write in its folder at the same time.

    Raises:
        ValueError, ImportError: as `registry.make_sinks`.
    """

    def __init__(self, sinks: Iterable[Sink | str] | None) -> None:
        self.asked = make_sinks(sinks)
        self.sinks: list[Sink] = []
        self.number = 1
        self._open = False
        self._notices: list[tuple[str, str]] = []  # of sinks, not yet given to the others
        self._paces: dict[int, Pace] = {}

    def open(self, header: Header, folder: Path, step: int, home: Path | None, number: int = 1) -> None:
        """Begins the trace in `folder` at a step, or continues the one in `home`, the folder of the resumed run.

        Args:
            number: of the trace in `home`.

        Raises:
            ValueError: the folder cannot be written.
        """
        self.number = next(n for n in itertools.count(number) if not is_written(trace_path(folder, n)))
        path = trace_path(folder, self.number)
        if self.number != number:
            other = trace_path(folder, number)
            warn(f"another run is writing {other}: this one writes {path.name}; give each run an output_dir of its own")
        elif home is None and step > 0 and os.path.lexists(path):  # another reference: the two must not be mixed
            path.replace(replaced_trace_path(path, step))
        earlier = None if home is None else trace_path(home, number)
        resumed = None if home is None else step
        trace = TraceFile(path, resume_at=resumed, earlier=earlier, header=header)
        report = PageSink(report_path(path))  # before the trackers: W&B's sink uploads it
        self.sinks, self._notices, self._paces = [trace, report, *self.asked], [], {}
        self._open, self._step = True, step
        self._call("begin", trace.path, report.path)
        if trace.earlier:
            self._call("resume", trace.earlier)
        self.write(header)

    def write(self, record: Record) -> None:
        """Gives the record to every sink."""
        if not isinstance(record, Header):
            self._step = record.step
        for sink in list(self.sinks):
            self._write(sink, record)
        self._give_notices()

    def notice(self, event: str, step: int, message: str) -> None:
        """Records that something happened to the monitor itself. `event` is one of `records.EVENTS`."""
        self.write(_notice(event, step, message))

    def complete(self) -> None:
        """The last step's records are written; the trackers' own runs are still open."""
        self._give_what_was_held()
        self._call("complete")
        self._give_notices()

    def close(self) -> None:
        """Closes every sink. A second call does nothing."""
        if self._open:
            self._open = False
            self._give_what_was_held()
            self._call("close")

    def _write(self, sink: Sink, record: Record) -> None:
        """Gives a record to a sink; a reading only as often as the sink is quick."""
        pace = self._paces.setdefault(id(sink), Pace())
        paced = isinstance(record, Reading) and not isinstance(sink, TraceFile | PageSink)
        if isinstance(record, Reading) and paced and not pace.allows(record):
            return
        was_slow, began = pace.slow, time.monotonic()
        self._hook(sink, "write", record)
        if paced:
            pace.took(time.monotonic() - began)
            if pace.slow and not was_slow:
                words = f"{_name(sink)} took {pace.seconds:.1f} s for a reading: it gets fewer, {SHARE:.0%} of the time"
                self._notices.append(("sink_slow", words))

    def _give_what_was_held(self) -> None:
        for sink in list(self.sinks):
            pace = self._paces.get(id(sink))
            if pace is not None and pace.held is not None:
                record, pace.held = pace.held, None
                self._hook(sink, "write", record)

    def _call(self, hook: str, *args: Any) -> None:
        for sink in list(self.sinks):
            self._hook(sink, hook, *args)

    def _hook(self, sink: Sink, hook: str, *args: Any) -> None:
        try:
            if work := getattr(sink, hook, None):  # a user's object may have `write` alone
                work(*args)
        except Exception as error:
            self.sinks = [other for other in self.sinks if other is not sink]  # not by ==, which may raise, too
            self._notices.append(("sink_failed", f"{_name(sink)} failed and is dropped: {described(error)}"))
            warn(self._notices[-1][1])

    def _give_notices(self) -> None:
        while self._notices:
            event, words = self._notices.pop(0)
            self._call("write", _notice(event, self._step, words))


def _notice(event: str, step: int, message: str) -> Notice:
    return Notice(step, event, message, ACTIONS.get(event, KEEPS_HAPPENING))


def _name(sink: Any) -> str:
    try:
        return str(getattr(sink, "name", type(sink).__name__))
    except Exception:
        return type(sink).__name__
