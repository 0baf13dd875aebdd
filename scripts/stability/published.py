"""Published DPO runs of good models, replayed through the alert rules: `python scripts/stability/published.py`.

The runs are from public model cards; all were released and judged good by their authors, and none was stopped. A card
gives the chosen reward at a few evaluation steps and the final margin. Between them both go as the learning rate's sum
does: a warm-up of a tenth of the run, then linear or cosine decay to zero. The geometry of the policy stands still, the
Trainer's log and the held-out answers have the noise of their examples. So every alert here is false.
"""

from __future__ import annotations

import dataclasses
import math
import random
from collections.abc import Iterator
from itertools import pairwise

from spinal_callback.alerts.detector import Detector
from spinal_callback.records import Alert, Reading

LOGGING_STEPS, EVERY = 10, 25  # the Trainer's default, and a usual interval of the probe
NOISE = (
    0.4  # standard deviation of one example's log-ratio, as a share of its mean: the median of this suite's own logs
)
NLL = 1.2  # nats per token of a chosen answer at the start; the rules read shares of it
ANSWERS = 8  # held-out pairs of the probe
DRAWS = 40


@dataclasses.dataclass(frozen=True)
class Published:
    """One model card.

    Attributes:
        steps, batch, beta: of the run.
        reference: mean log-probability of a chosen answer under the reference, nats.
        chosen: (step, chosen reward) at the card's evaluations; reward = beta x change of the log-probability.
        margin: final reward margin.
        cosine: cosine decay; otherwise linear.
    """

    name: str
    steps: int
    batch: int
    beta: float
    reference: float
    chosen: tuple[tuple[int, float], ...]
    margin: float
    cosine: bool = True


PUBLISHED = (
    Published("zephyr-style QLoRA A", 3821, 16, 0.01, -264.6, ((100, 0.0514), (200, -0.1881), (3821, -2.6215)), 1.297),
    Published("zephyr-style QLoRA B", 1911, 32, 0.01, -271.7, ((100, 0.0054), (200, -0.3236), (1911, -2.4549)), 1.02),
    Published("Llama-3-8B QLoRA", 1911, 32, 0.01, -276.4, ((100, 0.0202), (200, -0.5398), (1911, -2.3087)), 1.201),
    Published("zephyr-style full, 1 epoch, A", 478, 128, 0.01, -262.6, ((100, -0.5418), (478, -1.0875)), 0.981),
    Published(
        "zephyr-style full, 1 epoch, B",
        478,
        128,
        0.01,
        -265.3,
        ((100, -0.3739), (200, -0.6215), (300, -0.6372), (478, -0.5814)),
        0.807,
    ),
    Published("zephyr-7b-beta", 5809, 32, 0.1, -254.2, ((500, 0.0), (5809, -4.5221)), 3.796, cosine=False),
    Published(
        "zephyr-style full, 3 epochs, A",
        2904,
        64,
        0.1,
        -273.8,
        ((100, -0.0101), (200, -0.0642), (2904, -4.7566)),
        3.86,
        cosine=False,
    ),
    Published(
        "zephyr-style full, 3 epochs, B",
        5809,
        32,
        0.083,
        -283.0,
        ((100, 0.0537), (200, 0.0022), (300, -0.1003), (5809, -5.0359)),
        3.805,
        cosine=False,
    ),
    Published(
        "mamba-2.8b-zephyr",
        2900,
        64,
        0.1,
        -354.6,
        ((100, 0.1762), (200, 0.078), (300, -0.1923), (1000, -0.1223), (2000, -0.2868), (2900, -0.4598)),
        1.144,
        cosine=False,
    ),
    Published(
        "notux-8x7b",
        900,
        64,
        0.1,
        -394.6,
        ((200, -0.3275), (400, -0.2163), (600, -0.1311), (900, -0.2273)),
        2.087,
        cosine=False,
    ),
)

WINDOW = (3, 4)
STILL = Reading(  # a reading of four layers that never change
    step=0,
    alpha=[0.5, 0.6, 0.7, 0.8],
    alpha_se=[0.01] * 4,
    alpha_r2=[0.99] * 4,
    effective_rank=[12.5] * 4,
    transport=[1.2, 1.3, 1.4],
    transport_se=[0.02] * 3,
    late={"alpha": 0.75, "transport": 1.35},
    delta={"alpha": 0.0, "alpha_se": 0.004, "transport": 0.0, "transport_se": 0.003},
    displacement=0.0,
    entropy=2.5,
    localization=math.nan,
    coherence=0.75,
    gradient_concentration=0.5,
    delta_align=0.0,
    score=1.25,
    nonfinite=0,
    prompts=64,
)


def progress(run: Published, step: float) -> float:
    """Sum of the learning rate up to a step, in units of its peak."""
    warmup = 0.1 * run.steps
    if step <= warmup:
        return step * step / (2 * warmup)
    left, length = step - warmup, run.steps - warmup
    if run.cosine:
        return warmup / 2 + (left + length / math.pi * math.sin(math.pi * left / length)) / 2
    return warmup / 2 + left - left * left / (2 * length)


def chosen_at(run: Published, step: float) -> float:
    """The mean change of a chosen answer's log-probability at a step, nats."""
    for (before, low), (after, high) in pairwise(((0, 0.0), *run.chosen)):
        if step <= after:
            begin, here, end = (progress(run, s) for s in (before, step, after))
            return (low + (high - low) * (here - begin) / (end - begin)) / run.beta
    return run.chosen[-1][1] / run.beta


def log_row(run: Published, step: int, draw: random.Random) -> dict[str, float]:
    """What the Trainer logs at a step: means over the last `LOGGING_STEPS` batches, with their examples' noise."""
    middle = max(step - LOGGING_STEPS / 2, 0)
    log_ratio = noisy(chosen_at(run, middle), run.batch * LOGGING_STEPS, draw)
    margin = run.margin * progress(run, middle) / progress(run, run.steps)
    return {
        "loss": math.log1p(math.exp(-margin)),
        "rewards/chosen": run.beta * log_ratio,
        "rewards/rejected": run.beta * log_ratio - margin,
        "rewards/margins": margin,
        "logps/chosen": run.reference + log_ratio,
        "beta": run.beta,
    }


def noisy(mean: float, examples: int, draw: random.Random) -> float:
    """A mean over examples whose log-ratios vary by `NOISE` of their size."""
    return mean + draw.gauss(0, 1) * NOISE * abs(mean) / math.sqrt(examples)


def readings(run: Published, seed: int, every: int = EVERY) -> Iterator[Reading]:
    """The run as the callback would have seen it."""
    draw, row = random.Random(seed), dict[str, float]()
    wobble = draw.gauss(0, 1)  # the held-out answers are the same ones at every reading, and so is their luck
    for step in range(run.steps + 1):
        if step % every == 0 or step == run.steps:
            share = -chosen_at(run, step) / abs(run.reference)
            error = NOISE * abs(share) / math.sqrt(ANSWERS)
            nll = NLL * (1 + share + wobble * error)
            delta = {**STILL.delta, "chosen_nll": nll - NLL, "chosen_nll_se": NLL * error}
            yield dataclasses.replace(STILL, step=step, trainer=row, chosen_nll=nll, delta=delta)
        if step and step % LOGGING_STEPS == 0:  # the Trainer logs after the probe of the same step
            row = log_row(run, step, draw)


def alerts(run: Published, seed: int, every: int = EVERY) -> list[Alert]:
    """What the rules raise over a simulation of the run."""
    detector = Detector(WINDOW)
    return [alert for reading in readings(run, seed, every) for alert in detector.update(reading)]


def main() -> None:
    print(f"{'run':32}{'steps':>6}{'batch':>7}{'beta':>7}   of {DRAWS} simulations: warned, stopped")
    for run in PUBLISHED:
        found = [alerts(run, seed) for seed in range(DRAWS)]
        stopped = sum(any(alert.level == "error" for alert in of) for of in found)
        print(f"{run.name:32}{run.steps:>6}{run.batch:>7}{run.beta:>7}{sum(map(bool, found)):>30}{stopped:>9}")


if __name__ == "__main__":
    main()
