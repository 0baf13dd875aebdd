"""Keys and values of a prefix that several prompts share: computed once, seen by all, changed by none."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer


class SharedLayer(DynamicLayer):
    """One layer's keys and values of the prefix. Every row of a batch sees them, and nothing is added to them.

    Raises:
        ValueError: `layer` keeps something else than keys and values.
    """

    def __init__(self, layer: Any) -> None:
        super().__init__()
        if type(layer) is not DynamicLayer:
            raise ValueError(f"{type(layer).__name__} keeps more than keys and values")
        super().update(layer.keys, layer.values)  # type: ignore[arg-type]

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        def behind(prefix: Any, states: Tensor) -> Tensor:
            return torch.cat([prefix.expand(len(states), *prefix.shape[1:]), states], dim=-2)

        return behind(self.keys, key_states), behind(self.values, value_states)


def shared_layers(cache: DynamicCache, depth: int) -> list[Any]:
    """The layers of a cache that a model of `depth` layers has filled with a prefix, as `SharedLayer`.

    Raises:
        ValueError: not every layer of the model keeps keys and values, or one keeps something else.
    """
    if len(cache.layers) != depth:
        raise ValueError(f"{len(cache.layers)} of {depth} layers keep keys and values")
    return [SharedLayer(layer) for layer in cache.layers]
