"""What one pass over the probe's prompts measured, and its file."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..failures import described, warn
from .prompts import PromptSet


@dataclass(frozen=True)
class Sample:
    """Everything that one pass measured, on the CPU and equal on all ranks. N prompts, G jackknife groups.

    Attributes:
        alpha, alpha_se, alpha_r2, effective_rank: `[L]`.
        deleted: `[G, L]` exponents with one group of prompts left out.
        transport: `[L - 1, N]`, radians.
        displacement: `[N]`, radians from the reference's final distribution; 0 without a reference.
        entropy: `[N]`, nats.
        logits: `[N, V]` final logits at the last token of each prompt, float32; empty unless kept.
        nonfinite: `[]` how many kept activations and final logits are NaN or Inf.
        entropies: `[L, N]`, nats, of every layer; empty unless read, as in a file of an earlier version.
        groups: `[N]` the group of each prompt, 0..G-1, that `deleted` leaves it out with; empty in a file of an earlier
            version.
        answers: `[2, M]` log-likelihood of the chosen and of the rejected answer of M pairs, nats; M may be 0.
        answer_tokens: `[2, M]` how many tokens these answers have.
    """

    alpha: Tensor
    alpha_se: Tensor
    alpha_r2: Tensor
    effective_rank: Tensor
    deleted: Tensor
    transport: Tensor
    displacement: Tensor
    entropy: Tensor
    logits: Tensor
    nonfinite: Tensor
    entropies: Tensor = field(default_factory=lambda: torch.zeros(0, 0, dtype=torch.float64))
    groups: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.long))
    answers: Tensor = field(default_factory=lambda: torch.zeros(2, 0, dtype=torch.float64))
    answer_tokens: Tensor = field(default_factory=lambda: torch.zeros(2, 0, dtype=torch.long))

    @property
    def fingerprint(self) -> str:
        """SHA-256 of contraction and transport: the same weights and prompts give the same."""
        return hashlib.sha256(self.alpha.numpy().tobytes() + self.transport.numpy().tobytes()).hexdigest()

    def save(self, path: Path, prompts: PromptSet) -> None:
        """Writes the sample as safetensors, with the hash of its prompts. A kill leaves no torn file at `path`."""
        part = path.with_suffix(".part")
        part.unlink(missing_ok=True)  # of a run that was killed here, or a link to somewhere else
        save_file({k: v.contiguous() for k, v in vars(self).items()}, part, metadata={"probe": prompts.hash})
        part.replace(path)

    @classmethod
    def load(cls, path: Path, prompts: PromptSet) -> Sample | None:
        """The sample at `path`; None if it was taken with other prompts, or, with a warning, if it cannot be read."""
        try:
            with safe_open(path, framework="pt") as file:
                if file.metadata()["probe"] == prompts.hash:
                    return cls(**{name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
        except Exception as error:  # torn, or of another version: the run that resumes goes on without it
            warn(f"cannot read {path}: {described(error)}")
        return None
