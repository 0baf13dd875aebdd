"""The ground truth, which the rules never see: what harm is, defined before any threshold was fitted.

Every few steps the policy is measured on what no training saw, without touching training's random state (`heldout.py`):

- `neutral`: negative log-likelihood of texts that have nothing to do with the preferences, nats per token: plain
  paragraphs, or, for the tiny models of the long tiers, unseen stories of a language that they know (`language.py`);
- `chosen`: the same of held-out chosen answers, given their prompts;
- `accuracy`: share of held-out pairs whose chosen answer has gained more log-probability since step 0 than its rejected
  one (0.5 at step 0, where nothing has been gained);
- `repetition`: mean share of 3-grams that occurred before in the same greedy answer to a held-out prompt;
- the long tiers too: `rejected`, as `chosen`; `lost`: the log-probability that chosen answers have lost since step 0,
  and `margin`: what they have gained on the rejected ones, both in nats a pair.

`harm_step` is the first evaluated step at which harm is present and no blip: it is still present (whichever sign of
it) at the next evaluation, or the step is the last one evaluated. A run without such a step is not harmed, whatever
was done to it.

**The short tiers** (`small`, `real`). Harm is present when one of these holds against step 0:

- `neutral` has risen by more than 0.10 nats per token: the policy has lost language that it was not asked to change;
- `chosen` has risen by more than 0.30 nats per token: DPO lowers the likelihood of chosen answers a little even when
  all is well, and that is no harm; a third of a nat a token is;
- `repetition` has risen by more than 0.20;
- `accuracy` has fallen by more than 0.20 below the best value of any earlier step: what was learnt is being unlearnt;
- any of the four is not a finite number.

**The long tiers.** Written before any rule's output on a long run was seen. In a run of a real length good models
break `chosen > 0.30`: published ones (the tests hold some of their figures) end with chosen answers that have lost 15
to 140 % of their log-probability, at about a nat a token, and are good models all the same. Harm is present when one
of these holds:

- `neutral` has risen by more than 0.20 nats per token. Twice the short tiers' limit, since a long run is allowed to
  cost some language; 0.20 nats, a fifth of perplexity, is about what separates a model from one of half its size, and
  no author would release that as good;
- `repetition` has risen by more than 0.20, as before: of ten answers' words, two more are said again. Good models'
  answers do not repeat themselves more, however long they were trained;
- `accuracy` has fallen by more than 0.20 below the best value held for two evaluations in a row. A long run has many
  evaluations, and the best of many single ones is luck; two in a row are not;
- the chosen answers' likelihood is given away for nothing: `chosen` has risen by more than 0.30 nats per token (less is
  no matter of harm, as before) and `margin` is less than a fifth of `lost`. Of the published runs the one that bought
  least for it has a margin of 0.42 of what chosen answers lost; a fifth is half of that. It is this, not the loss
  itself, that is called likelihood displacement: both answers sink together, and something else rises;
- `chosen` has more than tripled, whatever that bought: good published runs reach 2.4 times (140 % lost), none more;
- any of these is not a finite number.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise

NEUTRAL, CHOSEN, REPETITION, ACCURACY = 0.10, 0.30, 0.20, 0.20
LONG_NEUTRAL, WORTH, TIMES = 0.20, 0.20, 3.0  # of the long tiers: WORTH is margin / lost, TIMES of `chosen` at step 0

Measures = Mapping[str, Sequence[float]]  # columns: step, neutral, chosen, accuracy, repetition; long: margin, lost


def harmed(measures: Measures, long: bool = False) -> list[bool]:
    """Whether harm is present at each evaluated step, by the short or the long tiers' definition."""
    signs = long_signs if long else short_signs
    return [any(signs(measures, i).values()) for i in range(len(measures["step"]))]


def harm_step(measures: Measures, long: bool = False) -> int | None:
    """The first evaluated step at which harm is present and no blip; None: the run is not harmed."""
    present = harmed(measures, long)
    for i, step in enumerate(measures["step"]):
        if present[i] and present[min(i + 1, len(present) - 1)]:
            return int(step)
    return None


# what is compared is written as "not <=" and "not >=": what is not a number is harm


def short_signs(measures: Measures, i: int) -> dict[str, bool]:
    """Which signs of harm the i-th evaluation shows in a short run."""
    fallen = max(measures["accuracy"][: i + 1]) - measures["accuracy"][i]
    return {
        "neutral": not _risen(measures, "neutral", i) <= NEUTRAL,
        "chosen": not _risen(measures, "chosen", i) <= CHOSEN,
        "repetition": not _risen(measures, "repetition", i) <= REPETITION,
        "accuracy": not fallen <= ACCURACY,
    }


def long_signs(measures: Measures, i: int) -> dict[str, bool]:
    """Which signs of harm the i-th evaluation shows in a long run."""
    accuracy, chosen = measures["accuracy"], measures["chosen"]
    held = [min(pair) for pair in pairwise(accuracy[: i + 1])]
    fallen = max([accuracy[0], *held]) - accuracy[i]
    cheap = _risen(measures, "chosen", i) > CHOSEN and not measures["margin"][i] >= WORTH * measures["lost"][i]
    return {
        "neutral": not _risen(measures, "neutral", i) <= LONG_NEUTRAL,
        "repetition": not _risen(measures, "repetition", i) <= REPETITION,
        "accuracy": not fallen <= ACCURACY,
        "given away": cheap,
        "tripled": not chosen[i] <= TIMES * chosen[0],
        "not finite": not math.isfinite(measures["margin"][i]),
    }


def _risen(measures: Measures, name: str, i: int) -> float:
    return measures[name][i] - measures[name][0]
