"""A run so far, for whoever draws it: few enough readings that a picture, a table and a page stay quick."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from ..records import Alert, Header, Reading, Record
from ..traces import Trace

CELLS = 80_000  # layers times readings that are kept: 1,000 readings of 80 layers
FEWEST = 200  # readings that are kept of however deep a model

T = TypeVar("T")


class History:
    """The records of a run, as a `Trace`: all readings of a short one, evenly spaced ones of a long one.

    When there are too many, every second one is let go, and of the later ones every second is kept; the first and the
    latest are always there. Alerts are all kept.

    Attributes:
        trace: what is kept. Not to be had before a header came.
        seen: how many readings came.
    """

    def __init__(self, earlier: Sequence[Record] = ()) -> None:
        self.trace: Trace | None = None
        self.seen, self._stride = 0, 1
        for record in earlier:
            self.add(record)

    def add(self, record: Record) -> None:
        if isinstance(record, Header):
            self.trace = self.trace or Trace(record)  # a resumed run has that of its first part
        elif self.trace is None:
            return
        elif isinstance(record, Alert):
            self.trace.alerts.append(record)
        else:
            self._keep(record, self.trace.readings, max(FEWEST, CELLS // self.trace.header.layers))

    def _keep(self, reading: Reading, readings: list[Reading], most: int) -> None:
        if (self.seen - 1) % self._stride:  # the latest so far was there only for being the latest
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
