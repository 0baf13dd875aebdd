"""When has a measure been over its limit for long enough: `python scripts/stability/sequential.py --tier small`.

Ways of turning the rules' measures into alarms (two readings in a row, with and without an exception for one at twice
the limit, which is what the rules do; any reading; CUSUM with several patiences, in training steps; an EWMA that
remembers 10 steps), on the *fitting* half of the runs, the only one that choices may be made on. Each gets the smallest
common factor on all warn limits at which at most one in ten healthy runs of that half alarms; then the table says how
many of the harmed runs it catches strictly before harm, how early, and how many verdicts (caught or not) change when
the same traces are read at every second or fourth probe.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import pairwise

from arms import TIERS
from intervals import median
from report import judged_runs, thinned
from runs import Run

from spinal_callback.alerts.detector import AT_ONCE, Detector
from spinal_callback.traces import Trace

TAU = 10.0  # training steps that an EWMA remembers
CAP = 2.0  # times its limit that a measure counts at most in a sum: one wild reading is not many
FACTORS = [0.5 * 1.05**i for i in range(40)]
Course = Sequence[tuple[int, float]]  # step, and a rule's measure as a multiple of its limit


def twice(course: Course, once_at: float = math.inf) -> Iterator[int]:
    """Two readings in a row over the limit, or one over `once_at` times the limit."""
    for (_, first), (step, second) in pairwise(course):
        if min(first, second) > 1 or second >= once_at:
            yield step


def once(course: Course) -> Iterator[int]:
    """Any reading over the limit."""
    return (step for step, ratio in course if ratio > 1)


def cusum(course: Course, patience: float) -> Iterator[int]:
    """A sum over training steps of the excess over the limit, the measure a straight line between two readings."""
    total, before, last = 0.0, 0, 0.0
    for step, ratio in course:
        low, high, steps = min(last, CAP), min(ratio, CAP), step - before
        for i in range(1, steps + 1):
            total = min(max(total + (low + (high - low) * i / steps - 1) / patience, 0.0), 1.0)
        before, last = step, ratio
        if total >= 1 - 1e-9:
            yield step


def ewma(course: Course) -> Iterator[int]:
    """An exponentially weighted mean over training steps."""
    mean, before = 0.0, 0
    for step, ratio in course:
        kept = math.exp(-(step - before) / TAU)
        mean, before = kept * mean + (1 - kept) * min(ratio, CAP), step
        if mean >= 1:
            yield step


TESTS: dict[str, Callable[[Course], Iterator[int]]] = {
    "the rules'": partial(twice, once_at=AT_ONCE),
    "twice": twice,
    "once": once,
    **{f"CUSUM {patience}": partial(cusum, patience=patience) for patience in (0.5, 1, 2, 5)},
    "EWMA": ewma,
}


def courses(trace: Trace) -> list[Course]:
    """Each rule's measure over a trace, in multiples of its warn limit."""
    detector, found = Detector(trace.header.window), []
    for reading in trace.readings:
        detector.update(reading)
        found.append((reading.step, detector.measures()))
    return [[(step, measures[rule]) for step, measures in found] for rule in found[0][1]]


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
    caught = {e: [s is not None and s < h for s, h in zip(steps[e], harm, strict=True)] for e in steps}
    leads = [h - s for s, h in zip(steps[5], harm, strict=True) if s is not None]
    changed = [sum(a != b for a, b in zip(caught[5], caught[every], strict=True)) for every in (10, 20)]
    share = f"{sum(caught[5])}/{len(harmed)}"
    return f"{test:10}{factor:>8.2f}{share:>10}{median(leads):>8.0f}{changed[0]:>8}{changed[1]:>8}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tier", choices=tuple(TIERS), required=True)
    runs = [run for run in judged_runs(parser.parse_args().tier) if run.job.half == "fit"]
    print(f"{'test':10}{'factor':>8}{'before':>10}{'lead':>8}{'at 10':>8}{'at 20':>8}   fitting half, {len(runs)} runs")
    for test in TESTS:
        print(row(runs, test))


if __name__ == "__main__":
    main()
