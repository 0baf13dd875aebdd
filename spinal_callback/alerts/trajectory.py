"""What the alert rules see of a run: how far its late trace has moved since the start. Plain floats, no torch."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any

from ..records import Reading

HORIZON = 20  # training steps that "recent" means: the scale on which broken runs were seen to break
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
        chosen: change of the chosen answers' log-likelihood, a share of its size: what the Trainer logged last.
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
    chosen: float
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
    """The points that a rule may ask for: those within the horizon, and the extremes of the run so far.

    `extremes` holds, of "alpha" and "transport", the points where each was lowest and highest, the start included.
    """

    window: tuple[int, int]
    start: dict[str, Any] | None = None
    points: list[Point] = field(default_factory=list)
    extremes: dict[str, list[Point]] = field(default_factory=dict)

    @property
    def now(self) -> Point:
        return self.points[-1]

    @property
    def before(self) -> list[Point]:
        """The earlier points within the horizon; where the interval is longer, the last one."""
        return self.points[:-1]

    def add(self, reading: Reading) -> None:
        """Takes the next reading. The run's first is what all others are held against."""
        if self.start is None:
            self.start = _start(reading, self.window)
        point = _point(reading, self.start, self.window)
        kept = [p for p in self.points if p.step >= point.step - HORIZON] or self.points[-1:]
        self.points = [*kept, point]
        for name in ("alpha", "transport"):
            if math.isfinite(getattr(point, name)):
                ends = [*self.extremes.get(name, []), point]
                self.extremes[name] = [min(ends, key=attrgetter(name)), max(ends, key=attrgetter(name))]

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Trajectory:
        points = [Point(**p) for p in data["points"]]
        extremes = {name: [Point(**p) for p in ends] for name, ends in data["extremes"].items()}
        return cls(tuple(data["window"]), data["start"], points, extremes)


def _start(reading: Reading, window: tuple[int, int]) -> dict[str, Any]:
    return {
        "alpha": reading.alpha,
        "transport": reading.transport,
        "late": reading.late,
        "entropy": reading.entropy,
        "rank": _late_rank(reading, window),
        "coherence": reading.coherence,
    }


def _point(reading: Reading, start: dict[str, Any], window: tuple[int, int]) -> Point:
    first = start["late"]
    alpha, transport = abs(first["alpha"]) or math.nan, abs(first["transport"]) or math.nan
    rank, late, depth = _late_rank(reading, window), window[1] - window[0] + 1, len(reading.alpha)
    share = reading.localization
    outside = (1 - share) / (depth - late) if depth > late else math.nan
    return Point(
        step=reading.step,
        alpha=(reading.late["alpha"] - first["alpha"]) / alpha,
        alpha_se=reading.delta["alpha_se"] / alpha,
        transport=(reading.late["transport"] - first["transport"]) / transport,
        transport_se=reading.delta["transport_se"] / transport,
        entropy=reading.entropy - start["entropy"],
        rank=math.log(rank / start["rank"]) if rank > 0 and start["rank"] > 0 else math.nan,
        coherence=reading.coherence - start["coherence"],
        spread=outside / (share / late) if share > 0 else math.nan,
        displacement=reading.displacement,
        chosen=_likelihood(reading.trainer),
        nonfinite=reading.nonfinite,
        movers=_movers(reading, start, alpha, transport),
    )


def _late_rank(reading: Reading, window: tuple[int, int]) -> float:
    known = [r for r in reading.effective_rank[window[0] - 1 : window[1]] if math.isfinite(r)]
    return sum(known) / len(known) if known else math.nan


def _likelihood(trainer: Mapping[str, float]) -> float:
    """Change of the chosen answers' log-likelihood against the reference's, a share of the reference's.

    reward = beta log(policy / reference), so the reference's is `logps - reward / beta`. 0 as long as nothing has been
    logged; NaN where a trainer logs none of this, or where its rewards know no reference.
    """
    if not trainer:
        return 0.0
    reward, logps, beta = (trainer.get(key, math.nan) for key in ("rewards/chosen", "logps/chosen", "beta"))
    change = reward / beta if beta > 0 else math.nan
    reference = abs(logps - change)
    return change / reference if reference > 1e-3 * abs(change) else math.nan


def _movers(reading: Reading, start: dict[str, Any], alpha: float, transport: float, most: int = 5) -> list[int]:
    """The layers whose contraction, or whose transport step that ends there, moved at least half as far as the
    farthest; the `most` farthest of them, in the order of depth. With NaN about, the layers without a value."""
    if reading.nonfinite:
        return [i for i, value in enumerate(reading.alpha, start=1) if math.isnan(value)]
    steps = [0.0, *((b - a) / transport for a, b in zip(start["transport"], reading.transport, strict=True))]
    alphas = [(b - a) / alpha for a, b in zip(start["alpha"], reading.alpha, strict=True)]
    moves = [math.hypot(sure(a, 0.0), sure(t, 0.0)) for a, t in zip(alphas, steps, strict=True)]
    far = sorted((move, i) for i, move in enumerate(moves, start=1) if move > 0 and move >= max(moves) / 2)
    return sorted(i for _, i in far[-most:])
