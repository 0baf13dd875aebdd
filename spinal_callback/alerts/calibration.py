"""Limits of the alert rules fitted to a user's own healthy runs, and the file that keeps them."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..schema import FITS, load_json, written
from ..traces import Trace
from .detector import peaks
from .rules import RULES, Limit

MARGIN = 1.25  # a fitted limit lies this far above the greatest value that a healthy run reached
LEAST = 0.25  # of a default limit: a few calm runs must not make a hair trigger
LOOSE = 1.5  # times a default limit; scripts/stability/loosened.py: from there on harmed runs get their warnings late
FEWEST_RUNS, FEWEST_READINGS = 5, 5  # chosen by scripts/stability/calibrated.py: what fewer give warns in healthy runs


def check_enough(healthy: Mapping[str, Trace], alerts_were_false: bool = False) -> None:
    """Checks that limits fitted to these traces, by name, can be trusted.

    Args:
        alerts_were_false: traces may have alerts.

    Raises:
        ValueError: too few traces or readings, the same run twice, or one with alerts; says how many would do.
    """
    seen: dict[str, str] = {}
    for name, trace in healthy.items():
        if (other := seen.setdefault(repr(trace.readings), name)) != name:
            raise ValueError(f"{name} and {other} are the same run: give traces of different runs")
        if trace.alerts and not alerts_were_false:
            first = trace.alerts[0]
            raise ValueError(
                f"{name} has {len(trace.alerts)} alerts, the first {first.rule} at step {first.step}: leave it out, or"
                " give --alerts-were-false if the run was healthy all the same"
            )
        if len(trace.readings) < FEWEST_READINGS:
            raise ValueError(f"{name} has {len(trace.readings)} readings: at least {FEWEST_READINGS} are needed")
    if len(healthy) < FEWEST_RUNS:
        raise ValueError(
            f"limits fitted to {len(healthy)} of your runs would warn in many other healthy ones: give at least"
            f" {FEWEST_RUNS} traces"
        )


def calibrate(healthy: Mapping[str, Trace]) -> dict[str, Limit]:
    """Limits that no measure of these healthy runs comes near: rule -> limits, in each rule's units.

    A rule's warn limit is `MARGIN` times the greatest value that its measure took in any of the runs, and at least
    `LEAST` times the default; error keeps its default proportion to warn. `nonfinite` needs no limits.

    Args:
        healthy: traces by name (their paths), all of one model.

    Raises:
        ValueError: no traces, traces of different models, one without the reading of step 0 or with NaN or Inf; the
            message names the trace.
    """
    if not healthy:
        raise ValueError("no traces to calibrate with: give at least one healthy run's trace.jsonl")
    models = {trace.header.model: name for name, trace in healthy.items()}
    if len(models) > 1:
        told = ", ".join(f"{name} of {model}" for model, name in sorted(models.items()))
        raise ValueError(f"traces of different models: calibrate for one at a time, got {told}")
    reached = dict.fromkeys(RULES, 0.0)
    for name, trace in healthy.items():
        try:
            run = peaks(trace)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
        if run["nonfinite"] > 0:
            raise ValueError(f"{name} has NaN or Inf in its readings: that run was not healthy")
        reached = {rule: max(reached[rule], run[rule]) for rule in RULES}
    factors = {rule: max(MARGIN * value, LEAST) for rule, value in reached.items() if not RULES[rule].at_once}
    return {rule: Limit(RULES[rule].limit.warn * f, RULES[rule].limit.error * f) for rule, f in factors.items()}


def loosened(limits: Mapping[str, Limit]) -> dict[str, float]:
    """The rules whose limits are so far above the defaults that breaking runs may pass: rule -> times the default."""
    factors = {rule: limit.warn / RULES[rule].limit.warn for rule, limit in limits.items()}
    return {rule: factor for rule, factor in factors.items() if factor > LOOSE}


def dump_rules(limits: dict[str, Limit]) -> str:
    """Limits as the text of a rules file, JSON: `{"rules": {"late_speed": {"warn": 0.08, "error": 0.16}, ...}}`.

    A rule that only warns has no `error`.
    """
    rows = {
        name: {level: float(f"{x:.4g}") for level, x in dataclasses.asdict(limit).items() if math.isfinite(x)}
        for name, limit in limits.items()
    }
    return json.dumps({"rules": rows}, indent=2) + "\n"


def load_rules(path: str | Path) -> dict[str, Limit]:
    """Reads what `dump_rules` gave, or what a person did: a rule that is left out keeps its default limits.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not such a file, an unknown rule, or a limit that cannot be; the message names the rule and field.
    """
    try:
        rules = load_json(Path(path).read_text(encoding="utf-8"))["rules"]
        rows = list(rules.items())
    except (ValueError, KeyError, TypeError, AttributeError):  # ValueError: not text, not JSON
        raise ValueError(
            f'{path}: not a rules file: it must hold {{"rules": {{rule: {{"warn": x, "error": y}}}}}}'
        ) from None
    return {name: _limit(path, name, row) for name, row in rows}


def _limit(path: str | Path, name: str, row: Any) -> Limit:
    known = [rule for rule in RULES if not RULES[rule].at_once]
    if name not in known:
        raise ValueError(f"{path}: unknown rule {name[:40]!r}: the rules with limits are {', '.join(known)}")
    only_warns = math.isinf(RULES[name].limit.error)  # unless the file gives it a limit for errors
    if not isinstance(row, dict) or set(row) not in ({"warn", "error"}, *([{"warn"}] if only_warns else [])):
        form = '{"warn": x} or {"warn": x, "error": y}' if only_warns else '{"warn": x, "error": y}'
        raise ValueError(f"{path}: {name} must be {form}, got {written(row)}")
    for level, value in row.items():
        if not FITS[float](value) or value <= 0:
            raise ValueError(f"{path}: {name}.{level} must be a number > 0, got {written(value)}")
    if "error" in row and row["error"] < row["warn"]:
        raise ValueError(f"{path}: {name}.error must be at least {name}.warn = {row['warn']!r}, got {row['error']!r}")
    return Limit(**{level: float(value) for level, value in row.items()})
