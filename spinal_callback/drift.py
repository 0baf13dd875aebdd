"""Alert rules: readings in, alerts out. Plain floats, no torch, so a saved trace can be replayed through them."""

from __future__ import annotations

from typing import Any, Protocol

from .records import Alert, Reading


class Rule(Protocol):
    """Looks at one reading after the other, in the order of their steps. `state` is what a resumed run goes on from."""

    state: dict[str, Any]

    def update(self, reading: Reading) -> list[Alert]: ...


class NonFinite:
    """`nonfinite`, error: any kept activation or final logit of the probe is NaN or Inf.

    Watches a count; more than 0 is a fault at once, with no patience: such a policy does not come back. The Trainer's
    own loss log hides NaN (`logging_nan_inf_filter`). Silent again until the count has been 0.
    """

    def __init__(self) -> None:
        self.state: dict[str, Any] = {"raised": False}

    def update(self, reading: Reading) -> list[Alert]:
        was, self.state["raised"] = self.state["raised"], reading.nonfinite > 0
        if was or not self.state["raised"]:
            return []
        layers = [i for i, alpha in enumerate(reading.alpha, start=1) if alpha != alpha]
        return [
            Alert(
                step=reading.step,
                rule="nonfinite",
                level="error",
                layers=layers,
                value=float(reading.nonfinite),
                threshold=0.0,
                message=f"{reading.nonfinite} activations or logits of the probe are NaN or Inf at step {reading.step}",
                action="stop; go back to the last checkpoint, lower the learning rate or train in bfloat16",
            )
        ]


# The table of rules. A new rule is a class above and a row here.
RULES: tuple[type[Rule], ...] = (NonFinite,)


class Detector:
    """All rules at once."""

    def __init__(self) -> None:
        self._rules = [rule() for rule in RULES]

    def update(self, reading: Reading) -> list[Alert]:
        """The alerts that this reading raises."""
        return [alert for rule in self._rules for alert in rule.update(reading)]

    def state(self) -> dict[str, dict[str, Any]]:
        """What the rules remember, as JSON."""
        return {type(rule).__name__: rule.state for rule in self._rules}

    def restore(self, state: dict[str, dict[str, Any]]) -> None:
        """Goes on from a `state`. A rule that it does not know begins anew."""
        for rule in self._rules:
            rule.state = dict(state.get(type(rule).__name__, rule.state))
