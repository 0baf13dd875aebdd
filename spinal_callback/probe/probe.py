"""One look at a policy: the table of measures, and the probe that fills a reading from it."""

from __future__ import annotations

import math
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..config import SpinalConfig
from ..records import Header, Reading
from ..version import __version__
from . import measures
from .prompts import PromptSet
from .sample import Sample, Sampler, fingerprint, load_sample, save_sample


@dataclass(frozen=True)
class View:
    """What a row of the table of measures sees: the sample now, the one at step 0, late window, gradients `[L]`."""

    now: Sample
    start: Sample
    window: tuple[int, int]
    gradients: Tensor

    def late(self, curve: Tensor) -> Tensor:
        return measures.late(curve, self.window, self.now.alpha.shape[0])

    def late_means(self, sample: Sample) -> tuple[float, float]:
        return float(self.late(sample.alpha).mean()), float(self.late(sample.transport.mean(-1)).mean())


def _delta(view: View) -> dict[str, float]:
    (alpha, transport), (alpha0, transport0) = view.late_means(view.now), view.late_means(view.start)
    moved = view.late((view.now.transport - view.start.transport).T).mean(-1)  # per prompt: paired
    left_out = view.late(view.now.deleted - view.start.deleted).mean(-1)
    return {
        "alpha": alpha - alpha0,
        "alpha_se": float(measures.jackknife_error(left_out)),
        "transport": transport - transport0,
        "transport_se": float(measures.standard_error(moved)),
    }


def _delta_align(view: View) -> float:
    (alpha, transport), (alpha0, transport0) = view.late_means(view.now), view.late_means(view.start)
    return measures.delta_align(alpha, alpha0, transport, transport0)


def _coherence(view: View) -> float:
    return measures.coherence(view.now.alpha, view.now.transport.mean(-1), view.window)


def _localization(view: View) -> float:
    return measures.localization(
        view.now.alpha - view.start.alpha, (view.now.transport - view.start.transport).mean(-1), view.window
    )


def _concentration(view: View) -> float:
    return measures.gradient_concentration(view.gradients, view.window)


# The table of measures: a field of Reading, and how it is had from a view. A new measure is a row here.
MEASURES: dict[str, Callable[[View], Any]] = {
    "alpha": lambda view: view.now.alpha.tolist(),
    "alpha_se": lambda view: view.now.alpha_se.tolist(),
    "alpha_r2": lambda view: view.now.alpha_r2.tolist(),
    "effective_rank": lambda view: view.now.effective_rank.tolist(),
    "transport": lambda view: view.now.transport.mean(-1).tolist(),
    "transport_se": lambda view: measures.standard_error(view.now.transport).tolist(),
    "alpha_change_se": lambda view: measures.jackknife_error((view.now.deleted - view.start.deleted).T).tolist(),
    "transport_change_se": lambda view: measures.standard_error(view.now.transport - view.start.transport).tolist(),
    "late": lambda view: dict(zip(("alpha", "transport"), view.late_means(view.now), strict=True)),
    "delta": _delta,
    "displacement": lambda view: float(view.now.displacement.mean()),
    "entropy": lambda view: float(view.now.entropy.mean()),
    "localization": _localization,
    "coherence": _coherence,
    "gradient_concentration": _concentration,
    "delta_align": _delta_align,
    "score": lambda view: measures.score(_delta_align(view), _coherence(view), _concentration(view)),
    "nonfinite": lambda view: int(view.now.nonfinite),
}


class Probe:
    """A fixed set of prompts, the parts of a model to read them with, and the reference that readings are held against.

    Args:
        model: a causal language model of transformers, PEFT adapters included; the live one, also under DDP.
        prompts: the probe set.
        config: what to measure.
        autocast: dtype that something outside the model autocasts its forward passes to, as DeepSpeed's engine does.
            Autocast inside the model's `forward`, where accelerate puts it, is found by itself.
        device: where inputs go and ranks talk; None: where the embedding is.

    Attributes:
        start: the sample that readings are held against; the first reading sets it if nothing has.
        now: the sample of the last reading.
        window: first and last layer of the late window.

    Raises:
        ValueError: the model cannot be read (`anatomy.locate`, `proof.prove`), the late window lies outside its
            depth, the prompts are too few for the tail, or their hidden states too large to keep.
    """

    def __init__(
        self,
        model: nn.Module,
        prompts: PromptSet,
        config: SpinalConfig,
        autocast: torch.dtype | None = None,
        device: torch.device | None = None,
    ) -> None:
        self.start: Sample | None = None
        self.prompts, self.config = prompts, config
        self.now: Sample | None = None
        self.sampler = Sampler(model, prompts, config, autocast, device)
        self.layers = len(self.sampler.anatomy.layers)
        self.window = config.late_window(self.layers)

    def header(self, model: nn.Module) -> Header:
        """The first line of a trace of `model`'s readings."""
        return Header(
            version=__version__,
            model=getattr(model.config, "_name_or_path", "") or self.sampler.anatomy.name,
            layers=self.layers,
            window=self.window,
            probe=self.prompts.hash,
            prompts=len(self.prompts.ids),
            config=self.config.to_json(),
        )

    def read(self, step: int, gradients: Tensor | None = None) -> Reading:
        """Probes the policy as it is now. `gradients`: `[L]` squared gradient norms of the layers, if there are any."""
        began, peak = time.perf_counter(), _peak_bytes()
        now = self.now = self.sampler.sample(reference=self.start)
        if self.start is None:
            self.start = now
        if gradients is None:
            gradients = torch.full((self.layers,), math.nan, dtype=torch.float64)
        view = View(now, self.start, self.window, gradients)
        values = {name: measure(view) for name, measure in MEASURES.items()}
        took, grew = time.perf_counter() - began, _peak_bytes() - peak
        return Reading(step=step, prompts=len(self.prompts.ids), seconds=took, peak_bytes=grew, **values)

    def take_reference(self) -> None:
        """Makes an adapter run's policy without its adapters the reference. A full model's is its first reading."""
        self.start = self.sampler.without_adapters()

    def save_start(self, path: Path) -> None:
        """Writes the reference, for a run that is resumed later."""
        if self.start is not None:
            save_sample(path, self.start, self.prompts)

    def load_start(self, path: Path, known: str) -> bool:
        """Takes up the reference with the fingerprint `known`, read from the same prompts. False: not at `path`."""
        self.start = load_sample(path, self.prompts)
        return self.start is not None and self.fingerprint == known

    @property
    def fingerprint(self) -> str:
        """Tells this run's reference from others; empty without one."""
        return "" if self.start is None else fingerprint(self.start)


def probe(model: nn.Module, prompts: list[list[int]], config: SpinalConfig | None = None) -> Reading:
    """A single reading of `model` on `prompts` (token ids), with itself as the reference. Raises as `Probe` does."""
    config = config or SpinalConfig(num_prompts=len(prompts))
    return Probe(model, PromptSet(prompts, [0] * len(prompts)), config).read(step=0)


def _peak_bytes() -> int:
    """The process's peak memory so far. Never reset: the counters belong to the training run."""
    if torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
