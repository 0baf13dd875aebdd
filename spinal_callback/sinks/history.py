"""A run so far, thinned: few enough readings that an image, a table and the report are drawn quickly."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from ..records import Alert, Header, Notice, Reading, Record
from ..traces import Trace

CELLS = 80_000  # most layers times readings that are kept: 1,000 readings of 80 layers
FEWEST = 200  # of a very deep model at least so many readings may be kept

T = TypeVar("T")


class History:
    """The records of a run, as a `Trace`: all readings of a short one, evenly spaced ones of a long one.

    When there are too many readings, every second one is dropped, and from then on only every second new one is kept.
    The first and the latest are always kept, and so are all alerts and notices.

    Args:
        earlier: the records of a resumed run's first part.

    Attributes:
        trace: what is kept; None before the header.
        seen: number of readings so far, kept or not.
    """

    def __init__(self, earlier: Sequence[Record] = ()) -> None:
        self.trace: Trace | None = None
        self.seen, self._stride = 0, 1
        for record in earlier:
            self.add(record)

    def add(self, record: Record) -> None:
        if isinstance(record, Header):
            self.trace = self.trace or Trace(record)  # a resumed run keeps the header of its first part
        elif self.trace is None:
            return
        elif isinstance(record, Alert):
            self.trace.alerts.append(record)
        elif isinstance(record, Notice):
            self.trace.notices.append(record)
        else:
            self._keep(record, self.trace.readings, max(FEWEST, CELLS // self.trace.header.layers))

    def _keep(self, reading: Reading, readings: list[Reading], most: int) -> None:
        if (self.seen - 1) % self._stride:  # the latest so far was kept only because it was the latest
            readings.pop()
        readings.append(reading)
        self.seen += 1
        if len(readings) > most and (self.seen - 1) % (2 * self._stride) == 0:
            del readings[1::2]
            self._stride *= 2


def evenly(items: Sequence[T], count: int) -> list[T]:
    """At most `count` (two or more) of the items, evenly spaced, the first and the last among them."""
    if len(items) <= count:
        return list(items)
    return [items[round(i * (len(items) - 1) / (count - 1))] for i in range(count)]
