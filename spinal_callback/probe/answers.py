"""How likely the policy finds held-out answers: what the hidden states at the last prompt token do not show.

A preference pair is a prompt, a chosen and a rejected answer. Each answer runs behind its prompt, with the machinery of
the prompts' own forward pass (`forward.Forward`): batches, a shared prefix run once, ranks, sharded weights.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..distributed.sharding import Backend
from .forward import Forward
from .logit_lens import lens_chunks, row_blocks
from .model_parts import ReadableModel
from .prompts import Pair, PromptSet

ANSWER_TOKENS = 64  # of an answer at most: what is behind them costs time and says little more


def answer_set(pairs: Sequence[Pair], longest: int = ANSWER_TOKENS) -> PromptSet:
    """M pairs as 2 M texts: first each prompt with its chosen answer, then each with its rejected one."""
    texts = [(prompt, answer[:longest]) for place in (1, 2) for prompt, answer in ((p[0], p[place]) for p in pairs)]
    return PromptSet([prompt + answer for prompt, answer in texts], [len(answer) for _, answer in texts])


class AnswerReader:
    """Reads the log-likelihood of M pairs' answers.

    Attributes:
        tokens: `[2, M]` how many tokens each answer has: chosen, rejected.
        forward: the forward pass of the 2 M texts; it keeps the last layer's states where a token of an answer follows.
    """

    def __init__(self, model: ReadableModel, pairs: Sequence[Pair], backend: Backend, device: torch.device) -> None:
        self._model, self._texts = model, answer_set(pairs)
        self.forward = Forward(model, self._texts, backend, device, kept=model.layers[-1:])
        self.tokens = self.forward.counts.view(2, -1)

    def log_likelihood(self, states: Tensor, own: list[int], block: int) -> Tensor:
        """Of this rank's texts `own`, from the `[1, R, d]` states of their answers: `[len(own)]`, nats, float64."""
        counts = self.forward.counts[own]
        ids = [torch.tensor(self._texts.ids[i][-int(n) :]) for i, n in zip(own, counts, strict=True)]
        asked = torch.cat(ids or [torch.zeros(0, dtype=torch.long)])  # no texts: more ranks than there are
        blocks = []
        for rows in row_blocks(self._model, states, block):
            stream = LogLikelihood(asked[rows])
            for cols, z in lens_chunks(self._model, states[:, rows], block):
                stream.update(z[0], cols.start)
            blocks.append(stream.log_probability())
        owner = torch.arange(len(own)).repeat_interleave(counts)
        return torch.zeros(len(own), dtype=torch.float64).index_add_(0, owner, torch.cat(blocks).cpu())


class LogLikelihood:
    """Log-probability of one token in each row, read from logits that come in pieces of the vocabulary.

    log p_t = z_t - LSE(z). Sums are float64: a difference of two log-probabilities is small beside either.

    Args:
        tokens: `[R]` the token asked for in each row.
    """

    def __init__(self, tokens: Tensor) -> None:
        self._tokens = tokens
        self._own = torch.zeros(len(tokens), dtype=torch.float64)
        self._all = torch.full_like(self._own, -torch.inf)

    def update(self, z: Tensor, first: int) -> None:
        """Takes logits `[R, c]` of the tokens `first .. first + c - 1` of the vocabulary."""
        if self._own.device != z.device:
            self._tokens, self._own, self._all = (x.to(z.device) for x in (self._tokens, self._own, self._all))
        self._all = torch.logaddexp(self._all, z.double().logsumexp(-1))
        here = (self._tokens >= first) & (self._tokens < first + z.shape[-1])
        column = (self._tokens - first).clamp(0, z.shape[-1] - 1)
        self._own = torch.where(here, z.gather(-1, column[:, None])[:, 0].double(), self._own)

    def log_probability(self) -> Tensor:
        """`[R]`, nats, float64."""
        return self._own - self._all


def chosen_nll(log_likelihood: Tensor, tokens: Tensor) -> Tensor:
    """Negative log-likelihood of each chosen answer, nats per token: `[2, M], [2, M] -> [M]`."""
    return -log_likelihood[0] / tokens[0]


def margins(now: Tensor, before: Tensor) -> Tensor:
    """How much more log-likelihood each chosen answer gained than its rejected one: `[2, M], [2, M] -> [M]`, nats.

    Times beta it is the reward margin of DPO, held against the first reading instead of the reference model.
    """
    gained = now - before
    return gained[0] - gained[1]


def accuracy(margin: Tensor) -> float:
    """Share of the pairs whose margin is positive, `[M]`; equal ones count half. NaN where a margin is not finite."""
    if not len(margin) or not bool(margin.isfinite().all()):
        return float("nan")
    return float(((margin > 0).double() + 0.5 * (margin == 0).double()).mean())
