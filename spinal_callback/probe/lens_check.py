"""The check that a model is read correctly: at its last layer the lens must equal the model's own logits."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..distributed.sharding import Backend
from .hooks import LayerNotes, kept_states, noted, stack_states, surviving
from .logit_lens import lens_chunks
from .model_parts import Finish, ModelParts, ReadableModel
from .precision import autocast_to, rounding
from .undisturbed import undisturbed

SOFT_CAPS = ("final_logit_softcapping", "logits_soft_cap")  # Gemma 2, RecurrentGemma: cap * tanh(z / cap)
SCALES = (
    "logit_scale",
    "logits_scaling",
    "lm_head_multiplier",
    "output_multiplier",
)  # Cohere times, Granite divided by
BLOCK = 1 << 20  # logits computed at a time


@dataclass(frozen=True)
class Observation:
    """What one forward pass of the whole model showed at the last of some tokens. Its two rows differ after that token.

    Attributes:
        states: `[L, 2, d]` hidden states.
        logits: `[2, V]` the model's own, or `[1, V]`.
        notes: how the first layer ran.
    """

    states: Tensor
    logits: Tensor
    notes: LayerNotes


def check_lens(
    model: Any,
    parts: ModelParts,
    tokens: list[int],
    backend: Backend,
    device: torch.device,
    autocast: torch.dtype | None = None,
) -> ReadableModel:
    """Runs `tokens` through the whole model once and finds what it does after the unembedding.

    Args:
        model: the one that `parts` are of.
        device: where its inputs go.
        autocast: dtype that something outside the model autocasts its passes to.

    Raises:
        ValueError: nothing tried gives the model's own logits, the model is not causal, or it gives NaN before any
            training; names the class and what was tried.
        Exception: whatever the model's own forward pass raises.
    """
    with undisturbed(model, backend):
        with autocast_to(autocast, device), surviving(parts.layers, backend):
            seen = _observe(backend.root(model), parts, [[*tokens, 0], [*tokens, 1]], device)
            again = [] if _alike(seen) else [_alone(backend.root(model), parts, [*tokens, i], device) for i in (0, 1)]
        if again:
            states = torch.cat([one.states for one in again], dim=1)
            seen = dataclasses.replace(again[0], states=states)
        with backend.whole(parts.norm, parts.head):
            return dataclasses.replace(_fitted(model.config, parts, seen), draws=bool(again))


def _alone(root: Callable[..., Any], parts: ModelParts, tokens: list[int], device: torch.device) -> Observation:
    """One row alone, with random numbers that begin anew: dropout that is always on makes two rows differ."""
    torch.manual_seed(0)
    return _observe(root, parts, [tokens], device)


def _alike(seen: Observation) -> bool:
    """Whether both rows have the same states, but for rounding, before the token in which they differ; or NaN."""
    tolerance = rounding({seen.states.dtype, seen.logits.dtype, seen.notes.autocast})
    return not bool(seen.states.isfinite().all()) or _distance(seen.states[:, 0], seen.states[:, 1]) <= tolerance


def _observe(root: Callable[..., Any], parts: ModelParts, rows: list[list[int]], device: torch.device) -> Observation:
    """Runs rows of equal length; all but the last token of each are read."""
    ids = torch.tensor(rows, device=device)
    tokens = rows[0][:-1]
    where = (torch.arange(len(rows)), torch.tensor([len(tokens) - 1] * len(rows)))
    with kept_states(parts.layers, where, ids.shape[1]) as kept, noted(parts.layers[0]) as notes:
        logits = root(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False).logits
    return Observation(stack_states(kept), logits[:, len(tokens) - 1 + logits.shape[1] - ids.shape[1]], notes)


def _fitted(config: Any, parts: ModelParts, seen: Observation) -> ReadableModel:
    """The readable model, with the candidate for `finish` whose logits are nearest to the model's own."""
    # autocast and adapters may return float32 for what was computed more roughly
    of_head = (p.dtype for p in parts.head.parameters() if p.is_floating_point())
    tolerance = rounding({seen.states.dtype, seen.logits.dtype, seen.notes.autocast, *of_head})
    if len(seen.notes.shape) != 3:
        raise ValueError(
            f"{parts.name}: its layers return states of shape {seen.notes.shape}; SPINAL reads one state per token,"
            " [prompts, tokens, width]"
        )
    _check_states(parts.name, seen.states, tolerance)
    own = seen.logits[0].float()
    readable = ReadableModel(
        **vars(parts),
        finish=identity,
        width=seen.states.shape[-1],
        vocabulary=own.shape[-1],
        autocast=seen.notes.autocast,
        returns_tuple=seen.notes.returns_tuple,
    )
    try:
        raw = torch.cat([z for _, z in lens_chunks(readable, seen.states[-1:, :1], BLOCK)], -1)[0, 0]
    except RuntimeError as error:
        shapes = f"{type(parts.norm).__name__} gives and {type(parts.head).__name__} takes"
        raise ValueError(f"{parts.name}: the logit lens does not fit what {shapes}: {error}") from error
    candidates = _finishes(config.get_text_config())
    distances = {name: _distance(finish(raw), own.to(raw.device)) for name, finish in candidates.items()}
    best = min(distances, key=distances.__getitem__)  # of equals the first: what the configuration declares
    if not distances[best] <= tolerance:
        raise ValueError(
            f"{parts.name}: the logit lens does not reproduce the model's own logits (off by {distances[best]:.1%});"
            f" tried {type(parts.norm).__name__}, {type(parts.head).__name__}, then {', '.join(candidates)}"
        )
    return dataclasses.replace(readable, finish=candidates[best])


def _check_states(name: str, states: Tensor, tolerance: float) -> None:
    if not states.isfinite().all():
        raise ValueError(f"{name} gives NaN or Inf before any training: its weights are broken")
    if not _distance(states[:, 0], states[:, 1]) <= tolerance:
        raise ValueError(f"{name} is not causal: a later token changed the hidden states before it")


def _finishes(config: Any) -> dict[str, Finish]:
    """Candidates, those that the configuration declares first: with small logits a soft cap looks like nothing."""
    caps = {f"{n}={c}": _soft_cap(c) for n in SOFT_CAPS if (c := getattr(config, n, None))}
    scales: dict[str, Finish] = {}
    for name in SCALES:
        if factor := getattr(config, name, None):
            scales[f"times {name}={factor}"] = _times(factor)
            scales[f"divided by {name}={factor}"] = _times(1 / factor)
    both = {f"{a}, {b}": _then(scales[a], caps[b]) for a, b in itertools.product(scales, caps)}
    return {**both, **caps, **scales, "nothing": identity}


def identity(z: Tensor) -> Tensor:
    return z


def _soft_cap(cap: float) -> Finish:
    return lambda z: torch.tanh(z / cap) * cap


def _times(factor: float) -> Finish:
    return lambda z: z * factor


def _then(first: Finish, second: Finish) -> Finish:
    return lambda z: second(first(z))


def _distance(a: Tensor, b: Tensor) -> float:
    """Largest difference, as a share of the largest size in `b`."""
    return float((a - b).abs().max() / b.abs().max().clamp_min(1e-3))
