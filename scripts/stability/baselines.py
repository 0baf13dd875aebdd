"""What one would watch without a probe: rules on the Trainer's own log, one row a step.

Each is a score per step, and alarms at the first step whose score is above a threshold. `report` fits that threshold on
the fitting half to the false-alarm rate that the drift rules have there, so all are compared at the same rate.

- `loss`: how many standard deviations the loss lies above the mean of the steps before it. An exponential window of
  `MEMORY` steps; no score before `WARM` steps are known. The spread is at least `FLOOR` of the mean's size, since a few
  equal values have none.
- `grad_norm`: the same of the gradient norm.
- `kl`: how far the policy is from the reference, from the log's rewards: the mean over both answers of |reward| / beta,
  nats. That is the size of log(policy / reference) summed over an answer's tokens, averaged over the batch before its
  absolute value is taken. (The KL divergence itself needs samples from the policy, which DPO does not draw.)
- `margin`: |reward margin| / beta, nats: the other KL-like number one can read from the log.
- `chosen`: the chosen answers' lost log-probability, -reward / beta, nats: watched for likelihood displacement.
- `speed`: by how much `kl`, as a share of the chosen answers' log-probability under the reference, rose within the last
  `HORIZON` steps. The one of these that does not grow with the length of a run.
- `rlwatch`: the PyPI package rlwatch 0.5.1, its own detectors replayed over the same rows with its default settings and
  with windows short enough for runs this short; it has levels of its own and no threshold to fit.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

MEMORY, WARM, FLOOR = 10, 5, 0.02
HORIZON = 20  # training steps

Log = Mapping[str, Sequence[float | None]]  # columns of the Trainer's log, `step` among them


def z_scores(values: Sequence[float | None]) -> list[float]:
    """Standard deviations above the mean of what came before. Not a number: infinite."""
    scores, mean, square, seen = [], 0.0, 0.0, 0
    for value in values:
        if value is None or not math.isfinite(value):
            scores.append(math.inf)
            continue
        spread = max(math.sqrt(max(square - mean * mean, 0.0)), FLOOR * abs(mean), 1e-9)
        scores.append((value - mean) / spread if seen >= WARM else 0.0)
        weight = max(1 / MEMORY, 1 / (seen + 1))
        mean, square, seen = mean + weight * (value - mean), square + weight * (value * value - square), seen + 1
    return scores


def _sizes(log: Log, beta: float, size: Callable[..., float], *keys: str) -> list[float]:
    rows = zip(*(log[key] for key in keys), strict=True)
    return [math.inf if any(x is None for x in row) else size(*row) / beta for row in rows]


def _kl(log: Log, beta: float) -> list[float]:
    return _sizes(log, beta, lambda c, r: (abs(c) + abs(r)) / 2, "rewards/chosen", "rewards/rejected")


def _speed(log: Log, beta: float) -> list[float]:
    """The rise of the distance from the reference, against the least distance of the last `HORIZON` steps."""
    rows = zip(_kl(log, beta), log["logps/chosen"], log["rewards/chosen"], strict=True)
    shares = [
        far / abs(logps - reward / beta) if logps is not None and reward is not None else math.inf
        for far, logps, reward in rows
    ]
    steps = [int(step or 0) for step in log["step"]]
    scores, first = [], 0
    for i, share in enumerate(shares):
        while first < i - 1 and steps[first + 1] <= steps[i] - HORIZON:
            first += 1
        scores.append(share - min(shares[first : i + 1]) if math.isfinite(share) else math.inf)
    return scores


BASELINES: dict[str, Callable[[Log, float], list[float]]] = {
    "loss": lambda log, beta: z_scores(log["loss"]),
    "grad_norm": lambda log, beta: z_scores(log["grad_norm"]),
    "kl": _kl,
    "margin": lambda log, beta: _sizes(log, beta, abs, "rewards/margins"),
    "speed": _speed,
    "chosen": lambda log, beta: _sizes(log, beta, lambda c: -c, "rewards/chosen"),
}


def alarm(log: Log, scores: Sequence[float], threshold: float) -> int | None:
    """The first step whose score is above the threshold."""
    over = (step for step, score in zip(log["step"], scores, strict=True) if step is not None and score > threshold)
    return next((int(step) for step in over), None)


def threshold_at(peaks: Sequence[float], rate: float) -> float:
    """The least threshold above which at most a share `rate` of healthy runs' peaks lies."""
    ordered = sorted(peaks, reverse=True)
    return ordered[min(int(rate * len(ordered)), len(ordered) - 1)] if ordered else math.inf


# --- rlwatch, where it is installed


def rlwatch_there() -> bool:
    return importlib.util.find_spec("rlwatch") is not None


def rlwatch_alarms(log: Log, beta: float, short: bool) -> dict[str, int]:
    """rlwatch's first alarm of each severity ("warning", "critical"), its detectors fed with the log's rows.

    Args:
        short: with windows and warm-ups for runs of some tens of steps (of its defaults most are longer than the runs),
            and with the KL-like number and the margins, which TRL's DPO does not log under names that it knows.

    Raises:
        ImportError: rlwatch is not installed.
    """
    if not rlwatch_there():
        raise ImportError("the baseline rlwatch needs the package: pip install rlwatch==0.5.1")
    from rlwatch.config import RLWatchConfig
    from rlwatch.detectors import DetectorSuite

    config = RLWatchConfig()
    if short:
        _shortened(config)
    suite, found = DetectorSuite(config), dict[str, int]()
    distance = _kl(log, beta)
    for i, step in enumerate(log["step"]):
        row: dict[str, Any] = {key: log[key][i] for key in ("entropy", "loss", "grad_norm")}
        if short:
            row |= {"kl_divergence": distance[i], "reward_mean": log["rewards/margins"][i]}
        for raised in suite.check_step(int(step or 0), **row):
            found.setdefault(raised.severity, raised.step)
    return found


def _shortened(config: Any) -> None:
    for part in (config.kl_explosion, config.gradient_norm_spike):
        part.rolling_window, part.warmup_steps = 10, WARM
    for part in (config.entropy_collapse, config.reward_mean_drift):
        part.consecutive_steps, part.warmup_steps = 10, WARM
