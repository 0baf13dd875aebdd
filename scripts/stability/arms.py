"""What the suite runs: the tiers, the arms, how many seeds of each, and which half a run belongs to.

The split. A run's half is decided by this rule and nothing else, before any threshold is fitted:

1. A destabilizer whose kind is in `UNSEEN` belongs to the testing half with all its seeds: the rules are judged on ways
   of breaking that nobody looked at when thresholds were set.
2. Of all other arms, healthy ones among them, odd seeds belong to the fitting half and even seeds to the testing half.

The short tiers are 30 to 50 steps long at a constant rate, and most destabilizers act from the first step. The long
tiers have the length of a real run, warm-up and decay, and destabilizers that set in in the middle, at a step that the
seed decides.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

Half = Literal["fit", "test"]
UNSEEN = frozenset({"spike", "noise", "alike"})  # kinds of destabilizers that only the testing half has
EVERY = 5  # steps between probes, and between held-out evaluations


@dataclass(frozen=True)
class Tier:
    """A model and the size of a run with it.

    Attributes:
        steps: optimizer steps of a run.
        onset: step after which a destabilizer that comes "from a step on" begins; in long tiers the earliest one.
        full, lora: the learning rate that factor 1 stands for. A few times as much still does no harm, ten times does.
        max_length: tokens of prompt and answer that training sees.
        pairs, texts, prompts, answer: size of the held-out evaluation: preference pairs, neutral texts, prompts that
            are answered greedily, tokens of such an answer.
        bf16: train and probe under bfloat16 autocast, TRL's default.
        spread: long tiers: how many steps later than `onset` a seed may begin; 0 marks the short tiers.
        stories: the neutral texts are stories of `language`, since plain paragraphs are beyond the model.
        look: steps between evaluations of the ground truth.
    """

    name: str
    steps: int
    onset: int
    full: float
    lora: float
    batch: int
    max_length: int
    pairs: int
    texts: int
    prompts: int
    answer: int
    bf16: bool
    spread: int = 0
    stories: bool = False
    look: int = EVERY

    @property
    def long(self) -> bool:
        return self.spread > 0


SMALL = Tier("small", 50, 15, 3e-5, 3e-4, 4, 64, pairs=32, texts=16, prompts=12, answer=16, bf16=False)
REAL = Tier("real", 30, 10, 5e-6, 1e-4, 2, 64, pairs=16, texts=16, prompts=8, answer=16, bf16=True)
LONGER = replace(SMALL, name="small-long", steps=400, onset=120, spread=101, texts=8, prompts=8, stories=True)
TIERS = {
    "small": SMALL,
    "real": REAL,
    "small-long": LONGER,
    "second-long": replace(LONGER, name="second-long"),
    "real-long": replace(
        REAL, name="real-long", full=4e-6, lora=8e-5, steps=200, onset=100, spread=31, pairs=24, look=10
    ),
}
TINY = {"small": "small", "small-long": "first", "second-long": "second"}  # tier -> its tiny model's name


@dataclass(frozen=True)
class Arm:
    """One way to train. What it leaves at the default is as in a healthy run.

    Attributes:
        kind: "healthy", or the name of the destabilizer.
        rate: times the tier's learning rate.
        warmup: steps of linear warm-up; the rate is constant afterwards.
        flip: from the onset on, chosen and rejected change places.
        corrupt: from the onset on, chosen answers are letters in random order.
        spike: the learning rate is multiplied by this for `lasts` steps from the onset on.
        noise: noise of this many standard deviations is added to the late layers' weights: once at the onset, or, in
            long tiers, at every step from it on, since harm done at one blow leaves nothing to be warned of.
        alike: the rejected answer is the chosen one with one word changed: the likelihood of both is displaced.
        hh: trained and evaluated on HH harmless pairs instead of the project's own.
        small, real, small_long, second_long, real_long: how many seeds each tier has.

    Of the long tiers only:
        schedule: how the rate goes down after warm-up: "linear" or "cosine", to zero at the last step.
        surge: from the onset on the learning rate is multiplied by this.
        early: the onset is the first step.
        lasts: steps that a spike lasts.
    """

    name: str
    kind: str
    lora: bool = False
    rate: float = 1.0
    beta: float = 0.1
    warmup: int = 5
    flip: bool = False
    corrupt: bool = False
    spike: float = 1.0
    noise: float = 0.0
    alike: bool = False
    hh: bool = False
    schedule: str = "constant"
    surge: float = 1.0
    early: bool = False
    lasts: int = 3
    small: int = 0
    real: int = 0
    small_long: int = 0
    second_long: int = 0
    real_long: int = 0

    @property
    def healthy(self) -> bool:
        return self.kind == "healthy"

    def onset(self, tier: Tier, seed: int) -> int:
        """How many steps are healthy before the destabilizer sets in."""
        if self.early:
            return 0
        return tier.onset + (random.Random(f"onset {self.name} {seed}").randrange(tier.spread) if tier.long else 0)

    def seeds(self, tier: Tier) -> range:
        """The seeds of a tier's runs. Long tiers begin with an odd one, so that the fitting half is there first."""
        count = getattr(self, tier.name.replace("-", "_"))
        return range(1, count + 1) if tier.long else range(count)


ARMS = (
    Arm("healthy-full-r0.2", "healthy", rate=0.2, small=12, real=2),
    Arm("healthy-full-r0.5", "healthy", rate=0.5, small=12, real=2),
    Arm("healthy-full-r1", "healthy", small=12, real=3),
    Arm("healthy-full-r2", "healthy", rate=2, small=8),
    Arm("healthy-full-b0.3", "healthy", rate=0.5, beta=0.3, small=12),
    Arm("healthy-lora-r0.2", "healthy", lora=True, rate=0.2, small=12, real=2),
    Arm("healthy-lora-r0.5", "healthy", lora=True, rate=0.5, small=12),
    Arm("healthy-lora-r1", "healthy", lora=True, small=12, real=3),
    Arm("healthy-lora-r2", "healthy", lora=True, rate=2, small=8),
    Arm("healthy-full-hh", "healthy", hh=True, real=2),
    Arm("healthy-lora-hh", "healthy", lora=True, hh=True, real=2),
    Arm("x10-full", "x10", rate=10, small=9, real=2),
    Arm("x10-lora", "x10", lora=True, rate=10, small=9, real=2),
    Arm("x60-full", "x60", rate=60, small=9, real=2),
    Arm("x60-lora", "x60", lora=True, rate=60, small=9, real=2),
    Arm("beta-full", "beta", rate=5, beta=0.001, small=9, real=2),
    Arm("flip-full", "flip", flip=True, rate=4, small=9, real=2),
    Arm("flip-lora", "flip", lora=True, flip=True, rate=4, small=9),
    Arm("corrupt-full", "corrupt", corrupt=True, rate=5, small=9, real=2),
    Arm("corrupt-lora", "corrupt", lora=True, corrupt=True, rate=4, small=9, real=2),
    Arm("nowarmup-full", "nowarmup", rate=20, warmup=0, small=9, real=2),
    Arm("spike-full", "spike", spike=60, small=9, real=2),
    Arm("spike-lora", "spike", lora=True, spike=60, small=9, real=2),
    Arm("noise-full", "noise", noise=0.5, small=9, real=2),
    Arm("alike-full", "alike", alike=True, rate=5, small=9, real=2),
    Arm("alike-lora", "alike", lora=True, alike=True, rate=5, small=9),
    Arm("x10-full-hh", "x10", rate=10, hh=True, real=2),
    Arm("x60-lora-hh", "x60", lora=True, rate=60, hh=True, real=2),
)

# --- the long tiers' arms

WARMUP = 40  # steps: a tenth of the run, as published runs have it


def _sound(name: str, **fields: Any) -> Arm:
    """A healthy arm of the long tiers."""
    return Arm(f"sound-{name}", "healthy", **{"warmup": WARMUP, "small_long": 4, **fields})


def _upset(name: str, kind: str, **fields: Any) -> Arm:
    """A destabilized arm of the long tiers: as the first healthy one, but for what is given."""
    return Arm(f"upset-{name}", kind, **{"warmup": WARMUP, "schedule": "linear", "small_long": 4, **fields})


LONG = (
    _sound("full-linear-r1", schedule="linear", second_long=2, real_long=2),
    _sound("full-cosine-r0.5", schedule="cosine", rate=0.5, second_long=2),
    _sound("full-cosine-r1-b0.01", schedule="cosine", beta=0.01, second_long=2, real_long=2),
    _sound("full-linear-r1-b0.03", schedule="linear", beta=0.03),
    _sound("full-cosine-r1.5", schedule="cosine", rate=1.5),
    _sound("full-linear-r0.5-b0.5", schedule="linear", rate=0.5, beta=0.5),
    _sound("full-linear-r0.2", schedule="linear", rate=0.2),
    _sound("lora-linear-r1", lora=True, schedule="linear", second_long=2, real_long=2),
    _sound("lora-cosine-r0.5", lora=True, schedule="cosine", rate=0.5, second_long=2),
    _sound("lora-cosine-r0.5-b0.01", lora=True, schedule="cosine", rate=0.5, beta=0.01, second_long=2, real_long=2),
    _sound("lora-linear-r0.7-b0.03", lora=True, schedule="linear", rate=0.7, beta=0.03),
    _sound("lora-cosine-r1-b0.3", lora=True, schedule="cosine", beta=0.3),
    _sound("lora-linear-r0.5-b0.5", lora=True, schedule="linear", rate=0.5, beta=0.5),
    _sound("lora-linear-r0.2", lora=True, schedule="linear", rate=0.2),
    _sound("full-hh", schedule="linear", hh=True, small_long=0, real_long=2),
    _sound("lora-hh", lora=True, schedule="cosine", hh=True, small_long=0, real_long=2),
    _upset("rate50-full", "rate", surge=50, second_long=2, real_long=2),
    _upset("rate20-lora", "rate", lora=True, surge=20, second_long=2),
    _upset("flip-full", "flip", flip=True, surge=2, second_long=2, real_long=1),
    _upset("alike-full", "alike", alike=True, surge=5, second_long=2, real_long=1),
    _upset("corrupt-full", "corrupt", corrupt=True, surge=4, second_long=2, real_long=1),
    _upset("rate60-lora", "runaway", lora=True, surge=60, second_long=2, real_long=2),
    _upset("spike-full", "spike", spike=80, lasts=20, second_long=2, real_long=1),
    _upset("beta-full", "beta", beta=0.001, rate=0.5, surge=60, second_long=2, real_long=1),
    _upset("noise-full", "noise", noise=0.05, second_long=2, real_long=1),
    _upset("rate60-early-full", "runaway", rate=60, early=True, second_long=2),
    _upset("corrupt-lora", "corrupt", lora=True, corrupt=True, surge=4),
    _upset("flip-lora", "flip", lora=True, flip=True, surge=2),
    _upset("alike-lora", "alike", lora=True, alike=True, surge=5),
    _upset("rate100-full", "runaway", surge=100),
    _upset("spike-lora", "spike", lora=True, spike=80, lasts=20),
    _upset("rate20-early-lora", "rate", lora=True, rate=20, early=True),
    # stronger than arms above whose first runs were not harmed
    _upset("rate40-lora", "rate", lora=True, surge=40, second_long=2),
    _upset("alike-x20-full", "alike", alike=True, surge=20, second_long=2),
    _upset("alike-x20-lora", "alike", lora=True, alike=True, surge=20),
    _upset("alike-x60-full", "alike", alike=True, surge=60, second_long=2),
    _upset("corrupt-x12-full", "corrupt", corrupt=True, surge=12, second_long=2),
    _upset("noise-0.2-full", "noise", noise=0.2, second_long=2),
    _upset("nowarmup-full", "nowarmup", rate=60, warmup=0, early=True),
    _upset("rate10-full-hh", "rate", surge=10, hh=True, small_long=0, real_long=1),
    _upset("rate60-lora-hh", "runaway", lora=True, surge=60, hh=True, small_long=0, real_long=1),
)


@dataclass(frozen=True)
class Job:
    """One run of the suite."""

    tier: str
    arm: Arm
    seed: int

    @property
    def name(self) -> str:
        return f"{self.arm.name}-s{self.seed}"

    @property
    def half(self) -> Half:
        return half(self.arm, self.seed)


def half(arm: Arm, seed: int) -> Half:
    """The rule at the top of this file."""
    return "test" if arm.kind in UNSEEN or seed % 2 == 0 else "fit"


def jobs(tier: str, hh: bool = True) -> list[Job]:
    """Every run of a tier, in an order whose every beginning mixes healthy and destabilized runs as the whole does.

    Args:
        hh: with the arms on HH harmless pairs.
    """
    arms = [arm for arm in (*ARMS, *LONG) if hh or not arm.hh]
    return list(_mixed(_by_seed(TIERS[tier], arms, healthy=True), _by_seed(TIERS[tier], arms, healthy=False)))


def _by_seed(tier: Tier, arms: list[Arm], healthy: bool) -> list[Job]:
    """The first seed of every arm, then the second of every arm ...: each beginning knows as many arms as it can."""
    seeds = {arm: arm.seeds(tier) for arm in arms if arm.healthy == healthy}
    most = max(map(len, seeds.values()))
    return [Job(tier.name, arm, seeds[arm][i]) for i in range(most) for arm in seeds if i < len(seeds[arm])]


def _mixed(first: list[Job], second: list[Job]) -> Iterator[Job]:
    """Both lists in their own order, each taken at its own share."""
    places = [((i + 0.5) / len(line), job) for line in (first, second) for i, job in enumerate(line)]
    return (job for _, job in sorted(places, key=lambda pair: pair[0]))
