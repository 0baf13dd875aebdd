"""Judged by transfer: `python scripts/stability/transfer.py`. Limits fitted on one model, judged on the others.

A user's first run has limits and a model that nobody fitted them to. So there are two sources of limits. The package's
defaults are judged on every tier's testing half, beside baselines that are fitted on the fitting halves of all tiers.
Those that `spinal calibrate`'s own rule (1.25 times the greatest value of the healthy runs) gives on one tier's fitting
half are judged on all runs of the other tiers, which it has not seen; a baseline's limit is fitted the same way on the
same runs. A baseline's stop is twice its warning, as most rules' are. Tables: `results/transfer.json` and `.md`.

Words used: *before*: the first alarm came strictly before the first evaluation that shows harm; *at*: at that step;
*late*: after it. *False*: a healthy arm's run that is not harmed and has an alarm; *per 1,000 steps* counts all alarms
of such runs. *Lead*: harm step minus alarm step, the median over runs that had an alarm. Intervals of 95 % are of a
bootstrap over arms, since runs of one arm differ by their seed alone.

`--half fit` judges fitting halves alone, prints, and writes nothing: for choices, which the testing halves must not be
seen for.
"""

from __future__ import annotations

import argparse
import json
import math
import random
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from arms import TIERS
from baselines import BASELINES
from cadence import AS_RECORDED, USUAL, Cadence, alerts, logged
from intervals import median
from report import RESULTS, finite
from runs import Run, load

from spinal_callback.alerts.calibration import MARGIN, calibrate
from spinal_callback.records import LEVELS

DEFAULT, RULES, DRAWS = "default limits", "rules", 200
CADENCES = {"every 5 steps, each step logged": AS_RECORDED, "every 25 steps, each 10th logged": USUAL}
Alarms = Mapping[str, Sequence[int]]  # level -> steps at which there is an alarm of that level or a higher one
Method = Callable[[Run, Cadence], Alarms]


# --- methods: the rules and the baselines, with limits from one source


def rules(limits: Any, run: Run, cadence: Cadence) -> Alarms:
    found = alerts(run.trace, run.log, run.job.arm.beta, cadence, limits)
    return {lv: sorted({a.step for a in found if LEVELS.index(a.level) >= i}) for i, lv in enumerate(LEVELS)}


def baseline(name: str, limit: float, run: Run, cadence: Cadence) -> Alarms:
    """An alarm is a row over the limit after one that is not."""
    log = logged(run.log, cadence.logging_steps)
    scores = BASELINES[name](log, run.job.arm.beta)
    rows = list(zip(log["step"], [-math.inf, *scores], scores, strict=False))
    return {lv: [int(s or 0) for s, a, b in rows if a <= (i + 1) * limit < b] for i, lv in enumerate(LEVELS)}


def fitted(quiet: Sequence[Run], cadence: Cadence) -> dict[str, Method]:
    """Name -> method, all with limits `MARGIN` times what these healthy runs reach."""
    limits = calibrate({run.job.name: run.trace for run in quiet})
    return {RULES: partial(rules, limits), **fitted_baselines(quiet, cadence)}


def fitted_baselines(quiet: Sequence[Run], cadence: Cadence) -> dict[str, Method]:
    methods: dict[str, Method] = {}
    for name, score in BASELINES.items():
        peaks = [max(score(logged(r.log, cadence.logging_steps), r.job.arm.beta)) for r in quiet]
        methods[name] = partial(baseline, name, MARGIN * max(peaks))
    return methods


def sources(tiers: Mapping[str, Sequence[Run]], cadence: Cadence) -> dict[str, dict[str, Method]]:
    """Where limits come from -> methods with them."""
    calm = {
        tier: [run for run in runs if run.job.half == "fit" and run.group == "healthy"] for tier, runs in tiers.items()
    }
    found = {tier: fitted(quiet, cadence) for tier, quiet in calm.items() if quiet}
    pooled = [run for quiet in calm.values() for run in quiet]
    return {DEFAULT: {RULES: partial(rules, None), **fitted_baselines(pooled, cadence)}, **found}


# --- the numbers


def counts(runs: Sequence[Run], alarms: Mapping[str, Alarms], level: str) -> dict[str, Any]:
    """What can be counted of one method at one level over runs; `alarms` by the run's name."""
    first = {run.job.name: min(alarms[run.job.name][level], default=None) for run in runs}
    harmed = [(run.harm, first[run.job.name]) for run in runs if run.harm is not None]
    healthy = [run for run in runs if run.group == "healthy"]
    leads = sorted(harm - step for harm, step in harmed if step is not None)
    return {
        "harmed": len(harmed),
        "before": sum(lead > 0 for lead in leads),
        "at": leads.count(0),
        "late": sum(lead < 0 for lead in leads),
        "healthy": len(healthy),
        "false": sum(first[run.job.name] is not None for run in healthy),
        "alarm_steps": sum(len(alarms[run.job.name][level]) for run in healthy),
        "steps": sum(run.steps for run in healthy),
        "leads": leads,
    }


def row(runs: Sequence[Run], alarms: Mapping[str, Alarms], level: str) -> dict[str, Any]:
    """`counts`, with the shares and their intervals."""
    found = counts(runs, alarms, level)
    by_arm: dict[str, list[Run]] = {}
    for run in runs:
        by_arm.setdefault(run.job.arm.name, []).append(run)
    draw, arms = random.Random(0), list(by_arm.values())
    again = [
        counts([run for arm in draw.choices(arms, k=len(arms)) for run in arm], alarms, level) for _ in range(DRAWS)
    ]
    shares = {name: (_share(found, *of), *_ends([_share(x, *of) for x in again])) for name, of in SHARES.items()}
    return found | shares | {"lead": median(found["leads"])}


SHARES = {  # name -> numerator, denominator, times
    "before_share": ("before", "harmed", 1),
    "false_per_10": ("false", "healthy", 10),
    "false_per_1000_steps": ("alarm_steps", "steps", 1000),
}


def _share(found: Mapping[str, Any], hits: str, of: str, times: float) -> float:
    return times * found[hits] / found[of] if found[of] else math.nan


def _ends(values: Sequence[float]) -> tuple[float, float]:
    known = sorted(x for x in values if math.isfinite(x))
    return (known[int(0.025 * len(known))], known[int(0.975 * len(known)) - 1]) if known else (math.nan, math.nan)


def tables(tiers: Mapping[str, Sequence[Run]], cadence: Cadence, half: str = "test") -> list[dict[str, Any]]:
    """A row for each source of limits, method, judged tier and level. No source is judged on its own tier."""
    made = []
    for source, methods in sources(tiers, cadence).items():
        for tier, runs in tiers.items():
            whole = source != DEFAULT and half == "test"
            judged = [run for run in runs if whole or run.job.half == half]
            if source == tier or not judged:
                continue
            for name, method in methods.items():
                alarms = {run.job.name: method(run, cadence) for run in judged}
                for level in LEVELS:
                    about = {"limits": source, "method": name, "judged": tier, "level": level}
                    made.append(about | row(judged, alarms, level))
    return made


# --- words


ABOUT = "Default limits are judged on testing halves, limits fitted on one tier on all runs of the others."
HEAD = ("limits from", "method", "judged on", "false per 10", "per 1,000 steps", "before", "at", "late", "lead, steps")


def words(made: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    lines = ["# Limits fitted on one model, judged on the others", "", ABOUT]
    for cadence, rows in made.items():
        for level in LEVELS:
            lines += ["", f"## {'Warnings' if level == 'warn' else 'Stops'}, probed {cadence}", ""]
            lines += [f"| {' | '.join(HEAD)} |", "|" + "---|" * len(HEAD)]
            lines += [f"| {' | '.join(_cells(row))} |" for row in rows if row["level"] == level]
    return "\n".join(lines) + "\n"


def _cells(row: Mapping[str, Any]) -> list[str]:
    false, per_step, before = (
        _interval(row[name]) for name in ("false_per_10", "false_per_1000_steps", "before_share")
    )
    return [
        row["limits"],
        row["method"],
        row["judged"],
        f"{row['false']}/{row['healthy']}: {false}",
        per_step,
        f"{row['before']}/{row['harmed']}: {before}",
        str(row["at"]),
        str(row["late"]),
        "-" if math.isnan(row["lead"]) else f"{row['lead']:.0f}",
    ]


def _interval(ends: Sequence[float]) -> str:
    value, low, high = ends
    return "-" if math.isnan(value) else f"{value:.2f} ({low:.2f} to {high:.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--half", choices=("test", "fit"), default="test")
    half = parser.parse_args().half
    tiers = {tier: runs for tier in TIERS if (runs := load(tier))}
    made = {name: tables(tiers, cadence, half) for name, cadence in CADENCES.items()}
    text = words(made)
    if half == "fit":
        print(text.replace(ABOUT, "Fitting halves alone."))
        return
    (RESULTS / "transfer.md").write_text(text, encoding="utf-8")
    (RESULTS / "transfer.json").write_text(json.dumps(finite(made), indent=1) + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
