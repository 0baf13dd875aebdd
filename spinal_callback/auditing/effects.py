"""How large a change is, against the least change that matters: plain values and their words. No torch, no SciPy."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..records import null_for_nan

CHANGED, NEGLIGIBLE, INSUFFICIENT = "changed", "negligible", "insufficient evidence"
UNITS = {"contraction": "", "transport": "rad", "displacement": "rad"}
TITLES = {"contraction": "late contraction", "transport": "late transport", "displacement": "displacement"}
# The least change that matters unless given. Measured with SmolLM2-135M-Instruct: what two halves of the same prompts
# disagree by is below these, what 30 healthy steps of full fine-tuning did is above one of them
# (scripts/benchmarks/README.md, "What an audit calls a change").
AT_LEAST = {"contraction": 0.01, "transport": 0.01, "displacement": 0.1}


@dataclass(frozen=True)
class Effect:
    """One change, and whether it is as large as one that matters.

    Attributes:
        name: a key of `AT_LEAST`.
        change: after - before; of displacement the distance itself. NaN where there is none.
        se: standard error of the change; NaN where none is known.
        low, high: 90 % interval of the change.
        at_least: size of the least change that matters.
        p_changed: p value of "the size of the change is at most `at_least`", adjusted by Holm over all effects.
        p_negligible: p value of "the size of the change is at least `at_least`".
        verdict: "changed", "negligible" or "insufficient evidence".
        prompts: how many prompts would probably settle it; None if it is settled, or if no number would.
    """

    name: str
    change: float
    se: float
    low: float
    high: float
    at_least: float
    p_changed: float
    p_negligible: float
    verdict: str
    prompts: int | None = None

    @property
    def title(self) -> str:
        return f"{TITLES[self.name]} ({UNITS[self.name]})" if UNITS[self.name] else TITLES[self.name]


@dataclass(frozen=True)
class Effects:
    """The effects that were tested, and what they amount to.

    Attributes:
        each: the effects.
        prompts: number of prompts that they were measured with.
    """

    each: list[Effect]
    prompts: int

    @property
    def verdict(self) -> str:
        """Changed if any effect is; negligible if all are; otherwise insufficient evidence."""
        verdicts = [effect.verdict for effect in self.each]
        if CHANGED in verdicts:
            return CHANGED
        return NEGLIGIBLE if set(verdicts) == {NEGLIGIBLE} else INSUFFICIENT

    @property
    def prompts_needed(self) -> int | None:
        """How many prompts would probably settle the verdict; None if it is settled, or if no number would."""
        if self.verdict != INSUFFICIENT:
            return None
        open_ = [effect for effect in self.each if effect.verdict == INSUFFICIENT]
        larger = [effect.prompts for effect in open_ if abs(effect.change) > effect.at_least and effect.prompts]
        if larger:  # one that proves to be changed settles it
            return min(larger)
        needed = [effect.prompts for effect in open_]
        return None if None in needed else max(filter(None, needed))

    def to_json(self) -> dict[str, Any]:
        about = {"verdict": self.verdict, "prompts": self.prompts, "prompts_needed": self.prompts_needed}
        return about | {"effects": [null_for_nan(dataclasses.asdict(effect)) for effect in self.each]}

    def __str__(self) -> str:
        lines = [f"{'':22}{'change':>9}   {'90 % interval':18}{'at least':>9}  verdict"]
        for effect in self.each:
            interval = "-" if math.isnan(effect.low) else f"{effect.low:+.4f} to {effect.high:+.4f}"
            change = "-" if math.isnan(effect.change) else f"{effect.change:+.4f}"
            bound = f"{effect.at_least:g}"
            lines.append(f"{effect.title:22}{change:>9}   {interval:18}{bound:>9}  {effect.verdict}")
        return "\n".join([*lines, f"verdict: {self._in_words()}"])

    def _in_words(self) -> str:
        if self.verdict == CHANGED:
            names = [TITLES[effect.name] for effect in self.each if effect.verdict == CHANGED]
            return f"{CHANGED}: {' and '.join(names)} by more than the least change that matters"
        if self.verdict == NEGLIGIBLE:
            return f"{NEGLIGIBLE}: every interval lies within the least change that matters"
        if any(math.isnan(effect.se) for effect in self.each):
            return f"{INSUFFICIENT}: there is no error of the change; compare the checkpoints instead of their traces"
        needed = self.prompts_needed
        if needed is None:
            return f"{INSUFFICIENT}: the change is about as large as the least that matters; no number of prompts helps"
        return f"{INSUFFICIENT}: about {needed} prompts would settle it (there were {self.prompts})"


def bounds(given: Mapping[str, float] | None) -> dict[str, float]:
    """`AT_LEAST` with the values given.

    Raises:
        ValueError: another name, or a value that is not a positive number.
    """
    for name, value in (given or {}).items():
        if name not in AT_LEAST:
            raise ValueError(f"at_least: there is no {name!r}, the changes are {', '.join(AT_LEAST)}")
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not math.isfinite(value) or value <= 0:
            raise ValueError(f"at_least: {name} must be a number > 0, got {value!r}")
    return AT_LEAST | dict(given or {})
