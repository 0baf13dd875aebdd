"""What differs between the last readings of two saved traces. No torch."""

from __future__ import annotations

import math

import numpy as np

from ..records import Header, Reading
from ..traces import Trace
from .p_values import change_rows, holm, outermost, p_values
from .results import Change, Changes, Comparison, Place

SAME = ("position", "tail", "top_k")  # settings that change what a measure means: two traces must share them
CURVES = ("alpha", "transport")


def compare_traces(a: str, b: str, first: Trace, second: Trace) -> Comparison:
    """Compares the last readings of two traces, which messages and the result call `a` and `b`.

    Raises:
        ValueError: the traces differ in depth, prompts, late window, or in a setting that defines a measure.
    """
    _check_comparable(a, b, first.header, second.header)
    starts, ends = (first.readings[0], second.readings[0]), (first.readings[-1], second.readings[-1])
    return Comparison(a, b, unpaired(first.header, starts, ends))


def unpaired(header: Header, starts: tuple[Reading, Reading], ends: tuple[Reading, Reading]) -> Changes:
    """What changed between the last readings of two traces, layer by layer. All definitions here are ours.

    A trace holds no per-prompt values, so a change has the two readings' own errors (of contraction: of the fit), added
    as if they were independent. Two runs on the same prompts are not independent: the errors are too large, and the
    tests cautious. Where both traces start from the same policy, the late means use the paired errors of their changes
    since that start. The tests are normal, not Student's, and the outermost layers have no interval.

    Args:
        header: of either trace.
        starts: the first reading of each trace.
        ends: the last reading of each trace.
    """
    errors = [np.concatenate([r.alpha_se, [math.nan], r.transport_se]) for r in ends]
    levels = [np.concatenate([r.alpha, [math.nan], r.transport]) for r in ends]
    error, freedom = np.hypot(*errors), np.full(len(levels[0]), np.inf)
    p = holm(p_values(levels[1] - levels[0], error, freedom))
    rows = change_rows(levels[0], levels[1], error, freedom, p)
    found = outermost(p)
    first, last = (None, None) if found is None else (Place(found[0]), Place(found[1]))
    late = _late_changes(starts, ends)
    return Changes(rows[: header.layers], rows[header.layers :], late, first, last, False)


def _late_changes(starts: tuple[Reading, Reading], ends: tuple[Reading, Reading]) -> dict[str, Change]:
    levels = [np.array([r.late[name] for name in CURVES], dtype=float) for r in ends]
    one, other = starts
    same = all(np.allclose(getattr(one, name), getattr(other, name), equal_nan=True) for name in CURVES)
    errors = [np.array([r.delta[f"{name}_se"] if same else math.nan for name in CURVES], dtype=float) for r in ends]
    error, freedom = np.hypot(*errors), np.full(2, np.inf)
    p = holm(p_values(levels[1] - levels[0], error, freedom))
    return dict(zip(CURVES, change_rows(levels[0], levels[1], error, freedom, p), strict=True))


def _check_comparable(a: str, b: str, one: Header, other: Header) -> None:
    if one.layers != other.layers:
        raise ValueError(f"{a} has {one.layers} layers and {b} has {other.layers}: only equal depths can be compared")
    if one.probe != other.probe:
        raise ValueError(f"{a} and {b} were read with different prompts: compare the checkpoints instead")
    for name in SAME:
        if one.config.get(name) != other.config.get(name):
            values = f"{one.config.get(name)!r} and {other.config.get(name)!r}"
            raise ValueError(f"{a} and {b} differ in {name} ({values}): compare the checkpoints instead")
    if one.window != other.window:
        raise ValueError(f"{a} and {b} have the late windows {one.window} and {other.window}: they must be equal")
