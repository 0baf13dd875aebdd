"""The two images that trackers are given: layers over steps, and the depth trace with the first reading behind it.

Drawn with Pillow, which every tracker needs for images anyway, in hundredths of a second: training waits for it. The
arrangement and the colours are those of the report's page on light paper.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import numpy as np

from ..traces import Trace
from .labels import CURVES, Curve, number

WIDTH, ROW = 1000, 330  # of an image, and of a row of two panels in it; pixels
FINER = 2  # drawn so many times as large and reduced: smooth lines
LEFT, TOP, RIGHT, BOTTOM = 58, 44, 16, 40  # from a panel's edge to its axes
INK, SOFT, LINE, GREY, LATE, BLUE, BAND = "#1c1f24", "#5b626d", "#e2e0dc", "#6b7079", "#f1f1f1", "#0072b2", "#cfe3f0"
MARKS = {"warn": "#a35c00", "error": "#b8400a"}
NOTHING = (205, 205, 205)  # a cell without a value
VIRIDIS = "440154 482878 3e4989 31688e 26828e 1f9e89 35b779 6ece58 b5de2b fde725"
VIK = "001261 033e7d 1e6f9d 71a8c4 c9dde7 f4efeb eacebd d39774 be6533 8b2706 590008"  # Crameri's: zero is pale
AS_SHORT = ".10g"  # the form of a round number on an axis: no more decimals than it has


def heatmaps(trace: Trace) -> Any:
    """Contraction and transport of each layer over the steps; below, their change since the first reading.

    A cell reaches halfway to the next reading. Colours end at the 2nd and 98th percentile; those of a change at the
    98th of its size, with zero in the middle.

    Returns:
        a `PIL.Image.Image`, 1000 x 660 pixels.
    """
    sheet = Sheet(trace, rows=2)
    for column, (field, curve) in enumerate(CURVES.items()):
        cells = np.array([getattr(reading, field) for reading in trace.readings], dtype=float).T
        change = cells - cells[:, :1]
        shown, moved = cells[np.isfinite(cells)], np.abs(change[np.isfinite(change)])
        low, high = np.percentile(shown, [2, 98]) if shown.size else (0.0, 1.0)
        most = float(np.percentile(moved, 98)) if moved.size else 0.0
        most = most or 1e-3  # nothing has changed: any colours with zero in the middle
        sheet.heatmap(column, 0, curve.title, cells, curve.first, (low, high), VIRIDIS)
        sheet.heatmap(column, 1, f"{curve.title}, change", change, curve.first, (-most, most), VIK)
    return sheet.image()


def depth_trace(trace: Trace) -> Any:
    """Contraction and transport against the layer: the latest reading with its standard errors; dashed, the first.

    Returns:
        a `PIL.Image.Image`, 1000 x 330 pixels.
    """
    sheet = Sheet(trace, rows=1)
    for column, (field, curve) in enumerate(CURVES.items()):
        sheet.curves(column, field, curve)
    return sheet.image()


class Sheet:
    """White paper with panels of one trace, two in a row."""

    def __init__(self, trace: Trace, rows: int) -> None:
        from PIL import Image, ImageDraw, ImageFont

        self._trace = trace
        self._image = Image.new("RGB", (WIDTH * FINER, ROW * rows * FINER), "white")
        self._draw: Any = ImageDraw.Draw(self._image)
        self._title, self._small = (ImageFont.load_default(size * FINER) for size in (14, 12))

    def image(self) -> Any:
        return self._image.reduce(FINER)

    def heatmap(
        self,
        column: int,
        row: int,
        title: str,
        cells: np.ndarray,
        first: int,
        limits: tuple[float, float],
        palette: str,
    ) -> None:
        """A panel of coloured cells.

        Args:
            cells: `[layers, readings]`, the lowest layer `first`.
            limits: the values at the ends of the palette.
        """
        from PIL import Image

        low, high = limits
        steps = [reading.step for reading in self._trace.readings]
        left, top, right, bottom = box = self._box(column, row)
        begin, end = (steps[0] - 0.5, steps[-1] + 0.5) if len(steps) == 1 else (steps[0], steps[-1])
        panel = Panel(box, (begin, end), (first - 0.5, first + len(cells) - 0.5))
        halfway = (np.array(steps[1:]) + np.array(steps[:-1])) / 2
        picked = cells[::-1, np.searchsorted(halfway, np.linspace(begin, end, right - left))]
        painted = Image.fromarray(_colours((picked - low) / ((high - low) or 1.0), palette))
        self._image.paste(painted.resize((right - left, bottom - top), Image.Resampling.NEAREST), (left, top))
        self._words(box, title)
        self._scale(box, limits, palette)
        self._axes(panel, "step", grid=False)
        late = self._trace.header.window
        ends = (panel.y(max(late[0], first) - 0.5), panel.y(late[1] + 0.5))
        self._draw.line([left - 6 * FINER, ends[0], left - 6 * FINER, ends[1]], INK, 2 * FINER)
        for alert in self._trace.alerts:
            if begin <= alert.step <= end:
                self._mark(panel.x(alert.step), top, alert.level)

    def curves(self, column: int, field: str, curve: Curve) -> None:
        """A panel with a curve over depth: the latest reading in its band, the first one dashed."""
        start, now, header = self._trace.readings[0], self._trace.readings[-1], self._trace.header
        values, errors, before = (
            np.array(getattr(reading, name), dtype=float)
            for reading, name in ((now, field), (now, f"{field}_se"), (start, field))
        )
        known = np.concatenate([values, before])
        known = known[np.isfinite(known)]
        low, high = (known.min(), known.max()) if known.size else (0.0, 1.0)
        air = 0.08 * (high - low) or 0.1
        layers = np.arange(curve.first, curve.first + len(values))
        box = self._box(column, 0)
        panel = Panel(box, (1, header.layers), (low - air, high + air))
        begin, end = (min(max(at, 1), header.layers) for at in (header.window[0] - 0.5, header.window[1]))
        self._draw.rectangle([panel.x(begin), box[1], panel.x(end), box[3]], LATE)
        self._axes(panel, "layer", grid=True)
        self._band(panel, layers, values, np.nan_to_num(errors))
        for run in _runs(before):
            self._dashed([panel.at(*point) for point in zip(layers[run], before[run], strict=True)])
        for run in _runs(values):
            points = [panel.at(*point) for point in zip(layers[run], values[run], strict=True)]
            self._draw.line(points, BLUE, 2 * FINER, joint="curve")
        self._words(box, f"{curve.title}, step {now.step}; dashed: step {start.step}")

    def _band(self, panel: Panel, layers: np.ndarray, values: np.ndarray, errors: np.ndarray) -> None:
        for run in _runs(values):
            upper, lower = values[run] + errors[run], values[run] - errors[run]
            edge = [*zip(layers[run], upper, strict=True), *reversed([*zip(layers[run], lower, strict=True)])]
            if len(run) > 1:
                self._draw.polygon([panel.at(*point) for point in edge], BAND)

    def _scale(self, box: tuple[int, int, int, int], limits: tuple[float, float], palette: str) -> None:
        """The palette with the values at its ends, above the upper right corner."""
        from PIL import Image

        _, top, right, _ = box
        bar = Image.fromarray(_colours(np.linspace(0, 1, 70 * FINER)[None], palette)).resize((70 * FINER, 10 * FINER))
        low, high = (number(limit, ".3g") for limit in limits)
        edge = right - self._text(right, top - 30 * FINER, high, SOFT, "ra") - 8 * FINER
        self._image.paste(bar, (edge - 70 * FINER, top - 28 * FINER))
        self._text(edge - 78 * FINER, top - 30 * FINER, low, SOFT, "ra")

    def _box(self, column: int, row: int) -> tuple[int, int, int, int]:
        x, y = column * WIDTH // 2, row * ROW
        edges = (x + LEFT, y + TOP, x + WIDTH // 2 - RIGHT, y + ROW - BOTTOM)
        left, top, right, bottom = (edge * FINER for edge in edges)
        return left, top, right, bottom

    def _axes(self, panel: Panel, name: str, grid: bool) -> None:
        left, _, right, bottom = panel.box
        for value in _ticks(*panel.across, whole=True):
            self._text(panel.x(value), bottom + 5 * FINER, number(value, AS_SHORT), SOFT, "ma")
        self._text(right, bottom + 20 * FINER, name, SOFT, "ra")
        for value in _ticks(*panel.up, whole=not grid):
            if grid:
                self._draw.line([left, panel.y(value), right, panel.y(value)], LINE, FINER)
            self._text(left - 12 * FINER, panel.y(value), number(value, AS_SHORT), SOFT, "rm")

    def _words(self, box: tuple[int, int, int, int], title: str) -> None:
        self._draw.text((box[0], box[1] - 32 * FINER), title, INK, font=self._title)

    def _text(self, x: float, y: float, text: str, colour: str, anchor: str) -> int:
        self._draw.text((x, y), text, colour, font=self._small, anchor=anchor)
        return math.ceil(self._draw.textlength(text, font=self._small))

    def _mark(self, x: float, y: float, level: str) -> None:
        """Where an alert was raised: a triangle for a warning, a square for an error."""
        r = 5 * FINER
        shape = [(x - r, y - 2), (x + r, y - 2), (x + r, y - 2 - 2 * r), (x - r, y - 2 - 2 * r)]
        if level == "warn":
            shape[2:] = [(x, y - 2 - 2 * r)]
        self._draw.polygon(shape, MARKS.get(level, MARKS["error"]))

    def _dashed(self, points: list[tuple[float, float]]) -> None:
        dash, done = 6.0 * FINER, 0.0
        for (x0, y0), (x1, y1) in pairwise(points):
            length = math.hypot(x1 - x0, y1 - y0)
            while done < length:
                a, b = (min(max(s / length, 0), 1) for s in (done, done + dash * 0.6))
                self._draw.line(
                    [x0 + a * (x1 - x0), y0 + a * (y1 - y0), x0 + b * (x1 - x0), y0 + b * (y1 - y0)], GREY, 3
                )
                done += dash
            done -= length


class Panel:
    """Axes: from what is shown to pixels."""

    def __init__(self, box: tuple[int, int, int, int], across: tuple[float, float], up: tuple[float, float]) -> None:
        self.box, self.across, self.up = box, across, up

    def x(self, value: float) -> float:
        low, high = self.across
        return self.box[0] + (value - low) / ((high - low) or 1.0) * (self.box[2] - self.box[0])

    def y(self, value: float) -> float:
        low, high = self.up
        return self.box[3] - (value - low) / ((high - low) or 1.0) * (self.box[3] - self.box[1])

    def at(self, x: float, y: float) -> tuple[float, float]:
        return self.x(x), self.y(y)


def _colours(shares: np.ndarray, palette: str) -> np.ndarray:
    """`[h, w]` shares in [0, 1] -> `[h, w, 3]` bytes; grey where there is none."""
    stops = np.array([list(bytes.fromhex(stop)) for stop in palette.split()], dtype=float)
    known = np.isfinite(shares)
    at = np.clip(np.where(known, shares, 0), 0, 1) * (len(stops) - 1)
    mixed = np.stack([np.interp(at, np.arange(len(stops)), stops[:, channel]) for channel in range(3)], axis=-1)
    return np.where(known[..., None], mixed, NOTHING).astype(np.uint8)


def _runs(values: np.ndarray) -> list[np.ndarray]:
    """Indices of the values that are known, in pieces without a gap."""
    known = np.flatnonzero(np.isfinite(values))
    return [piece for piece in np.split(known, np.flatnonzero(np.diff(known) > 1) + 1) if piece.size]


def _ticks(low: float, high: float, whole: bool = False, about: int = 7) -> list[float]:
    """Round numbers from low to high."""
    rough = (high - low) / about or 1.0
    power = 10.0 ** math.floor(math.log10(rough))
    size = next(m * power for m in (1.0, 2.0, 5.0, 10.0) if m * power >= rough * 0.999)
    size = max(round(size), 1) if whole else size
    return [k * size for k in range(math.ceil(low / size - 1e-9), math.floor(high / size + 1e-9) + 1)]
