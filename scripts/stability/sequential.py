"""When has a measure been over its limit for long enough: `python scripts/stability/sequential.py --tier small`.

Ways of turning the rules' measures into alarms (CUSUM with several patiences, in training steps, an EWMA that remembers
10 steps, two readings in a row, any reading), on the *fitting* half of the runs, the only one that choices may be
made on. Each gets the smallest common factor on all warn limits at which at most one in ten healthy runs of that half
alarms; then the table says how many of the harmed runs it catches before harm, how early, and how many verdicts (caught
or not) change when the same traces are read at every second or fourth probe.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import pairwise

from arms import TIERS
from intervals import median
from report import Run, load, thinned

from spinal_callback.alerts.detector import CAP, FULL, PATIENCE, Detector, accumulated
from spinal_callback.traces import Trace

TAU = 10.0  # training steps that an EWMA remembers
FACTORS = [0.5 * 1.05**i for i in range(40)]
Course = Sequence[tuple[int, float]]  # step, and a rule's measure as a multiple of its limit


def cusum(course: Course, patience: float = PATIENCE) -> Iterator[int]:
    """What `drift.Alarm` does."""
    total, before, last = 0.0, 0, 0.0
    for step, ratio in course:
        total, before, last = accumulated(total, last, ratio, step - before, patience), step, ratio
        if total >= FULL:
            yield step


def ewma(course: Course) -> Iterator[int]:
    """An exponentially weighted mean over training steps."""
    mean, before = 0.0, 0
    for step, ratio in course:
        kept = math.exp(-(step - before) / TAU)
        mean, before = kept * mean + (1 - kept) * min(ratio, CAP), step
        if mean >= 1:
            yield step


def twice(course: Course) -> Iterator[int]:
    """Two readings in a row."""
    for (_, first), (step, second) in pairwise(course):
        if min(first, second) >= 1:
            yield step


def once(course: Course) -> Iterator[int]:
    """Any reading."""
    return (step for step, ratio in course if ratio >= 1)


TESTS: dict[str, Callable[[Course], Iterator[int]]] = {
    **{f"CUSUM {patience}": partial(cusum, patience=patience) for patience in (0.5, 1, 2, 3, 5)},
    "EWMA": ewma,
    "twice": twice,
    "once": once,
}


def courses(trace: Trace) -> list[Course]:
    """Each rule's measure over a trace, in multiples of its warn limit."""
    detector, told = Detector(trace.header.window), []
    for reading in trace.readings:
        detector.update(reading)
        told.append((reading.step, detector.measures()))
    return [[(step, measures[rule]) for step, measures in told] for rule in told[0][1]]


def alarm(found: Sequence[Course], test: str, factor: float) -> int | None:
    """Step of the first alarm of any rule."""
    steps = [next(TESTS[test]([(step, ratio / factor) for step, ratio in course]), None) for course in found]
    return min((step for step in steps if step is not None), default=None)


def row(runs: list[Run], test: str) -> str:
    kept = {every: [courses(thinned(run.trace, every)) for run in runs] for every in (5, 10, 20)}
    quiet = [kept[5][i] for i, run in enumerate(runs) if run.group == "healthy"]
    most = len(quiet) // 10
    false = {f: sum(alarm(found, test, f) is not None for found in quiet) for f in (*FACTORS, math.inf)}
    factor = next(f for f, count in false.items() if count <= most)
    harmed = [i for i, run in enumerate(runs) if run.group == "harmed"]
    steps = {every: [alarm(kept[every][i], test, factor) for i in harmed] for every in kept}
    harm = [runs[i].harm or 0 for i in harmed]
    caught = {e: [s is not None and s <= h for s, h in zip(steps[e], harm, strict=True)] for e in steps}
    leads = [h - s for s, h in zip(steps[5], harm, strict=True) if s is not None]
    changed = [sum(a != b for a, b in zip(caught[5], caught[every], strict=True)) for every in (10, 20)]
    share = f"{sum(caught[5])}/{len(harmed)}"
    return f"{test:10}{factor:>8.2f}{share:>10}{median(leads):>8.0f}{changed[0]:>8}{changed[1]:>8}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tier", choices=tuple(TIERS), required=True)
    runs = [run for run in load(parser.parse_args().tier) if run.job.half == "fit"]
    print(f"{'test':10}{'factor':>8}{'caught':>10}{'lead':>8}{'at 10':>8}{'at 20':>8}   fitting half, {len(runs)} runs")
    for test in TESTS:
        print(row(runs, test))


if __name__ == "__main__":
    main()
