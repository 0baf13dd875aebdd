"""The probe's forward pass: each prompt through all layers once; each layer's hidden states at a few positions."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from ..distributed import collectives as ranks
from . import model_parts as anatomy
from .batching import BATCH, batches, common_start, shares
from .lens_check import LENS_TOLERANCE
from .prompts import PromptSet


@dataclass(frozen=True)
class Batch:
    """Prompts that run together, without the `skip` tokens that the common beginning has run for them."""

    prompts: list[int]
    skip: int = 0


class Forward:
    """Runs a set of prompts through a model.

    Attributes:
        autocast: dtype that the forward passes are autocast to, as training's are; None: not autocast.
        counts: `[N]` positions kept of each prompt.
        on_progress: called after each batch with the share of this rank's prompts that have run, in [0, 1].
        start: tokens that prompts begin with and that are run once for all of them; set by `share_start`.
    """

    def __init__(
        self,
        model: Any,
        found: anatomy.Anatomy,
        prompts: PromptSet,
        autocast: torch.dtype | None,
        device: torch.device,
    ) -> None:
        self._model, self._anatomy, self._ids = model, found, prompts.ids
        self.autocast, self._device = autocast, device
        self.counts = torch.tensor([max(n, 1) for n in prompts.answers])
        ends = [len(ids) - min(n, 1) for ids, n in zip(prompts.ids, prompts.answers, strict=True)]
        self._first = [end - int(n) for end, n in zip(ends, self.counts, strict=True)]  # position kept of each prompt
        self._sharded = ranks.is_fsdp(model) or ranks.is_zero3(model)
        self.on_progress: Callable[[float], None] = lambda share: None
        self.start: list[int] = []
        self._tried = False

    def share_start(self) -> None:
        """Sets `start`, once, if the model's hidden states are the same with it; else prompts go on being run whole.

        Not where weights are sharded (there a pass costs more than its tokens), nor where the model puts tokens of its
        own before the prompts. Every rank must come here; never raises.
        """
        tried, self._tried = self._tried, True
        start = common_start(self._ids, self._first)
        if tried or not start or self._sharded or self._anatomy.forward is self._model:
            return
        having = [i for i in range(len(self._ids)) if self._skip(i, start)]
        ends = [min(having, key=lambda i: len(self._ids[i])), max(having, key=lambda i: len(self._ids[i]))]
        try:
            plain = [self._states(Batch([i])) for i in ends]
            begun = self._begin(start)
            behind = [self._states(Batch([i], len(start)), begun) for i in ends]
            right = all(_alike(a, b, self.autocast) for a, b in zip(behind, plain, strict=True))
        except Exception:  # whatever a model cannot do with a cache
            right = False
        if ranks.least(int(right), self._device):
            self.start = start

    def shares(self) -> list[list[int]]:
        """Each rank's prompts, so that all have about as many tokens to run."""
        return shares([len(ids) - self._skip(i, self.start) for i, ids in enumerate(self._ids)], ranks.world())

    def states(self, parts: list[list[int]], budget: int) -> Tensor:
        """`[L, R, d]` of this rank's part of the prompts, in its order; `budget`: tokens of a batch at most."""
        plan = self._plan(parts[ranks.rank()], budget)
        own = len(plan)
        # a sharded forward is a collective: all run as many batches as the rank that has most
        most = max(len(self._plan(part, budget)) for part in parts) if self._sharded else 1
        plan = plan + [Batch([min(range(len(self._ids)), key=lambda i: len(self._ids[i]))])] * (most - own)
        inputs = ranks.together(lambda: [self._inputs(batch) for batch in plan], self._device)
        begun = self._begin(self.start) if any(batch.skip for batch in plan) else None
        with self.survival() as failures:
            kept, done = [], 0
            for batch, given in zip(plan, inputs, strict=True):
                kept.append(self._run(*given, begun if batch.skip else None))
                done += len(batch.prompts)
                self.on_progress(min(done / max(len(parts[ranks.rank()]), 1), 1.0))
        raise_first(failures)
        whole = [anatomy.stack_states(states) for states in kept]  # not before all have run: it may raise
        rows: dict[int, Tensor] = {}
        for batch, states in zip(plan[:own], whole, strict=False):
            rows |= zip(batch.prompts, states.split(self.counts[batch.prompts].tolist(), dim=1), strict=True)
        return torch.cat([whole[0][:, :0], *(rows[i] for i in parts[ranks.rank()])], dim=1)

    def survival(self) -> contextlib.AbstractContextManager[list[Exception]]:
        """Where a forward pass is a collective, a layer that fails on one rank must not end it there."""
        return anatomy.surviving(self._anatomy, ranks.whole) if self._sharded else contextlib.nullcontext([])

    def precision(self) -> contextlib.AbstractContextManager[None]:
        """The forward pass runs in the precision that training's does."""
        if self.autocast is None:
            return contextlib.nullcontext()
        return torch.autocast(next(self._model.parameters()).device.type, self.autocast)

    # --- batches

    def _skip(self, prompt: int, start: list[int]) -> int:
        """How many tokens of a prompt `start` runs for it: all of `start` or none."""
        mine = self._first[prompt] >= len(start) and self._ids[prompt][: len(start)] == start
        return len(start) if mine else 0

    def _plan(self, part: list[int], budget: int) -> list[Batch]:
        skips = [self._skip(i, self.start) for i in range(len(self._ids))]
        tokens = [len(ids) - skip for ids, skip in zip(self._ids, skips, strict=True)]
        cost = sum(tokens) if self._sharded else BATCH  # gathering weights once more costs more than padding does
        return [
            Batch(batch, skip)
            for skip in sorted(set(skips))
            for batch in batches([i for i in part if skips[i] == skip], tokens, budget, cost)
        ]

    def _inputs(self, batch: Batch) -> tuple[Tensor, tuple[Tensor, Tensor], int]:
        """Token ids on the device, which positions of them to keep (batch index, token index), tokens run before."""
        prompts = [torch.tensor(self._ids[i][batch.skip :]) for i in batch.prompts]
        ids = nn.utils.rnn.pad_sequence(prompts, batch_first=True)  # to the right: causal attention never looks there
        counts = self.counts[batch.prompts]
        which = torch.arange(len(batch.prompts)).repeat_interleave(counts)
        where = [torch.arange(n) + self._first[i] - batch.skip for i, n in zip(batch.prompts, counts, strict=True)]
        return ids.to(self._device), (which, torch.cat(where)), batch.skip

    # --- passes

    def _run(
        self, ids: Tensor, where: tuple[Tensor, Tensor], skip: int, begun: DynamicCache | None
    ) -> list[Tensor | None]:
        # no padding mask: some architectures make NaN of a row that is masked out
        mask = torch.ones(ids.shape[0], skip + ids.shape[1], dtype=ids.dtype, device=ids.device)
        more = {"use_cache": False} if begun is None else {"use_cache": True, "past_key_values": begun}
        with anatomy.kept_states(self._anatomy.layers, where, ids.shape[1]) as kept, self.precision():
            self._anatomy.forward(input_ids=ids, attention_mask=mask, **more)
        return kept

    def _states(self, batch: Batch, begun: DynamicCache | None = None) -> Tensor:
        return anatomy.stack_states(self._run(*self._inputs(batch), begun))

    def _begin(self, start: list[int]) -> DynamicCache:
        """Runs `start`; what the prompts' own tokens see of it.

        Raises:
            ValueError: the model keeps something else than keys and values.
        """
        ids, cache = torch.tensor([start], device=self._device), DynamicCache()
        with self.precision():
            self._anatomy.forward(
                input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=True, past_key_values=cache
            )
        layers: list[Any] = [_Begun(layer) for layer in cache.layers]
        if len(layers) != len(self._anatomy.layers):
            raise ValueError(f"{self._anatomy.name}: not every layer keeps keys and values")
        cache.layers = layers
        return cache


class _Begun(DynamicLayer):
    """One layer's keys and values of the common beginning: every prompt sees them, and nothing is added to them."""

    def __init__(self, layer: Any) -> None:
        super().__init__()
        if type(layer) is not DynamicLayer:
            raise ValueError(f"{type(layer).__name__} keeps more than keys and values")
        super().update(layer.keys, layer.values)  # type: ignore[arg-type]

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        def behind(begun: Any, states: Tensor) -> Tensor:
            return torch.cat([begun.expand(len(states), *begun.shape[1:]), states], dim=-2)

        return behind(self.keys, key_states), behind(self.values, value_states)


def _alike(states: Tensor, others: Tensor, autocast: torch.dtype | None) -> bool:
    """Whether `[L, R, d]` hidden states differ by no more than rounding: each by its own norm."""
    tolerance = max(LENS_TOLERANCE.get(dtype, 0.0) for dtype in (states.dtype, autocast) if dtype)
    far = (states - others).double().norm(dim=-1) / others.double().norm(dim=-1)
    return bool((far <= tolerance).all())


def raise_first(failures: list[Exception]) -> None:
    if failures:
        error = failures[0]
        failures.clear()  # it would hold the frames, and with them the tensors, of the pass that failed
        try:
            raise error
        finally:
            del error
