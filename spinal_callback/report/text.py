"""A trace as text: one line per reading, alert and notice, the table of the late layers, a plain-text plot."""

from __future__ import annotations

from ..records import Alert, Notice, Reading
from ..traces import Trace


def line(reading: Reading) -> str:
    """One line for a reading: late contraction and transport, their changes since step 0, and what it cost."""
    alpha, transport = (_with_change(reading, name) for name in ("alpha", "transport"))
    return (
        f"spinal  step {reading.step:<5d} contraction {alpha}  transport {transport}"
        f"  displacement {_number(reading.displacement)}  score {_number(reading.score)}"
        f"  {_number(reading.seconds, '.1f')} s"
    )


def alert_line(alert: Alert) -> str:
    """One line for an alert: what was seen, what to try."""
    return f"spinal  {alert.level.upper()} {alert.rule}: {alert.message}. Try: {alert.action}."


def notice_line(notice: Notice) -> str:
    """One line for a notice: what happened, what to do."""
    return f"spinal  NOTE {notice.message}. {notice.action[:1].upper()}{notice.action[1:]}."


def summary(trace: Trace) -> str:
    """Table of the late layers before and after, and the picture."""
    return table(trace) + "\n\n" + picture(trace)


def table(trace: Trace) -> str:
    """Contraction and transport of the late layers, first reading against last."""
    first, last = trace.readings[0], trace.readings[-1]
    before, after = f"step {first.step}", f"step {last.step}"
    lines = [
        f"{'':>9}{'contraction (alpha)':^32}{'transport (rad)':^32}",
        f"{'layer':>9}" + f"{before:>11}{after:>11}{'change':>10}" * 2,
    ]
    for layer in range(trace.header.window[0], trace.header.window[1] + 1):
        cells = _before_after(first.alpha[layer - 1], last.alpha[layer - 1])
        if layer > 1:
            cells += _before_after(first.transport[layer - 2], last.transport[layer - 2])
        lines.append(f"{layer:>9}{cells}")
    cells = "".join(_before_after(first.late[name], last.late[name]) for name in ("alpha", "transport"))
    return "\n".join([*lines, f"{'late mean':>9}{cells}"])


def picture(trace: Trace, width: int = 110, height: int = 18) -> str:
    """The depth trace: alpha and transport against layer, first reading against last. Plain text."""
    import plotext  # costs 50 ms to import, and only the end of a run draws

    first, last = trace.readings[0], trace.readings[-1]
    panels = (("contraction alpha", 1, first.alpha, last.alpha), ("transport, rad", 2, first.transport, last.transport))
    plotext.main()  # one figure for the whole process: an earlier picture left a panel active
    plotext.clear_figure()
    plotext.plotsize(width, height)
    plotext.subplots(1, 2)
    for column, (title, start, before, after) in enumerate(panels, start=1):
        plotext.subplot(1, column)
        plotext.theme("clear")
        curves = [(first, before, "."), (last, after, "braille")]
        for reading, values, marker in curves[-len(trace.readings) :]:  # a single reading is drawn once
            points = [(start + i, v) for i, v in enumerate(values) if v == v]
            if points:
                plotext.plot(*zip(*points, strict=True), label=f"step {reading.step}", marker=marker)
        plotext.title(title)
        plotext.xlabel("layer")
        depth = trace.header.layers
        plotext.xticks(sorted({1, depth, *(round(depth * i / 5) for i in range(1, 5))}))
    return str(plotext.uncolorize(plotext.build()))


def _before_after(before: float, after: float) -> str:
    return f"{_number(before):>11}{_number(after):>11}{_number(after - before, '+.3f'):>10}"


def _number(value: float, form: str = ".3f") -> str:
    return format(value, form) if value == value else "-"


def _with_change(reading: Reading, name: str) -> str:
    change, error = reading.delta[name], reading.delta[f"{name}_se"]
    return f"{_number(reading.late[name])} ({_number(change, '+.3f')} ± {_number(error)})"
