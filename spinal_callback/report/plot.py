"""Curves as plain text: a frame, numbers along its edges, and lines of braille dots. Standard library only."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from .labels import number

BRAILLE = 0x2800  # the empty cell; a cell is 2 dots wide and 4 high
DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))  # bit of each dot, by row and column
MARGIN = 7  # columns left of the frame: a number and a space
LINES_PER_NUMBER = 3


class Curve(NamedTuple):
    """Values at whole numbers from `first` on; NaN leaves a gap. `dotted`: one `.` per column instead of a line."""

    first: int
    values: Sequence[float]
    dotted: bool = False


def plot(title: str, curves: Sequence[Curve], last: int, width: int, height: int) -> list[str]:
    """The lines of a plot of `curves` from 1 to `last`; `width` columns by `height` lines, the title among them."""
    columns, rows = max(width - MARGIN - 2, 2), max(height - 4, 2)
    low, high = _limits([value for curve in curves for value in curve.values])
    cells = [[" "] * columns for _ in range(rows)]
    for curve in sorted(curves, key=lambda curve: not curve.dotted):  # lines are drawn over dots
        _draw(cells, curve, last, low, high)
    lines = [title.center(columns + 2).rjust(width), " " * MARGIN + "┌" + "─" * columns + "┐"]
    spaces = max((rows - 1) // LINES_PER_NUMBER, 1)
    numbered = {round(i * (rows - 1) / spaces) for i in range(spaces + 1)}
    for row, line in enumerate(cells):
        value = number(high - (high - low) * row / (rows - 1)) if row in numbered else ""
        lines.append(f"{value:>{MARGIN - 1}} {'┤' if value else '│'}{''.join(line)}│")
    return [*lines, " " * MARGIN + "└" + "─" * columns + "┘", _numbers_below(last, columns).ljust(width)]


def beside(plots: Sequence[Sequence[str]], gap: str = "  ") -> str:
    """Plots of one height, next to each other."""
    return "\n".join(gap.join(lines).rstrip() for lines in zip(*plots, strict=True))


def _limits(values: Sequence[float]) -> tuple[float, float]:
    known = [value for value in values if math.isfinite(value)] or [0.0]
    low, high = min(known), max(known)
    return (low, high) if low < high else (low - (abs(low) * 0.05 or 1.0), high + (abs(high) * 0.05 or 1.0))


def _draw(cells: list[list[str]], curve: Curve, last: int, low: float, high: float) -> None:
    marks_wide, marks_high = (1, 1) if curve.dotted else (2, 4)  # marks in a cell
    right, bottom = len(cells[0]) * marks_wide - 1, len(cells) * marks_high - 1
    places = {
        x: (round((x - 1) / max(last - 1, 1) * right), round((high - value) / (high - low) * bottom))
        for x, value in enumerate(curve.values, start=curve.first)
        if math.isfinite(value)
    }
    for x, (column, row) in places.items():
        across, down = (b - a for a, b in zip((column, row), places.get(x + 1, (column, row)), strict=True))
        count = max(abs(across), 0 if curve.dotted else abs(down), 1)
        for i in range(count):
            _mark(cells, column + round(across * i / count), row + round(down * i / count), curve.dotted)


def _mark(cells: list[list[str]], column: int, row: int, dotted: bool) -> None:
    if dotted:
        cells[row][column] = "."
        return
    line, at = cells[row // 4], column // 2
    dots = ord(line[at]) if ord(line[at]) > BRAILLE else BRAILLE
    line[at] = chr(dots | DOTS[row % 4][column % 2])


def _numbers_below(last: int, columns: int) -> str:
    """The x axis: about six whole numbers, the first and the last among them."""
    line = [" "] * (MARGIN + 1 + columns + 1)
    for x in sorted({1, last, *(max(round(last * i / 5), 1) for i in range(1, 5))}):
        middle = MARGIN + 1 + round((x - 1) / max(last - 1, 1) * (columns - 1))
        start = min(middle - (len(str(x)) - 1) // 2, len(line) - len(str(x)))
        line[start : start + len(str(x))] = str(x)
    return "".join(line)
