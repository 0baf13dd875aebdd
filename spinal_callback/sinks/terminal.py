"""The terminal: a line per record, and at the end a table and a plot of the depth trace."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from tqdm.auto import tqdm

from ..records import Alert, Header, Reading, Record
from ..report.text import alert_line, for_encoding, heading, line, notice_line, summary
from .base import Sink
from .history import History

HEADING_AGAIN = 20  # lines of readings after which their heading is printed again


class TerminalSink(Sink):
    """Prints each record as it comes, above the progress bar, and a summary at the end."""

    def __init__(self) -> None:
        self._trace: Path | None = None
        self._report: Path | None = None
        self._history, self._under_heading = History(), 0

    def begin(self, trace: Path, report: Path) -> None:
        self._history, self._trace, self._report = History(), trace, report

    def resume(self, earlier: Sequence[Record]) -> None:
        self._history = History(earlier)

    def write(self, record: Record) -> None:
        self._history.add(record)
        if isinstance(record, Header):
            self._under_heading = 0
        elif isinstance(record, Reading) and self._history.trace is not None:
            if self._under_heading % HEADING_AGAIN == 0:
                say(heading(self._history.trace.header))
            self._under_heading += 1
        say(_line(record))

    def close(self) -> None:
        trace = self._history.trace
        if trace is None or not trace.readings:
            return
        say("\n" + summary(trace))
        if self._trace is not None:
            say(f"\ntrace    {_from_here(self._trace)}")
            if self._report is not None and self._report.is_file():
                say(f"report   {_from_here(self._report)}")
            say(f"next     {_command()} show {_from_here(self._trace)}")


def _line(record: Record) -> str:
    if isinstance(record, Header):
        first, last = record.window
        return f"spinal  {record.model}: {record.layers} layers, late window {first}-{last}, {record.prompts} prompts"
    if isinstance(record, Reading):
        return line(record)
    return alert_line(record) if isinstance(record, Alert) else notice_line(record)


def say(text: str) -> None:
    """Prints a line without breaking a progress bar, in ASCII where the terminal's encoding has nothing better."""
    tqdm.write(for_encoding(text, sys.stdout.encoding))


def _from_here(path: Path) -> Path:
    """Relative to the current folder, if it lies below it."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


def _command() -> str:
    """How to call `spinal` from here. If its environment is not activated, it is beside the Python that runs."""
    return "spinal" if shutil.which("spinal") else os.path.relpath(Path(sys.executable).parent / "spinal")
