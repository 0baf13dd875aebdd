"""The proof that a model is read rightly: at its last layer the lens equals the model's own logits."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .logit_lens import lens_chunks
from .model_parts import Anatomy, Finish, identity, kept_states, stack_states

SOFT_CAPS = ("final_logit_softcapping", "logits_soft_cap")  # Gemma 2, RecurrentGemma: cap * tanh(z / cap)
SCALES = (
    "logit_scale",
    "logits_scaling",
    "lm_head_multiplier",
    "output_multiplier",
)  # Cohere times, Granite divided by
LENS_TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-4, torch.bfloat16: 5e-2, torch.float16: 1e-2}


@dataclass(frozen=True)
class Observation:
    """What one forward pass of the whole model showed at the last of some tokens. Its two rows differ after that token.

    Attributes:
        states: `[L, 2, d]` hidden states.
        logits: `[2, V]` the model's own.
        autocast: dtype that the decoder layers were autocast to; None: they were not.
    """

    states: Tensor
    logits: Tensor
    autocast: torch.dtype | None


def observe(model: Any, anatomy: Anatomy, tokens: list[int], device: torch.device) -> Observation:
    """Runs `tokens` once through the whole model, in two rows with different tokens behind them, for `prove`.

    Autocast is read inside that pass: there the settings of the launcher and of the Trainer's arguments have all taken
    effect, and so have wrappers of the user's own. The settings themselves can contradict each other.

    Raises:
        RuntimeError: a layer gave no hidden states.
    """
    ids = torch.tensor([[*tokens, 0], [*tokens, 1]], device=device)
    where = (torch.tensor([0, 1]), torch.tensor([len(tokens) - 1] * 2))
    with kept_states(anatomy.layers, where, ids.shape[1]) as kept, _noted_autocast(anatomy.layers[0]) as autocast:
        logits = model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False).logits
    logits = logits[:, len(tokens) - 1 + logits.shape[1] - ids.shape[1]]
    return Observation(stack_states(kept), logits, next(iter(autocast), None))


@contextlib.contextmanager
def _noted_autocast(layer: nn.Module) -> Iterator[list[torch.dtype]]:
    """Collects the dtype that `layer` is autocast to inside the block, if it is. The hook never raises."""
    seen = []

    def note(module: nn.Module, args: Any, output: Any) -> None:
        with contextlib.suppress(Exception):
            device = (output[0] if isinstance(output, tuple) else output).device.type
            if torch.is_autocast_enabled(device):
                seen.append(torch.get_autocast_dtype(device))

    handle = layer.register_forward_hook(note)
    try:
        yield seen
    finally:
        handle.remove()


def prove(config: Any, anatomy: Anatomy, seen: Observation) -> None:
    """Chooses `anatomy.finish` so that the lens at the last layer equals the logits the model itself returns.

    Args:
        config: the model's.
        seen: of `observe`. The two rows also show that the position read sees nothing behind it.

    Raises:
        ValueError: no candidate fits, the model is not causal, or it already gives NaN; names the class and what was
            tried.
    """
    states, logits = seen.states, seen.logits
    dtypes = {states.dtype, logits.dtype, *(p.dtype for p in anatomy.head.parameters() if p.is_floating_point())}
    dtypes |= {seen.autocast} if seen.autocast else set()  # autocast outputs are often made float32 afterwards
    tolerance = max(LENS_TOLERANCE.get(dtype, 0.0) for dtype in dtypes)  # that of the roughest number on the way
    if not states.isfinite().all():
        raise ValueError(f"{anatomy.name} gives NaN or Inf before any training: its weights are broken")
    if not _distance(states[:, 0], states[:, 1]) <= tolerance:
        raise ValueError(f"{anatomy.name} is not causal: a later token changed the hidden states before it")
    own = logits[0].float()
    anatomy.vocabulary = own.shape[-1]
    anatomy.finish = identity
    try:
        raw = torch.cat([z for _, z in lens_chunks(anatomy, states[-1:, :1], 1 << 20)], -1)[0, 0]
    except RuntimeError as error:
        parts = f"{type(anatomy.norm).__name__} gives and {type(anatomy.head).__name__} takes"
        raise ValueError(f"{anatomy.name}: the logit lens does not fit what {parts}: {error}") from error
    tried = _finishes(config.get_text_config())
    distances = {name: _distance(finish(raw), own.to(raw.device)) for name, finish in tried.items()}
    best = min(distances, key=distances.__getitem__)  # of equals the first: what the configuration declares
    if not distances[best] <= tolerance:
        raise ValueError(
            f"{anatomy.name}: the logit lens does not reproduce the model's own logits (off by {distances[best]:.1%});"
            f" tried {type(anatomy.norm).__name__}, {type(anatomy.head).__name__}, then {', '.join(tried)}"
        )
    anatomy.finish = tried[best]


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


def _soft_cap(cap: float) -> Finish:
    return lambda z: torch.tanh(z / cap) * cap


def _times(factor: float) -> Finish:
    return lambda z: z * factor


def _then(first: Finish, second: Finish) -> Finish:
    return lambda z: second(first(z))


def _distance(a: Tensor, b: Tensor) -> float:
    """Largest difference, as a share of the largest size in `b`."""
    return float((a - b).abs().max() / b.abs().max().clamp_min(1e-3))
