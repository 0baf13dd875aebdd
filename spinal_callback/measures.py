"""The measures of SPINAL (arXiv 2601.06238): tensors in, tensors out.

Nothing here knows of models, configurations or ranks. L layers, N prompts, width d, V tokens. Sentences marked *ours*
define what the paper's text leaves open.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

# --- contraction -----------------------------------------------------------------------------------------------------


def spectrum(h: Tensor) -> Tensor:
    """Singular values of the rows centred over prompts, descending, float64: `[N, d] -> [r]`, r = min(N - 1, d).

    Centring is ours: it takes one degree of freedom, hence N - 1. Values that rounding alone could have made
    (`rounding_floor`) are 0. All are NaN where `h` has a NaN or an infinity.
    """
    rows, r = h.double(), min(h.shape[0] - 1, h.shape[1])
    if not rows.isfinite().all():
        return rows.new_full((r,), math.nan)
    sigma = torch.linalg.svdvals(rows - rows.mean(0))[:r]
    return sigma.where(sigma > rounding_floor(h), 0.0)


def rounding_floor(h: Tensor) -> Tensor:
    """Largest singular value that rounding makes out of nothing: `[N, d] -> []`, float64. Ours.

    Entries rounded to relative precision eps carry errors of about eps / sqrt(12) of their size; a random
    `[N, d]` matrix of them has spectral norm about `eps ||h||_F (1/sqrt(N) + 1/sqrt(d)) / (2 sqrt(3))`, eps that of
    `h`'s own dtype; twice that is safe. The decomposition, in float64, adds `max(N, d) eps64 ||h||_F`. The floor is
    the larger of the two.
    """
    n, d = h.shape
    of_data = torch.finfo(h.dtype).eps * (n**-0.5 + d**-0.5) / math.sqrt(3)
    return h.double().norm() * max(of_data, max(n, d) * torch.finfo(torch.float64).eps)


def tail_exponent(sigma: Tensor, ranks: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
    """Contraction `alpha = -d log sigma_k / d log k` over the tail, with its standard error and R^2.

    Args:
        sigma: `[..., r]` singular values, descending.
        ranks: first and last rank k of the tail, counted from 1, both included.

    Returns:
        alpha, its standard error, R^2: each `[...]`, float64. Ordinary least squares of log sigma on log k (ours); the
        error is that of the fit, with n - 2 degrees of freedom, not that of sampling prompts. NaN where the tail ends
        at 0: it is no tail, and an exponent would be made up.
    """
    low, high = ranks
    tail = sigma[..., low - 1 : high].double()
    x = torch.arange(low, high + 1, dtype=torch.float64, device=sigma.device).log()
    x = x - x.mean()
    y = tail.where(tail[..., -1:] > 0, math.nan).log()
    y = y - y.mean(-1, keepdim=True)
    sxx = (x * x).sum()
    slope = (x * y).sum(-1) / sxx
    residual = (y - slope[..., None] * x).square().sum(-1)
    se = (residual / (x.numel() - 2) / sxx).sqrt()
    return -slope, se, 1 - residual / y.square().sum(-1)


def effective_rank(sigma: Tensor) -> Tensor:
    """exp of the spectral entropy `-sum p log p`, p = sigma / sum sigma (Roy & Vetterli 2007): `[..., r] -> [...]`.

    Between 1 and r; NaN for an empty spectrum.
    """
    p = sigma.double() / sigma.double().sum(-1, keepdim=True)
    return torch.special.entr(p).sum(-1).exp()


def deleted_exponents(h: Tensor, groups: Tensor, ranks_of: list[tuple[int, int]]) -> Tensor:
    """Tail exponents with one group of rows left out at a time, for the jackknife: `[N, d] -> [G]`, float64.

    Args:
        h: hidden states of one layer.
        groups: `[N]` the group of each row, 0..G-1.
        ranks_of: the tail's ranks for each group's deletion.

    A deleted spectrum is that of a recentred block of the `[N, N]` (or `[d, d]`) Gram matrix. In float64 it loses what
    lies below 1e-8 sigma_1: enough for a standard error, not for the exponent itself.
    """
    rows = h.double()
    if not rows.isfinite().all():
        return rows.new_full((len(ranks_of),), math.nan)
    rows = rows - rows.mean(0)  # centred once for precision, again in each block
    wide = rows.shape[1] >= rows.shape[0]
    gram = rows @ rows.T if wide else None
    out = []
    for group, ranks in enumerate(ranks_of):
        keep = (groups != group).nonzero().squeeze(-1)
        if gram is not None:
            block = gram[keep][:, keep]
            block = block - block.mean(0) - block.mean(1, keepdim=True) + block.mean()
        else:
            part = rows[keep] - rows[keep].mean(0)
            block = part.T @ part
        sigma = torch.linalg.eigvalsh(block).flip(-1).clamp_min(0).sqrt()
        out.append(tail_exponent(sigma, ranks)[0])
    return torch.stack(out)


# --- transport -------------------------------------------------------------------------------------------------------


def fisher_rao(cosine: Tensor) -> Tensor:
    """Fisher-Rao distance `2 arccos BC`, radians in [0, pi], from the Bhattacharyya coefficient BC in float64: `[...]`.

    As `4 arcsin sqrt((1 - BC) / 2)`, since arccos turns an error of 1e-7 at BC = 1 into 4e-4 rad.
    """
    return 4 * ((1 - cosine.clamp(0, 1)) / 2).sqrt().asin()


class FisherRaoStream:
    """Distances between neighbours in a stack of distributions, read from logits that come in pieces of the vocabulary.

    BC(p, q) = sum_v sqrt(p q) is the cosine of the angle between the vectors e^(z/2). So one exponential per logit and
    three running sums per step, over any split of the vocabulary, are all it takes:
    `BC = sum e_p e_q / sqrt(sum e_p^2 sum e_q^2)`, the same as `LSE((z_p + z_q)/2) - LSE(z_p)/2 - LSE(z_q)/2` in logs.
    Rounding e moves the angle by no more than its own size; the sums are float64, since cos is flat at 0.

    Use: `update` once per piece, then read `distances` and the `entropy` of the distribution at index `entropy_of`.
    """

    def __init__(self, entropy_of: int = -1) -> None:
        self._entropy_of = entropy_of
        self._peak: Tensor | None = None  # [S, N] largest logit so far; every sum is scaled by it

    def update(self, z: Tensor) -> None:
        """Takes logits `[S, N, c]` of the next c tokens: S stacked distributions, N prompts. -inf: no such token."""
        peak = z.amax(-1).clamp_min(torch.finfo(z.dtype).min)  # a piece of nothing but -inf has no peak
        if self._peak is None:
            s, n = peak.shape
            zero = torch.zeros(s, n, dtype=torch.float64, device=z.device)
            self._peak, self._mass, self._cross, self._energy = peak, zero, zero[:-1].clone(), zero[0].clone()
        new = torch.maximum(self._peak, peak)
        self._rescale(self._peak.double() - new.double())
        self._peak = new
        final = self._entropy_of % z.shape[0]
        root: Tensor | None = None
        for i in range(z.shape[0]):  # one distribution at a time: float64 of the whole piece would triple the memory
            shifted = z[i] - new[i, :, None]
            below, root = root, (shifted * 0.5).exp().double()
            self._mass[i] += torch.linalg.vecdot(root, root)
            if below is not None:
                self._cross[i - 1] += torch.linalg.vecdot(below, root)
            if i == final:
                self._energy += torch.where(root > 0, root.square() * shifted, 0.0).sum(-1)

    def _rescale(self, down: Tensor) -> None:
        scale = down.exp()
        final = self._entropy_of
        self._energy = (self._energy + self._mass[final] * down[final].clamp_min(-1e300)) * scale[final]
        self._mass = self._mass * scale
        self._cross = self._cross * (scale[:-1] * scale[1:]).sqrt()

    def distances(self) -> Tensor:
        """Fisher-Rao distance from each distribution to the next, radians: `[S - 1, N]`, float64."""
        return fisher_rao(self._cross / (self._mass[:-1] * self._mass[1:]).sqrt())

    def entropy(self) -> Tensor:
        """Entropy of the distribution at `entropy_of`, nats: `[N]`, float64."""
        mass = self._mass[self._entropy_of]
        return mass.log() - self._energy / mass


class TopTokens:
    """Each distribution's k largest logits, from pieces of the vocabulary; then the union over a prompt's stack."""

    def __init__(self, k: int) -> None:
        self._k = k
        self._best: tuple[Tensor, Tensor] | None = None

    def update(self, z: Tensor, offset: int) -> None:
        """Takes logits `[S, N, c]` of tokens offset..offset + c - 1."""
        values, ids = z.topk(min(self._k, z.shape[-1]), dim=-1)
        ids = ids + offset
        if self._best is not None:
            values, ids = torch.cat([self._best[0], values], -1), torch.cat([self._best[1], ids], -1)
            values, pick = values.topk(min(self._k, values.shape[-1]), dim=-1)
            ids = ids.gather(-1, pick)
        self._best = values, ids

    def union(self, vocabulary: int) -> Tensor:
        """Which tokens are among the k most probable of any of a prompt's S distributions: `[N, V]`, bool."""
        assert self._best is not None
        ids = self._best[1].transpose(0, 1).flatten(1)
        chosen = torch.zeros(ids.shape[0], vocabulary, dtype=torch.bool, device=ids.device)
        return chosen.scatter_(1, ids, True)


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
    its own range over the whole depth. NaN if W has no three neighbours.
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


def localization(alpha_change: Tensor, transport_change: Tensor, window: tuple[int, int]) -> float:
    """Share of the trace's change since step 0 that lies in W, in [0, 1]: `[L], [L - 1] -> float`. Form ours.

    The mean of the shares of sum |change| of the two curves. NaN where nothing has changed.
    """
    depth = alpha_change.shape[0]
    shares = [late(c.abs(), window, depth).sum() / c.abs().sum() for c in (alpha_change, transport_change)]
    return float(torch.stack(shares).mean())


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
