"""Where a causal language model keeps its decoder layers, final norm and unembedding.

No list of model classes: transformers' own accessors, a short list of names for the final norm, and then a check that
the parts make the model's own logits (`lens_check.py`).
"""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

NORM_NAMES = ("norm", "final_layernorm", "ln_f", "final_layer_norm", "final_norm", "norm_f", "ln_out", "embedding_norm")

Finish = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class ModelParts:
    """The parts of a policy that the probe reads, as found. All are the live modules: training changes what is read.

    Attributes:
        name: the model's class.
        forward: runs every decoder layer; takes `input_ids`, `attention_mask` and `use_cache`.
        layers: decoder layers 1..L.
        norm: the final norm.
        head: the unembedding: an nn.Linear, or what an adapter or a quantization made of it.
        virtual_tokens: whether the model puts tokens of its own before a prompt, as prompt tuning does.
        cache_argument: the name under which `forward` takes keys and values of earlier tokens.
    """

    name: str
    forward: Callable[..., Any]
    layers: list[nn.Module]
    norm: nn.Module
    head: Any
    virtual_tokens: bool
    cache_argument: str


@dataclass(frozen=True)
class ReadableModel(ModelParts):
    """Parts that passed the lens check, and what the check found.

    Attributes:
        finish: what the architecture does to the logits after the unembedding: a soft cap, a scale, nothing.
        width: d, of a hidden state.
        vocabulary: V.
        autocast: dtype that its layers are autocast to; None: they are not.
        returns_tuple: whether its layers return tuples.
        draws: whether it draws random numbers in evaluation mode, as with dropout that is never turned off.
    """

    finish: Finish
    width: int
    vocabulary: int
    autocast: torch.dtype | None
    returns_tuple: bool
    draws: bool = False


def locate(model: Any, root_only: bool = False) -> ModelParts:
    """Finds the parts of `model`, through a PeftModel if it is one.

    Args:
        model: a causal language model of transformers.
        root_only: layers may only be run by calling the whole model; then with as few logits as it can give.

    Raises:
        ValueError: not a decoder-only language model, or a part was not found; names the class and what was tried.
    """
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    name = type(base).__name__
    config = getattr(base, "config", None)
    if config is None or not hasattr(base, "get_output_embeddings"):
        raise ValueError(f"{name} is not a transformers model: SPINAL reads a decoder-only causal language model")
    if getattr(config, "is_encoder_decoder", False):
        raise ValueError(f"{name} is an encoder-decoder: SPINAL reads a decoder-only causal language model")
    head = base.get_output_embeddings()
    if head is None:
        raise ValueError(
            f"{name} has no language head (get_output_embeddings() is None): SPINAL reads next-token logits"
        )
    decoder = base.get_decoder()
    holder, layers = _layers(name, decoder, config.get_text_config().num_hidden_layers)
    if decoder is base:  # Llama 4 has no better answer
        decoder = holder
    virtual = getattr(getattr(model, "active_peft_config", None), "is_prompt_learning", False)
    return ModelParts(
        name=name,
        forward=_root(model, base) if root_only else model if virtual else decoder,
        layers=layers,
        norm=_norm(name, holder, decoder),
        head=head,
        virtual_tokens=virtual,
        cache_argument="cache" if "cache" in _arguments(decoder) else "past_key_values",  # renamed in transformers 5.24
    )


def _layers(name: str, decoder: nn.Module, depth: int) -> tuple[nn.Module, list[nn.Module]]:
    """The decoder layers, and the module that holds their list."""
    for holder in decoder.modules():
        for child in holder.children():
            if isinstance(child, nn.ModuleList) and len(child) == depth:
                return holder, list(child)
    raise ValueError(f"{name}: no list of {depth} decoder layers under {type(decoder).__name__}, looked at every child")


def _norm(name: str, *holders: nn.Module) -> nn.Module:
    for holder in holders:
        for known in NORM_NAMES:
            if isinstance(norm := getattr(holder, known, None), nn.Module):
                return norm
    tried = ", ".join(NORM_NAMES)
    raise ValueError(f"{name}: {type(holders[-1]).__name__} has no final norm under any of the names {tried}")


def _root(model: Any, base: nn.Module) -> Callable[..., Any]:
    return functools.partial(model, logits_to_keep=1) if "logits_to_keep" in _arguments(base) else model


def _arguments(module: nn.Module) -> set[str]:
    return set(inspect.signature(type(module).forward).parameters)


@contextlib.contextmanager
def without_adapters(model: Any) -> Iterator[bool]:
    """Inside, an adapter run's policy is its reference: TRL's "ref" adapter, or none. Yields False for a full model."""
    if not hasattr(model, "peft_config"):
        yield False
        return
    trained = [(p, p.requires_grad) for p in model.parameters()]  # PEFT sets them all when an adapter comes back
    try:
        with _active(model, "ref") if "ref" in model.peft_config else model.disable_adapter():
            yield True
    finally:
        for p, flag in trained:
            p.requires_grad_(flag)


@contextlib.contextmanager
def _active(model: Any, adapter: str) -> Iterator[None]:
    """Inside, the PEFT model's active adapter is `adapter`."""
    before = model.active_adapter
    model.set_adapter(adapter)
    try:
        yield
    finally:
        model.set_adapter(before)
