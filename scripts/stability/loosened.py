"""What looser limits cost: `python scripts/stability/loosened.py`. Fitting halves, all limits times a common factor.

The table has, for each tier and factor, how many harmed runs get a warning strictly before harm, and how many by the
step of harm. `spinal calibrate` says so where it makes a limit looser than `calibration.LOOSE` times the default.
"""

from __future__ import annotations

from collections.abc import Sequence

from arms import TIERS
from runs import Run, load

from spinal_callback.alerts.detector import replay
from spinal_callback.alerts.rules import RULES, Limit

FACTORS = (1.0, 1.5, 2.0, 3.0, 4.0)


def warned(runs: Sequence[Run], factor: float) -> tuple[int, int]:
    """How many of these harmed runs are warned of before harm, and by the step of harm."""
    limits = {name: Limit(rule.limit.warn * factor, rule.limit.error * factor) for name, rule in RULES.items()}
    first = [(min((alert.step for alert in replay(run.trace, limits)), default=None), run.harm or 0) for run in runs]
    known = [(step, harm) for step, harm in first if step is not None]
    return sum(step < harm for step, harm in known), sum(step <= harm for step, harm in known)


def main() -> None:
    print("| tier | harmed | " + " | ".join(f"{factor:g} times" for factor in FACTORS) + " |")
    print("|---" * (len(FACTORS) + 2) + "|")
    for tier in TIERS:
        runs = [run for run in load(tier) if run.job.half == "fit" and run.group == "harmed"]
        cells = ["{}, {}".format(*warned(runs, factor)) for factor in FACTORS] if runs else []
        if cells:
            print(f"| {tier} | {len(runs)} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
