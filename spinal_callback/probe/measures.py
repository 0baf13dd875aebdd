"""What is computed from the curves over depth: means of the late window, the terms of the score, errors over prompts.

Tensors in, numbers out (SPINAL, arXiv 2601.06238). L layers, N prompts. Sentences marked *ours* define what the paper's
text leaves open. The curves themselves: `contraction.py` and `transport.py`.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

# --- the late window -------------------------------------------------------------------------------------------------


def late(values: Tensor, window: tuple[int, int], depth: int) -> Tensor:
    """The part of a depth curve that lies in W: `[depth] -> [w]` for layers, `[depth - 1] -> [w']` for transport steps.

    A step belongs to W if it ends there (ours). `window` is (first, last) layer, from 1, both included.
    """
    offset = 1 + depth - values.shape[-1]  # the curve's entry 0 is layer 1, or the step that ends at layer 2
    return values[..., max(window[0] - offset, 0) : max(window[1] - offset + 1, 0)]


def delta_align(late_alpha: float, late_alpha0: float, late_transport: float, late_transport0: float) -> float:
    """`mean_W(alpha - alpha0) - mean_W(T - T0)` (form ours): what contraction gained plus what transport lost."""
    return (late_alpha - late_alpha0) - (late_transport - late_transport0)


def coherence(alpha: Tensor, transport: Tensor, window: tuple[int, int]) -> float:
    """Smoothness of the depth path in W, in (0, 1]; 1: no curvature. `[L], [L - 1] -> float`. Form ours.

    `1 / (1 + c)`, c the mean over the two curves of the mean absolute second difference inside W, each curve scaled by
    its own range over the whole depth. NaN if W has fewer than three layers, or fewer than three transport steps that
    end in it: two points have no curvature (`has_curvature`).
    """
    curvatures = []
    for curve in (alpha, transport):
        bends = late(curve, window, alpha.shape[0]).diff(n=2).abs()
        known = curve[~curve.isnan()]
        if bends.numel() == 0 or known.numel() == 0:
            return math.nan
        extent = known.max() - known.min()
        curvatures.append(bends.mean() / extent if extent > 0 else bends.mean() * 0)
    return float(1 / (1 + torch.stack(curvatures).mean()))


def has_curvature(window: tuple[int, int], depth: int) -> bool:
    """Whether both curves have in W the three points that a second difference takes; else `coherence` is NaN."""
    return late(torch.empty(depth - 1), window, depth).shape[-1] >= 3  # a window has no fewer layers than steps


def localization(alpha_change: Tensor, transport_change: Tensor, window: tuple[int, int]) -> float:
    """Share of the trace's change since step 0 that lies in W, in [0, 1]: `[L], [L - 1] -> float`. Form ours.

    The mean over the two curves of W's share of sum |change|. NaN if one of them has not changed.
    """
    depth = alpha_change.shape[0]
    shares = [late(c.abs(), window, depth).sum() / c.abs().sum() for c in (alpha_change, transport_change)]
    return float(torch.stack(shares).mean())


def path_length(transport: Tensor, window: tuple[int, int]) -> dict[str, float]:
    """Length of the path of next-token distributions over depth, radians: `[L - 1] -> {"late", "whole"}`. Ours.

    The sum of transport over the steps that end in W, and over all.
    """
    return {"late": float(late(transport, window, len(transport) + 1).sum()), "whole": float(transport.sum())}


def greatest_change(change: Tensor, depth: int) -> float:
    """The layer, from 1, of the largest |change| of a curve: `[depth]` or `[depth - 1] -> layer`. Ours.

    A transport step counts for the layer at which it ends. NaN if nothing changed, or nothing is known.
    """
    size = change.abs().nan_to_num(nan=0.0)
    return float(size.argmax() + 1 + depth - len(size)) if (size > 0).any() else math.nan


def gradient_concentration(squared_norms: Tensor, window: tuple[int, int]) -> float:
    """Share of the decoder layers' squared gradient norm that lies in W, in [0, 1]: `[L] -> float`. NaN without one."""
    return float(late(squared_norms, window, squared_norms.shape[0]).sum() / squared_norms.sum())


def score(align: float, coherence: float, concentration: float, weights: tuple[float, ...] = (1.0, 1.0, 1.0)) -> float:
    """SPINAL score `w . (delta_align, coherence, gradient_concentration)` (paper). NaN if a term is."""
    return sum(w * term for w, term in zip(weights, (align, coherence, concentration), strict=True))


# --- noise over prompts ----------------------------------------------------------------------------------------------


def standard_error(values: Tensor) -> Tensor:
    """Standard error of the mean over the last dimension, `std / sqrt(N)`: `[..., N] -> [...]`."""
    return values.std(-1) / math.sqrt(values.shape[-1])


def jackknife_error(values: Tensor) -> Tensor:
    """Delete-group jackknife: `sqrt((G - 1)/G sum (v_g - mean)^2)` of estimates with group g left out: `[G] -> []`."""
    g = values.shape[-1]
    return ((g - 1) / g * (values - values.mean(-1, keepdim=True)).square().sum(-1)).sqrt()
