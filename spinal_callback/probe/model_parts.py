"""Where a causal language model keeps its layers, final norm and live unembedding; how to read hidden states.

No ladder of class names: transformers' own accessors, a short list of names for the final norm and for what may follow
the unembedding, and a proof (`proof.py`): the lens at the last layer must equal the logits that the model returns.
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
Gathered = Callable[[nn.Module], contextlib.AbstractContextManager[None]]


@dataclass
class Anatomy:
    """The parts of a policy that the probe reads. All are the live modules: nothing is copied, nothing gets stale.

    Attributes:
        name: the model's class.
        forward: the callable that runs every decoder layer on `input_ids`, `attention_mask`, `use_cache=False`.
        layers: decoder layers 1..L.
        norm: the final norm.
        head: the unembedding.
        finish: what the architecture does to the logits after it (soft cap, scale); found by `proof.prove`.
        vocabulary: V; found by `proof.prove`.
        tuples: whether its layers return tuples; found by `surviving`.
    """

    name: str
    forward: Callable[..., Any]
    layers: list[nn.Module]
    norm: nn.Module
    head: Any  # an nn.Linear, or what an adapter made of it
    finish: Finish
    vocabulary: int = 0
    tuples: bool = False


def locate(model: Any) -> Anatomy:
    """Finds the parts of `model` (a PeftModel is looked through). `finish` is the identity until `proof.prove` is done.

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
    if decoder is base:  # Llama 4 has no better answer
        decoder = getattr(base, base.base_model_prefix, base)
    depth = config.get_text_config().num_hidden_layers
    layers = _layers(decoder, depth)
    if layers is None:
        raise ValueError(
            f"{name}: no list of {depth} decoder layers under {type(decoder).__name__}, looked at every child"
        )
    norm = next((child for n in NORM_NAMES if isinstance(child := getattr(decoder, n, None), nn.Module)), None)
    if norm is None:
        tried = ", ".join(NORM_NAMES)
        raise ValueError(f"{name}: {type(decoder).__name__} has no final norm under any of the names {tried}")
    virtual = getattr(getattr(model, "active_peft_config", None), "is_prompt_learning", False)  # the root adds tokens
    return Anatomy(name, model if virtual else decoder, layers, norm, head, identity)


def through_root(model: Any) -> Callable[..., Any]:
    """The whole model as an `Anatomy.forward`, for where its root must be called; with as few logits as it can."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    if "logits_to_keep" in inspect.signature(type(base).forward).parameters:
        return functools.partial(model, logits_to_keep=1)
    return model


@contextlib.contextmanager
def without_adapters(model: Any) -> Iterator[bool]:
    """Inside, an adapter run's policy is its reference: TRL's "ref" adapter, or none. Yields False for a full model."""
    if not hasattr(model, "peft_config"):
        yield False
        return
    from trl.trainer.utils import use_adapter

    trained = [(p, p.requires_grad) for p in model.parameters()]  # PEFT sets them all when an adapter comes back
    try:
        with use_adapter(model, "ref" if "ref" in model.peft_config else None):
            yield True
    finally:
        for p, flag in trained:
            p.requires_grad_(flag)


def _layers(decoder: nn.Module, depth: int) -> list[nn.Module] | None:
    lists = [m for m in decoder.modules() if isinstance(m, nn.ModuleList) and len(m) == depth]
    return list(lists[0]) if lists else None


# --- reading hidden states -------------------------------------------------------------------------------------------


@contextlib.contextmanager
def kept_states(layers: list[nn.Module], where: tuple[Tensor, Tensor], length: int) -> Iterator[list[Tensor | None]]:
    """Collects each layer's output at chosen positions during the forward passes inside the block.

    Args:
        layers: decoder layers 1..L.
        where: batch index and token index of the kept rows, each `[R]`.
        length: tokens in `input_ids`; a model that prepends virtual tokens shifts the index.

    Yields:
        a list whose entry l becomes `[R, d]`, or stays None. The hooks never raise: under sharded training an exception
        on one rank would leave the others waiting.
    """
    kept: list[Tensor | None] = [None] * len(layers)

    def keep(index: int) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            with contextlib.suppress(Exception):
                h = output[0] if isinstance(output, tuple) else output
                kept[index] = h.detach()[where[0].to(h.device), where[1].to(h.device) + h.shape[1] - length]

        return hook

    handles = [layer.register_forward_hook(keep(i)) for i, layer in enumerate(layers)]
    try:
        yield kept
    finally:
        for handle in handles:
            handle.remove()


@contextlib.contextmanager
def surviving(anatomy: Anatomy, gathered: Gathered) -> Iterator[list[Exception]]:
    """Inside, a decoder layer that raises gives back its input, and so do all after it. Yields what was raised.

    A sharded forward pass is a collective: whatever fails on one rank, the gathering of every layer must go on.
    `gathered(layer)` is entered around each layer, by every rank, whatever failed.
    """
    failures: list[Exception] = []

    def guard(layer: nn.Module, forward: Callable[..., Any]) -> Callable[..., Any]:
        def guarded(*args: Any, **kwargs: Any) -> Any:
            with gathered(layer):
                try:
                    if not failures:
                        output = forward(*args, **kwargs)
                        anatomy.tuples = isinstance(output, tuple)
                        return output
                except Exception as error:
                    failures.append(error)
            h = args[0] if args else kwargs["hidden_states"]
            return (h,) if anatomy.tuples else h

        return guarded

    own = [layer.__dict__.get("forward") for layer in anatomy.layers]  # some libraries set one on the instance
    try:
        for layer in anatomy.layers:
            layer.forward = guard(layer, layer.forward)
        yield failures
    finally:
        for layer, forward in zip(anatomy.layers, own, strict=True):
            del layer.forward
            if forward is not None:
                layer.forward = forward


def stack_states(kept: list[Tensor | None]) -> Tensor:
    """`[L, R, d]` on the last layer's device.

    Raises:
        RuntimeError: a layer gave no hidden states.
    """
    if any(h is None for h in kept):
        missing = [i + 1 for i, h in enumerate(kept) if h is None]
        raise RuntimeError(
            f"no hidden states from layers {missing}: their forward did not run or returned something else"
        )
    return torch.stack([h.to(kept[-1].device) for h in kept])  # type: ignore[union-attr]


def identity(z: Tensor) -> Tensor:
    return z
