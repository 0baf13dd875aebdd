"""What each alert rule watches: measures of a run's trajectory, and the table of limits. Plain floats, no torch."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from operator import attrgetter

from .trajectory import PAST, Point, Trajectory, speed, sure

LEARNT = 2.0  # nats of margin under which there is nothing to unlearn
MOVED = 0.05  # movement of the late trace (shares) under which the shape of the path says nothing


# --- the measures: how much of what each rule watches there is now. 0: nothing that noise does not explain ------------


def late_speed(path: Trajectory) -> float:
    """How far the late trace moved within the last 20 steps: shares of transport and of alpha, as one length.

    Direction: either; a breaking run first overshoots in the *good* direction (alpha up, transport down). Healthy
    alignment needs hundreds of steps for what a run that is about to break does within ten.
    """
    return speed(path, "late")


def displacement_speed(path: Trajectory) -> float:
    """How much farther from its start the final distribution came within the last 20 steps, radians.

    Direction: away. The Fisher-Rao distance lies between 0 and pi, and means the same in every model.
    """
    return speed(path, "displacement")


def likelihood_drop(path: Trajectory) -> float:
    """Which share of their log-likelihood held-out chosen answers lost within the last 20 steps.

    Direction: down. Near-identical pairs displace the likelihood of both answers behind their first token, where the
    hidden states that the probe keeps do not show it. DPO lowers it in healthy runs too, but slowly. 0 where the probe
    reads no answers.
    """
    return speed(path, "likelihood")


def margin_drop(path: Trajectory) -> float:
    """Which share of its best value the margin of held-out answers has lost again.

    Direction: down. A healthy run's margin grows to its end; one whose pairs have become wrong (labels that changed
    places, broken answers) unlearns it, while the hidden states move as calmly as before. Counts once the best is at
    least 2 nats. The pairs are the same at every reading, so no standard error of a mean over pairs is taken off. 0
    where the probe reads no answers.
    """
    best = path.extremes["margin"][1].margin if "margin" in path.extremes else 0.0
    lost = best - path.now.margin
    return max(lost / best, 0.0) if best >= LEARNT and math.isfinite(lost) else 0.0


def transport_rise(path: Trajectory) -> float:
    """By how much late transport has risen within the last 100 steps, as a share of its first value.

    Direction: up; healthy alignment shortens the late steps (paper). The sign of a mildly hot run, whose contraction
    still climbs as it should. A long healthy run may end higher than it began, but gets there slowly.
    """
    return _within_100_steps(path, lambda then: _change(then, path.now, "transport"))


def contraction_drop(path: Trajectory) -> float:
    """By how much late contraction has fallen within the last 100 steps, as a share of its first value.

    Direction: down; healthy alignment ramps contraction up (paper) and keeps it.
    """
    return _within_100_steps(path, lambda then: -_change(then, path.now, "alpha"))


def reversal(path: Trajectory) -> float:
    """The lesser of a swing out and the swing back that followed, of late transport or alpha, in shares.

    Direction: out and back, either way round, within the last 100 steps. Healthy runs drift one way; a run thrown about
    by its steps does not.
    """
    now, widest = path.now, 0.0
    for name in ("transport", "alpha"):
        known = [point for point in path.past if math.isfinite(getattr(point, name))]
        low, high = known[:1], known[:1]
        for end in known:
            for then in (*low, *high):
                out, back = _change(then, end, name), _change(end, now, name)
                if out * back < 0:
                    widest = max(widest, min(abs(out), abs(back)))
            low, high = [min(*low, end, key=attrgetter(name))], [max(*high, end, key=attrgetter(name))]
    return widest


def _within_100_steps(path: Trajectory, change: Callable[[Point], float]) -> float:
    """The greatest change since a point of the last 100 steps, at least 0.

    Where probes are farther apart, the change since the last one is taken as even. NaN counts as 0.
    """
    greatest = 0.0
    for then in path.past:
        share = min(PAST / (path.now.step - then.step), 1.0)
        greatest = max(greatest, share * change(then))  # max keeps what it has against NaN
    return greatest


def _change(then: Point, now: Point, name: str) -> float:
    """What noise does not explain of the change of "alpha" or "transport" between two points."""
    error = math.hypot(getattr(then, f"{name}_se"), getattr(now, f"{name}_se"))
    return sure(getattr(now, name) - getattr(then, name), error)


def collapse(path: Trajectory) -> float:
    """How far the policy has narrowed within the last 100 steps, as a share of a collapse: the greatest of three.

    A collapse is late contraction up by 0.3 of its start (over-contraction), the late effective rank down by a third,
    or the next token's entropy down by 0.9 nats. Direction: towards fewer directions and fewer tokens. The outputs of
    such a policy repeat; a run may reach it with a falling loss. A long healthy run narrows too, but slowly.
    """

    def narrowed(then: Point) -> float:
        now = path.now
        shares = (
            _change(then, now, "alpha") / 0.3,
            (then.rank - now.rank) / math.log(1.5),
            (then.entropy - now.entropy) / 0.9,
        )
        return max(0.0, *(x for x in shares if math.isfinite(x)))

    return _within_100_steps(path, narrowed)


def roughening(path: Trajectory) -> float:
    """By how much the coherence of the depth path has fallen within 100 steps: a share of 1, the most it can be.

    Direction: down; an unaligned model's depth path is bent (paper). Coherence has no error of its own, so it counts
    only once the late trace has surely moved. 0 for models too shallow for a curvature.
    """
    return _within_100_steps(path, lambda then: then.coherence - path.now.coherence) if _has_moved(path) else 0.0


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
    """From where on a measure is worth a look, and from where on a stop. In the measure's units, 0 < warn <= error.

    A measure that grows with the whole movement of a run, which every long alignment reaches one day, only warns: its
    error limit is infinite.
    """

    warn: float
    error: float = math.inf


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
        late_speed, Limit(0.09, 0.18), "of its start in 20 steps", "the late trace moves too fast", SLOWER
    ),
    "displacement_speed": Rule(
        displacement_speed, Limit(0.4, 0.8), "rad in 20 steps", "the policy leaves its start too fast", SLOWER
    ),
    "transport_rise": Rule(transport_rise, Limit(0.35), "of its start in 100 steps", "late transport rises", SLOWER),
    "contraction_drop": Rule(
        contraction_drop, Limit(0.05), "of its start in 100 steps", "late contraction falls", SLOWER
    ),
    "reversal": Rule(reversal, Limit(0.11, 0.3), "there and back", "the late trace has swung back", SLOWER),
    "collapse": Rule(
        collapse,
        Limit(0.45, 1.0),
        "of a collapse",
        "the policy narrows",
        "lower the learning rate or raise beta; look at samples",
    ),
    "roughening": Rule(roughening, Limit(0.06, 0.15), "of coherence", "the depth path has become rough", SLOWER),
    "delocalized": Rule(
        delocalized, Limit(1.6), "of the late layers' movement", "early layers move with the late ones", SLOWER
    ),
    "likelihood_drop": Rule(
        likelihood_drop,
        Limit(0.1, 0.2),
        "of their log-likelihood in 20 steps",
        "held-out chosen answers become unlikely",
        "raise beta, lower the learning rate, drop pairs whose answers are nearly alike, or add an SFT term beside the"
        ' DPO loss (loss_type=["sigmoid", "sft"], loss_weights=[1.0, 0.5])',
    ),
    "margin_drop": Rule(
        margin_drop,
        Limit(0.2, 0.4),
        "of its best value",
        "the preference is being unlearned",
        "look at the pairs of the last steps: chosen and rejected may have changed places, or answers may be broken",
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
