"""Do false alarms grow with length: `python scripts/stability/extended.py --tier small-long`.

Each healthy run of the suite is extended with its own drift and noise to 500, 2,000 and 10,000 steps, at K times its
total learning rate, and probed every 25 steps, with the probes that a first reading over a limit asks for. The policy's
way is the run's own, gone along as the sum of a linearly decaying learning rate does; where K is more than 1 it goes on
beyond the run's end at the mean pace of the run's second half. The noise is what the run's readings lie off the line
between their neighbours. The table has how many of the extended runs get a warning, and how many a stop.
"""

from __future__ import annotations

import argparse
import math
import random
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

import torch
from arms import TIERS
from runs import load

from spinal_callback.alerts.detector import CONFIRM_AFTER, Detector
from spinal_callback.probe.measures import localization
from spinal_callback.records import Alert, Reading
from spinal_callback.traces import Trace

LENGTHS, TIMES, EVERY = (500, 2000, 10_000), (1, 2, 4), 25
KEPT = ("step", "prompts", "interval", "peak_bytes", "seconds", "overhead", "nonfinite", "trainer")  # as they are


def mixed(weights: Sequence[float], values: Sequence[Any]) -> Any:
    """A weighted sum of numbers, or of lists or dictionaries of numbers, place by place."""
    first = values[0]
    if isinstance(first, Mapping):
        return {key: mixed(weights, [value[key] for value in values]) for key in first}
    if isinstance(first, list):
        return [mixed(weights, part) for part in zip(*values, strict=True)]
    return sum(w * v for w, v in zip(weights, values, strict=True))


def blend(weights: Sequence[float], readings: Sequence[Reading], step: int) -> Reading:
    """The weighted sum of some readings; its displacement is a distance between 0 and pi."""
    names = [field.name for field in fields(Reading) if field.name not in KEPT]
    values = {name: mixed(weights, [getattr(reading, name) for reading in readings]) for name in names}
    values["displacement"] = min(max(values["displacement"], 0.0), math.pi)
    values["accuracy"] = min(max(values["accuracy"], 0.0), 1.0)
    return replace(readings[0], step=step, interval=EVERY, trainer={}, nonfinite=0, **values)


def progress(share: float) -> float:
    """Sum of a linearly decaying learning rate up to a share of the run, as a share of the whole sum."""
    return 1 - (1 - share) ** 2


class Extended:
    """A healthy run that goes on: the reading at any step of it."""

    def __init__(self, trace: Trace, steps: int, times: float, seed: int) -> None:
        self._known, self._window = trace.readings, trace.header.window
        self._steps, self._times, self._seed = steps, times, seed
        last = trace.readings[-1].step
        self._way = [progress(reading.step / last) for reading in trace.readings]

    def at(self, step: int) -> Reading:
        gone = self._times * progress(step / self._steps)
        draw = random.Random(f"{self._seed} {step}")
        middle = draw.randrange(1, len(self._known) - 1)
        noise = [(-0.5, self._known[middle - 1]), (1.0, self._known[middle]), (-0.5, self._known[middle + 1])]
        parts = [*self._on_the_way(gone), *(noise if step else [])]  # at step 0 every change is 0
        reading = blend([weight for weight, _ in parts], [reading for _, reading in parts], step)
        return replace(reading, localization=self._localization(reading))

    def _localization(self, reading: Reading) -> float:
        """A share of changes is no sum: it follows from the layers' own changes."""
        alpha, transport = (
            torch.tensor(getattr(reading, name)) - torch.tensor(getattr(self._known[0], name))
            for name in ("alpha", "transport")
        )
        return localization(alpha, transport, self._window)

    def _on_the_way(self, gone: float) -> list[tuple[float, Reading]]:
        """The run's readings and their weights: between two of them, or beyond its end."""
        if gone >= 1:
            half, beyond = self._index(0.5), gone - 1
            slope = beyond / (1 - self._way[half])
            return [(1 + slope, self._known[-1]), (-slope, self._known[half])]
        after = max(self._index(gone), 1)
        low, high = self._way[after - 1], self._way[after]
        share = (gone - low) / (high - low)
        return [(1 - share, self._known[after - 1]), (share, self._known[after])]

    def _index(self, gone: float) -> int:
        return min(bisect_left(self._way, gone), len(self._way) - 1)


def alerts(window: tuple[int, int], steps: int, at: Callable[[int], Reading]) -> list[Alert]:
    """What the rules raise over a run of which there is a reading for any step."""
    detector, found, step = Detector(window), list[Alert](), 0
    while step <= steps:
        found += detector.update(at(step))
        usual = EVERY - step % EVERY
        step += min(usual, CONFIRM_AFTER) if detector.unconfirmed else usual
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tier", choices=tuple(TIERS), required=True)
    parser.add_argument("--half", choices=("fit", "test"), default="test")
    args = parser.parse_args()
    healthy = [run for run in load(args.tier) if run.group == "healthy" and run.job.half == args.half]
    print(f"{len(healthy)} healthy runs of the {args.half} half of {args.tier}: warned, stopped")
    print("| steps | " + " | ".join(f"{times} times the learning" for times in TIMES) + " |")
    print("|---" * (len(TIMES) + 1) + "|")
    for steps in LENGTHS:
        cells = []
        for times in TIMES:
            found = [
                alerts(run.trace.header.window, steps, Extended(run.trace, steps, times, seed).at)
                for seed, run in enumerate(healthy)
            ]
            stopped = sum(any(alert.level == "error" for alert in one) for one in found)
            cells.append(f"{sum(map(bool, found))}, {stopped}")
        print(f"| {steps} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
