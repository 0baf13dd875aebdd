"""The numbers that the page's script draws: runs as columns, embedded in the page as JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from ..traces import SCALARS, Run
from . import labels

DIGITS = 5  # significant ones that the page keeps: finer than any standard error seen, and half the size of all of them
DIGITS_OF_ERRORS = 2


def embedded(runs: Mapping[str, Run]) -> str:
    """The labels and the runs as JSON that is safe inside a script element."""
    data = {
        "labels": {
            "curves": {key: curve._asdict() for key, curve in labels.CURVES.items()},
            "score": labels.SCORE,
            "answers": labels.ANSWERS,
            "more": labels.POLICY | labels.COST,
        },
        "runs": [_run(name, run) for name, run in runs.items()],
    }
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    # No string of a run can end the element: a `<` is written as its number.
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _run(name: str, run: Run) -> dict[str, Any]:
    """One run, column by column: short enough to be embedded (80 layers x 1,000 readings: below 4 MB)."""
    header, readings = run["header"], run["readings"]
    about = {key: header[key] for key in ("model", "layers", "window", "probe", "checkpoints")}
    return {
        "name": name,
        **about,
        "steps": [reading["step"] for reading in readings],
        **{key: _rows(readings, key) for key in labels.CURVES},
        "layer_entropy": _rows(readings, "layer_entropy"),
        **{f"{key}_se": _rows(readings, f"{key}_se", DIGITS_OF_ERRORS) for key in labels.CURVES},
        **{f"{key}_change_se": _rows(readings, f"{key}_change_se", DIGITS_OF_ERRORS) for key in labels.CURVES},
        "series": _series(header["window"], readings),
        "trainer": _trainer(readings),
        "alerts": [{key: alert[key] for key in ("step", "rule", "level")} for alert in run["alerts"]],
        "missing": labels.why_missing(header),
    }


def _rows(readings: Sequence[Mapping[str, Any]], key: str, digits: int = DIGITS) -> list[list[Any]]:
    return [[_round(value, digits) for value in reading[key]] for reading in readings]


def _series(window: Sequence[int], readings: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """What has one value per reading."""
    columns = {key: [reading[key] for reading in readings] for key in SCALARS}
    for key in labels.CURVES:
        columns[f"late_{key}"] = [reading["late"].get(key) for reading in readings]
        columns[f"delta_{key}"] = [reading["delta"].get(key) for reading in readings]
        columns[f"delta_{key}_se"] = [reading["delta"].get(f"{key}_se") for reading in readings]
    for column in labels.of_part("path"):
        field, key = column.split("_")
        columns[column] = [reading[field].get(key) for reading in readings]
    columns["late_rank"] = [_mean(reading["effective_rank"][window[0] - 1 : window[1]]) for reading in readings]
    return {key: [_round(value) for value in column] for key, column in columns.items()}


def _trainer(readings: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, list[Any]]]:
    """The Trainer's numbers, each at the step at which it was logged: several readings may carry one log."""
    logs = {reading["trainer"].get("step") or reading["step"]: reading["trainer"] for reading in readings}
    keys = sorted({key for log in logs.values() for key in log} - {"step"})
    logged = {key: [(step, log[key]) for step, log in sorted(logs.items()) if key in log] for key in keys}
    return {
        key: {"x": [step for step, _ in points], "y": [_round(value) for _, value in points]}
        for key, points in logged.items()
    }


def _round(value: Any, digits: int = DIGITS) -> Any:
    return float(f"{value:.{digits}g}") if isinstance(value, float) and math.isfinite(value) else value


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
