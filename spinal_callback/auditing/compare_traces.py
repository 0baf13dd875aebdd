"""What differs between the last readings of two saved traces. No torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..records import Header, Reading
from ..traces import Trace
from .equivalence import Estimate, judged
from .p_values import change_rows, holm, outermost, p_values
from .results import Change, Changes, Comparison, Place

SAME = ("position", "tail", "top_k")  # settings that change what a measure means: two traces must share them
INSTEAD = "compare the checkpoints instead"
CURVES = ("alpha", "transport")


def compare_traces(a: str, b: str, first: Trace, second: Trace, at_least: Mapping[str, float]) -> Comparison:
    """Compares the last readings of two traces, which messages and the result call `a` and `b`.

    The verdict is about the late means alone: no trace holds the distributions that a displacement is between. It is
    "insufficient evidence" where the traces start from different policies (`unpaired`).

    Raises:
        ValueError: the traces differ in depth, prompts, late window, or in a setting that defines a measure.
    """
    _check_comparable(a, b, first.header, second.header)
    starts, ends = (first.readings[0], second.readings[0]), (first.readings[-1], second.readings[-1])
    changes = unpaired(first.header, starts, ends)
    late = zip(("contraction", "transport"), (changes.late[name] for name in CURVES), strict=True)
    estimates = {name: Estimate(change.change, change.se, math.inf) for name, change in late}
    effects = judged(estimates, at_least, first.header.prompts, prompts_of_a_fit(first.header))
    entropies = [reading.layer_entropy for reading in ends]
    both = (entropies[0], entropies[1]) if all(entropies) else ([], [])
    return Comparison(a, b, changes, effects, entropies=both)


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
    """Raises ValueError, with the field and both values, where a number of one trace means something else in the other.

    The prompts are checked last: fewer of them, or other positions, are other prompts too, and say more.
    """
    if one.layers != other.layers:
        raise ValueError(f"{a} has {one.layers} layers and {b} has {other.layers}: only equal depths can be compared")
    for name in SAME:
        _check_same(name, _setting(one, name), _setting(other, name), a, b)
    _check_same("num_prompts", one.prompts, other.prompts, a, b)
    _check_same("group", prompts_of_a_fit(one), prompts_of_a_fit(other), a, b)
    _check_same("prompts (hash)", one.probe[:12], other.probe[:12], a, b)
    if one.window != other.window:
        raise ValueError(f"{a} and {b} have the late windows {one.window} and {other.window}: they must be equal")


def _check_same(name: str, one: Any, other: Any, a: str, b: str) -> None:
    if one != other:
        raise ValueError(f"{a} and {b} differ in {name} ({one!r} and {other!r}): {INSTEAD}")


def _setting(header: Header, name: str) -> Any:
    value = header.config.get(name)
    return tuple(value) if isinstance(value, list) else value  # lists are what a file makes of tuples


def prompts_of_a_fit(header: Header) -> int:
    """How many prompts each exponent is of: it depends on them. Earlier versions had no groups."""
    group = header.config.get("group")
    return min(group, header.prompts) if isinstance(group, int) and group else header.prompts
