"""The two files that every run writes: the trace, one JSON object per line, and at the end the report."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from weakref import WeakValueDictionary, finalize

from ..failures import warn
from ..files import is_locked, lock, save
from ..records import SCHEMA, Header, Record, dump_record, other_measure
from ..report.page import page
from ..run_folder import replaced_trace_path, run_of
from ..traces import checked_lines
from .base import Sink
from .history import History


class TraceFile(Sink):
    """The trace: one JSON object per line. Each line is flushed whole, so that a killed run leaves a readable file.

    Args:
        path: the file; its folder is made. What is there and no file is moved away, with a warning.
        resume_at: the step that the run resumes at. The trace that is there is kept up to this step and continued;
            later records are dropped, because those steps will run again. Lines that are damaged, and all of a trace
            whose readings cannot be compared with this run's, are left out with a warning, and the old file is kept.
            None: a new trace.
        earlier: the trace to continue if it is another file: a run resumed with another output folder.
        header: of the run.

    Attributes:
        earlier: the records that the trace had when it was opened.

    Raises:
        ValueError: the file cannot be written; names the file.
    """

    def __init__(
        self, path: Path, resume_at: int | None = None, earlier: Path | None = None, header: Header | None = None
    ) -> None:
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if os.path.lexists(path) and not path.is_file():
                aside = replaced_trace_path(path, resume_at or 0)
                path.rename(aside)
                warn(f"{path} was no file; it is now {aside.name}")
            self.earlier: list[Record] = []
            if resume_at is not None:
                self.earlier = _continued(earlier or path, resume_at, header, kept=earlier not in (None, path))
            # whole or not at all: a kill in between loses nothing
            save(path, "".join(dump_record(record) + "\n" for record in self.earlier))
            self._file = path.open("a", encoding="utf-8")
            finalize(self, self._file.close)  # of a run that is interrupted
            lock(self._file)
        except OSError as error:
            raise ValueError(
                f"output_dir: cannot write {path} ({error.strerror}); give a folder you may write"
            ) from error
        _OPEN[os.path.realpath(path)] = self

    def write(self, record: Record) -> None:
        if isinstance(record, Header) and self.earlier:
            return
        self._file.write(dump_record(record) + "\n")
        self._file.flush()

    def close(self) -> None:
        self._file.close()


_OPEN: WeakValueDictionary[str, TraceFile] = WeakValueDictionary()  # of this process, by their paths


def is_written(path: Path) -> bool:
    """Whether another process is writing the trace.

    One of this process is closed: its run was interrupted, as in a notebook, and another begins.
    """
    if (own := _OPEN.pop(os.path.realpath(path), None)) is not None:
        own.close()
    return is_locked(path)


class PageSink(Sink):
    """The report, written at the end beside the trace. For a long run it shows evenly spaced readings.

    Args:
        path: the page. An existing one is removed: it does not belong to the trace that is written now.
    """

    def __init__(self, path: Path) -> None:
        self.path, self._history = path, History()
        with contextlib.suppress(OSError):
            path.unlink()

    def resume(self, earlier: Sequence[Record]) -> None:
        self._history = History(earlier)

    def write(self, record: Record) -> None:
        self._history.add(record)

    def close(self) -> None:
        trace = self._history.trace
        if trace is not None and trace.readings:
            name = run_of(self.path.absolute()).name
            save(self.path, page({name: {**trace.to_json(), "seen": self._history.seen}}))


def _continued(path: Path, step: int, header: Header | None, kept: bool) -> list[Record]:
    """The records of the trace at `path` that a run resumed at `step` continues; none if there is no trace.

    The header takes the current schema, because records of that schema will follow. What is left out is warned of, and
    the file is copied beside itself unless it is `kept` where it is.
    """
    if not path.is_file():
        return []
    good, bad = _records_until(path, step)
    found = good[0] if good else None
    if header is not None and isinstance(found, Header) and (why := other_measure(found.measure, header.measure)):
        good, bad = [], [f"line 1: {why}"]
    if bad:
        place = path if kept else replaced_trace_path(path, step)
        if not kept:
            shutil.copyfile(path, place)
        more = f", and {len(bad) - 1} more," if len(bad) > 1 else ""
        what = "it is left out" if good else "the trace begins anew"
        warn(f"{path}, {bad[0]}{more}: {what}; the old file is kept as {place}")
    return good


def _records_until(path: Path, step: int) -> tuple[list[Record], list[str]]:
    """The records up to and including `step`, and what is wrong with each damaged line but a torn last one."""
    good: list[Record] = []
    bad: list[str] = []
    for number, record in checked_lines(path):
        if isinstance(record, ValueError):
            bad.append(f"line {number}: {record}")
        elif isinstance(record, Header):
            good.append(dataclasses.replace(record, schema=SCHEMA))
        elif record is not None and record.step <= step:
            good.append(record)
    return good, bad
