"""The table of measures: each field of a reading, and how it is computed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from . import answers, measures
from .sample import Sample


@dataclass(frozen=True)
class View:
    """What a measure is computed from: the sample now, the reference's, the late window, squared gradients `[L]`."""

    now: Sample
    reference: Sample
    window: tuple[int, int]
    gradients: Tensor

    def late(self, curve: Tensor) -> Tensor:
        return measures.late(curve, self.window, self.now.alpha.shape[0])

    def late_means(self, sample: Sample) -> tuple[float, float]:
        return float(self.late(sample.alpha).mean()), float(self.late(sample.transport.mean(-1)).mean())


def _delta(view: View) -> dict[str, float]:
    (alpha, transport), (alpha0, transport0) = view.late_means(view.now), view.late_means(view.reference)
    moved = view.late((view.now.transport - view.reference.transport).T).mean(-1)  # per prompt: paired
    left_out = view.late(view.now.deleted - view.reference.deleted).mean(-1)
    return {
        "alpha": alpha - alpha0,
        "alpha_se": float(measures.jackknife_error(left_out)),
        "transport": transport - transport0,
        "transport_se": float(measures.standard_error(moved)),
        **_delta_answers(view),
    }


def _answers(view: View) -> dict[str, Tensor]:
    """Of each pair, `[M]`: `nll` of the chosen answer and its change `risen`, nats per token; `margin`, nats.

    No change where the reference was read with other pairs.
    """
    now, reference = view.now, view.reference
    if now.answers.shape != reference.answers.shape:
        reference = now
    nll, nll0 = (answers.chosen_nll(s.answers, s.answer_tokens) for s in (now, reference))
    return {"nll": nll, "risen": nll - nll0, "margin": answers.margins(now.answers, reference.answers)}


def _delta_answers(view: View) -> dict[str, float]:
    if not view.now.answers.numel():
        return {}
    found = _answers(view)
    return {
        "chosen_nll": float(found["risen"].mean()),
        "chosen_nll_se": float(measures.standard_error(found["risen"])),
        "margin_se": float(measures.standard_error(found["margin"])),
    }


def _delta_align(view: View) -> float:
    (alpha, transport), (alpha0, transport0) = view.late_means(view.now), view.late_means(view.reference)
    return measures.delta_align(alpha, alpha0, transport, transport0)


def _coherence(view: View) -> float:
    return measures.coherence(view.now.alpha, view.now.transport.mean(-1), view.window)


def _localization(view: View) -> float:
    return measures.localization(
        view.now.alpha - view.reference.alpha, (view.now.transport - view.reference.transport).mean(-1), view.window
    )


def _concentration(view: View) -> float:
    return measures.gradient_concentration(view.gradients, view.window)


def _greatest(view: View) -> dict[str, float]:
    depth = len(view.now.alpha)
    moved = (view.now.transport - view.reference.transport).mean(-1)
    return {
        "alpha": measures.greatest_change(view.now.alpha - view.reference.alpha, depth),
        "transport": measures.greatest_change(moved, depth),
    }


# A field of Reading, and how it is computed from a view. A new measure is a row here.
MEASURES: dict[str, Callable[[View], Any]] = {
    "alpha": lambda view: view.now.alpha.tolist(),
    "alpha_se": lambda view: view.now.alpha_se.tolist(),
    "alpha_r2": lambda view: view.now.alpha_r2.tolist(),
    "effective_rank": lambda view: view.now.effective_rank.tolist(),
    "transport": lambda view: view.now.transport.mean(-1).tolist(),
    "transport_se": lambda view: measures.standard_error(view.now.transport).tolist(),
    "alpha_change_se": lambda view: measures.jackknife_error((view.now.deleted - view.reference.deleted).T).tolist(),
    "transport_change_se": lambda view: measures.standard_error(view.now.transport - view.reference.transport).tolist(),
    "late": lambda view: dict(zip(("alpha", "transport"), view.late_means(view.now), strict=True)),
    "delta": _delta,
    "displacement": lambda view: float(view.now.displacement.mean()),
    "entropy": lambda view: float(view.now.entropy.mean()),
    "localization": _localization,
    "coherence": _coherence,
    "gradient_concentration": _concentration,
    "delta_align": _delta_align,
    "score": lambda view: measures.score(_delta_align(view), _coherence(view), _concentration(view)),
    "length": lambda view: measures.path_length(view.now.transport.mean(-1), view.window),
    "greatest": _greatest,
    "layer_entropy": lambda view: view.now.entropies.mean(-1).tolist(),
    "nonfinite": lambda view: int(view.now.nonfinite),
    "chosen_nll": lambda view: float(_answers(view)["nll"].mean()),
    "margin": lambda view: float(_answers(view)["margin"].mean()),
    "accuracy": lambda view: answers.accuracy(_answers(view)["margin"]),
}
