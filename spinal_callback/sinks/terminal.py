"""What a person sees in the terminal: a line per probe, and at the end a table and a picture of the depth trace."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from tqdm.auto import tqdm

from ..records import Header, Reading, Record
from ..report.text import alert_line, line, summary
from .history import History


class TerminalSink:
    """Prints above the progress bar as records come, and the summary at the end."""

    def __init__(self, trace: Path | None = None) -> None:
        self._path, self._report = trace, Path()
        self._history = History()

    def follow(self, earlier: Sequence[Record], report: Path) -> None:
        """Told before the header: what a resumed run's trace has, and where the report will be."""
        self._history, self._report = History(earlier), report

    def write(self, record: Record) -> None:
        self._history.add(record)
        if isinstance(record, Header):
            first, last = record.window
            say(f"spinal  {record.model}: {record.layers} layers, late window {first}-{last}, {record.prompts} prompts")
        elif isinstance(record, Reading):
            say(line(record))
        else:
            say(alert_line(record))

    def close(self) -> None:
        trace = self._history.trace
        if trace is None or not trace.readings:
            return
        say("\n" + summary(trace))
        if self._path is not None:
            say(f"\ntrace    {self._path}")
            if self._report.is_file():
                say(f"report   {self._report}")
            say(f"next     {_command()} show {self._path}")


def say(text: str) -> None:
    """Prints without tearing a progress bar."""
    tqdm.write(text)


def _command() -> str:
    """How `spinal` is called from here: an environment that is not activated has it beside its Python."""
    return "spinal" if shutil.which("spinal") else os.path.relpath(Path(sys.executable).parent / "spinal")
