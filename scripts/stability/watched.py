"""Callbacks of a suite run beside the SPINAL one: what breaks it, and what is measured on the way."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from arms import Arm, Tier
from transformers import TrainerCallback


class Destabilizer(TrainerCallback):
    """What an arm does to training beside its data and its constants."""

    def __init__(self, arm: Arm, tier: Tier, seed: int) -> None:
        self._arm, self._tier, self._seed, self._onset = arm, tier, seed, arm.onset(tier, seed)

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        since = state.global_step - self._onset
        if (factor := rate_factor(self._arm, since)) != 1:
            for group in kwargs["optimizer"].param_groups:  # the scheduler sets it anew after every step
                group["lr"] *= factor
        if self._arm.noise and (since == 0 or (since > 0 and self._tier.long)):
            self._shake(kwargs["model"], since)

    def _shake(self, model: Any, since: int) -> None:
        generator = torch.Generator().manual_seed(self._seed + 1000 * since)
        layers = model.get_decoder().layers
        with torch.no_grad():
            for layer in layers[-math.ceil(len(layers) / 3) :]:
                for weight in (p for p in layer.parameters() if p.dim() == 2):
                    noise = torch.randn(weight.shape, generator=generator).to(weight.device)
                    weight += noise * weight.std() * self._arm.noise


def rate_factor(arm: Arm, since: int) -> float:
    """What an arm multiplies the learning rate by, `since` steps after its onset (negative: before it)."""
    if since < 0:
        return 1.0
    return arm.surge * (arm.spike if since < arm.lasts else 1.0)


class Recorded(TrainerCallback):
    """Takes measures of the policy at step 0, every `every` steps and at the end: a column for each."""

    def __init__(self, measure: Callable[[Any], Mapping[str, Any]], every: int) -> None:
        self._measure, self._every = measure, every
        self.columns: dict[str, list[Any]] = {}

    def _look(self, step: int, model: Any) -> None:
        for name, value in {"step": step, **self._measure(model)}.items():
            self.columns.setdefault(name, []).append(value)

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._look(0, kwargs["model"])

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step % self._every == 0 or state.global_step == state.max_steps:
            self._look(state.global_step, kwargs["model"])
