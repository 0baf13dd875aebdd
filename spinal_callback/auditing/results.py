"""What `audit` and `compare` return: plain values, with text, JSON and pandas out. No torch."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any

from ..records import Alert, Reading, null_for_nan
from ..report.labels import path
from ..report.text import alert_line, lines
from ..traces import Trace, import_pandas
from . import tables
from .effects import Effects

LEVEL = 0.05  # chance of any false "significant" among all layers of a comparison


@dataclass(frozen=True)
class Change:
    """A value before and after. NaN where it could not be computed.

    Attributes:
        before, after: the value: contraction (no unit) or transport (radians).
        change: after - before.
        se: standard error of the change.
        low, high: 95 % interval of the change.
        p: p value of the change, adjusted by Holm over all changes that were tested with it.
    """

    before: float
    after: float
    change: float
    se: float
    low: float
    high: float
    p: float

    @property
    def significant(self) -> bool:
        return self.p < LEVEL


@dataclass(frozen=True)
class Place:
    """A layer, and its 95 % interval over draws of prompts; `low` and `high` are 0 without an interval."""

    layer: int
    low: int = 0
    high: int = 0

    def __str__(self) -> str:
        return f"{self.layer} ({self.low} to {self.high})" if self.low else str(self.layer)


@dataclass(frozen=True)
class Changes:
    """What differs between two policies.

    Attributes:
        alpha: contraction of layers 1..L.
        transport: transport of the step that ends at layers 1..L; NaN at 1, where none ends.
        late: means over the late window: `alpha`, `transport`.
        first, last: first and last layer at which either curve changed significantly; None if none did.
        paired: True if compared prompt by prompt, False if by the errors that two traces hold.
    """

    alpha: list[Change]
    transport: list[Change]
    late: dict[str, Change]
    first: Place | None
    last: Place | None
    paired: bool

    @property
    def layers(self) -> list[int]:
        """The layers, counted from 1, at which either curve changed significantly."""
        both = zip(self.alpha, self.transport, strict=True)
        return [i for i, (a, t) in enumerate(both, start=1) if a.significant or t.significant]

    def to_json(self) -> dict[str, Any]:
        return {**null_for_nan(dataclasses.asdict(self)), "layers": self.layers}

    def to_pandas(self) -> Any:
        """A row for each layer, with the columns `alpha_before`, `alpha_after`, `alpha_change`, `alpha_se`,
        `alpha_low`, `alpha_high`, `alpha_p`, `alpha_significant`, and the same for `transport`.

        Raises:
            ImportError: pandas is not installed.
        """
        pandas = import_pandas()
        rows = [_row("alpha", a) | _row("transport", t) for a, t in zip(self.alpha, self.transport, strict=True)]
        return pandas.DataFrame(rows, index=pandas.RangeIndex(1, len(rows) + 1, name="layer"))

    def table(self, entropies: tuple[list[float], list[float]] = ([], [])) -> str:
        """Text, by layer: each curve before and after, and its change ± standard error; `*` marks significant ones.

        `entropies`: of each layer's next-token distribution before and after, nats; empty: no columns for them.
        """
        return tables.changes(self, entropies)

    def where(self) -> str:
        """Where the change is, in a sentence."""
        how = "" if self.paired else ", with the errors that traces hold"
        if self.first is None or self.last is None:
            return f"no layer changed significantly (Holm, {LEVEL:.0%} over all layers and both curves{how})"
        share = f"{len(self.layers)} of {len(self.alpha)} layers"
        text = f"significant change in {share}, first {self.first}, last {self.last}"
        inside = "; in brackets the 95 % interval over draws of prompts" if self.first.low else ""
        return f"{text} (Holm, {LEVEL:.0%} over all layers and both curves{how}{inside})"


@dataclass(frozen=True)
class TurningPoint:
    """A checkpoint of a run at which a late mean changed direction.

    Attributes:
        curve: "late_alpha" or "late_transport".
        step: the checkpoint's step.
        between: steps of the checkpoints before and after it; the curve turned somewhere between them.
        out: change from the first checkpoint to this one.
        back: change from this checkpoint to the last.
    """

    curve: str
    step: int
    between: tuple[int, int]
    out: Change
    back: Change

    @property
    def size(self) -> float:
        """The smaller of the two changes."""
        return min(abs(self.out.change), abs(self.back.change))

    def __str__(self) -> str:
        return (
            f"{self.curve} turned at step {self.step} (between {self.between[0]} and {self.between[1]}):"
            f" {_signed(self.out)} by then, {_signed(self.back)} since"
        )


@dataclass(frozen=True)
class Audit:
    """What `audit` found.

    Attributes:
        trace: a reading for each checkpoint, the base or a run's start first, with the alerts of a run.
        names: the checkpoint of each reading.
        changes: what changed from the first reading to each later one.
        turns: of a run: the turning points of its late means.
        effects: for each of `changes`, whether it is more than a change that matters.
    """

    trace: Trace
    names: list[str]
    changes: list[Changes] = field(default_factory=list)
    turns: list[TurningPoint] = field(default_factory=list)
    effects: list[Effects] = field(default_factory=list)

    @property
    def readings(self) -> list[Reading]:
        return self.trace.readings

    @property
    def alerts(self) -> list[Alert]:
        return self.trace.alerts

    @property
    def score(self) -> float:
        """SPINAL score of the last checkpoint against the first; NaN without a base.

        Without preference pairs there is no gradient concentration: it is then `delta_align + coherence` alone, while
        the reading's own `score`, which has all three terms, is NaN.
        """
        last = self.readings[-1]
        if not self.changes:
            return math.nan
        return last.score if self.trace.header.pairs else last.delta_align + last.coherence

    @property
    def verdict(self) -> str:
        """Of the last checkpoint against the first: "changed", "negligible" or "insufficient evidence"; "" if alone."""
        return self.effects[-1].verdict if self.effects else ""

    def to_pandas(self) -> Any:
        """A row for each reading (`Trace.to_pandas`); `audit.changes[-1].to_pandas()` has one for each layer."""
        return self.trace.to_pandas()

    def to_json(self) -> dict[str, Any]:
        more = {"names": self.names, "changes": [c.to_json() for c in self.changes], "score": self.score}
        more |= {"verdict": self.verdict, "effects": [effects.to_json() for effects in self.effects]}
        return self.trace.to_json() | null_for_nan(
            more | {"turns": [dataclasses.asdict(point) for point in self.turns]}
        )

    def _repr_html_(self) -> str | None:
        return self.trace._repr_html_()

    def __str__(self) -> str:
        header, last = self.trace.header, self.readings[-1]
        about = f"{header.layers} layers, late window {header.window[0]}-{header.window[1]}, {header.prompts} prompts"
        if not self.changes:
            terms = f"coherence {last.coherence:.3f}{self._gradients()}"
            return f"{self.names[0]}: {about}\n\n{tables.levels(last)}\n\n{terms}; no base, no score"
        text = [f"{self.names[-1]} against {self.names[0]}: {about}", ""]
        if len(self.readings) > 2:
            text += [lines(self.trace.header, self.readings), *map(alert_line, self.alerts), *map(str, self.turns), ""]
        entropies = self.readings[0].layer_entropy, last.layer_entropy
        text += [self.changes[-1].table(entropies), "", self.changes[-1].where(), "", str(self.effects[-1]), ""]
        text += [*path(dataclasses.asdict(last)), f"{last.localization:.3f} of the change lies in the late window"]
        terms = f"delta_align {last.delta_align:.3f} + coherence {last.coherence:.3f}{self._gradients()}"
        text += [f"SPINAL score {self.score:.3f} = {terms}"]
        if not self.trace.header.pairs:
            text += ["(gradient concentration, the third term, needs preference pairs: --pairs)"]
        return "\n".join(text)

    def _gradients(self) -> str:
        share = self.readings[-1].gradient_concentration
        return f" + gradient concentration {share:.3f}" if self.trace.header.pairs else ""


@dataclass(frozen=True)
class Comparison:
    """What `compare` found: the changes from `a` to `b`.

    Attributes:
        a, b: names.
        changes: layer by layer.
        effects: whether the late means and the displacement changed by more than what matters.
        displacement: mean Fisher-Rao distance between their final next-token distributions, radians; NaN for two
            traces, which do not hold these distributions.
        entropies: of each layer's next-token distribution in `a` and in `b`, nats; empty where they were not read.
    """

    a: str
    b: str
    changes: Changes
    effects: Effects
    displacement: float = math.nan
    entropies: tuple[list[float], list[float]] = ([], [])

    @property
    def verdict(self) -> str:
        """ "changed", "negligible" or "insufficient evidence" (`Effects.verdict`)."""
        return self.effects.verdict

    @property
    def different(self) -> bool:
        """True if any layer or either late mean changed significantly, however little (`verdict` asks how much)."""
        return bool(self.changes.layers) or any(change.significant for change in self.changes.late.values())

    def __str__(self) -> str:
        text = [f"before: {self.a}", f"after:  {self.b}", "", self.changes.table(self.entropies), ""]
        return "\n".join([*text, self.changes.where(), "", str(self.effects)])

    def to_pandas(self) -> Any:
        """A row for each layer, as `Changes.to_pandas`."""
        return self.changes.to_pandas()

    def to_json(self) -> dict[str, Any]:
        about: dict[str, Any] = {
            "a": self.a,
            "b": self.b,
            "different": self.different,
            "displacement": self.displacement,
        }
        about["layer_entropy"] = dict(zip(("a", "b"), self.entropies, strict=True))
        return {**null_for_nan(about), **self.effects.to_json(), "changes": self.changes.to_json()}


def _row(curve: str, change: Change) -> dict[str, Any]:
    row = {f"{curve}_{name}": value for name, value in dataclasses.asdict(change).items()}
    return row | {f"{curve}_significant": change.significant}


def _signed(change: Change) -> str:
    return f"{change.change:+.3f} ± {change.se:.3f}"
