"""A trace as text: a line per reading, alert and notice, a table of the late layers, a plot of the depth trace.

A line of a reading, the table and the plot fit into 80 columns. What a terminal cannot show: `for_encoding`.
"""

from __future__ import annotations

import codecs
import dataclasses
import re
import shutil
import textwrap
from collections.abc import Sequence

from ..records import Alert, Header, Notice, Reading
from ..traces import Trace
from .labels import CURVES, change, number, path, why_missing
from .plot import Curve, beside, plot

NARROWEST, WIDEST = 60, 110  # columns of the plot
HEIGHT = 18  # lines of it
# In ASCII, for outputs that cannot show these; one column each, except for ± and the ellipsis.
STAND_INS = {"±": "+/-", "…": "...", "─": "-", "│": "|", "┤": "+", "┌": "+", "┐": "+", "└": "+", "┘": "+"}
STAND_INS |= {"\u2013": "-", "\u2014": "-", "\u2212": "-", "\u2800": " "}
DOTS_OF_A_LINE = re.compile("[\u2801-\u28ff]")


def heading(header: Header) -> str:
    """What stands above the lines of readings: what the columns hold, and why one of them is empty."""
    about = [
        "late means and their change since the start ± its standard error;",
        "transport and displacement (displ.) in rad, time of the probe in s",
    ]
    if why := why_missing(dataclasses.asdict(header)).get("score"):
        about += textwrap.wrap(f"no score: {why}", 70)
    columns = f"spinal {'step':>5}  {'contraction':20}  {'transport':20} {'displ.':>6}  {'score':>5}     s"
    return "\n".join([*(f"spinal  {text}" for text in about), columns])


def everything(trace: Trace) -> str:
    """All of a trace: readings under their heading, alerts, notices, table and plot."""
    records = [*map(alert_line, trace.alerts), *map(notice_line, trace.notices)]
    return "\n".join([lines(trace.header, trace.readings), *records, "", summary(trace)])


def lines(header: Header, readings: Sequence[Reading]) -> str:
    """The readings, one per line, under their heading."""
    return "\n".join([heading(header), *map(line, readings)])


def line(reading: Reading) -> str:
    """One line for a reading, under `heading`: late contraction and transport with their changes, and what it cost."""
    means = "  ".join(
        f"{number(reading.late[name])} {change(reading.delta[name], reading.delta[f'{name}_se']):14}" for name in CURVES
    )
    scores = f"{number(reading.displacement):>6} {number(reading.score):>6}"
    return f"spinal {reading.step:>5}  {means} {scores} {number(reading.seconds, '.1f'):>5}"


def alert_line(alert: Alert) -> str:
    """One line for an alert: what was seen, what to try."""
    return f"spinal  {alert.level.upper()} {alert.rule}: {alert.message}. Try: {alert.action}."


def notice_line(notice: Notice) -> str:
    """One line for a notice: what happened, what to do."""
    return f"spinal  NOTE {notice.message}. {notice.action[:1].upper()}{notice.action[1:]}."


def summary(trace: Trace) -> str:
    """The table of the late layers, the length of the path, and the plot of all layers, first reading against last."""
    return "\n".join([table(trace), *path(dataclasses.asdict(trace.readings[-1])), "", picture(trace)])


def table(trace: Trace) -> str:
    """Contraction and transport of the late layers, first reading against last."""
    first, last = trace.readings[0], trace.readings[-1]
    before, after = f"step {first.step}", f"step {last.step}"
    rows = [
        f"{'':>9}" + "".join(f"{curve.title.lower():^32}" for curve in CURVES.values()),
        f"{'layer':>9}" + f"{before:>11}{after:>11}{'change':>10}" * 2,
    ]
    for layer in range(trace.header.window[0], trace.header.window[1] + 1):
        cells = ""
        for name, curve in CURVES.items():
            if layer >= curve.first:
                i = layer - curve.first
                cells += _before_after(getattr(first, name)[i], getattr(last, name)[i])
        rows.append(f"{layer:>9}{cells}")
    cells = "".join(_before_after(first.late[name], last.late[name]) for name in CURVES)
    return "\n".join([*rows, f"{'late mean':>9}{cells}"])


def picture(trace: Trace, width: int | None = None, height: int = HEIGHT) -> str:
    """The depth trace: contraction and transport against the layer, the first reading dotted, the last as a line.

    Args:
        width: columns; those of the terminal if None (80 where there is none), but from 60 to 110.
        height: lines, the line that explains the curves among them.
    """
    if width is None:
        width = min(max(shutil.get_terminal_size((80, 24)).columns, NARROWEST), WIDEST)
    first, last = trace.readings[0], trace.readings[-1]
    plots = []
    for name, (_, title, _, start, _) in CURVES.items():
        curves = [Curve(start, getattr(last, name)), Curve(start, getattr(first, name), dotted=True)]
        shown = curves[: len(trace.readings)]  # a single reading is drawn once
        plots.append(plot(title, shown, trace.header.layers, (width - 2) // 2, height - 1))
    legend = f"⠒⠒ step {last.step}" if first is last else f".. step {first.step}   ⠒⠒ step {last.step}"
    return beside(plots) + f"\n{'':8}against the layer:  {legend}"


def for_encoding(text: str, encoding: str | None) -> str:
    """`text` with ASCII in place of every character that `encoding` lacks.

    Args:
        encoding: that of an output, such as `sys.stdout.encoding`; None or an unknown name counts as ASCII.
    """
    try:
        encoding = codecs.lookup(encoding or "ascii").name
    except LookupError:
        encoding = "ascii"
    return "".join(c if _has(encoding, c) else in_ascii(c) for c in text)


def in_ascii(text: str) -> str:
    """`text` in ASCII: `+/-` for ±, `*` for the dots of a line, an escape for what has no counterpart."""
    plain = "".join("*" if DOTS_OF_A_LINE.match(c) else STAND_INS.get(c, c) for c in text)
    return plain.encode("ascii", "backslashreplace").decode()


def _has(encoding: str, character: str) -> bool:
    try:
        character.encode(encoding)
    except UnicodeEncodeError:
        return False
    return True


def _before_after(before: float, after: float) -> str:
    return f"{number(before):>11}{number(after):>11}{number(after - before, '+.3f'):>10}"
