"""What the rules raise over a run of the suite, probed as its user would have: as often, and with the extra probes.

A suite run has a reading every `arms.EVERY` steps and every row of the Trainer's log, so it can be watched again at any
coarser cadence: the readings that the callback would have taken are kept, with those that a first reading over a limit
asks for (`Detector.unconfirmed`) or a log that moves fast (`LogWatch`), at the next step that has a reading.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from spinal_callback.alerts.detector import CONFIRM_AFTER, Detector
from spinal_callback.alerts.log_watch import LogWatch
from spinal_callback.alerts.rules import Limit
from spinal_callback.records import Alert
from spinal_callback.traces import Trace

Log = Mapping[str, Sequence[float | None]]  # columns of the Trainer's log, `step` among them
MEANS = ("rewards/chosen", "rewards/rejected", "rewards/margins", "logps/chosen", "loss", "grad_norm")


@dataclass(frozen=True)
class Cadence:
    """Steps between two probes, and between two rows of the Trainer's log."""

    every: int
    logging_steps: int


AS_RECORDED = Cadence(5, 1)
USUAL = Cadence(25, 10)  # a usual interval of the probe, and the Trainer's default for DPO


def logged(log: Log, steps: int) -> dict[str, list[float | None]]:
    """The log as it is with `logging_steps=steps`: every row is the mean of so many."""
    if steps == 1:
        return {name: list(values) for name, values in log.items()}
    ends = range(steps, len(log["step"]) + 1, steps)
    rows = {name: [_mean(log[name][end - steps : end]) for end in ends] for name in MEANS if name in log}
    return {"step": [log["step"][end - 1] for end in ends], **rows}


def _mean(values: Sequence[float | None]) -> float | None:
    known = [math.nan if value is None else value for value in values]
    mean = sum(known) / len(known)
    return mean if math.isfinite(mean) else None


def alerts(
    trace: Trace, log: Log, beta: float, cadence: Cadence, limits: Mapping[str, Limit] | None = None
) -> list[Alert]:
    """The alerts of a run that is probed and logged at this cadence."""
    detector, watch, found = Detector(trace.header.window, limits), LogWatch(), list[Alert]()
    rows, due, last = deque(_rows(log, beta, cadence.logging_steps)), math.inf, trace.readings[-1].step
    for reading in trace.readings:
        while rows and rows[0][0] < reading.step:  # the Trainer logs a step after the probe of that step
            due = 0 if watch.update(*rows.popleft()) else due
        if reading.step % cadence.every == 0 or reading.step == last or reading.step >= due:
            found += detector.update(reading)
            due = reading.step + CONFIRM_AFTER if detector.unconfirmed else math.inf
    return found


def _rows(log: Log, beta: float, steps: int) -> list[tuple[int, dict[str, float | None]]]:
    """(step, what the callback sees of the row) of every row."""
    kept = logged(log, steps)
    names = [name for name in MEANS if name in kept]
    columns = zip(kept["step"], *(kept[name] for name in names), strict=True)
    return [(int(step or 0), {"beta": beta, **dict(zip(names, row, strict=True))}) for step, *row in columns]
