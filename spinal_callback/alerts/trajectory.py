"""What the alert rules see of a run: how far its late trace has moved, and how fast it usually does. No torch."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any

from ..records import Reading

HORIZON = 20  # training steps that "recent" means: the scale on which broken runs were seen to break
PAST = 100  # training steps over which the shape of the path is judged
SETTLED = 40  # training steps after which a speed counts as usual for the run
SLACK = 2.0  # times its usual pace at which a run may go between two distant probes
APART = 5  # training steps between two of the points that are kept from before the horizon
EXTREMES = ("alpha", "transport", "margin")
SURE = 2.0  # standard errors that a change must exceed before any of it counts


@dataclass(frozen=True)
class Point:
    """One reading as the rules see it: changes since the run's first reading. NaN where there is no value.

    Attributes:
        step: optimizer steps done.
        alpha, alpha_se: change of late contraction and its paired standard error, as shares of the first value.
        transport, transport_se: the same of late transport. Shares, not radians: a model of 8 layers has a fifth of the
            late transport of one with 30, and moves by a fifth as much when it breaks.
        entropy: change of the final distribution's entropy, nats.
        rank: log of the late layers' mean effective rank over its first value.
        coherence: change of the depth path's coherence.
        spread: movement of a layer outside the late window over that of one inside, mean against mean.
        displacement: distance of the final distribution from step 0's, radians.
        likelihood, likelihood_se: change of the held-out chosen answers' log-likelihood and its paired standard error,
            as shares of its size at the first reading; NaN where the probe reads no answers.
        margin: how much more log-likelihood held-out chosen answers gained than rejected ones, nats a pair; NaN where
            the probe reads no answers.
        nonfinite: how many activations and logits are NaN or Inf.
        movers: the layers that have moved most, first to last.
    """

    step: int
    alpha: float
    alpha_se: float
    transport: float
    transport_se: float
    entropy: float
    rank: float
    coherence: float
    spread: float
    displacement: float
    likelihood: float
    likelihood_se: float
    margin: float
    nonfinite: int
    movers: list[int]

    @property
    def moved(self) -> float:
        """How far the late trace is surely from its start: shares of transport and of alpha, as one length."""
        return math.hypot(sure(self.transport, self.transport_se), sure(self.alpha, self.alpha_se))


def sure(change: float, error: float) -> float:
    """What of a change noise does not explain: `|change| - 2 errors`, with its sign, 0 inside. NaN counts as 0."""
    error = 0.0 if math.isnan(error) else error
    return math.copysign(max(abs(change) - SURE * error, 0.0), change) if math.isfinite(change) else 0.0


@dataclass
class Trajectory:
    """The points that a rule may ask for: those of the last `PAST` steps, and the extremes of the run so far.

    Attributes:
        baseline: what of the run's first reading all later ones are measured from.
        points: all of the last `HORIZON` steps, of those before them some at least `APART` steps apart; at least two.
        extremes: of each of `EXTREMES`, the points where it was lowest and highest, the start included.
        speeds: (step, `SPEEDS` name -> speed) of the readings of the last `SETTLED` steps.
        pace: `SPEEDS` name -> the highest speed of all readings before those: what is usual for this run.
    """

    window: tuple[int, int]
    baseline: dict[str, Any] | None = None
    points: list[Point] = field(default_factory=list)
    extremes: dict[str, list[Point]] = field(default_factory=dict)
    speeds: list[tuple[int, dict[str, float]]] = field(default_factory=list)
    pace: dict[str, float] = field(default_factory=dict)

    @property
    def now(self) -> Point:
        return self.points[-1]

    @property
    def before(self) -> list[Point]:
        """The earlier points within the horizon, and the last one before it."""
        older = [p for p in self.points[:-1] if p.step < self.now.step - HORIZON]
        return older[-1:] + [p for p in self.points[:-1] if p.step >= self.now.step - HORIZON]

    @property
    def past(self) -> list[Point]:
        """The earlier points of the last `PAST` steps; where the interval is longer, the last one."""
        return self.points[:-1]

    def add(self, reading: Reading) -> None:
        """Takes the next reading. The run's first is what all others are measured from."""
        if self.baseline is None:
            self.baseline = _baseline(reading, self.window)
        point = _point(reading, self.baseline, self.window)
        self.points = [*_thinned(self.points, point.step), point]
        self._keep_pace()
        for name in EXTREMES:
            if math.isfinite(getattr(point, name)):
                ends = [*self.extremes.get(name, []), point]
                self.extremes[name] = [min(ends, key=attrgetter(name)), max(ends, key=attrgetter(name))]

    def _keep_pace(self) -> None:
        """A speed counts as usual once it is `SETTLED` steps old: a run that begins to break is not its own norm."""
        now = self.now.step
        while self.speeds and self.speeds[0][0] < now - SETTLED:
            _, settled = self.speeds.pop(0)
            self.pace = {name: max(self.pace.get(name, 0.0), value) for name, value in settled.items()}
        if self.before:
            self.speeds.append((now, {name: speed(self, name) for name in SPEEDS}))

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Trajectory:
        points = [Point(**p) for p in data["points"]]
        extremes = {name: [Point(**p) for p in ends] for name, ends in data["extremes"].items()}
        speeds = [(int(step), dict(values)) for step, values in data["speeds"]]
        return cls(tuple(data["window"]), data["baseline"], points, extremes, speeds, dict(data["pace"]))


# --- speeds -----------------------------------------------------------------------------------------------------------


def _late_way(then: Point, now: Point) -> float:
    """Change of late transport and alpha, in shares, as one length; either direction."""
    transport_se, alpha_se = max(now.transport_se, then.transport_se), max(now.alpha_se, then.alpha_se)
    return math.hypot(sure(now.transport - then.transport, transport_se), sure(now.alpha - then.alpha, alpha_se))


# What is measured as a speed: the change from one point to a later one.
SPEEDS: dict[str, Callable[[Point, Point], float]] = {
    "late": _late_way,
    "displacement": lambda then, now: now.displacement - then.displacement,
    "likelihood": lambda then, now: sure(then.likelihood - now.likelihood, max(now.likelihood_se, then.likelihood_se)),
}


def speed(path: Trajectory, name: str) -> float:
    """The greatest change within 20 steps: to now, from any point of the last 20 steps or the one before them.

    Of a longer way nobody knows when the change came. The part of it that the run's
    usual pace explains (`SLACK` times that pace) is taken off, and the rest counts as one change; where no pace is
    known yet, the change is taken as even.
    """
    greatest = 0.0
    for then in path.before:
        change, steps = SPEEDS[name](then, path.now), path.now.step - then.step
        if steps > HORIZON:
            usual = path.pace.get(name, math.inf) * SLACK * (steps - HORIZON) / HORIZON
            change = max(change * HORIZON / steps, change - usual)
        greatest = max(greatest, change)  # max keeps what it has against NaN
    return greatest


def _thinned(points: list[Point], now: int) -> list[Point]:
    """The points to keep of those before step `now`: see `Trajectory.points`."""
    kept: list[Point] = []
    for point in points:
        recent = point.step >= now - HORIZON
        if point.step >= now - PAST and (recent or not kept or point.step >= kept[-1].step + APART):
            kept.append(point)
    return kept or points[-1:]


def _baseline(reading: Reading, window: tuple[int, int]) -> dict[str, Any]:
    return {
        "alpha": reading.alpha,
        "transport": reading.transport,
        "late": reading.late,
        "entropy": reading.entropy,
        "rank": _late_rank(reading, window),
        "coherence": reading.coherence,
        "chosen_nll": reading.chosen_nll,
    }


def _point(reading: Reading, baseline: dict[str, Any], window: tuple[int, int]) -> Point:
    first = baseline["late"]
    alpha, transport = abs(first["alpha"]) or math.nan, abs(first["transport"]) or math.nan
    nll = abs(baseline["chosen_nll"]) or math.nan
    rank, late, depth = _late_rank(reading, window), window[1] - window[0] + 1, len(reading.alpha)
    share = reading.localization
    outside = (1 - share) / (depth - late) if depth > late else math.nan
    return Point(
        step=reading.step,
        alpha=(reading.late["alpha"] - first["alpha"]) / alpha,
        alpha_se=reading.delta["alpha_se"] / alpha,
        transport=(reading.late["transport"] - first["transport"]) / transport,
        transport_se=reading.delta["transport_se"] / transport,
        entropy=reading.entropy - baseline["entropy"],
        rank=math.log(rank / baseline["rank"]) if rank > 0 and baseline["rank"] > 0 else math.nan,
        coherence=reading.coherence - baseline["coherence"],
        spread=outside / (share / late) if share > 0 else math.nan,
        displacement=reading.displacement,
        likelihood=(baseline["chosen_nll"] - reading.chosen_nll) / nll,
        likelihood_se=reading.delta.get("chosen_nll_se", math.nan) / nll,
        margin=reading.margin,
        nonfinite=reading.nonfinite,
        movers=_movers(reading, baseline, alpha, transport),
    )


def _late_rank(reading: Reading, window: tuple[int, int]) -> float:
    known = [r for r in reading.effective_rank[window[0] - 1 : window[1]] if math.isfinite(r)]
    return sum(known) / len(known) if known else math.nan


def _movers(reading: Reading, baseline: dict[str, Any], alpha: float, transport: float, most: int = 5) -> list[int]:
    """The layers whose contraction, or whose transport step that ends there, moved at least half as far as the
    farthest; the `most` farthest of them, in the order of depth. With NaN about, the layers without a value."""
    if reading.nonfinite:
        return [i for i, value in enumerate(reading.alpha, start=1) if math.isnan(value)]
    steps = [0.0, *((b - a) / transport for a, b in zip(baseline["transport"], reading.transport, strict=True))]
    alphas = [(b - a) / alpha for a, b in zip(baseline["alpha"], reading.alpha, strict=True)]
    moves = [math.hypot(sure(a, 0.0), sure(t, 0.0)) for a, t in zip(alphas, steps, strict=True)]
    far = sorted((move, i) for i, move in enumerate(moves, start=1) if move > 0 and move >= max(moves) / 2)
    return sorted(i for _, i in far[-most:])
