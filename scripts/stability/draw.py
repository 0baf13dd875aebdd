"""The report's tables in Markdown and its figure in SVG, from the data that `report` made."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

HEAD = ("rule", "false per 10 healthy", "caught", "late", "recall", "precision", "AUROC", "median lead, steps")
WIDTH, LINE, LEFT, BAR = 790, 24, 230, 220


def drawn(made: Mapping[str, Any]) -> tuple[str, str]:
    """(Markdown, SVG)."""
    return _words(made), _figure(made)


def _words(made: Mapping[str, Any]) -> str:
    counts = made["counts"]
    lines = [f"# Stability suite, tier {made['tier']}", ""]
    for half in ("fit", "test"):
        said = ", ".join(f"{number} {name}" for name, number in counts[half].items())
        lines.append(f"- {half} half: {said}")
    lines += ["", "Everything below is of the testing half.", ""]
    for level, title in (("warn", "Warnings (`warn` or worse)"), ("error", "Stops (`error`)")):
        lines += [f"## {title}", "", *_table(made["rules"][level]), ""]
    lines += ["## Baselines, at the rules' false-alarm rate on the fitting half", "", *_table(made["baselines"]), ""]
    lines += ["## By kind of destabilizer, all rules, warnings", "", *_table(made["kinds"]), ""]
    lines += ["## The same traces probed less often, all rules", "", *_thinned(made["thinned"]), ""]
    for name, title in (("missed", "Harmed and not warned in time"), ("false", "Healthy and warned")):
        lines += [f"## {title}", "", *([f"- {line}" for line in made[name]] or ["None."]), ""]
    return "\n".join(lines)


def _table(rows: Mapping[str, Mapping[str, Any]]) -> list[str]:
    lines = [f"| {' | '.join(HEAD)} |", "|" + "---|" * len(HEAD)]
    for name, row in rows.items():
        cells = [
            name,
            f"{row['false']}/{row['healthy']}: {_interval(row['false_per_10'], 1)}",
            f"{row['caught']}/{row['harmed']}",
            str(row["late"]),
            *(_interval(row[key], 2) for key in ("recall", "precision", "auroc")),
            _interval(row["lead"], 0),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _thinned(rows: Mapping[Any, Mapping[str, Any]]) -> list[str]:
    lines = ["| probed every | level | alarm or none differs | caught or not differs | median delay, steps |"]
    lines.append("|---|---|---|---|---|")
    for every, levels in rows.items():
        for level, row in levels.items():
            changed = " | ".join(f"{len(row[key])}/{row['runs']}" for key in ("verdict", "caught"))
            lines.append(f"| {every} | {level} | {changed} | {_number(row['median_delay'], 0)} |")
    return lines


def _number(value: float, digits: int) -> str:
    return "-" if math.isnan(value) else f"{round(value, digits) + 0.0:.{digits}f}"  # + 0.0: no "-0"


def _interval(value: Sequence[float] | None, digits: int) -> str:
    if value is None or math.isnan(value[0]):
        return "-"
    middle, low, high = (_number(x, digits) for x in value)
    return middle if math.isnan(value[1]) else f"{middle} ({low} to {high})"


def _figure(made: Mapping[str, Any]) -> str:
    """Left: recall of each rule and baseline. Right: a dot for each harmed run's lead; left of the line: too late."""
    rows = {**made["rules"]["warn"], **{f"{name} (baseline)": row for name, row in made["baselines"].items()}}
    height = LINE * (len(rows) + 3)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" font-family="sans-serif"'
        ' font-size="12">',
        f'<rect width="{WIDTH}" height="{height}" fill="white"/>',
        _text(LEFT, LINE - 8, "caught before harm, share"),
        _text(LEFT + BAR + 60, LINE - 8, "lead of each harmed run's alarm, steps"),
    ]
    longest = max((abs(x) for row in rows.values() for x in row["leads"]), default=10) or 10
    zero, unit = LEFT + BAR + 60 + 120, 120 / longest
    for number, (name, row) in enumerate(rows.items()):
        y = LINE * (number + 1) + 6
        share, low, high = row["recall"]
        colour = "#888" if "(baseline)" in name else "#2166ac"
        parts.append(_text(LEFT - 8, y + 10, name, "end"))
        if not math.isnan(share):
            parts.append(f'<rect x="{LEFT}" y="{y}" width="{BAR * share:.1f}" height="12" fill="{colour}"/>')
            ends = LEFT + BAR * low, LEFT + BAR * high
            parts.append(_line(ends[0], y + 6, ends[1], y + 6))
        for i, lead in enumerate(row["leads"]):  # spread over the line's height: equal leads would hide each other
            x, up = zero + unit * lead, y + 1 + (i * 5) % 11
            parts.append(f'<circle cx="{x:.1f}" cy="{up:.1f}" r="2.2" fill="{colour}" fill-opacity="0.55"/>')
    bottom = LINE * (len(rows) + 1) + 6
    parts.append(_line(zero, LINE, zero, bottom))
    parts += [_text(zero + unit * lead, bottom + 16, f"{lead:g}", "middle") for lead in (-longest, 0, longest)]
    parts += [_text(LEFT, bottom + 16, "0"), _text(LEFT + BAR, bottom + 16, "1", "middle"), "</svg>"]
    return "\n".join(parts) + "\n"


def _text(x: float, y: float, words: str, anchor: str = "start") -> str:
    safe = words.replace("&", "&amp;").replace("<", "&lt;")
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{safe}</text>'


def _line(x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="black"/>'
