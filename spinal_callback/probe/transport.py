"""Transport: Fisher-Rao distances between next-token distributions (SPINAL, arXiv 2601.06238).

Tensors in, tensors out; logits come in pieces of the vocabulary. S stacked distributions, N prompts, V tokens, radians.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

REACH = 16.0  # nats by which a logit may lie above the peak that its distribution is scaled by


def fisher_rao(cosine: Tensor) -> Tensor:
    """Fisher-Rao distance `2 arccos BC`, radians in [0, pi], from the Bhattacharyya coefficient BC in float64: `[...]`.

    As `4 arcsin sqrt((1 - BC) / 2)`, since arccos turns an error of 1e-7 at BC = 1 into 4e-4 rad.
    """
    return 4 * ((1 - cosine.clamp(0, 1)) / 2).sqrt().asin()


class FisherRaoStream:
    """Distances between neighbours in a stack of distributions, read from logits that come in pieces of the vocabulary.

    BC(p, q) = sum_v sqrt(p q) is the cosine of the angle between the vectors e = exp(z / 2), so one exponential per
    logit and three running sums per step are enough, over any split of the vocabulary:
    `BC = sum e_p e_q / sqrt(sum e_p^2 sum e_q^2)`, in logs `LSE((z_p + z_q)/2) - LSE(z_p)/2 - LSE(z_q)/2`.
    Rounding e moves the angle by no more than the rounding error; the sums are float64, since cos is flat at 0.

    Call `update` once for each piece, then `distances`, `entropy`, and `entropies` of the distributions from index
    `entropies_from` on; by default of the last alone.
    """

    def __init__(self, entropies_from: int = -1) -> None:
        self._entropies_from = entropies_from
        self._peak: Tensor | None = None  # [S, N] the largest logit so far, or near it: scales every sum

    def update(self, z: Tensor) -> None:
        """Takes logits `[S, N, c]` of the next c tokens: S stacked distributions, N prompts. -inf: no such token."""
        if self._peak is None:
            s, n, _ = z.shape
            zero = torch.zeros(s, n, dtype=torch.float64, device=z.device)
            self._mass, self._cross = zero, zero[:-1].clone()
            self._energy = zero[self._entropies_from :].clone()
            self._peak = self._raised(zero.to(z.dtype) - torch.inf, z)
        sums = self._sums(z)
        if not (sums[0] < math.exp(REACH)).all():  # seldom: the first piece's peak is as good as the highest
            self._peak = self._raised(self._peak, z)
            sums = self._sums(z)
        self._mass += sums[0]
        self._cross += sums[1]
        self._energy += sums[2]

    def _sums(self, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mass, cross, energy = map(torch.empty_like, (self._mass, self._cross, self._energy))
        begin = self._entropies_from % z.shape[0]
        root: Tensor | None = None
        for i in range(z.shape[0]):  # one distribution at a time: what a CPU's cache holds
            below, shifted = root, torch.add(self._half_peak[i], z[i], alpha=0.5)
            if i >= begin:
                rest = shifted.to(torch.float64, copy=True)  # exp_ below overwrites it
            root = shifted.exp_().double()
            torch.linalg.vecdot(root, root, out=mass[i])
            if below is not None:
                torch.linalg.vecdot(below, root, out=cross[i - 1])
            if i >= begin:  # 0 log 0 is 0: what is -inf must stay finite
                torch.linalg.vecdot(root * root, rest.clamp_min_(-1e300), out=energy[i - begin])
        return mass, cross, energy * 2

    def _raised(self, peak: Tensor, z: Tensor) -> Tensor:
        """The largest logits so far; rescales all sums by them. A piece of nothing but -inf leaves them as they are."""
        new = torch.maximum(peak, z.amax(-1).clamp_min(torch.finfo(z.dtype).min))
        down = (peak.double() - new.double()).clamp_min(-1e300)
        scale = down.exp()
        some = slice(self._entropies_from, None)
        self._energy = (self._energy + self._mass[some] * down[some]) * scale[some]
        self._mass = self._mass * scale
        self._cross = self._cross * (scale[:-1] * scale[1:]).sqrt()
        self._half_peak = (new * -0.5)[..., None]
        return new

    def distances(self) -> Tensor:
        """Fisher-Rao distance from each distribution to the next, radians: `[S - 1, N]`, float64."""
        return fisher_rao(self._cross / (self._mass[:-1] * self._mass[1:]).sqrt())

    def entropies(self) -> Tensor:
        """Entropy of each distribution from index `entropies_from` on, nats: `[.., N]`, float64."""
        mass = self._mass[self._entropies_from :]
        return mass.log() - self._energy / mass

    def entropy(self) -> Tensor:
        """Entropy of the last distribution, nats: `[N]`, float64."""
        return self.entropies()[-1]


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
