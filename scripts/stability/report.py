"""From traces and truths to tables: `python scripts/stability/report.py --tier small|real`.

Replays the drift rules over every trace that is there, fits the baselines' thresholds on the fitting half to the rules'
own false-alarm rate there, and reports the testing half alone. Writes `results/<tier>.json`, `.md` and `.svg`.

Words used: a run is *harmed* if `harm.harm_step` names a step. *Caught*: an alarm at or before that step. *False*: an
alarm in a healthy arm's run that is not harmed. Runs of destabilized arms that were not harmed count neither way, and
are told apart; a healthy arm's run that was harmed counts as harmed. Recall: caught of the harmed; precision: caught
of all runs with an alarm among harmed and healthy ones. Lead: harm step minus the step of the first alarm, over the
harmed runs that had an alarm at all (negative: after harm). AUROC: of the greatest score of a run up to its harm
step, harmed against healthy. Shares have Wilson's intervals, AUROC and median lead bootstrap ones over runs, all of
95 %.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from arms import TIERS
from baselines import BASELINES, alarm, rlwatch_alarms, rlwatch_there, threshold_at
from draw import drawn
from intervals import Interval, auroc, bootstrap, median, wilson
from runs import Run, load

from spinal_callback.alerts import detector as drift
from spinal_callback.alerts.rules import RULES
from spinal_callback.records import LEVELS, Alert
from spinal_callback.traces import Trace

RESULTS = Path(__file__).parent / "results"
OVERALL = "all rules"


def judged_runs(tier: str) -> list[Run]:
    """Every run of the tier that is there, judged by the drift rules."""
    return [judged(run) for run in load(tier)]


# --- what the rules say


def judged(run: Run) -> Run:
    """With the verdicts of the drift rules."""
    until = run.trace if run.harm is None else _until(run.trace, run.harm)
    scores = drift.peaks(until)
    return replace(
        run,
        alarms=run.alarms | first_alarms(drift.replay(run.trace)),
        scores=run.scores | scores | {OVERALL: max(scores.values())},
    )


def first_alarms(alerts: Sequence[Alert]) -> dict[str, dict[str, int]]:
    """rule -> level -> first step, and the same of all rules together. An error is a warning too."""
    found: dict[str, dict[str, int]] = {}
    for alert in alerts:
        for rule in (alert.rule, OVERALL):
            for level in LEVELS[: LEVELS.index(alert.level) + 1]:
                of = found.setdefault(rule, {})
                of[level] = min(of.get(level, alert.step), alert.step)
    return found


def thinned(trace: Trace, every: int) -> Trace:
    """As if it had been probed every `every` steps, and at the end."""
    last = trace.readings[-1].step
    return replace(trace, readings=[r for r in trace.readings if r.step % every == 0 or r.step == last])


def _until(trace: Trace, step: int) -> Trace:
    return replace(trace, readings=[r for r in trace.readings if r.step <= step])


# --- what baselines say, at the rules' own false-alarm rate


def with_baselines(runs: list[Run], level: str = "warn") -> tuple[list[Run], dict[str, float]]:
    """The runs with the baselines' verdicts too, and the thresholds fitted on the fitting half.

    The false-alarm rate they are fitted to is that of the drift rules at `level` on the healthy runs of that half.
    """
    quiet = [run for run in runs if run.job.half == "fit" and run.group == "healthy"]
    rate = sum(level in run.alarms.get(OVERALL, {}) for run in quiet) / max(len(quiet), 1)
    limits, found = {}, list(runs)
    for name, score in BASELINES.items():
        limits[name] = threshold_at([max(score(run.log, run.job.arm.beta)) for run in quiet], rate)
        found = [_with_baseline(run, name, limits[name], level) for run in found]
    if rlwatch_there():
        for name, short in (("rlwatch", False), ("rlwatch, short windows", True)):
            found = [_with_rlwatch(run, name, short) for run in found]
    return found, limits


def _with_baseline(run: Run, name: str, limit: float, level: str) -> Run:
    scores = BASELINES[name](run.log, run.job.arm.beta)
    step = alarm(run.log, scores, limit)
    steps = [int(s or 0) for s in run.log["step"]]
    until = [x for s, x in zip(steps, scores, strict=True) if run.harm is None or s <= run.harm]
    said = {} if step is None else {level: step}
    return replace(run, alarms=run.alarms | {name: said}, scores=run.scores | {name: max(until)})


def _with_rlwatch(run: Run, name: str, short: bool) -> Run:
    found = rlwatch_alarms(run.log, run.job.arm.beta, short)
    said = {"warn": min(found.values())} if found else {}
    if "critical" in found:
        said["error"] = found["critical"]
    return replace(run, alarms=run.alarms | {name: said})


# --- the numbers


def counted(runs: Sequence[Run], rule: str, level: str) -> dict[str, Any]:
    """What can be counted of one rule at one level, over the runs given."""
    at = {id(run): run.alarms.get(rule, {}).get(level) for run in runs}
    harmed = [run for run in runs if run.group == "harmed"]
    healthy = [run for run in runs if run.group == "healthy"]
    unharmed = [run for run in runs if run.group == "unharmed"]
    caught = [run for run in harmed if (step := at[id(run)]) is not None and step <= (run.harm or 0)]
    leads = [(run.harm or 0) - step for run in harmed if (step := at[id(run)]) is not None]
    return {
        "harmed": len(harmed),
        "caught": len(caught),
        "late": len(leads) - len(caught),
        "healthy": len(healthy),
        "false": sum(at[id(run)] is not None for run in healthy),
        "unharmed": len(unharmed),
        "unharmed_alarms": sum(at[id(run)] is not None for run in unharmed),
        "leads": sorted(leads),
    }


def row(runs: Sequence[Run], rule: str, level: str) -> dict[str, Any]:
    """Every number of one rule at one level, over the runs given."""
    found = counted(runs, rule, level)
    harmed, healthy = ([run for run in runs if run.group == group] for group in ("harmed", "healthy"))
    return found | {
        "false_per_10": wilson(found["false"], found["healthy"], 10),
        "recall": wilson(found["caught"], found["harmed"]),
        "precision": wilson(found["caught"], found["false"] + len(found["leads"])),
        "lead": bootstrap([found["leads"]], median),
        "auroc": _auroc(harmed, healthy, rule),
    }


def _auroc(harmed: Sequence[Run], healthy: Sequence[Run], rule: str) -> Interval | None:
    if not all(rule in run.scores for run in (*harmed, *healthy)):
        return None
    return bootstrap([[run.scores[rule] for run in group] for group in (harmed, healthy)], auroc)


def changed(runs: Sequence[Run], every: int, level: str) -> dict[str, Any]:
    """How many verdicts (alarm or none; caught or not) differ when the same traces are probed less often."""
    verdict, caught, shifts = [], [], []
    for run in runs:
        now = run.alarms.get(OVERALL, {}).get(level)
        then = first_alarms(drift.replay(thinned(run.trace, every))).get(OVERALL, {}).get(level)
        if (now is None) != (then is None):
            verdict.append(run.job.name)
        if run.harm is not None and (now is not None and now <= run.harm) != (then is not None and then <= run.harm):
            caught.append(run.job.name)
        if now is not None and then is not None:
            shifts.append(then - now)
    later = median(shifts) if shifts else math.nan
    return {"runs": len(runs), "verdict": verdict, "caught": caught, "median_delay": later}


def report(tier: str, runs: list[Run]) -> dict[str, Any]:
    """Every table, as data."""
    runs, limits = with_baselines(runs)
    test = [run for run in runs if run.job.half == "test"]
    rules = [OVERALL, *RULES]
    others = [name for name in (*limits, "rlwatch", "rlwatch, short windows") if any(name in r.alarms for r in runs)]
    return {
        "tier": tier,
        "counts": {half: _counts([r for r in runs if r.job.half == half]) for half in ("fit", "test")},
        "rules": {level: {rule: row(test, rule, level) for rule in rules} for level in LEVELS},
        "baselines": {name: row(test, name, "warn") | {"threshold": limits.get(name)} for name in others},
        "thinned": {every: {level: changed(test, every, level) for level in LEVELS} for every in (10, 20)},
        "kinds": {kind: row([r for r in test if r.job.arm.kind == kind], OVERALL, "warn") for kind in _kinds(test)},
        "missed": [_missed(r) for r in test if r.group == "harmed" and not _caught(r)],
        "false": [f"{r.job.name}: {r.alarms[OVERALL]}" for r in test if r.group == "healthy" and OVERALL in r.alarms],
    }


def _counts(runs: Sequence[Run]) -> dict[str, int]:
    groups = [run.group for run in runs]
    return {name: groups.count(name) for name in ("healthy", "harmed", "unharmed")} | {
        "healthy arms harmed": sum(run.group == "harmed" and run.job.arm.healthy for run in runs)
    }


def _kinds(runs: Sequence[Run]) -> list[str]:
    return sorted({run.job.arm.kind for run in runs if run.group == "harmed"})


def _caught(run: Run) -> bool:
    step = run.alarms.get(OVERALL, {}).get("warn")
    return step is not None and run.harm is not None and step <= run.harm


def _missed(run: Run) -> str:
    return f"{run.job.name}: harm at {run.harm}, first warning at {run.alarms.get(OVERALL, {}).get('warn', 'none')}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tier", choices=tuple(TIERS), required=True)
    args = parser.parse_args()
    runs = judged_runs(args.tier)
    if not runs:
        raise SystemExit(f"no runs of tier {args.tier}: python scripts/stability/suite.py --tier {args.tier}")
    if not rlwatch_there():
        print("rlwatch is not installed and is left out: pip install rlwatch==0.5.1")
    made = report(args.tier, runs)
    words, figure = drawn(made)
    RESULTS.mkdir(exist_ok=True)
    plain = json.dumps(finite(made), indent=1) + "\n"
    for ending, text in (("json", plain), ("md", words), ("svg", figure)):
        (RESULTS / f"{args.tier}.{ending}").write_text(text, encoding="utf-8")
    print(words)


def finite(value: Any) -> Any:
    """Rounded, and null for what is not finite: JSON has no words for it."""
    if isinstance(value, dict):
        return {str(k): finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [finite(v) for v in value]
    if isinstance(value, float):
        return round(value, 4) if math.isfinite(value) else None
    return value


if __name__ == "__main__":
    main()
