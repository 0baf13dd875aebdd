"""What the suite runs: the tiers, the arms, how many seeds of each, and which half a run belongs to.

The split. A run's half is decided by this rule and nothing else, before any threshold is fitted:

1. A destabilizer whose kind is in `UNSEEN` belongs to the testing half with all its seeds: the rules are judged on ways
   of breaking that nobody looked at when thresholds were set.
2. Of all other arms, healthy ones among them, odd seeds belong to the fitting half and even seeds to the testing half.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

Half = Literal["fit", "test"]
UNSEEN = frozenset({"spike", "noise", "alike"})  # kinds of destabilizers that only the testing half has
EVERY = 5  # steps between probes, and between held-out evaluations


@dataclass(frozen=True)
class Tier:
    """A model and the size of a run with it.

    Attributes:
        steps: optimizer steps of a run.
        onset: step after which a destabilizer that comes "from a step on" begins.
        full, lora: the learning rate that factor 1 stands for. A few times as much still does no harm, ten times does.
        max_length: tokens of prompt and answer that training sees.
        pairs, texts, prompts, answer: size of the held-out evaluation: preference pairs, neutral texts, prompts that
            are answered greedily, tokens of such an answer.
        bf16: train and probe under bfloat16 autocast, TRL's default.
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


TIERS = {
    "small": Tier("small", 50, 15, 3e-5, 3e-4, 4, 64, pairs=32, texts=16, prompts=12, answer=16, bf16=False),
    "real": Tier("real", 30, 10, 5e-6, 1e-4, 2, 64, pairs=16, texts=16, prompts=8, answer=16, bf16=True),
}


@dataclass(frozen=True)
class Arm:
    """One way to train. What it leaves at the default is as in a healthy run.

    Attributes:
        kind: "healthy", or the name of the destabilizer.
        rate: times the tier's learning rate.
        warmup: steps of linear warm-up; the rate is constant afterwards.
        flip: from the onset on, chosen and rejected change places.
        corrupt: from the onset on, chosen answers are letters in random order.
        spike: the learning rate is multiplied by this for `SPIKE` steps from the onset on.
        noise: at the onset, noise of this many standard deviations is added once to the late layers' weights.
        alike: the rejected answer is the chosen one with one word changed: the likelihood of both is displaced.
        hh: trained and evaluated on HH harmless pairs instead of the project's own.
        small, real: how many seeds each tier has.
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
    small: int = 0
    real: int = 0

    @property
    def healthy(self) -> bool:
        return self.kind == "healthy"


SPIKE = 3  # steps that a learning-rate spike lasts

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
    arms = [arm for arm in ARMS if hh or not arm.hh]
    return list(_mixed(_by_seed(tier, arms, healthy=True), _by_seed(tier, arms, healthy=False)))


def _by_seed(tier: str, arms: list[Arm], healthy: bool) -> list[Job]:
    """Seed 0 of every arm, then seed 1 of every arm ...: each beginning knows as many arms as it can."""
    seeds = {arm: getattr(arm, tier) for arm in arms if arm.healthy == healthy}
    return [Job(tier, arm, seed) for seed in range(max(seeds.values())) for arm in seeds if seed < seeds[arm]]


def _mixed(first: list[Job], second: list[Job]) -> Iterator[Job]:
    """Both lists in their own order, each taken at its own share."""
    places = [((i + 0.5) / len(line), job) for line in (first, second) for i, job in enumerate(line)]
    return (job for _, job in sorted(places, key=lambda pair: pair[0]))
