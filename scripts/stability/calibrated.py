"""How many healthy runs `spinal calibrate` needs: `python scripts/stability/calibrated.py --tier small`.

Draws some of the suite's healthy runs, thins each to a number of evenly spaced readings, fits limits to them, and
replays five other healthy runs with these limits. The table has the share of the other runs in which any rule warns; a
row is a number of runs that were fitted to, a column the readings kept of each. 200 draws each, with a fixed seed.
"""

from __future__ import annotations

import argparse
import dataclasses
import random
from pathlib import Path

from spinal_callback.alerts.calibration import calibrate
from spinal_callback.alerts.detector import replay
from spinal_callback.traces import Trace, load_trace

TRACES = Path(__file__).parent / "traces"
RUNS, READINGS = (1, 2, 3, 4, 5, 6, 8), (2, 3, 4, 5, 7, 11)
DRAWS, OTHERS = 200, 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tier", choices=("small", "real"), required=True)
    tier = parser.parse_args().tier
    healthy = [load_trace(path) for path in sorted((TRACES / tier).glob("healthy-*.jsonl.gz"))]
    columns = [n for n in READINGS if n <= max(len(trace.readings) for trace in healthy)]
    print("| runs | " + " | ".join(f"{n} readings" for n in columns) + " |")
    print("|---" * (len(columns) + 1) + "|")
    for runs in RUNS:
        shares = [f"{warned(healthy, runs, readings):.0%}" for readings in columns]
        print(f"| {runs} | {' | '.join(shares)} |", flush=True)


def warned(healthy: list[Trace], runs: int, readings: int) -> float:
    """Share of healthy runs that warn with limits fitted to `runs` others with `readings` readings each."""
    draw, alarms = random.Random(0), 0
    for _ in range(DRAWS):
        drawn = draw.sample(healthy, runs + OTHERS)
        limits = calibrate({str(i): thinned(trace, readings) for i, trace in enumerate(drawn[:runs])})
        alarms += sum(bool(replay(trace, limits)) for trace in drawn[runs:])
    return alarms / (DRAWS * OTHERS)


def thinned(trace: Trace, readings: int) -> Trace:
    last = len(trace.readings) - 1
    kept = sorted({round(i * last / (readings - 1)) for i in range(readings)})
    return dataclasses.replace(trace, readings=[trace.readings[i] for i in kept])


if __name__ == "__main__":
    main()
