"""Contraction of all layers, fitted in groups of prompts of equal size: N changes the error, not the level."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..config import JACKKNIFE_GROUPS, SPREAD_FROM, SpinalConfig
from .contraction import deleted_exponents, effective_rank, gram, spectrum, tail_exponent


class GroupedFit:
    """How the prompts are grouped for the fits of the tail exponent, and the fits. All definitions are ours.

    The exponent depends on how many rows a spectrum is of: late contraction of SmolLM2-135M-Instruct is 0.73 with 64
    prompts and 1.38 with 512. So K = N // `config.group` groups of `config.group` prompts each are fitted on their own,
    and the exponent is their mean. With fewer than two groups' worth of prompts, or without a group size, there is one
    fit. Prompts beyond the last whole group are in none.

    From `SPREAD_FROM` fits on, the error is that of their mean: std / sqrt(K). With fewer, it is that of a delete-group
    jackknife, which leaves out one in `JACKKNIFE_GROUPS` prompts of every fit at a time. Either way `deleted` has the
    exponents with one group left out, and `measures.jackknife_error` of them, or of their differences, is the error.

    Args:
        counts: `[N]` rows of each prompt.
        config: has `group` and `tail`.
        width: d, of a hidden state.

    Attributes:
        left_out: `[N]` the group, 0..G-1, with which each prompt is left out in `deleted`.

    Raises:
        ValueError: the rows of a fit are too few for the tail (`SpinalConfig.tail_ranks`).
    """

    def __init__(self, counts: Tensor, config: SpinalConfig, width: int) -> None:
        prompts = len(counts)
        size = min(config.group or prompts, prompts)
        fits, number = prompts // size, torch.arange(prompts)
        self._spread = fits >= SPREAD_FROM
        self.left_out = number % fits if self._spread else number // fits % JACKKNIFE_GROUPS
        # Every K-th prompt: the groups are alike also where the prompts are sorted in some way.
        fit_of = torch.where(number < fits * size, number % fits, -1).repeat_interleave(counts)
        self._rows = [(fit_of == fit).nonzero().flatten() for fit in range(fits)]
        self._ranks = [config.tail_ranks(len(rows), width) for rows in self._rows]
        left_out = self.left_out.repeat_interleave(counts)
        self._left_out = [left_out[rows] for rows in self._rows]
        self._ranks_without = [
            [config.tail_ranks(int((groups != g).sum()), width, least=2) for g in range(int(groups.max()) + 1)]
            for groups in self._left_out
            if not self._spread
        ]

    def read(self, hidden: Tensor) -> dict[str, Tensor]:
        """From all prompts' rows of some layers, `[l, R, d]`: fields of a `Sample`.

        Returns:
            `alpha`, `alpha_se`, `alpha_r2`, `effective_rank` `[l]`, each the mean over the fits but for the error, and
            `deleted [G, l]`.
        """
        fits = [self._fit(hidden, i) for i in range(len(self._rows))]
        each = {name: torch.stack([fit[name] for fit in fits]) for name in fits[0]}
        read, alpha, count = {name: values.mean(0) for name, values in each.items()}, each["alpha"], len(fits)
        if self._spread:
            read["deleted"] = (alpha.sum(0) - alpha) / (count - 1)
            read["alpha_se"] = alpha.std(0) / math.sqrt(count)
        else:
            read["alpha_se"] = (each["alpha_se"].square().sum(0)).sqrt() / count
        return read

    def _fit(self, hidden: Tensor, i: int) -> dict[str, Tensor]:
        rows = self._rows[i]
        h = hidden if len(rows) == hidden.shape[1] else hidden[:, rows.to(hidden.device)]
        squared = gram(h)
        sigma = spectrum(h, squared)
        alpha, se, r2 = tail_exponent(sigma, self._ranks[i])
        read = {"alpha": alpha, "alpha_se": se, "alpha_r2": r2, "effective_rank": effective_rank(sigma)}
        if not self._spread:
            read["deleted"] = deleted_exponents(h, self._left_out[i], self._ranks_without[i], squared)
        return read
