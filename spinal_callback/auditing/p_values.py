"""p values of changes, Holm's correction, and the `Change` rows made of them.

NumPy and SciPy, no torch: two saved traces are compared without importing it.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .results import LEVEL, Change

Array = np.ndarray[Any, Any]


def student_t() -> Any:
    """SciPy's Student's t distribution. `audit` and `compare` call this first, before anything that takes long.

    Raises:
        ImportError: SciPy is not installed.
    """
    try:
        from scipy import stats
    except ImportError as error:
        raise ImportError("audit and compare need scipy: pip install 'spinal_callback[audit]'") from error
    return stats.t


def p_values(change: Array, error: Array, freedom: Array) -> Array:
    """Two-sided p of `change / error` under Student's t with `freedom` degrees: `[..., T], [T], [T] -> [..., T]`.

    A change of exactly 0 has p = 1, whatever its error; NaN in gives NaN out.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(change == 0, 0.0, np.abs(change / error))
    p = 2 * student_t().sf(ratio, freedom)
    return np.where(np.isnan(change) | np.isnan(error), math.nan, p)


def holm(p: Array) -> Array:
    """p values adjusted by Holm's step-down (1979) over the last axis, NaN left out: `[..., T] -> [..., T]`."""
    count = (~np.isnan(p)).sum(-1, keepdims=True)
    order = np.argsort(p, axis=-1)  # NaN last
    steps = np.take_along_axis(p, order, -1) * (count - np.arange(p.shape[-1]))
    adjusted = np.minimum(np.maximum.accumulate(steps, axis=-1), 1.0)
    out = np.empty_like(adjusted)
    np.put_along_axis(out, order, adjusted, -1)
    return np.where(np.isnan(p), math.nan, out)


def change_rows(before: Array, after: Array, error: Array, freedom: Array, p: Array) -> list[Change]:
    """One `Change` for each entry of these `[T]` arrays; its 95 % interval is for this entry alone (no Holm)."""
    reach = student_t().ppf(1 - LEVEL / 2, freedom) * error
    columns = (before, after, after - before, error, after - before - reach, after - before + reach, p)
    return [Change(*map(float, row)) for row in zip(*columns, strict=True)]


def outermost(p: Array) -> tuple[int, int] | None:
    """First and last layer, counted from 1, at which either curve changed significantly; None if no layer did.

    `p`: `[2 L]`, contraction of layers 1..L and then transport of layers 1..L.
    """
    layers = np.flatnonzero((p.reshape(2, -1) < LEVEL).any(0)) + 1
    return (int(layers[0]), int(layers[-1])) if len(layers) else None
