"""Which layers differ between two policies, and how surely: paired tests over the probe's prompts.

All definitions here are ours. A layer's transport is a mean over prompts: its change has the standard error of the
per-prompt differences, and Student's t with N - 1 degrees of freedom. Its contraction is one number for all prompts:
the change has the error of the jackknife over G = 8 groups of prompts, and t with G - 1. Holm's step-down over both
curves of all layers keeps the chance of any false "significant" at 5 %, whatever the tests have to do with each other.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..probe import measures
from ..probe.sample import Sample
from ..records import Header, Reading
from .results import LEVEL, Change, Changes, Place, Turn

Array = np.ndarray[Any, Any]
DRAWS = 2000  # of the bootstrap


def student_t() -> Any:
    """scipy's Student's t. `audit` and `compare` call this first, before anything that takes long.

    Raises:
        ImportError: scipy is not installed.
    """
    try:
        from scipy import stats
    except ImportError as error:
        raise ImportError("audit and compare need scipy: pip install 'spinal_callback[audit]'") from error
    return stats.t


# --- two checkpoints, the same prompts --------------------------------------------------------------------------------


def paired(before: Sample, after: Sample, window: tuple[int, int]) -> Changes:
    """What differs between two samples of the same prompts, layer by layer, and where."""
    value, error, freedom, deleted = _layers(before, after)
    p = holm(p_values(value, error, freedom))
    levels = [np.concatenate([_numbers(s.alpha), _ends(s.transport.mean(-1))]) for s in (before, after)]
    rows = _rows(levels[0], levels[1], error, freedom, p)
    first, last = _places(value, error, freedom, deleted)
    return Changes(rows[: len(rows) // 2], rows[len(rows) // 2 :], _late(before, after, window), first, last, True)


def _layers(before: Sample, after: Sample) -> tuple[Array, Array, Array, Array]:
    """Of contraction 1..L, then transport ending at 1..L (1: NaN): change, error, degrees of freedom, and `[G, 2 L]`
    the changes with one group of prompts left out."""
    moved = after.transport - before.transport
    left_out = after.deleted - before.deleted
    groups, prompts = left_out.shape[0], moved.shape[-1]
    deleted = torch.stack([moved[:, torch.arange(prompts) % groups != g].mean(-1) for g in range(groups)])
    value = np.concatenate([_numbers(after.alpha - before.alpha), _ends(moved.mean(-1))])
    error = np.concatenate([_numbers(measures.jackknife_error(left_out.T)), _ends(measures.standard_error(moved))])
    freedom = np.repeat([groups - 1, prompts - 1], len(value) // 2)
    empty = np.full((groups, 1), math.nan)
    return value, error, freedom, np.concatenate([_numbers(left_out), empty, _numbers(deleted)], axis=1)


def _late(before: Sample, after: Sample, window: tuple[int, int]) -> dict[str, Change]:
    """The late means, by their own two tests (Holm over the two)."""
    (a0, t0), (a1, t1) = (_late_means(s, window) for s in (before, after))
    left_out, moved = _late_deleted(after, window) - _late_deleted(before, window), t1 - t0
    error = np.array([float(measures.jackknife_error(left_out)), float(measures.standard_error(moved))])
    levels = np.array([a0, float(t0.mean())]), np.array([a1, float(t1.mean())])
    freedom = np.array([len(left_out) - 1, len(moved) - 1])
    p = holm(p_values(levels[1] - levels[0], error, freedom))
    return dict(zip(("alpha", "transport"), _rows(levels[0], levels[1], error, freedom, p), strict=True))


def _late_means(sample: Sample, window: tuple[int, int]) -> tuple[float, Tensor]:
    """Mean contraction of the late window, and `[N]` its mean transport per prompt."""
    depth = sample.alpha.shape[0]
    return float(measures.late(sample.alpha, window, depth).mean()), measures.late(
        sample.transport.T, window, depth
    ).mean(-1)


def _late_deleted(sample: Sample, window: tuple[int, int]) -> Tensor:
    return measures.late(sample.deleted, window, sample.alpha.shape[0]).mean(-1)


def _places(value: Array, error: Array, freedom: Array, deleted: Array) -> tuple[Place | None, Place | None]:
    """First and last layer of significant change, with 95 % intervals over draws of prompts.

    The interval is the percentile interval of a Gaussian multiplier bootstrap: each group of prompts that the jackknife
    leaves out gets a normal weight, which gives all layers' changes noise with their joint jackknife covariance; tests
    and Holm are done anew for every draw (2,000, a fixed seed). Changes that are not significant start from 0: noise on
    top of their noise would make some of them significant. Draws in which nothing is significant count for none.
    """
    p = holm(p_values(value, error, freedom))
    found = _extent(p)
    if found is None:
        return None, None
    value = np.where(p < LEVEL, value, 0.0)
    groups = len(deleted)
    spread = np.nan_to_num(deleted - deleted.mean(0)) * math.sqrt((groups - 1) / groups)
    noise = np.random.default_rng(0).standard_normal((DRAWS, groups)) @ spread
    extents = [e for p in holm(p_values(value + noise, error, freedom)) if (e := _extent(p)) is not None]
    low, high = np.percentile(extents or [found], [2.5, 97.5], axis=0, method="nearest").astype(int)
    first, last = (Place(int(found[i]), int(min(low[i], found[i])), int(max(high[i], found[i]))) for i in (0, 1))
    return first, last


def _extent(p: Array) -> tuple[int, int] | None:
    """First and last layer, from 1, of those with a significant change of either curve."""
    layers = np.flatnonzero((p.reshape(2, -1) < LEVEL).any(0)) + 1
    return (int(layers[0]), int(layers[-1])) if len(layers) else None


# --- two traces -------------------------------------------------------------------------------------------------------


def unpaired(header: Header, starts: tuple[Reading, Reading], ends: tuple[Reading, Reading]) -> Changes:
    """What a trace allows: the last readings of two, layer by layer.

    The per-prompt values are not in a trace, so the errors are those of each reading by itself, added as if independent
    (too large for runs on the same prompts: cautious); of contraction that is the error of the fit. The late means are
    held against paired errors, where both traces begin with the same policy: those of the changes since the start.
    Normal instead of t, and no interval for the places.
    """
    errors = [np.concatenate([r.alpha_se, [math.nan], r.transport_se]) for r in ends]
    levels = [np.concatenate([r.alpha, [math.nan], r.transport]) for r in ends]
    error, freedom = np.hypot(*errors), np.full(len(levels[0]), np.inf)
    p = holm(p_values(levels[1] - levels[0], error, freedom))
    rows = _rows(levels[0], levels[1], error, freedom, p)
    found = _extent(p)
    first, last = (None, None) if found is None else (Place(found[0]), Place(found[1]))
    late = _late_of_runs(starts, ends)
    return Changes(rows[: header.layers], rows[header.layers :], late, first, last, False)


def _late_of_runs(starts: tuple[Reading, Reading], ends: tuple[Reading, Reading]) -> dict[str, Change]:
    names = ("alpha", "transport")
    levels = [np.array([r.late[name] for name in names], dtype=float) for r in ends]
    one, other = starts
    same = all(np.allclose(getattr(one, name), getattr(other, name), equal_nan=True) for name in names)
    errors = [np.array([r.delta[f"{name}_se"] if same else math.nan for name in names], dtype=float) for r in ends]
    error, freedom = np.hypot(*errors), np.full(2, np.inf)
    p = holm(p_values(levels[1] - levels[0], error, freedom))
    return dict(zip(names, _rows(levels[0], levels[1], error, freedom, p), strict=True))


# --- when a run turned ------------------------------------------------------------------------------------------------


def turns(samples: Mapping[int, Sample], window: tuple[int, int]) -> list[Turn]:
    """Where the late means of a run's checkpoints, step -> sample in order, went one way and then surely back.

    Each checkpoint in between is tested twice: its change since the first, and the last's change since it, of opposite
    sign. The larger p counts (both must be so), Holm over checkpoints and curves. Of a curve's significant ones the
    farthest from the line between is the turn: the lesser of its two changes is the greatest.
    """
    steps = list(samples)
    found = [t for i in range(1, len(steps) - 1) for t in _bends(samples, steps, i, window)]
    # a checkpoint where a curve goes on the same way stays in the family, as surely no turn
    worst = [max(t.out.p, t.back.p) if t.out.change * t.back.change < 0 else 1.0 for t in found]
    best: dict[str, Turn] = {}
    for turn, p in zip(found, holm(np.array(worst)) if found else [], strict=True):
        if p < LEVEL and (turn.curve not in best or turn.size > best[turn.curve].size):
            best[turn.curve] = turn
    return list(best.values())


def _bends(samples: Mapping[int, Sample], steps: Sequence[int], i: int, window: tuple[int, int]) -> list[Turn]:
    """The two curves' changes until checkpoint i and since."""
    first, here, last = (samples[steps[j]] for j in (0, i, -1))
    out, back = _late(first, here, window), _late(here, last, window)
    return [Turn(f"late_{c}", steps[i], (steps[i - 1], steps[i + 1]), out[c], back[c]) for c in out]


# --- tests ------------------------------------------------------------------------------------------------------------


def p_values(change: Array, error: Array, freedom: Array) -> Array:
    """Two-sided p of `change / error` under Student's t: `[..., T], [T], [T] -> [..., T]`. No change: 1. NaN stays."""
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(change == 0, 0.0, np.abs(change / error))
    p = 2 * student_t().sf(ratio, freedom)
    return np.where(np.isnan(change) | np.isnan(error), math.nan, p)


def holm(p: Array) -> Array:
    """p values adjusted by Holm (1979) over the last axis, which NaN takes no part in: `[..., T] -> [..., T]`."""
    count = (~np.isnan(p)).sum(-1, keepdims=True)
    order = np.argsort(p, axis=-1)  # NaN last
    steps = np.take_along_axis(p, order, -1) * (count - np.arange(p.shape[-1]))
    adjusted = np.minimum(np.maximum.accumulate(steps, axis=-1), 1.0)
    out = np.empty_like(adjusted)
    np.put_along_axis(out, order, adjusted, -1)
    return np.where(np.isnan(p), math.nan, out)


def _rows(before: Array, after: Array, error: Array, freedom: Array, p: Array) -> list[Change]:
    """One `Change` each; its interval is of 95 % for itself alone."""
    reach = student_t().ppf(1 - LEVEL / 2, freedom) * error
    columns = (before, after, after - before, error, after - before - reach, after - before + reach, p)
    return [Change(*map(float, row)) for row in zip(*columns, strict=True)]


def _numbers(x: Tensor) -> Array:
    return x.double().cpu().numpy()


def _ends(steps: Tensor) -> Array:
    """`[L - 1] -> [L]`: a step's value stands at the layer that it ends at; none ends at layer 1."""
    return np.concatenate([[math.nan], _numbers(steps)])
