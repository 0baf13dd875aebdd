"""A saved trace as one HTML page that needs nothing else: no network, no library, one file to send to a colleague.

Plain JSON values in (`Trace.to_json`), text out. What matters most (the verdict, the alerts, the settings) is written
here and reads without JavaScript; the charts are drawn by the scripts in `assets/` from the numbers of `page_data`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

from ..run_folder import run_of
from ..traces import Run
from . import labels
from .page_data import embedded
from .verdict import EARLY, ERROR, HEALTHY, WARN, first_sign, movement, verdict

DASH, MINUS = "\u2013", "\u2212"
MARKS = {HEALTHY: "●", EARLY: "○", WARN: "▲", ERROR: "■"}  # shapes: the colour alone must not carry a verdict


def page(runs: Mapping[str, Run]) -> str:
    """The whole page; several runs are laid over one another.

    Args:
        runs: name -> `Trace.to_json()`, at least one, all with the same number of layers.

    Raises:
        ValueError: a run without readings, or with another number of layers than the first; the message names the run.
    """
    for name, run in runs.items():
        if not run["readings"]:
            raise ValueError(f"{name} has no readings yet: make the report once the run has probed")
    check_same_depth(runs)
    models = list(dict.fromkeys(labels.model_name(run["header"]["model"]) for run in runs.values()))
    parts = {
        "title": f"SPINAL report: {escape(', '.join(models))}",
        "model": escape(", ".join(models)),
        "verdicts": "".join(_verdict(name, run, len(runs) > 1) for name, run in runs.items()),
        "alerts": _alerts(runs) + _notices(runs),
        "settings": _settings(runs),
        "data": embedded(runs),
        "css": _asset("page.css"),
        "script": "\n".join(map(_asset, ("draw.js", "charts.js", "page.js"))),
    }
    # One pass: a part may hold what looks like the place of another.
    text = re.sub(r"<!--(\w+)-->", lambda match: parts[match[1]], _asset("page.html"))
    return text.encode("utf-8", "replace").decode()  # half a surrogate pair is valid JSON, but not valid text


def notebook(run: Run) -> str:
    """The page of one run in a frame of its own, so that neither its styles nor its script meet the notebook's."""
    frame = 'sandbox="allow-scripts" width="100%" height="720" style="border:0" title="SPINAL report"'
    return f'<iframe {frame} srcdoc="{escape(page({"this run": run}))}"></iframe>'


def names(paths: Sequence[str]) -> dict[str, str]:
    """A short name for each run -> its path: the output folder's or the file's name; the path where two are equal."""
    short = [re.sub(r"(\.trace)?\.jsonl(\.gz)?$", "", run_of(Path(path)).resolve().name) for path in paths]
    named: dict[str, str] = {}
    for name, path in zip(short, paths, strict=True):
        name = name if short.count(name) == 1 else path
        named[f"{name} ({len(named) + 1})" if name in named else name] = path
    return named


def check_same_depth(runs: Mapping[str, Run]) -> None:
    """Raises ValueError, naming two runs, if their models have different numbers of layers."""
    depths = {name: run["header"]["layers"] for name, run in runs.items()}
    first, depth = next(iter(depths.items()))
    for name, layers in depths.items():
        if layers != depth:
            raise ValueError(
                f"{name} has {layers} layers and {first} {depth}: one report can only lay over one another runs with"
                " the same number of layers; make a report of each"
            )


# --- the verdict -----------------------------------------------------------------------------------------------------


def _verdict(name: str, run: Run, several: bool) -> str:
    level, word, says = verdict(run)
    header, last = run["header"], run["readings"][-1]
    figures = [
        (f"Late {curve.name} (healthy: {curve.healthy})", f"{_change(last['delta'], key)} {curve.unit}".rstrip())
        for key, curve in labels.CURVES.items()
    ]
    figures += [
        ("Displacement", f"{_number(last['displacement'])} rad"),
        (labels.SCORE["score"], _number(last["score"])),
    ]
    about = [
        f"{header['layers']} layers, late window {header['window'][0]} to {header['window'][1]}, "
        f"{header['prompts']} prompts, spinal_callback {header['version']}"
    ]
    if why := labels.why_missing(header).get("score"):
        about.insert(0, f"No SPINAL score: {why}.")
    about[:0] = [_sentence_of(words) for words in labels.path(last)]
    title = f'<p class="run"><span class="swatch"></span>{escape(name)}</p>' if several else ""
    return (
        f'<article class="verdict {level}">{title}'
        f'<h2><span aria-hidden="true">{MARKS[level]}</span> {escape(word)}</h2><p class="says">{escape(says)}</p>'
        + (f'<p class="why">{escape(_typeset(movement(run)))}</p>' if run["alerts"] else "")
        + f"{_facts(first_sign(run))}{_facts(figures)}"
        + "".join(f'<p class="about">{escape(line)}</p>' for line in about)
        + "</article>"
    )


def _facts(facts: Sequence[tuple[str, str]]) -> str:
    rows = "".join(f"<div><dt>{escape(key)}</dt><dd>{escape(value)}</dd></div>" for key, value in facts)
    return f"<dl>{rows}</dl>" if rows else ""


# --- alerts, notices, settings ---------------------------------------------------------------------------------------


def _alerts(runs: Mapping[str, Run]) -> str:
    """Every alert, run by run, in the order of the steps. Its message holds the value, the limit and the layers."""
    items = []
    for name, run in runs.items():
        for alert in run["alerts"]:
            head = f"step {alert['step']}: {alert['rule']} ({alert['level']})" + f", {name}" * (len(runs) > 1)
            level = alert["level"] if alert["level"] in MARKS else WARN
            items.append(
                f'<li class="{level}"><h3><span aria-hidden="true">{MARKS[level]}</span> {escape(head)}</h3>'
                f"<p>{_sentence(alert['message'])}</p><p><b>Try:</b> {escape(alert['action'])}.</p></li>"
            )
    return f'<ol class="alerts">{"".join(items)}</ol>' if items else "<p>No rule raised an alert.</p>"


def _notices(runs: Mapping[str, Run]) -> str:
    """What happened to the monitor itself: notes below the alerts. No verdict depends on them."""
    items = [
        f"<li>step {notice['step']}{f', {escape(name)}' * (len(runs) > 1)}: {escape(notice['message'])}."
        f" {_sentence(notice['action'])}</li>"
        for name, run in runs.items()
        for notice in run.get("notices", ())
    ]
    return f'<h3>Notes on the monitor</h3><ul class="notices">{"".join(items)}</ul>' if items else ""


def _settings(runs: Mapping[str, Run]) -> str:
    """The configurations side by side; a row in which the runs differ is marked."""
    headers = {name: run["header"] for name, run in runs.items()}
    table = {
        key: [header.get(key) for header in headers.values()]
        for key in ("model", "checkpoints", "probe", "prompts", "version")
    }
    fields = list(dict.fromkeys(key for header in headers.values() for key in header["config"]))
    rows = [_row(key, values) for key, values in table.items()]
    rows += [_row(key, [header["config"].get(key) for header in headers.values()]) for key in fields]
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in headers)
    return f'<table><thead><tr><th scope="col">setting</th>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table>'


def _row(key: str, values: Sequence[Any]) -> str:
    words = [value if isinstance(value, str) else json.dumps(value) for value in values]
    mark = ' class="differs"' if len(set(words)) > 1 else ""
    cells = "".join(f"<td>{escape(word)}</td>" for word in words)
    return f'<tr{mark}><th scope="row">{escape(key)}</th>{cells}</tr>'


# --- words -----------------------------------------------------------------------------------------------------------


def _sentence_of(words: str) -> str:
    return f"{words[:1].upper()}{words[1:]}."


def _sentence(text: str) -> str:
    return escape(_sentence_of(text))


def _change(delta: Mapping[str, Any], key: str) -> str:
    return _typeset(labels.change(delta.get(key), delta.get(f"{key}_se")))


def _number(value: float | None) -> str:
    return _typeset(labels.number(value))


def _typeset(text: str) -> str:
    """Numbers in ASCII (`labels`) with a real minus sign, and a dash where a value is missing."""
    return re.sub(r"(?<!\S)-(?=[\d.])", MINUS, re.sub(r"(?<!\S)-(?!\S)", DASH, text))


def _asset(name: str) -> str:
    return (files(__package__) / "assets" / name).read_text(encoding="utf-8")
