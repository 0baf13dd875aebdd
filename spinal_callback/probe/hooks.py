"""Hooks on the decoder layers: keep their hidden states, note how they run, outlive one that fails on one rank."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..distributed.sharding import Backend


@contextlib.contextmanager
def kept_states(layers: list[nn.Module], where: tuple[Tensor, Tensor], length: int) -> Iterator[list[Tensor | None]]:
    """Collects each layer's output at chosen positions during the forward pass inside the block.

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


def stack_states(kept: list[Tensor | None]) -> Tensor:
    """What `kept_states` collected, as `[L, R, d]` on the last layer's device.

    Raises:
        RuntimeError: a layer gave no hidden states.
    """
    if any(h is None for h in kept):
        missing = [i + 1 for i, h in enumerate(kept) if h is None]
        raise RuntimeError(
            f"no hidden states from layers {missing}: their forward did not run or returned something else"
        )
    return torch.stack([h.to(kept[-1].device) for h in kept])  # type: ignore[union-attr]


@dataclass
class LayerNotes:
    """How a layer ran: the dtype it was autocast to (None: it was not), whether it returned a tuple, and what shape."""

    autocast: torch.dtype | None = None
    returns_tuple: bool = False
    shape: tuple[int, ...] = ()


@contextlib.contextmanager
def noted(layer: nn.Module) -> Iterator[LayerNotes]:
    """Notes how `layer` runs in the forward pass inside the block. The hook never raises.

    Autocast is read here since no setting is sure: the Trainer's arguments, accelerate's launcher, its config file, its
    shared state and a wrapper of the user's own can contradict each other. Inside the pass all have taken effect.
    """
    notes = LayerNotes()

    def hook(module: nn.Module, args: Any, output: Any) -> None:
        with contextlib.suppress(Exception):
            notes.returns_tuple = isinstance(output, tuple)
            states = output[0] if notes.returns_tuple else output
            notes.shape, device = tuple(states.shape), states.device.type
            notes.autocast = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None

    handle = layer.register_forward_hook(hook)
    try:
        yield notes
    finally:
        handle.remove()


@contextlib.contextmanager
def surviving(layers: list[nn.Module], backend: Backend, returns_tuple: bool = False) -> Iterator[None]:
    """Inside, a layer that raises returns its input, and so do all layers after it; its error is raised at the end.

    A sharded forward pass is a collective: whatever fails on one rank, the gathering of every layer must go on. Each
    layer's weights are gathered around its forward. Where weights are not sharded, nothing is changed.

    `returns_tuple` says what a layer that fails before any other has run must return.
    """
    if not backend.shards_weights:
        yield
        return
    failures: list[Exception] = []

    def guard(layer: nn.Module, forward: Callable[..., Any]) -> Callable[..., Any]:
        def guarded(*args: Any, **kwargs: Any) -> Any:
            nonlocal returns_tuple
            with backend.whole(layer):
                try:
                    if not failures:
                        output = forward(*args, **kwargs)
                        returns_tuple = isinstance(output, tuple)
                        return output
                except Exception as error:
                    failures.append(error)
            h = args[0] if args else kwargs["hidden_states"]
            return (h,) if returns_tuple else h

        return guarded

    own = [layer.__dict__.get("forward") for layer in layers]  # some libraries set one on the instance
    try:
        for layer in layers:
            layer.forward = guard(layer, layer.forward)
        yield
    finally:
        for layer, forward in zip(layers, own, strict=True):
            del layer.forward
            if forward is not None:
                layer.forward = forward
        if failures:
            _raise(failures.pop())


def _raise(error: Exception) -> None:
    try:
        raise error
    finally:
        del error  # it would hold the frames, and with them the tensors, of the pass that failed
