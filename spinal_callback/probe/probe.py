"""The probe: reads a policy with a fixed set of prompts and compares it with a reference."""

from __future__ import annotations

import math
import resource
import time
from pathlib import Path

import torch
from torch import Tensor, nn

from ..config import SpinalConfig
from ..records import Header, Reading
from ..version import __version__
from .measure_table import MEASURES, View
from .measures import has_curvature
from .prompts import PromptSet
from .sample import Sample
from .sampler import Sampler


class Probe:
    """A fixed set of prompts, a model to read them with, and the reference that readings are compared with.

    Args:
        model: a causal language model of transformers, PEFT adapters included; the live one, also under DDP.
        prompts: the probe set.
        config: what to measure.
        autocast: dtype that something outside the model autocasts its forward passes to, as DeepSpeed's engine does.
            Autocast inside the model's `forward`, where accelerate puts it, is found without being given.
        device: where inputs go and ranks talk; None: where the embedding is.

    Attributes:
        reference: the sample that readings are compared with; the first reading sets it if nothing has.
        now: the sample of the last reading.
        layers: L, the model's decoder layers.
        window: first and last layer of the late window.

    Raises:
        ValueError: the model cannot be read (`model_parts.locate`, `lens_check.check_lens`), the late window lies
            outside its depth, the prompts are too few for the tail, or their hidden states too large to keep.
    """

    def __init__(
        self,
        model: nn.Module,
        prompts: PromptSet,
        config: SpinalConfig,
        autocast: torch.dtype | None = None,
        device: torch.device | None = None,
    ) -> None:
        self.prompts, self.config = prompts, config
        self.reference: Sample | None = None
        self.now: Sample | None = None
        self.sampler = Sampler(model, prompts, config, autocast, device)
        self.layers = len(self.sampler.parts.layers)
        self.window = config.late_window(self.layers)

    def header(self, model: nn.Module) -> Header:
        """The first line of a trace of `model`'s readings."""
        return Header(
            version=__version__,
            model=getattr(model.config, "_name_or_path", "") or self.sampler.parts.name,
            layers=self.layers,
            window=self.window,
            probe=self.prompts.hash,
            prompts=len(self.prompts.ids),
            config=self.config.to_json(),
        )

    @property
    def notes(self) -> list[str]:
        """What a reader of this run's readings should know: one sentence each."""
        notes = []
        if skipped := self.prompts.skipped:
            notes.append(f"rows of the data whose prompt is empty are not probed: {skipped} of those looked at")
        if self.sampler.parts.draws:
            notes.append("the model draws random numbers in evaluation mode: each reading draws the same ones")
        if not has_curvature(self.window, self.layers):
            first, last = self.window
            layers = f"layers {first} to {last}" if last > first else f"layer {first} alone"
            notes.append(
                f"the late window is {layers}, too few for a curvature: coherence and score are not computed;"
                " window=(first, last) sets a longer one"
            )
        return notes

    def read(self, step: int, gradients: Tensor | None = None) -> Reading:
        """Reads the policy as it is now. A collective.

        Args:
            step: optimizer steps done.
            gradients: `[L]` squared gradient norms of the layers; None: there are none.
        """
        began, peak = time.perf_counter(), _peak_bytes()
        now = self.now = self.sampler.sample(self.reference)
        if self.reference is None:
            self.reference = now
        if gradients is None:
            gradients = torch.full((self.layers,), math.nan, dtype=torch.float64)
        view = View(now, self.reference, self.window, gradients)
        values = {name: measure(view) for name, measure in MEASURES.items()}
        took, grew = time.perf_counter() - began, _peak_bytes() - peak
        return Reading(step=step, prompts=len(self.prompts.ids), seconds=took, peak_bytes=grew, **values)

    # --- the reference

    def take_reference(self) -> None:
        """Makes an adapter run's policy without its adapters the reference. A full model's is its first reading."""
        self.reference = self.sampler.without_adapters()

    def save_reference(self, path: Path) -> None:
        """Writes the reference, for a run that is resumed later."""
        if self.reference is not None:
            self.reference.save(path, self.prompts)

    def load_reference(self, path: Path, fingerprint: str) -> bool:
        """Takes the reference from `path` if it is of the same prompts and has this fingerprint; whether it is."""
        found = Sample.load(path, self.prompts)
        if found is None or found.fingerprint != fingerprint:
            return False
        self.reference = found
        return True

    @property
    def fingerprint(self) -> str:
        """Tells this run's reference from others; empty without one."""
        return "" if self.reference is None else self.reference.fingerprint


def _peak_bytes() -> int:
    """The process's peak memory so far. Never reset: the counters belong to the training run."""
    if torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
