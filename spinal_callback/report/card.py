"""A run as a section in Markdown, for a model card, a pull request or a CI summary.

Plain JSON values in (`Trace.to_json`), text out. The words and numbers are those of the report.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from ..config import SpinalConfig
from ..traces import Run
from . import labels
from .verdict import first_sign, movement, verdict

BEGIN, END = "<!-- spinal card: begin -->", "<!-- spinal card: end -->"  # lines of their own in a document
MOST_ALERTS = 10  # rows of the table of alerts


def card(run: Run) -> str:
    """The section: verdict, late window before and after, where the change is, alerts, settings, how to reproduce.

    Args:
        run: `Trace.to_json()` of a run or an audit, with at least one reading.
    """
    _, word, says = verdict(run)
    head = [f"## SPINAL: {_plain(word)}", _plain(says)]
    if run["alerts"]:
        head.append(_plain(movement(run)))
    parts = [*head, _late_window(run), *_scores(run), _where(run), *_alerts(run), *_notices(run), _measured(run)]
    text = "\n\n".join([*parts, _reproduce(run)]) + "\n"
    return text.encode("utf-8", "replace").decode()  # half a surrogate pair is valid JSON, but not valid text


def insert(document: str, section: str) -> str:
    """`document` with `section` between the two marker lines, which are put at its end where it has none.

    The rest of the document stays as it is; lines end as its first line does.

    Raises:
        ValueError: the markers are not one pair in order.
    """
    newline = "\r\n" if document.partition("\n")[0].endswith("\r") else "\n"
    block = newline.join([BEGIN, *section.rstrip("\n").split("\n"), END])
    begins, ends = ([m.span() for m in re.finditer(rf"^{re.escape(m)}(?=\r?$)", document, re.M)] for m in (BEGIN, END))
    if not begins and not ends:
        gap = "" if not document else newline * (1 if document.endswith("\n") else 2)
        return f"{document}{gap}{block}{newline}"
    if len(begins) != 1 or len(ends) != 1 or begins[0] > ends[0]:
        raise ValueError(
            f"the section's place is not clear: one line {BEGIN!r} must be followed by one line {END!r},"
            f" but there are {len(begins)} and {len(ends)} of them; remove them all to have the section put at the end"
        )
    return document[: begins[0][0]] + block + document[ends[0][1] :]


# --- the parts of the section ----------------------------------------------------------------------------------------


def _late_window(run: Run) -> str:
    header, (first, last) = run["header"], _ends(run)
    window = f"Late mean, layers {header['window'][0]} to {header['window'][1]} of {header['layers']}"
    columns = [window, f"step {first['step']}", f"step {last['step']}", "change ± standard error", "healthy"]
    rows = [
        [
            curve.title,
            labels.number(first["late"].get(key)),
            labels.number(last["late"].get(key)),
            labels.change(last["delta"].get(key), last["delta"].get(f"{key}_se")),
            curve.healthy,
        ]
        for key, curve in labels.CURVES.items()
    ]
    return _table(columns, rows)


def _scores(run: Run) -> list[str]:
    last = run["readings"][-1]
    text = f"Displacement of the next-token distribution: {labels.number(last['displacement'])} rad."
    if why := labels.why_missing(run["header"]).get("score"):
        return [f"{text} No SPINAL score: {why}."]
    terms = " + ".join(f"{key} {labels.number(last[key])}" for key in labels.SCORE if key != "score")
    return [f"{text} SPINAL score: {labels.number(last['score'])} (the sum of {_plain(terms)})."]


def _where(run: Run) -> str:
    """The late share of the change, and the layer of each curve that changed most."""
    (first, last), (start, end) = _ends(run), run["header"]["window"]
    if first is last:
        return "**Where**: one reading, so no change to locate yet."
    most = [text for key, curve in labels.CURVES.items() if (text := _changed_most(first, last, key, curve))]
    share = labels.number(last["localization"], ".0%")
    late = (
        f"the late window ({(end - start + 1) / run['header']['layers']:.0%} of the layers) has {share} of the change"
    )
    return f"**Where**: {'; '.join([late, *most])}."


def _changed_most(first: Run, last: Run, key: str, curve: labels.Curve) -> str:
    changes = [None if None in pair else pair[1] - pair[0] for pair in zip(first[key], last[key], strict=True)]
    measured = [i for i, change in enumerate(changes) if change is not None]
    if not measured:
        return ""
    i = max(measured, key=lambda i: abs(changes[i] or 0.0))
    errors = last.get(f"{key}_change_se")  # earlier versions wrote none
    size = labels.change(changes[i], errors[i]) if errors else labels.number(changes[i], "+.3f")
    return f"{curve.name} changed most at layer {curve.first + i} ({f'{size} {curve.unit}'.rstrip()})"


def _alerts(run: Run) -> list[str]:
    alerts = run["alerts"]
    if not alerts:
        return ["**Alerts**: none."]
    rows = [
        [str(alert["step"]), _plain(alert["level"]), _code(alert["rule"]), _plain(alert["message"])]
        for alert in alerts[:MOST_ALERTS]
    ]
    count = f" (the first {MOST_ALERTS} of {len(alerts)})" if len(alerts) > MOST_ALERTS else ""
    facts = "; ".join(f"{name.lower()}: {_plain(value)}" for name, value in first_sign(run))
    return [f"**Alerts**{count}. First sign: {facts}.", _table(["step", "level", "rule", "what was seen"], rows)]


def _notices(run: Run) -> list[str]:
    notices = [f"- step {notice['step']}: {_plain(notice['message'])}" for notice in run.get("notices", ())]
    return ["**Notes on the monitor**, on which no verdict depends:", "\n".join(notices)] if notices else []


def _measured(run: Run) -> str:
    header = run["header"]
    model, settings = labels.model_name(header["model"]), ", ".join(_settings(header["config"]))
    return (
        f"**Measured** with spinal_callback {_plain(header['version'])} on {_plain(model)}: {header['prompts']} prompts"
        f" (hash {_code(header['probe'][:12])}), {len(run['readings'])} readings."
        f" Settings that are not the defaults: {_code(settings) if settings else 'none'}."
    )


def _reproduce(run: Run) -> str:
    header = run["header"]
    if header["checkpoints"]:
        base, *_, last = map(labels.model_name, [header["checkpoints"][0], *header["checkpoints"]])
        measure = f"{_code(f'spinal audit {last} --base {base}')} measures these checkpoints again."
    else:
        callback = _code(f"SpinalCallback({', '.join(_settings(header['config']))})")
        measure = (
            f"the same training with {callback} measures it again; `spinal audit RUN` tests, on the checkpoints of this"
            " run, which layers changed."
        )
    return (
        f"**Reproduce**: {measure} With its trace, `spinal replay TRACE` applies the alert rules again and"
        " `spinal report TRACE` draws every layer."
    )


# --- words -----------------------------------------------------------------------------------------------------------


def _ends(run: Run) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    return run["readings"][0], run["readings"][-1]


def _settings(config: Mapping[str, Any]) -> list[str]:
    """The settings that differ from the defaults, as arguments; of a rules file only its name."""
    defaults = SpinalConfig().to_json()
    changed = {name: value for name, value in config.items() if not _same(value, defaults.get(name))}
    if isinstance(changed.get("rules"), str):
        changed["rules"] = labels.model_name(changed["rules"])
    return [f"{name}={value!r}" for name, value in changed.items()]


def _same(value: Any, default: Any) -> bool:
    if isinstance(value, float) and isinstance(default, float):
        return math.isclose(value, default, rel_tol=1e-5)  # a trace may have been written with fewer digits
    return bool(value == (list(default) if isinstance(default, tuple) and isinstance(value, list) else default))


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _plain(text: Any) -> str:
    """Text that Markdown shows as it is, in one line: a trace may hold any string."""
    line = " ".join(escape(str(text), quote=False).split())
    return re.sub(r"[\\`*\[\]|]|(?<!\w)_|_(?!\w)", r"\\\g<0>", line)


def _code(text: Any) -> str:
    """Text as code, in one line; a bar would end the cell of a table."""
    line = " ".join(str(text).split()).replace("`", "'").replace("|", "\\|")
    return f"`{line}`"
