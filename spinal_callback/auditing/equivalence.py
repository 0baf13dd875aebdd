"""Whether a change is larger than the least that matters, smaller, or not known well enough. All definitions are ours.

With many prompts every difference between two checkpoints is significant. So a change d with standard error s is held
against the least change that matters, b, in two tests at 5 %:

- *changed*: |d| > b. Its p value is the chance of an estimate of this size or larger where the true change is b:
  `sf((|d| - b) / s) + sf((|d| + b) / s)`, adjusted by Holm over all effects, so that the chance that any effect is
  falsely called changed is at most 5 %.
- *negligible*: |d| < b, by two one-sided tests (Schuirmann 1987): p is `sf((b - |d|) / s)`, which is below 5 % where
  the 90 % interval lies within the bounds. "All are negligible" needs no correction: it is wrong only if one is.

sf is the upper tail of Student's t. Displacement is a mean of distances and has one side only. Where neither test
decides, the number of prompts is named at which one of them would with a chance of `POWER`, if the change is what was
estimated; the standard error falls with the root of the number.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ..config import JACKKNIFE_GROUPS, SPREAD_FROM
from .effects import CHANGED, INSUFFICIENT, NEGLIGIBLE, Effect, Effects
from .p_values import Array, holm, student_t
from .results import LEVEL

POWER = 0.9  # rather than the usual 0.8: the change that it is computed for is itself an estimate
MOST = 1_000_000  # prompts; above this no number is named
SIGNED = ("contraction", "transport")


@dataclass(frozen=True)
class Estimate:
    """A change, its standard error, and the degrees of freedom of the error."""

    change: float
    se: float
    freedom: float


def judged(estimates: Mapping[str, Estimate], at_least: Mapping[str, float], prompts: int, group: int) -> Effects:
    """The verdicts.

    Args:
        estimates: key of `effects.AT_LEAST` -> what was measured.
        at_least: the same keys -> the least change that matters.
        prompts: N, with which they were measured.
        group: prompts of one fit of the exponent: the number named is a multiple of it.
    """
    larger = {name: _p_changed(e, at_least[name], name in SIGNED) for name, e in estimates.items()}
    adjusted = dict(zip(larger, holm(np.array(list(larger.values()))).tolist(), strict=True))
    each = []
    for name, e in estimates.items():
        bound, smaller = at_least[name], _tail(at_least[name] - abs(e.change), e)
        reach = float(student_t().ppf(1 - LEVEL, e.freedom)) * e.se
        verdict = CHANGED if adjusted[name] < LEVEL else NEGLIGIBLE if smaller < LEVEL else INSUFFICIENT
        need = _prompts(name, e, bound, prompts, group, len(estimates)) if verdict == INSUFFICIENT else None
        low, high = e.change - reach, e.change + reach
        each.append(Effect(name, e.change, e.se, low, high, bound, adjusted[name], smaller, verdict, need))
    return Effects(each, prompts)


def _p_changed(e: Estimate, bound: float, signed: bool) -> float:
    size = abs(e.change)
    return _tail(size - bound, e) + (_tail(size + bound, e) if signed else 0.0)


def _tail(distance: float, e: Estimate) -> float:
    """Upper tail of Student's t at `distance`, in standard errors. NaN in gives NaN out."""
    if math.isnan(distance) or math.isnan(e.se):
        return math.nan
    ratio = distance / e.se if e.se > 0 else math.copysign(math.inf, distance)
    return float(student_t().sf(ratio, e.freedom))


def _prompts(name: str, e: Estimate, bound: float, prompts: int, group: int, effects: int) -> int | None:
    """The least multiple of `group` (to 2 %) at which the tests decide with a chance of `POWER`; None above `MOST`."""
    if math.isnan(e.se) or math.isnan(e.change):
        return None
    fits = np.unique(np.geomspace(prompts // group + 1, max(MOST / group, prompts // group + 1), 500).astype(int))
    enough = power(name, e, bound, fits * group / prompts, _freedom(name, e, fits, group), effects) >= POWER
    return int(fits[enough.argmax()] * group) if enough.any() else None


def _freedom(name: str, e: Estimate, fits: Array, group: int) -> Array:
    """Degrees of freedom with so many fits: contraction's as in `probe/grouped_fit.py`, the others' of the prompts."""
    if math.isinf(e.freedom):
        return np.full(fits.shape, math.inf)
    if name != "contraction":
        return fits * group - 1
    return np.where(fits >= SPREAD_FROM, fits - 1, JACKKNIFE_GROUPS - 1)


def power(name: str, e: Estimate, bound: float, times: Array, freedom: Array, effects: int) -> Array:
    """The chance that one of the two tests decides, with `times` as many prompts, if the true change is the estimate.

    Args:
        times, freedom: `[M]` of M numbers of prompts, the second the degrees of freedom that the error then has.
        effects: how many are tested together: Holm's strictest level is 5 % / `effects`.
    """
    t, se, size = student_t(), e.se / np.sqrt(times), abs(e.change)
    if size > bound:
        return np.asarray(t.cdf((size - bound) / se - t.ppf(1 - LEVEL / effects, freedom), freedom))
    far = t.ppf(1 - LEVEL, freedom)
    other = t.cdf((bound + size) / se - far, freedom) if name in SIGNED else 1.0
    return np.asarray(t.cdf((bound - size) / se - far, freedom) + other - 1)
