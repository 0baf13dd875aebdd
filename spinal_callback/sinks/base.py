"""`Sink`, the base class of whatever receives records, and `MemorySink`, which keeps them. Only rank zero has sinks."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path

from ..records import Alert, Notice, Reading, Record


class Sink:
    """Receives the records of a run. Every hook does nothing here: override `write`, and others where needed.

    The hooks are called in this order: `begin`, `resume` if the run is resumed, `write` for each record (the header
    first), `complete`, `close`. One object may see several runs, one after another. A sink that raises is dropped with
    a warning; training continues. An object that is not a `Sink` but has `write` may be used as one: hooks that it
    lacks are skipped.
    """

    def begin(self, trace: Path, report: Path) -> None:
        """A run begins. `trace` is its trace file; `report` is the page that will be written when the run ends."""

    def resume(self, earlier: Sequence[Record]) -> None:
        """The run is resumed: its trace already has these records, the header first."""

    def write(self, record: Record) -> None:
        """One more record: a `Header`, `Reading`, `Alert` or `Notice`. `record.step` counts optimizer steps."""

    def complete(self) -> None:
        """The last step's records are written. The trackers' own runs are still open; at `close` they may not be."""

    def close(self) -> None:
        """The run has ended, and the report is written."""


class MemorySink(Sink):
    """Keeps every record in `records`; for tests and notebooks."""

    def __init__(self) -> None:
        self.records: list[Record] = []

    def write(self, record: Record) -> None:
        self.records.append(record)

    @property
    def readings(self) -> list[Reading]:
        return [r for r in self.records if isinstance(r, Reading)]

    @property
    def alerts(self) -> list[Alert]:
        return [r for r in self.records if isinstance(r, Alert)]

    @property
    def notices(self) -> list[Notice]:
        return [r for r in self.records if isinstance(r, Notice)]


def installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


def require(tracker: str) -> None:
    """Raises ImportError with the command that installs the tracker, if it is not installed."""
    if not installed(tracker):
        raise ImportError(f'sinks asks for "{tracker}", which is not installed: pip install {tracker}')
