"""What a run's alerts amount to, in words. Plain JSON values in (`Trace.to_json`), text out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..traces import Run
from . import labels

HEALTHY, EARLY, WARN, ERROR = "healthy", "early", "warn", "error"


def verdict(run: Run) -> tuple[str, str, str]:
    """Level (healthy, early, warn, error), one or two words, one sentence. Notices do not count.

    Args:
        run: `Trace.to_json()`; `seen`, if it is there, says how many readings the run has had when these are only some.
    """
    readings, alerts = run["readings"], run["alerts"]
    seen = run.get("seen", len(readings))
    drawn = f" ({len(readings)} of them drawn)" if seen > len(readings) else ""
    span = f"{seen} readings{drawn}, steps {readings[0]['step']} to {readings[-1]['step']}"
    if not alerts:
        if run["header"].get("checkpoints"):
            return EARLY, "Audit", f"What was read, in order: {', '.join(run['header']['checkpoints'])}."
        if len(readings) == 1:
            return EARLY, "Too early", f"One reading, at step {readings[0]['step']}: no change to judge yet."
        return HEALTHY, "Healthy", f"No alert in {span}."
    warnings, errors = (_of_level(alerts, is_error) for is_error in (False, True))
    counts = [_count(found, word) for found, word in ((warnings, "warning"), (errors, "error")) if found]
    says, level = f"{'; '.join(counts)}. {span}.", ERROR if errors else WARN
    stop_on = run["header"]["config"].get("stop_on")
    stopped = next((alert["step"] for alert in alerts if stop_on in (WARN, alert["level"])), None)
    if stopped is not None:
        return level, "Stopped", f"{says} The callback stopped training at step {stopped} (stop_on={stop_on})."
    return level, "Unstable: stop" if errors else "Warned: look", says


def first_alert(run: Run) -> Mapping[str, Any]:
    """The earliest alert of any level: what came before it is good for certain."""
    return min(run["alerts"], key=_when)


def first_sign(run: Run) -> list[tuple[str, str]]:
    """Names and values: where and since when the first alert was seen, the last good checkpoint; empty without one."""
    if not run["alerts"]:
        return []
    first = first_alert(run)
    layers = f"layer{'s' * (len(first['layers']) > 1)} {', '.join(map(str, first['layers']))}"
    return [
        ("Where", f"{layers} moved first" if first["layers"] else "no single layer stands out"),
        ("Since", f"step {first['since'] if first['since'] >= 0 else first['step']}"),
        ("Last good checkpoint", first["last_good"] or "none was saved before the first sign"),
    ]


def movement(run: Run) -> str:
    """What had moved by the first alert, and that speed counts in either direction; empty without an alert."""
    if not run["alerts"]:
        return ""
    first = first_alert(run)
    reading = [r for r in run["readings"] if r["step"] <= first["step"]][-1:] or run["readings"][:1]
    delta = reading[0]["delta"]
    moved = [
        f"late {curve.name} by {labels.change(delta.get(key), delta.get(f'{key}_se'))} {curve.unit}".rstrip()
        for key, curve in labels.CURVES.items()
        if delta.get(key) is not None
    ]
    seen = f"{' and '.join(moved)} since the start" if moved else "no change that could be measured"
    return (
        f"What had moved at the first alert ({first['rule']}, step {first['step']}): {seen}."
        " Moving too fast counts in either direction, also where contraction rises and transport falls."
    )


def _of_level(alerts: Sequence[Mapping[str, Any]], is_error: bool) -> list[Mapping[str, Any]]:
    return sorted((alert for alert in alerts if (alert["level"] == ERROR) == is_error), key=_when)


def _count(found: Sequence[Mapping[str, Any]], word: str) -> str:
    plural = "s" if len(found) > 1 else ""
    return f"{len(found)} {word}{plural}, first {found[0]['rule']} at step {found[0]['step']}"


def _when(alert: Mapping[str, Any]) -> tuple[int, bool]:
    return alert["step"], alert["level"] != ERROR
