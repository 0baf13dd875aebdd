"""Tables by layer, as text: of a change, of a single reading."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING

from ..records import Reading
from ..report.labels import path

if TYPE_CHECKING:
    from .results import Change, Changes

CURVES = {"alpha": "contraction (alpha)", "transport": "transport (rad)"}


def changes(found: Changes, entropies: tuple[list[float], list[float]]) -> str:
    """`Changes.table`."""
    head = f"{'before':>9}{'after':>9}{'change':>9} ± {'se':7}"
    lines = [" " * 9 + "".join(f"{name:^37}" for name in CURVES.values()), f"{'layer':>9}{head}{head}"]
    both = zip(found.alpha, found.transport, strict=True)
    rows = [(str(layer), a, t) for layer, (a, t) in enumerate(both, start=1)]
    rows.append(("late mean", found.late["alpha"], found.late["transport"]))
    lines += [f"{name:>9}{_cells(a)}{_cells(t)}" for name, a, t in rows]
    more = [f"{before:9.3f}{after:9.3f}" for before, after in zip(*entropies, strict=True)]
    if more:
        heads = [f"{'entropy (nats)':^18}", f"{'before':>9}{'after':>9}"]
        lines = [f"{line}{cell}" for line, cell in zip(lines, [*heads, *more, ""], strict=True)]
    return "\n".join(line.rstrip() for line in lines)


def _cells(c: Change) -> str:
    if math.isnan(c.change):
        return f"{'-':>9}{'-':>9}{'-':>9}{'':10}"
    return f"{c.before:9.3f}{c.after:9.3f}{c.change:+9.3f} ± {_error(c.se)}{' *' if c.significant else '  '}"


def _error(se: float) -> str:
    return f"{'-':5}" if math.isnan(se) else f"{se:.3f}"


def levels(reading: Reading) -> str:
    """A single reading by layer: contraction ± error of its fit, transport ± error of its mean."""
    entropy = reading.layer_entropy or [math.nan] * len(reading.alpha)
    heads = "".join(f"{name:>22} ± {'se':6}" for name in CURVES.values())
    lines = [f"{'layer':>9}{heads}{'entropy (nats)' if reading.layer_entropy else '':>16}"]
    steps = [(math.nan, math.nan), *zip(reading.transport, reading.transport_se, strict=True)]
    alphas = zip(reading.alpha, reading.alpha_se, strict=True)
    for layer, pairs in enumerate(zip(alphas, steps, strict=True), start=1):
        last = "" if math.isnan(entropy[layer - 1]) else f"{entropy[layer - 1]:16.3f}"
        lines.append(f"{layer:>9}" + "".join(_level(*pair) for pair in pairs) + last)
    late = reading.late
    lines.append(f"{'late mean':>9}{late['alpha']:>22.3f}{'':9}{late['transport']:>22.3f}")
    lines += path(dataclasses.asdict(reading))
    return "\n".join(line.rstrip() for line in lines)


def _level(value: float, error: float) -> str:
    return f"{'-':>22}{'':9}" if math.isnan(value) else f"{value:>22.3f} ± {error:<6.3f}"
