"""A saved trace as one HTML page that needs nothing else: no network, no library, one file to send to a colleague.

Plain JSON values in (`Trace.to_json`), text out. Nothing of ours is imported, so that a `Trace` can show itself in a
notebook with this. What matters most (the verdict, the alerts, the settings) is written here and reads without
JavaScript; the pictures are drawn by the scripts in `page/` from the numbers embedded in the page.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

from ..run_folder import run_of
from ..traces import SCALARS, check

Run = Mapping[
    str, Any
]  # a trace as JSON: header, readings, alerts; and how many readings were `seen`, if not all are in it

DIGITS = 5  # significant ones that the page keeps: finer than any standard error seen, and half the size of all of them
DIGITS_OF_ERRORS = 2
GAP, MINUS = "\u2013", "\u2212"
MARKS = {"healthy": "●", "early": "○", "warn": "▲", "error": "■"}  # shapes: the colour alone must not carry a verdict


def page(runs: Mapping[str, Run]) -> str:
    """The whole page; several runs are laid over one another.

    Args:
        runs: name -> `Trace.to_json()`, at least one, all of one depth.

    Raises:
        ValueError: a run without readings, with lists of the wrong length, or of another depth than the first.
    """
    check(runs)
    models = list(dict.fromkeys(_model(str(run["header"]["model"])) for run in runs.values()))
    parts = {
        "title": f"SPINAL report: {escape(', '.join(models))}",
        "model": escape(", ".join(models)),
        "verdicts": "".join(_verdict(name, run, len(runs) > 1) for name, run in runs.items()),
        "alerts": _alerts(runs) + _notices(runs),
        "settings": _settings(runs),
        "data": _embedded([_data(name, run) for name, run in runs.items()]),
        "css": _asset("page.css"),
        "script": "\n".join(map(_asset, ("draw.js", "charts.js", "page.js"))),
    }
    # One pass: a part may hold what looks like the place of another.
    text = re.sub(r"<!--(\w+)-->", lambda match: parts[match[1]], _asset("page.html"))
    return text.encode("utf-8", "replace").decode()  # half a surrogate pair is JSON, but no text


def notebook(run: Run) -> str:
    """The page of one run in a frame of its own, so that neither its styles nor its script meet the notebook's."""
    frame = 'sandbox="allow-scripts" width="100%" height="720" style="border:0" title="SPINAL report"'
    return f'<iframe {frame} srcdoc="{escape(page({"this run": run}))}"></iframe>'


def names(paths: Sequence[str]) -> dict[str, str]:
    """What a person calls each run -> its path: the output folder or the file's own name; the path where two agree."""
    folders = [run_of(Path(path)).resolve().name for path in paths]
    short = [re.sub(r"(\.trace)?\.jsonl(\.gz)?$", "", folder) for folder in folders]
    named: dict[str, str] = {}
    for name, path in zip(short, paths, strict=True):
        name = name if short.count(name) == 1 else path
        named[f"{name} ({len(named) + 1})" if name in named else name] = path
    return named


# --- the numbers for the pictures ------------------------------------------------------------------------------------


def _data(name: str, run: Run) -> dict[str, Any]:
    """One run, column by column: short enough to be embedded (80 layers x 1,000 readings: below 3 MB)."""
    header, readings = run["header"], run["readings"]
    first, last = header["window"]
    rounded = {key: [_round(reading[key]) for reading in readings] for key in SCALARS}
    for key in ("alpha", "transport"):
        rounded[f"late_{key}"] = [_round(reading["late"].get(key)) for reading in readings]
        rounded[f"delta_{key}"] = [_round(reading["delta"].get(key)) for reading in readings]
        rounded[f"delta_{key}_se"] = [_round(reading["delta"].get(f"{key}_se")) for reading in readings]
    rounded["late_rank"] = [_round(_mean(reading["effective_rank"][first - 1 : last])) for reading in readings]
    logged = sorted({key for reading in readings for key in reading["trainer"]})
    return {
        "name": name,
        "model": header["model"],
        "layers": header["layers"],
        "window": [first, last],
        "probe": header["probe"],
        "steps": [reading["step"] for reading in readings],
        "alpha": [[_round(v) for v in reading["alpha"]] for reading in readings],
        "transport": [[_round(v) for v in reading["transport"]] for reading in readings],
        "alpha_se": [[_round(v, DIGITS_OF_ERRORS) for v in reading["alpha_se"]] for reading in readings],
        "transport_se": [[_round(v, DIGITS_OF_ERRORS) for v in reading["transport_se"]] for reading in readings],
        "series": rounded,
        "trainer": {key: [_round(reading["trainer"].get(key)) for reading in readings] for key in logged},
        "alerts": [{key: alert[key] for key in ("step", "rule", "level")} for alert in run["alerts"]],
    }


def _embedded(data: Any) -> str:
    """JSON that no string in it can end: a `<` inside a script element is written as its number."""
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _round(value: Any, digits: int = DIGITS) -> Any:
    return float(f"{value:.{digits}g}") if isinstance(value, float) and math.isfinite(value) else value


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


# --- what is read first ----------------------------------------------------------------------------------------------


def verdict(run: Run) -> tuple[str, str, str]:
    """Level (healthy, early, warn, error), one word, one sentence: what the run's alerts amount to."""
    readings, alerts = run["readings"], run["alerts"]
    seen = run.get("seen", len(readings))
    drawn = f" ({len(readings)} of them drawn)" if seen > len(readings) else ""
    span = f"{seen} readings{drawn}, steps {readings[0]['step']} to {readings[-1]['step']}"
    if not alerts:
        if run["header"].get("checkpoints"):
            return "early", "Audit", f"What was read, in order: {', '.join(run['header']['checkpoints'])}."
        if len(readings) == 1:
            return "early", "Too early", f"One reading, at step {readings[0]['step']}: no change to judge yet."
        return "healthy", "Healthy", f"No alert in {span}."
    parts = []
    for name, found in (("warning", _of(alerts, "warn")), ("error", _of(alerts, "error"))):
        if found:
            parts.append(
                f"{len(found)} {name}{'s' * (len(found) > 1)}, first {found[0]['rule']} at step {found[0]['step']}"
            )
    says, worst = f"{'; '.join(parts)}. {span}.", "error" if _of(alerts, "error") else "warn"
    wanted = run["header"]["config"].get("stop_on")
    stopped = next((alert["step"] for alert in alerts if wanted in ("warn", alert["level"])), None)
    if stopped is not None:
        return worst, "Stopped", f"{says} Training was told to stop at step {stopped} (stop_on={wanted})."
    return worst, "Unstable: stop" if worst == "error" else "Warned: look", says


def _of(alerts: Sequence[Mapping[str, Any]], level: str) -> list[Mapping[str, Any]]:
    return sorted((alert for alert in alerts if (alert["level"] == "error") == (level == "error")), key=_when)


def _when(alert: Mapping[str, Any]) -> tuple[int, bool]:
    return alert["step"], alert["level"] != "error"


def _verdict(name: str, run: Run, several: bool) -> str:
    level, word, says = verdict(run)
    header, last = run["header"], run["readings"][-1]
    story: list[tuple[str, str]] = []
    if run["alerts"]:
        first = min(run["alerts"], key=_when)  # of any level: what came before the first sign is good for certain
        story = [
            ("Where", _layers(first["layers"]) + " moved first" if first["layers"] else "no single layer stands out"),
            ("Since", f"step {first['since'] if first['since'] >= 0 else first['step']}"),
            ("Last good checkpoint", first["last_good"] or "none was saved before the first sign"),
        ]
    figures = [
        ("Late contraction (healthy: up)", _change(last, "alpha")),
        ("Late transport (healthy: down)", _change(last, "transport") + " rad"),
        ("Displacement", f"{_number(last['displacement'])} rad"),
        ("SPINAL score", _number(last["score"])),
    ]
    about = (
        f"{header['layers']} layers, late window {header['window'][0]} to {header['window'][1]}, "
        f"{header['prompts']} prompts, spinal_callback {header['version']}"
    )
    title = f'<p class="run"><span class="swatch"></span>{escape(name)}</p>' if several else ""
    return (
        f'<article class="verdict {level}">{title}'
        f'<h2><span aria-hidden="true">{MARKS[level]}</span> {escape(word)}</h2><p class="says">{escape(says)}</p>'
        f'{_facts(story)}{_facts(figures)}<p class="about">{escape(about)}</p></article>'
    )


def _facts(facts: Sequence[tuple[str, str]]) -> str:
    rows = "".join(f"<div><dt>{escape(key)}</dt><dd>{escape(value)}</dd></div>" for key, value in facts)
    return f"<dl>{rows}</dl>" if rows else ""


def _alerts(runs: Mapping[str, Run]) -> str:
    """Every alert with its evidence, in the order of the steps."""
    items = []
    for name, run in runs.items():
        for alert in run["alerts"]:
            value, limit = _number(alert["value"]), _number(alert["threshold"])
            facts = [f"value {value}, limit {limit}", _layers(alert["layers"])]
            facts += [f"first sign at step {alert['since']}"] * (alert["since"] >= 0)
            facts += [f"last good checkpoint {alert['last_good']}"] * bool(alert["last_good"])
            head = f"step {alert['step']}: {alert['rule']} ({alert['level']})" + f", {name}" * (len(runs) > 1)
            level = alert["level"] if alert["level"] in MARKS else "warn"
            items.append(
                f'<li class="{level}"><h3><span aria-hidden="true">{MARKS[level]}</span> {escape(head)}</h3>'
                f"<p>{escape(alert['message'])}.</p><p><b>Try:</b> {escape(alert['action'])}.</p>"
                f'<p class="about">{escape("; ".join(filter(None, facts)))}</p></li>'
            )
    return f'<ol class="alerts">{"".join(items)}</ol>' if items else "<p>None of the eight rules raised one.</p>"


def _notices(runs: Mapping[str, Run]) -> str:
    """What happened to the monitor itself: a note below the alerts, which no verdict depends on."""
    items = [
        f"<li>step {notice['step']}{f', {escape(name)}' * (len(runs) > 1)}: {escape(notice['message'])};"
        f" {escape(notice['action'])}.</li>"
        for name, run in runs.items()
        for notice in run.get("notices", ())
    ]
    return f'<h3>Notes on the monitor</h3><ul class="notices">{"".join(items)}</ul>' if items else ""


def _settings(runs: Mapping[str, Run]) -> str:
    """The configurations side by side; a row in which the runs differ is marked."""
    keys = list(dict.fromkeys(key for run in runs.values() for key in run["header"]["config"]))
    table: dict[str, list[Any]] = {
        key: [run["header"].get(key) for run in runs.values()]
        for key in ("model", "checkpoints", "probe", "prompts", "version")
    }
    table |= {f"config: {key}": [run["header"]["config"].get(key) for run in runs.values()] for key in keys}
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in runs)
    rows = []
    for key, values in table.items():
        words = [value if isinstance(value, str) else json.dumps(value) for value in values]
        mark = ' class="differs"' if len(set(words)) > 1 else ""
        cells = "".join(f"<td>{escape(word)}</td>" for word in words)
        rows.append(f'<tr{mark}><th scope="row">{escape(key.removeprefix("config: "))}</th>{cells}</tr>')
    return f'<table><thead><tr><th scope="col">setting</th>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table>'


def _model(name: str) -> str:
    """A hub id as it is; of a folder its last part, since the rest tells more about the machine than the model."""
    return name.rstrip("/").rsplit("/", 1)[-1] if name.startswith(("/", ".")) and name.strip("/.") else name


def _layers(layers: Sequence[int]) -> str:
    return f"layer{'s' * (len(layers) > 1)} {', '.join(map(str, layers))}" if layers else ""


def _change(reading: Mapping[str, Any], key: str) -> str:
    change, error = reading["delta"].get(key), reading["delta"].get(f"{key}_se")
    return f"{_number(change, '+.3f')} ± {_number(error)}"


def _number(value: Any, form: str = ".3f") -> str:
    return GAP if value is None or value != value else format(value, form).replace("-", MINUS)


def _asset(name: str) -> str:
    return (files(__package__) / "assets" / name).read_text(encoding="utf-8")
