"""The ground truth, which the rules never see: what harm is, defined before any threshold was fitted.

Every 5 steps the policy is measured on what no training saw, without touching training's random state:

- `neutral`: negative log-likelihood of plain paragraphs that have nothing to do with the preferences, nats per token;
- `chosen`: the same of held-out chosen answers, given their prompts;
- `accuracy`: share of held-out pairs whose chosen answer has gained more log-probability since step 0 than its rejected
  one (0.5 at step 0, where nothing has been gained);
- `repetition`: mean share of 3-grams that occurred before in the same greedy answer to a held-out prompt.

Harm is present at an evaluated step when one of these holds against step 0:

- `neutral` has risen by more than 0.10 nats per token: the policy has lost language that it was not asked to change;
- `chosen` has risen by more than 0.30 nats per token: DPO lowers the likelihood of chosen answers a little even when
  all is well, and that is no harm; a third of a nat a token is;
- `repetition` has risen by more than 0.20;
- `accuracy` has fallen by more than 0.20 below the best value of any earlier step: what was learnt is being unlearnt;
- any of the four is not a finite number.

`harm_step` is the first evaluated step at which harm is present and no blip: it is still present (whichever of the five
it is) at the next evaluation, or the step is the last one evaluated. A run without such a step is not harmed, whatever
was done to it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pairs
import torch
from arms import Tier

from spinal_callback.probe.undisturbed import undisturbed

NEUTRAL, CHOSEN, REPETITION, ACCURACY = 0.10, 0.30, 0.20, 0.20
BATCH = 16

Measures = Mapping[str, Sequence[float]]  # columns: step, neutral, chosen, accuracy, repetition


# --- what harm is


def harmed(measures: Measures) -> list[bool]:
    """Whether harm is present at each evaluated step."""
    found = []
    for i in range(len(measures["step"])):
        risen = {name: measures[name][i] - measures[name][0] for name in ("neutral", "chosen", "repetition")}
        fallen = max(measures["accuracy"][: i + 1]) - measures["accuracy"][i]
        limits = ((risen["neutral"], NEUTRAL), (risen["chosen"], CHOSEN), (risen["repetition"], REPETITION))
        # "not <=" and not ">": what is not a number is harm
        found.append(any(not value <= limit for value, limit in (*limits, (fallen, ACCURACY))))
    return found


def harm_step(measures: Measures) -> int | None:
    """The first evaluated step at which harm is present and no blip; None: the run is not harmed."""
    present = harmed(measures)
    for i, step in enumerate(measures["step"]):
        if present[i] and present[min(i + 1, len(present) - 1)]:
            return int(step)
    return None


# --- the measures


class HeldOut:
    """Measures a policy on held-out pairs, neutral texts and greedy answers. The first call is step 0."""

    def __init__(self, tokenizer: Any, rows: list[pairs.Row], tier: Tier) -> None:
        rows = pairs.short(rows, tokenizer, tier.max_length)[: tier.pairs]
        self._pad, self._answer = tokenizer.pad_token_id, tier.answer
        self._prompts = [pairs.prompt_ids(tokenizer, row) for row in rows]
        answers = [[tokenizer(row[key][0]["content"])["input_ids"] for row in rows] for key in ("chosen", "rejected")]
        self._chosen, self._rejected = (
            [(p, a[: tier.max_length - len(p)]) for p, a in zip(self._prompts, told, strict=True)] for told in answers
        )
        ids = [tokenizer(text)["input_ids"] for text in pairs.neutral()[: tier.texts]]
        self._neutral = [(text[:1], text[1 : tier.max_length]) for text in ids]
        self._prompts = self._prompts[: tier.prompts]
        self._start: torch.Tensor | None = None

    def __call__(self, model: Any) -> dict[str, float]:
        with undisturbed(model):
            chosen, rejected = self._likelihood(model, self._chosen), self._likelihood(model, self._rejected)
            neutral = self._likelihood(model, self._neutral)
            repetition = self._repetition(model)
        margins = chosen - rejected
        if self._start is None:
            self._start = margins
        gained = margins - self._start
        finite = bool(gained.isfinite().all())
        return {
            "neutral": -float(neutral.sum()) / sum(len(answer) for _, answer in self._neutral),
            "chosen": -float(chosen.sum()) / sum(len(answer) for _, answer in self._chosen),
            "accuracy": float(((gained > 0).float() + 0.5 * (gained == 0).float()).mean()) if finite else math.nan,
            "repetition": repetition,
        }

    def _likelihood(self, model: Any, texts: list[tuple[list[int], list[int]]]) -> torch.Tensor:
        """Log-probability of each text's second part given its first, nats, `[texts]` float64."""
        told = []
        for start in range(0, len(texts), BATCH):
            batch = texts[start : start + BATCH]
            longest = max(len(prompt) + len(answer) for prompt, answer in batch)
            ids = torch.full((len(batch), longest), self._pad)
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

    def _repetition(self, model: Any) -> float:
        longest = max(map(len, self._prompts))
        rows = [[self._pad] * (longest - len(p)) + p for p in self._prompts]  # answers begin at one place
        mask = [[0] * (longest - len(p)) + [1] * len(p) for p in self._prompts]
        ids = torch.tensor(rows, device=model.device)
        answers = model.generate(
            input_ids=ids,
            attention_mask=torch.tensor(mask, device=model.device),
            do_sample=False,
            max_new_tokens=self._answer,
            min_new_tokens=self._answer,  # of one length, or the shares would not compare
            pad_token_id=self._pad,
        )[:, longest:]
        return sum(repeated(answer) for answer in answers.tolist()) / len(rows)


def repeated(tokens: Sequence[int], size: int = 3) -> float:
    """Share of the `size`-grams that occurred before."""
    grams = [tuple(tokens[i : i + size]) for i in range(len(tokens) - size + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0
