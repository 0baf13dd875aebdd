"""Which layers differ between two checkpoints, and how surely: paired tests over the prompts that both were read with.

All definitions here are ours. A layer's transport is a mean over N prompts: its change has the standard error of the
per-prompt differences, and Student's t with N - 1 degrees of freedom. A layer's contraction is the mean of the fits to
K groups of prompts: its change has the error of a jackknife over 8 groups of prompts and t with 7 degrees, from K = 4
on that of the spread over the fits and t with K - 1 (`probe/grouped_fit.py`). Holm's step-down over both curves of all
layers keeps the chance of any false "significant" at 5 %, however the tests depend on each other.

The first and last layer that differ have the interval in which they would lie on other prompts, from a bootstrap over
groups of prompts. The jackknife's intervals are wide rather than short: in the simulation of
`tests/auditing/test_significance.py` its mean error is between one and two true errors.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from ..probe import measures
from ..probe.sample import Sample
from .equivalence import Estimate
from .p_values import Array, change_rows, holm, outermost, p_values
from .results import LEVEL, Change, Changes, Place, TurningPoint

DRAWS = 2000  # of the bootstrap


def paired(before: Sample, after: Sample, window: tuple[int, int]) -> Changes:
    """What differs between two samples of the same prompts, layer by layer, and where.

    `window`: first and last layer of the late window, from 1.
    """
    value, error, freedom, deleted = _layers(before, after)
    p = holm(p_values(value, error, freedom))
    levels = [np.concatenate([_numbers(s.alpha), _ends(s.transport.mean(-1))]) for s in (before, after)]
    rows = change_rows(levels[0], levels[1], error, freedom, p)
    first, last = _places(value, error, freedom, deleted)
    return Changes(rows[: len(rows) // 2], rows[len(rows) // 2 :], _late(before, after, window), first, last, True)


def _layers(before: Sample, after: Sample) -> tuple[Array, Array, Array, Array]:
    """Change, error and degrees of freedom, each `[2 L]`, and `[G, 2 L]` the changes without each group of prompts.

    The 2 L entries are the contraction of layers 1..L, then the transport that ends at layers 1..L (NaN at 1).
    """
    moved = after.transport - before.transport
    left_out = after.deleted - before.deleted
    groups, prompts = left_out.shape[0], moved.shape[-1]
    deleted = torch.stack([moved[:, after.groups != g].mean(-1) for g in range(groups)])
    value = np.concatenate([_numbers(after.alpha - before.alpha), _ends(moved.mean(-1))])
    error = np.concatenate([_numbers(measures.jackknife_error(left_out.T)), _ends(measures.standard_error(moved))])
    freedom = np.repeat([groups - 1, prompts - 1], len(value) // 2)
    empty = np.full((groups, 1), math.nan)
    return value, error, freedom, np.concatenate([_numbers(left_out), empty, _numbers(deleted)], axis=1)


def estimates(before: Sample, after: Sample, window: tuple[int, int]) -> dict[str, Estimate]:
    """The changes that a verdict is about, by their names in `effects.AT_LEAST`.

    `before` is the sample that `after` has its displacement from.
    """
    left_out = _late_deleted(after, window) - _late_deleted(before, window)
    (a0, t0), (a1, t1) = (_late_means(s, window) for s in (before, after))
    change = {"contraction": a1 - a0, "transport": float((t1 - t0).mean())}
    error = {"contraction": measures.jackknife_error(left_out), "transport": measures.standard_error(t1 - t0)}
    change["displacement"] = float(after.displacement.mean())
    error["displacement"] = measures.standard_error(after.displacement)
    freedom = {"contraction": len(left_out) - 1}
    return {name: Estimate(change[name], float(error[name]), freedom.get(name, len(t1) - 1)) for name in change}


def _late(before: Sample, after: Sample, window: tuple[int, int]) -> dict[str, Change]:
    """Changes of the two late means, with Holm over these two tests."""
    found = estimates(before, after, window)
    alpha, transport = found["contraction"], found["transport"]
    levels = np.array([[a, float(t.mean())] for a, t in (_late_means(s, window) for s in (before, after))])
    error, freedom = np.array([alpha.se, transport.se]), np.array([alpha.freedom, transport.freedom])
    p = holm(p_values(levels[1] - levels[0], error, freedom))
    return dict(zip(("alpha", "transport"), change_rows(levels[0], levels[1], error, freedom, p), strict=True))


def _late_means(sample: Sample, window: tuple[int, int]) -> tuple[float, Tensor]:
    """Mean contraction of the late window, and `[N]` its mean transport for each prompt, radians."""
    depth = sample.alpha.shape[0]
    alpha = measures.late(sample.alpha, window, depth).mean()
    return float(alpha), measures.late(sample.transport.T, window, depth).mean(-1)


def _late_deleted(sample: Sample, window: tuple[int, int]) -> Tensor:
    """`[G]` mean contraction of the late window without each group of prompts."""
    return measures.late(sample.deleted, window, sample.alpha.shape[0]).mean(-1)


def _places(value: Array, error: Array, freedom: Array, deleted: Array) -> tuple[Place | None, Place | None]:
    """First and last layer of significant change, each with a 95 % interval over draws of prompts.

    The interval is the percentile interval of a Gaussian multiplier bootstrap: each group of prompts that the jackknife
    leaves out gets a normal weight, which gives all layers' changes noise with their joint jackknife covariance; tests
    and Holm are repeated for every draw (2,000, with a fixed seed). Changes that are not significant are drawn around
    0: noise on top of their own noise would make some of them significant. Draws without a significant layer are left
    out.
    """
    p = holm(p_values(value, error, freedom))
    found = outermost(p)
    if found is None:
        return None, None
    value = np.where(p < LEVEL, value, 0.0)
    groups = len(deleted)
    spread = np.nan_to_num(deleted - deleted.mean(0)) * math.sqrt((groups - 1) / groups)
    noise = np.random.default_rng(0).standard_normal((DRAWS, groups)) @ spread
    drawn = [d for p in holm(p_values(value + noise, error, freedom)) if (d := outermost(p)) is not None]
    low, high = np.percentile(drawn or [found], [2.5, 97.5], axis=0, method="nearest").astype(int)
    first, last = (Place(int(found[i]), int(min(low[i], found[i])), int(max(high[i], found[i]))) for i in (0, 1))
    return first, last


# --- when a run turned ------------------------------------------------------------------------------------------------


def turning_points(samples: Mapping[int, Sample], window: tuple[int, int]) -> list[TurningPoint]:
    """Where the late means of a run's checkpoints (step -> sample, in order) went one way and then surely back.

    Each checkpoint between the first and the last is tested twice: its change since the first, and the last one's
    change since it. It is a turning point if the two have opposite signs and both are significant, so the larger p
    counts; Holm runs over checkpoints and curves. Of a curve's turning points the one whose smaller change is the
    largest is reported.
    """
    steps = list(samples)
    found = [point for i in range(1, len(steps) - 1) for point in _candidates(samples, steps, i, window)]
    # one where the curve goes on in the same direction has p = 1, and still counts as a test for Holm
    worst = [max(t.out.p, t.back.p) if t.out.change * t.back.change < 0 else 1.0 for t in found]
    best: dict[str, TurningPoint] = {}
    for point, p in zip(found, holm(np.array(worst)) if found else [], strict=True):
        if p < LEVEL and (point.curve not in best or point.size > best[point.curve].size):
            best[point.curve] = point
    return list(best.values())


def _candidates(
    samples: Mapping[int, Sample], steps: Sequence[int], i: int, window: tuple[int, int]
) -> list[TurningPoint]:
    """Checkpoint i as a turning point of each of the two curves: the changes until it and since it."""
    first, here, last = (samples[steps[j]] for j in (0, i, -1))
    out, back = _late(first, here, window), _late(here, last, window)
    return [TurningPoint(f"late_{c}", steps[i], (steps[i - 1], steps[i + 1]), out[c], back[c]) for c in out]


def _numbers(x: Tensor) -> Array:
    return x.double().cpu().numpy()


def _ends(steps: Tensor) -> Array:
    """`[L - 1] -> [L]`: each transport step at the layer where it ends, and NaN at layer 1, where none ends."""
    return np.concatenate([[math.nan], _numbers(steps)])
