"""What each alert rule watches: measures of a run's trajectory, and the table of limits. Plain floats, no torch."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from .trajectory import HORIZON, Point, Trajectory, sure

MOVED = 0.05  # movement of the late trace (shares) under which the shape of the path says nothing


# --- the measures: how much of what each rule watches there is now. 0: nothing that noise does not explain ------------


def late_speed(path: Trajectory) -> float:
    """How far the late trace moved within the last 20 steps: shares of transport and of alpha, as one length.

    Direction: either; a breaking run first overshoots in the *good* direction (alpha up, transport down). Healthy
    alignment needs hundreds of steps for what a run that is about to break does within ten.
    """

    def way(then: Point, now: Point) -> float:
        transport_se, alpha_se = max(now.transport_se, then.transport_se), max(now.alpha_se, then.alpha_se)
        return math.hypot(sure(now.transport - then.transport, transport_se), sure(now.alpha - then.alpha, alpha_se))

    return _fastest(path, way)


def displacement_speed(path: Trajectory) -> float:
    """How much farther from its start the final distribution came within the last 20 steps, radians.

    Direction: away. The Fisher-Rao distance lies between 0 and pi, and means the same in every model.
    """
    return _fastest(path, lambda then, now: now.displacement - then.displacement)


def likelihood_drop(path: Trajectory) -> float:
    """Which share of their log-likelihood the chosen answers lost within the last 20 steps, as the Trainer logged it.

    Direction: down. Near-identical pairs displace the likelihood of both answers behind their first token, where the
    probe does not look: this one rule reads the Trainer's log. DPO lowers it in healthy runs too, but slowly. 0 where
    the trainer logs no `logps/chosen`.
    """
    return _fastest(path, lambda then, now: then.chosen - now.chosen)


def _fastest(path: Trajectory, way: Callable[[Point, Point], float]) -> float:
    """The longest way to now from any point of the last 20 steps; where probes are farther apart, scaled to 20."""
    longest = 0.0
    for then in path.before:
        longest = max(longest, way(then, path.now) * HORIZON / max(HORIZON, path.now.step - then.step))
    return longest  # max keeps what it has against NaN


def transport_rise(path: Trajectory) -> float:
    """By how much late transport has risen since the start, as a share of its first value.

    Direction: up; healthy alignment shortens the late steps (paper). The sign of a mildly hot run, whose contraction
    still climbs as it should.
    """
    return max(sure(path.now.transport, path.now.transport_se), 0.0)


def contraction_drop(path: Trajectory) -> float:
    """By how much late contraction has fallen from the run's own best, as a share of its first value.

    Direction: down; the best is at least the start's. Healthy alignment ramps contraction up (paper) and keeps it.
    """
    now = path.now
    best = path.extremes["alpha"][1] if "alpha" in path.extremes else now
    return max(sure(best.alpha - now.alpha, max(best.alpha_se, now.alpha_se)), 0.0)


def reversal(path: Trajectory) -> float:
    """The lesser of a swing out and the swing back that followed, of late transport or alpha, in shares.

    Direction: out and back, either way round. Healthy runs drift one way; a run thrown about by its steps does not.
    """
    now, widest = path.now, 0.0
    for name, ends in path.extremes.items():
        value, noise = getattr(now, name), getattr(now, f"{name}_se")
        for end in ends:
            there, error = getattr(end, name), getattr(end, f"{name}_se")
            out, back = abs(sure(there, error)), abs(sure(there - value, max(error, noise)))
            widest = max(widest, min(out, back))
    return widest


def collapse(path: Trajectory) -> float:
    """How far the policy has narrowed, as a share of a collapse: the greatest of three.

    A collapse is late contraction up by 0.3 of its start (over-contraction), the late effective rank down by a third,
    or the next token's entropy down by 0.9 nats. Direction: towards fewer directions and fewer tokens. The outputs of
    such a policy repeat; a run may reach it with a falling loss.
    """
    now = path.now
    narrowed = (sure(now.alpha, now.alpha_se) / 0.3, -now.rank / math.log(1.5), -now.entropy / 0.9)
    return max(0.0, *(x for x in narrowed if math.isfinite(x)))


def roughening(path: Trajectory) -> float:
    """By how much the coherence of the depth path has fallen: a share of 1, since coherence lies in (0, 1].

    Direction: down; an unaligned model's depth path is bent (paper). Coherence has no error of its own, so it counts
    only once the late trace has surely moved. 0 for models too shallow for a curvature.
    """
    return max(-path.now.coherence, 0.0) if _has_moved(path) and math.isfinite(path.now.coherence) else 0.0


def delocalized(path: Trajectory) -> float:
    """Movement of a layer outside the late window over that of a layer inside, mean against mean. 1: moved alike.

    Direction: up; alignment works in the late layers (paper), a broken run moves all. Counts only once the late trace
    has surely moved: shares of noise say nothing.
    """
    return path.now.spread if _has_moved(path) and math.isfinite(path.now.spread) else 0.0


def _has_moved(path: Trajectory) -> bool:
    return path.now.moved >= MOVED


def nonfinite(path: Trajectory) -> float:
    """How many activations and final logits of the probe are NaN or Inf.

    More than 0 is an error at once, with no patience: such a policy does not come back. The Trainer's own loss log
    hides NaN (`logging_nan_inf_filter`).
    """
    return float(path.now.nonfinite)


# --- the table: a new rule is a function above and a row here --------------------------------------------------------


@dataclass(frozen=True)
class Limit:
    """From where on a measure is worth a look, and from where on a stop. In the measure's units, 0 < warn <= error."""

    warn: float
    error: float


@dataclass(frozen=True)
class Rule:
    """`what` is what an alert says has happened, `action` what to try. `at_once`: any value above 0 is an error."""

    measure: Callable[[Trajectory], float]
    limit: Limit
    unit: str
    what: str
    action: str
    at_once: bool = False


SLOWER = "lower the learning rate (or lengthen the warm-up), or raise beta"
RULES: dict[str, Rule] = {
    "late_speed": Rule(
        late_speed, Limit(0.07, 0.15), "of its start in 20 steps", "the late trace moves too fast", SLOWER
    ),
    "displacement_speed": Rule(
        displacement_speed, Limit(0.4, 0.8), "rad in 20 steps", "the policy leaves its start too fast", SLOWER
    ),
    "transport_rise": Rule(
        transport_rise, Limit(0.05, 0.15), "of its start", "late transport has risen since the start", SLOWER
    ),
    "contraction_drop": Rule(
        contraction_drop, Limit(0.05, 0.12), "of its start", "late contraction has fallen from its best", SLOWER
    ),
    "reversal": Rule(reversal, Limit(0.02, 0.08), "there and back", "the late trace has swung back", SLOWER),
    "collapse": Rule(
        collapse,
        Limit(0.45, 1.0),
        "of a collapse",
        "the policy narrows",
        "lower the learning rate or raise beta; look at samples",
    ),
    "roughening": Rule(roughening, Limit(0.03, 0.08), "of coherence", "the depth path has become rough", SLOWER),
    "delocalized": Rule(
        delocalized, Limit(1.6, 3.2), "of the late layers' movement", "early layers move with the late ones", SLOWER
    ),
    "likelihood_drop": Rule(
        likelihood_drop,
        Limit(0.05, 0.15),
        "of their log-likelihood",
        "chosen answers become unlikely",
        "raise beta, lower the learning rate, or drop pairs whose answers are nearly alike",
    ),
    "nonfinite": Rule(
        nonfinite,
        Limit(0.0, 0.0),
        "activations or logits",
        "the probe met NaN or Inf",
        "stop; lower the learning rate or train in bfloat16",
        at_once=True,
    ),
}
