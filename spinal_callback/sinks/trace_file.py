"""The two files that every run writes: the trace, one JSON object per line, and at the end the report."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Sequence
from pathlib import Path

from ..files import save
from ..records import SCHEMA, Header, Record, dump_record, parse_record
from ..report.page import page
from ..run_folder import run_of
from .base import Sink
from .history import History


class TraceFile(Sink):
    """The trace: one JSON object per line. Each line is flushed whole, so that a killed run leaves a readable file.

    Args:
        path: the file; its folder is made.
        resume_at: the step that the run resumes at. The trace that is there is kept up to this step and continued;
            later records are dropped, because those steps will run again. None: a new trace.
        earlier: the trace to continue if it is another file: a run resumed with another output folder.

    Attributes:
        earlier: the records that the trace had when it was opened.

    Raises:
        ValueError: the file cannot be written; names the file.
    """

    def __init__(self, path: Path, resume_at: int | None = None, earlier: Path | None = None) -> None:
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self.earlier = [] if resume_at is None else _records_until(earlier or path, resume_at)
            whole = path.with_suffix(".part")  # replaces the trace in one step: a kill in between loses nothing
            whole.write_text("".join(dump_record(record) + "\n" for record in self.earlier), encoding="utf-8")
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


def _records_until(path: Path, step: int) -> list[Record]:
    """The records of the trace at `path` up to and including `step`; none if there is no trace to continue.

    Lines that are not records, such as one torn by a kill, are skipped. The header takes the current schema, because
    records of that schema will follow.
    """
    kept: list[Record] = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []:
        try:
            record = parse_record(line)
        except ValueError:
            continue
        if isinstance(record, Header) != (not kept):
            continue
        if isinstance(record, Header):
            kept.append(dataclasses.replace(record, schema=SCHEMA))
        elif record.step <= step:
            kept.append(record)
    return kept
