"""Who is told what happens: opens the sinks that were asked for, writes to them, and says when one is dropped."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ..records import Alert, Header, Record
from ..run_folder import replaced_trace_path, report_path, trace_path
from .base import Fanout, JsonLinesSink, PageSink, Sink
from .logged_values import installed
from .registry import TRACKERS
from .terminal import TerminalSink


class Recorder:
    """The sinks of a run, as one. Until `open` is called there are none: only rank zero calls it.

    Args:
        sinks: `Sink` objects and names, beside the trace that is always written. None: every name that can be had.

    Attributes:
        asked: what was asked for, names of trackers replaced by their sinks.
        fanout: the sinks that are told, and which of them have thrown.

    Raises:
        ValueError: an unknown name.
        ImportError: a tracker that is not installed.
    """

    def __init__(self, sinks: Iterable[Sink | str] | None) -> None:
        self.asked = named(sinks)
        self.fanout, self._open = Fanout([]), False

    def open(self, header: Header, folder: Path, step: int, home: Path | None) -> None:
        """Begins the trace in `folder` at a step; or goes on with that in `home`, the folder of the run resumed.

        Raises:
            ValueError: the folder cannot be written.
        """
        path = trace_path(folder)
        if home is None and step > 0 and path.exists():  # of another reference: not to be mixed with ours
            path.replace(replaced_trace_path(folder, step))
        earlier = None if home is None else trace_path(home)
        trace = JsonLinesSink(path, resume_at=step or None, earlier=earlier)
        report = PageSink(report_path(folder))  # before the trackers: one of them sends it on
        more: list[Any] = [TerminalSink(path) if s == "terminal" else s for s in self.asked]
        self.fanout, self._open = Fanout([trace, report, *more]), True
        self.fanout.follow(trace.earlier, report.path)
        self.tell(header)

    def tell(self, record: Record) -> None:
        """Writes to every sink. A sink that throws is dropped, and the others are told so."""
        self.fanout.write(record)
        step = 0 if isinstance(record, Header) else record.step
        while self.fanout.dropped:
            self.fanout.write(_failure(step, self.fanout.dropped.pop(0), "sink_failed"))

    def failed(self, step: int, message: str, rule: str = "probe_failed") -> None:
        """Records that something of ours went wrong. Never a reason to stop."""
        self.tell(_failure(step, message, rule))

    def complete(self) -> None:
        """The last step was probed; the trackers' runs are still open."""
        self.fanout.complete()

    def close(self) -> None:
        if self._open:
            self._open = False
            self.fanout.close()


def named(sinks: Iterable[Sink | str] | None) -> list[Any]:
    """The sinks asked for; the terminal's is made later, when the trace has a path. Raises as `Recorder` does."""
    if sinks is None:
        return [*(tracker() for name, tracker in TRACKERS.items() if installed(name)), "terminal"]
    names = (*TRACKERS, "terminal")
    unknown = [s for s in sinks if isinstance(s, str) and s not in names]
    if unknown:
        known = ", ".join(f'"{name}"' for name in names)
        raise ValueError(f"sinks must be Sink objects or names among {known}, got {unknown[0]!r}")
    return [TRACKERS[s]() if isinstance(s, str) and s in TRACKERS else s for s in sinks]


def _failure(step: int, message: str, rule: str) -> Alert:
    return Alert(
        step=step,
        rule=rule,
        level="warn",
        layers=[],
        value=math.nan,
        threshold=math.nan,
        message=message,
        action="training goes on; report it if it stays",
    )
