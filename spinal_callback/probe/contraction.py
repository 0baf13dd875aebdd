"""Contraction: how fast the singular values of a layer's hidden states fall (SPINAL, arXiv 2601.06238).

Tensors in, tensors out: nothing here knows models, configurations or ranks. N prompts, width d. Sentences marked *ours*
define what the paper's text leaves open.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

GRAM = 1e-3  # least sigma, as a share of the greatest, that the Gram matrix in float64 gives to ten digits
ROWS = 4096  # rows summed up at a time


def spectrum(h: Tensor, squared: Tensor | None = None) -> Tensor:
    """Singular values of the rows centred over prompts, descending, float64: `[..., N, d] -> [..., r]`, on the CPU.

    r = min(N - 1, d). Centring is ours: it takes one degree of freedom, hence N - 1. Values that rounding alone could
    have made (`rounding_floor`) are 0. All are NaN where `h` has a NaN or an infinity.

    Roots of the eigenvalues of the Gram matrix (`squared`, if it is known), which are off by about
    eps64 (sigma_1 / sigma_k)^2 / 2. Where the last sigma is under `GRAM` times the first, `h` is decomposed without
    being squared.
    """
    squared = gram(h) if squared is None else squared
    flat, finite = _finite(h.reshape(-1, *h.shape[-2:]))
    r = min(h.shape[-2] - 1, h.shape[-1])
    sigma = _roots(squared.reshape(-1, *squared.shape[-2:]))[:, :r]
    for i in (sigma[:, -1] < GRAM * sigma[:, 0]).nonzero().flatten().tolist():
        sigma[i] = _exact(flat[i])[:r]
    sigma = sigma.where(sigma > rounding_floor(flat)[:, None].cpu(), 0.0)
    return sigma.where(finite[:, None].cpu(), math.nan).reshape(*h.shape[:-2], r)


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

    Zeros where `h` has a NaN or an infinity. A tall `h` is summed up `ROWS` rows at a time, which needs O(d^2) memory
    beside `h` itself.
    """
    h, _ = _finite(h)
    mean = h.mean(-2, keepdim=True, dtype=torch.float64)
    if h.shape[-1] >= h.shape[-2]:
        rows = h - mean
        return rows @ rows.mT
    parts = (part - mean for part in h.split(ROWS, dim=-2))
    return sum((part.mT @ part for part in parts), torch.zeros((), dtype=torch.float64, device=h.device))


def _finite(h: Tensor) -> tuple[Tensor, Tensor]:
    """`h` with zeros in place of each matrix that has a NaN or an infinity, and which have none: `[...]`, bool."""
    finite = h.isfinite().flatten(-2).all(-1)
    return (h if finite.all() else h.where(finite[..., None, None], 0.0)), finite


def _roots(squared: Tensor) -> Tensor:
    """Square roots of the eigenvalues, descending, on the CPU: the matrices are small."""
    return torch.linalg.eigvalsh(squared.cpu()).flip(-1).clamp_min(0).sqrt()


def _exact(h: Tensor) -> Tensor:
    """Singular values of the centred rows without squaring them: `[N, d] -> [min(N, d)]`. A tall `h` by QR."""
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
        error is that of the fit, with n - 2 degrees of freedom, not that of sampling prompts. NaN where the tail's last
        sigma is 0: there is no power law to fit.
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


def deleted_exponents(h: Tensor, groups: Tensor, tails: list[tuple[int, int]], squared: Tensor | None = None) -> Tensor:
    """Tail exponents with one group of rows left out at a time, for the jackknife: `[..., N, d] -> [G, ...]`, float64.

    Args:
        h: hidden states.
        groups: `[N]` the group of each row, 0..G-1.
        tails: first and last rank of the tail where group 0, 1, ... is left out.
        squared: `gram(h)`, if it is known.

    The spectrum without a group is that of the recentred Gram matrix without the group's part. In float64 this loses
    what lies below 1e-8 sigma_1: precise enough for a standard error, not for the exponent itself.
    """
    squared = gram(h) if squared is None else squared
    h, finite = _finite(h)
    wide, mean = h.shape[-1] >= h.shape[-2], h.mean(-2, keepdim=True, dtype=torch.float64)
    out = []
    for group, tail in enumerate(tails):
        left_out = groups == group
        if wide:
            block = squared[..., ~left_out, :][..., ~left_out]
            for side in (-2, -1):
                block = block - block.mean(side, keepdim=True)
        else:
            rows = h[..., left_out, :] - mean
            shift = rows.sum(-2, keepdim=True)  # the sum of the rows kept is its negative
            block = squared - rows.mT @ rows - shift.mT @ shift / int((~left_out).sum())
        out.append(tail_exponent(_roots(block), tail)[0].where(finite.cpu(), math.nan))
    return torch.stack(out)
