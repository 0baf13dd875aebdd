"""What is measured on a policy beside its trace: the ground truth's measures, and the answers' likelihoods."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import language
import pairs
import torch
from arms import Tier

from spinal_callback.probe.undisturbed import undisturbed

BATCH = 16
CAP = 64  # tokens of an answer whose likelihood is kept
Text = tuple[list[int], list[int]]  # token ids: what is given, and what is read


class HeldOut:
    """Measures a policy on held-out pairs, neutral texts and greedy answers. The first call is step 0."""

    def __init__(self, tokenizer: Any, rows: list[pairs.Row], tier: Tier) -> None:
        rows = pairs.short(rows, tokenizer, tier.max_length)[: tier.pairs]
        self._pad, self._tier = tokenizer.pad_token_id, tier
        self._chosen, self._rejected = answers(tokenizer, rows, tier.max_length)
        ids = [tokenizer(text)["input_ids"] for text in _neutral(tier)]
        self._neutral = [(text[:1], text[1 : tier.max_length]) for text in ids]
        self._prompts = [pairs.prompt_ids(tokenizer, row) for row in rows[: tier.prompts]]
        self._start: tuple[torch.Tensor, torch.Tensor] | None = None

    def __call__(self, model: Any) -> dict[str, float]:
        with undisturbed(model):
            chosen, rejected, neutral = (
                likelihood(model, texts, self._pad) for texts in (self._chosen, self._rejected, self._neutral)
            )
            repetition = self._repetition(model)
        if self._start is None:
            self._start = chosen, rejected
        gained = (chosen - rejected) - (self._start[0] - self._start[1])
        finite = bool(gained.isfinite().all())
        told = {
            "neutral": _per_token(neutral, self._neutral),
            "chosen": _per_token(chosen, self._chosen),
            "accuracy": float(((gained > 0).float() + 0.5 * (gained == 0).float()).mean()) if finite else math.nan,
            "repetition": repetition,
        }
        if self._tier.long:
            lost = self._start[0] - chosen
            told |= {"rejected": _per_token(rejected, self._rejected)}
            told |= {"margin": float(gained.mean()), "lost": float(lost.mean())}
        return told

    def _repetition(self, model: Any) -> float:
        longest = max(map(len, self._prompts))
        rows = [[self._pad] * (longest - len(p)) + p for p in self._prompts]  # answers begin at one place
        mask = [[0] * (longest - len(p)) + [1] * len(p) for p in self._prompts]
        ids = torch.tensor(rows, device=model.device)
        written = model.generate(
            input_ids=ids,
            attention_mask=torch.tensor(mask, device=model.device),
            do_sample=False,
            max_new_tokens=self._tier.answer,
            min_new_tokens=self._tier.answer,  # of one length, or the shares would not compare
            pad_token_id=self._pad,
        )[:, longest:]
        return sum(repeated(answer) for answer in written.tolist()) / len(rows)


class Answers:
    """The likelihood of fixed pairs' answers, pair for pair: what a probe on an evaluation set would see."""

    def __init__(self, tokenizer: Any, rows: list[pairs.Row]) -> None:
        self._pad = tokenizer.pad_token_id
        self._texts = dict(zip(("chosen", "rejected"), answers(tokenizer, rows, cap=CAP), strict=True))
        self.tokens = {name: [len(answer) for _, answer in texts] for name, texts in self._texts.items()}

    def __call__(self, model: Any) -> dict[str, list[float]]:
        """Summed log-likelihood of each pair's chosen and rejected answer, nats."""
        with undisturbed(model):
            return {name: likelihood(model, texts, self._pad).tolist() for name, texts in self._texts.items()}


def answers(
    tokenizer: Any, rows: list[pairs.Row], longest: int | None = None, cap: int | None = None
) -> tuple[list[Text], list[Text]]:
    """(chosen, rejected) answers after their prompts: `longest` tokens in all at most, `cap` of the answer."""
    prompts = [pairs.prompt_ids(tokenizer, row) for row in rows]
    told = []
    for key in ("chosen", "rejected"):
        ids = [tokenizer(row[key][0]["content"])["input_ids"] for row in rows]
        ends = [cap if longest is None else longest - len(prompt) for prompt in prompts]
        told.append([(prompt, answer[:end]) for prompt, answer, end in zip(prompts, ids, ends, strict=True)])
    return told[0], told[1]


def likelihood(model: Any, texts: list[Text], pad: int) -> torch.Tensor:
    """Log-probability of each text's second part given its first, nats, `[texts]` float64."""
    told = []
    for start in range(0, len(texts), BATCH):
        batch = texts[start : start + BATCH]
        longest = max(len(prompt) + len(answer) for prompt, answer in batch)
        ids = torch.full((len(batch), longest), pad)
        counts, mask = torch.zeros(len(batch), longest), torch.zeros(len(batch), longest, dtype=torch.long)
        for row, (prompt, answer) in enumerate(batch):
            whole = len(prompt) + len(answer)
            ids[row, :whole] = torch.tensor(prompt + answer)
            mask[row, :whole], counts[row, len(prompt) : whole] = 1, 1
        ids, mask, counts = (x.to(model.device) for x in (ids, mask, counts))
        logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits[:, :-1].float()
        each = logits.gather(2, ids[:, 1:, None])[..., 0] - logits.logsumexp(2)
        told.append((each.double() * counts[:, 1:]).sum(1).cpu())
    return torch.cat(told)


def repeated(tokens: Sequence[int], size: int = 3) -> float:
    """Share of the `size`-grams that occurred before."""
    grams = [tuple(tokens[i : i + size]) for i in range(len(tokens) - size + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def _neutral(tier: Tier) -> list[str]:
    """Texts that the tier's model reads well and that no preference touches."""
    return language.stories(tier.texts, language.FRESH) if tier.stories else pairs.neutral()[: tier.texts]


def _per_token(likelihoods: torch.Tensor, texts: list[Text]) -> float:
    return -float(likelihoods.sum()) / sum(len(answer) for _, answer in texts)
