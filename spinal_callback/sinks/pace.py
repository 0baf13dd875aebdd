"""How often a slow sink gets a reading: training waits while it logs."""

from __future__ import annotations

import time
from collections.abc import Callable

from ..records import Reading

SLOW = 3.0  # seconds for one reading from which on a sink is slow
SHARE = 0.05  # of the wall time that a slow sink may take


class Pace:
    """Decides for one sink which readings it gets now. A slow one gets its next once `SHARE` allows it.

    Attributes:
        held: the latest reading that it did not get.
        seconds: what the last reading took it.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now, self._ended = now, 0.0
        self.held: Reading | None = None
        self.seconds = 0.0

    @property
    def slow(self) -> bool:
        return self.seconds > SLOW

    def allows(self, reading: Reading) -> bool:
        """Whether the sink gets this reading now; if not, it is held."""
        waits = self.slow and self._now() - self._ended < self.seconds * (1 - SHARE) / SHARE
        self.held = reading if waits else None
        return not waits

    def took(self, seconds: float) -> None:
        """What a reading took the sink."""
        self.seconds, self._ended = seconds, self._now()
