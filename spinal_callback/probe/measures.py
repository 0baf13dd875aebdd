"""The measures of SPINAL (arXiv 2601.06238): tensors in, tensors out.

Nothing here knows of models, configurations or ranks. L layers, N prompts, width d, V tokens. Sentences marked *ours*
define what the paper's text leaves open.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

GRAM = 1e-3  # least sigma, as a share of the greatest, that the Gram matrix in float64 gives to ten digits
ROWS = 4096  # rows summed up at a time
REACH = 16.0  # nats by which a logit may lie above the peak that its distribution is scaled by

# --- contraction -----------------------------------------------------------------------------------------------------


def spectrum(h: Tensor) -> Tensor:
    """Singular values of the rows centred over prompts, descending, float64: `[..., N, d] -> [..., r]`.

    r = min(N - 1, d). Centring is ours: it takes one degree of freedom, hence N - 1. Values that rounding alone could
    have made (`rounding_floor`) are 0. All are NaN where `h` has a NaN or an infinity.

    Roots of the eigenvalues of the smaller Gram matrix, in float64: off by about eps64 (sigma_1 / sigma_k)^2 / 2. Where
    the last sigma is under `GRAM` times the first, `h` is decomposed without being squared.
    """
    flat = h.reshape(-1, *h.shape[-2:])
    r, finite = min(h.shape[-2] - 1, h.shape[-1]), flat.isfinite().flatten(1).all(-1)
    flat = flat.where(finite[:, None, None], 0.0)
    sigma = _roots(gram(flat))[:, :r]
    for i in (sigma[:, -1] < GRAM * sigma[:, 0]).nonzero().flatten().tolist():
        sigma[i] = _exact(flat[i])[:r]
    sigma = sigma.where(sigma > rounding_floor(flat)[:, None].to(sigma.device), 0.0)
    return sigma.where(finite[:, None].to(sigma.device), math.nan).reshape(*h.shape[:-2], r)


def rounding_floor(h: Tensor) -> Tensor:
    """Largest singular value that rounding makes out of nothing: `[..., N, d] -> [...]`, float64. Ours.

    Entries rounded to relative precision eps carry errors of about eps / sqrt(12) of their size; a random
    `[N, d]` matrix of them has spectral norm about `eps ||h||_F (1/sqrt(N) + 1/sqrt(d)) / (2 sqrt(3))`, eps that of
    `h`'s own dtype; twice that is safe. The decomposition, in float64, adds `max(N, d) eps64 ||h||_F`. The floor is
    the larger of the two.
    """
    n, d = h.shape[-2:]
    of_data = torch.finfo(h.dtype).eps * (n**-0.5 + d**-0.5) / math.sqrt(3)
    norm = torch.linalg.vector_norm(h, dim=(-2, -1), dtype=torch.float64)
    return norm * max(of_data, max(n, d) * torch.finfo(torch.float64).eps)


def gram(h: Tensor) -> Tensor:
    """Gram matrix of the smaller side of the centred rows, float64: `[..., N, d] -> [..., N, N]` or `[..., d, d]`.

    A taller side is summed up `ROWS` rows at a time: what it takes beside `h` is O(d^2), whatever N.
    """
    mean = h.mean(-2, keepdim=True, dtype=torch.float64)
    if h.shape[-1] >= h.shape[-2]:
        rows = h - mean
        return rows @ rows.mT
    parts = (part - mean for part in h.split(ROWS, dim=-2))
    return sum((part.mT @ part for part in parts), torch.zeros((), dtype=torch.float64, device=h.device))


def _roots(gram: Tensor) -> Tensor:
    """Square roots of the eigenvalues, descending, on the CPU: the matrices are small."""
    return torch.linalg.eigvalsh(gram.cpu()).flip(-1).clamp_min(0).sqrt()


def _exact(h: Tensor) -> Tensor:
    """Singular values of the centred rows without squaring them: `[N, d] -> [min(N, d)]`. Tall: by a QR of parts."""
    mean = h.mean(0, dtype=torch.float64)
    if h.shape[1] >= h.shape[0]:
        return torch.linalg.svdvals((h - mean).cpu())
    triangle = torch.zeros(0, h.shape[1], dtype=torch.float64)
    for part in h.split(ROWS):
        triangle = torch.linalg.qr(torch.cat([triangle, (part - mean).cpu()]), mode="r").R
    return torch.linalg.svdvals(triangle)


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
    """Tail exponents with one group of rows left out at a time, for the jackknife: `[..., N, d] -> [G, ...]`, float64.

    Args:
        h: hidden states.
        groups: `[N]` the group of each row, 0..G-1.
        ranks_of: the tail's ranks for each group's deletion.

    A deleted spectrum is that of the recentred Gram matrix without the group's part. In float64 it loses what lies
    below 1e-8 sigma_1: enough for a standard error, not for the exponent itself.
    """
    finite = h.isfinite().flatten(-2).all(-1)
    h = h.where(finite[..., None, None], 0.0)
    wide, whole, mean = h.shape[-1] >= h.shape[-2], gram(h), h.mean(-2, keepdim=True, dtype=torch.float64)
    out = []
    for group, ranks in enumerate(ranks_of):
        left_out = groups == group
        if wide:
            block = whole[..., ~left_out, :][..., ~left_out]
            for side in (-2, -1):
                block = block - block.mean(side, keepdim=True)
        else:
            rows = h[..., left_out, :] - mean
            shift = rows.sum(-2, keepdim=True)  # that of the rows kept is its negative
            block = whole - rows.mT @ rows - shift.mT @ shift / int((~left_out).sum())
        out.append(tail_exponent(_roots(block), ranks)[0].where(finite.cpu(), math.nan))
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
        self._peak: Tensor | None = None  # [S, N] every sum is scaled by it: the largest logit so far, or near it

    def update(self, z: Tensor) -> None:
        """Takes logits `[S, N, c]` of the next c tokens: S stacked distributions, N prompts. -inf: no such token."""
        if self._peak is None:
            s, n, _ = z.shape
            zero = torch.zeros(s, n, dtype=torch.float64, device=z.device)
            self._mass, self._cross, self._energy = zero, zero[:-1].clone(), zero[0].clone()
            self._peak = self._raised(zero.to(z.dtype) - torch.inf, z)
        sums = self._sums(z)
        if not (sums[0] < math.exp(REACH)).all():  # seldom: the first piece's peak is as good as the highest
            self._peak = self._raised(self._peak, z)
            sums = self._sums(z)
        self._mass += sums[0]
        self._cross += sums[1]
        self._energy += sums[2]

    def _sums(self, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mass, cross, energy = torch.empty_like(self._mass), torch.empty_like(self._cross), self._energy
        final = self._entropy_of % z.shape[0]
        root: Tensor | None = None
        for i in range(z.shape[0]):  # one distribution at a time: what a CPU's cache holds
            below, shifted = root, torch.add(self._half_peak[i], z[i], alpha=0.5)
            if i == final:
                rest = shifted.to(torch.float64, copy=True)
            root = shifted.exp_().double()
            torch.linalg.vecdot(root, root, out=mass[i])
            if below is not None:
                torch.linalg.vecdot(below, root, out=cross[i - 1])
            if i == final:
                energy = torch.where(root > 0, root.square() * rest, 0.0).sum(-1) * 2
        return mass, cross, energy

    def _raised(self, peak: Tensor, z: Tensor) -> Tensor:
        """The largest logits so far, and all sums scaled by them. A piece of nothing but -inf has none."""
        new = torch.maximum(peak, z.amax(-1).clamp_min(torch.finfo(z.dtype).min))
        down = (peak.double() - new.double()).clamp_min(-1e300)
        scale = down.exp()
        final = self._entropy_of
        self._energy = (self._energy + self._mass[final] * down[final]) * scale[final]
        self._mass = self._mass * scale
        self._cross = self._cross * (scale[:-1] * scale[1:]).sqrt()
        self._half_peak = (new * -0.5)[..., None]
        return new

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
