"""Where records go: the trace file, its page, memory, several at once (trackers: trackers.py). For rank zero only."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

from ..files import save
from ..records import Alert, Header, Reading, Record, dump_record, parse_record
from ..report.page import page
from ..run_folder import run_of
from .history import History

REQUIRED = ("write", "close")  # of a sink; `follow` and `complete` it may have


class Sink(Protocol):
    """Takes the header first, then readings and alerts as they come. `step` is the Trainer's global step.

    Two methods more are called where a sink has them: `follow(earlier, report)` before the header, with the records
    that a resumed run's trace has and the path that the report will have; `complete()` after the last step's reading,
    while the trackers' runs are still open.
    """

    def write(self, record: Record) -> None: ...

    def close(self) -> None: ...


class MemorySink:
    """Keeps every record in `records`; for tests and notebooks."""

    def __init__(self) -> None:
        self.records: list[Record] = []

    def write(self, record: Record) -> None:
        self.records.append(record)

    def close(self) -> None:
        pass

    @property
    def readings(self) -> list[Reading]:
        return [r for r in self.records if isinstance(r, Reading)]

    @property
    def alerts(self) -> list[Alert]:
        return [r for r in self.records if isinstance(r, Alert)]


class JsonLinesSink:
    """The trace: one JSON object a line, each flushed whole.

    Args:
        path: the file; its folder is made.
        resume_at: the step that a run resumes at: the trace that is there is kept up to it and goes on from there. What
            lies behind it will be run again, a line torn by a kill among it. None: a new trace.
        earlier: the trace to go on from, where it is another: a run resumed with another output folder.

    Attributes:
        earlier: what the trace had when it was opened.

    Raises:
        ValueError: the file cannot be written; names the folder.
    """

    def __init__(self, path: Path, resume_at: int | None = None, earlier: Path | None = None) -> None:
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            kept = [] if resume_at is None else _until(earlier or path, resume_at)
            self.earlier = [parse_record(line) for line in kept]
            whole = path.with_suffix(".part")  # a kill between the two lines loses nothing
            whole.write_text("".join(line + "\n" for line in kept), encoding="utf-8")
            whole.replace(path)
            self._file = path.open("a", encoding="utf-8")
        except OSError as error:
            raise ValueError(
                f"output_dir: cannot write {path} ({error.strerror}); give a folder you may write"
            ) from error

    def write(self, record: Record) -> None:
        if isinstance(record, Header) and self.earlier:
            return
        self._file.write(dump_record(record) + "\n")
        self._file.flush()

    def close(self) -> None:
        self._file.close()


class PageSink:
    """The report, written at the end beside the trace; of a long run it shows evenly spaced readings.

    Args:
        path: the page. One that is there is removed: it would not belong to the trace that is written now.
    """

    def __init__(self, path: Path) -> None:
        self.path, self._history = path, History()
        with contextlib.suppress(OSError):
            path.unlink()

    def follow(self, earlier: Sequence[Record], report: Path) -> None:
        self._history = History(earlier)

    def write(self, record: Record) -> None:
        self._history.add(record)

    def close(self) -> None:
        trace = self._history.trace
        if trace is not None and trace.readings:
            name = run_of(self.path.absolute()).name
            save(self.path, page({name: {**trace.to_json(), "seen": self._history.seen}}))


def _until(path: Path, step: int) -> list[str]:
    """The lines of the trace at `path` up to and including `step`; none if there is no trace to go on with."""
    kept: list[str] = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []:
        try:
            record = parse_record(line)
        except ValueError:
            continue
        if isinstance(record, Header) != (not kept):
            continue
        if isinstance(record, Header) or record.step <= step:
            kept.append(line)
    return kept


class Fanout:
    """Several sinks as one. A sink that throws is dropped with one warning; the others go on."""

    def __init__(self, sinks: Iterable[Sink]) -> None:
        self.sinks = list(sinks)
        self.dropped: list[str] = []  # what was said of each sink that threw

    def write(self, record: Record) -> None:
        self._each("write", record)

    def follow(self, earlier: Sequence[Record], report: Path) -> None:
        self._each("follow", earlier, report)

    def complete(self) -> None:
        self._each("complete")

    def close(self) -> None:
        self._each("close")

    def _each(self, method: str, *args: Any) -> None:
        for sink in list(self.sinks):
            try:
                if method in REQUIRED or hasattr(sink, method):
                    getattr(sink, method)(*args)
            except Exception as error:  # a full disk or a tracker that is down must not end the run
                self.sinks.remove(sink)
                name = getattr(sink, "name", type(sink).__name__)
                self.dropped.append(f"{name} failed and is dropped: {error!r}")
                warnings.warn(f"spinal: {self.dropped[-1]}", stacklevel=3)
