"""The probe's forward pass: each prompt through all layers once; each layer's hidden states at a few positions."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from ..distributed import collectives
from ..distributed.sharding import Backend
from .batching import BATCH_COST, batches, common_prefix, cut_by, shares
from .hooks import kept_states, stack_states, surviving
from .model_parts import ReadableModel
from .precision import autocast_to, rounding
from .prefix import shared_layers
from .prompts import PromptSet


@dataclass(frozen=True)
class Batch:
    """Prompts that run together, without the `skip` tokens of the shared prefix that has been run for them."""

    prompts: list[int]
    skip: int = 0


class Forward:
    """Runs a set of prompts through a model.

    Args:
        model: its parts.
        prompts: the probe set.
        backend: what keeps the model's weights.
        device: where inputs go and ranks talk.
        kept: the layers whose hidden states are kept; None: all.
        everywhere: keep every token of the prompts; otherwise their last one, or those that predict the answer.

    Attributes:
        counts: `[N]` positions kept of each prompt.
        on_progress: called after each batch with the share of this rank's prompts that have run, in [0, 1].
        shared_prefix: tokens that prompts begin with and that are run once for all of them; set by `share_prefix`.
    """

    def __init__(
        self,
        model: ReadableModel,
        prompts: PromptSet,
        backend: Backend,
        device: torch.device,
        everywhere: bool = False,
        kept: list[nn.Module] | None = None,
    ) -> None:
        self._model, self._ids, self._backend, self._device = model, prompts.ids, backend, device
        self._kept = model.layers if kept is None else kept
        self.counts = torch.tensor([len(ids) if everywhere else max(n, 1) for ids, n in _texts(prompts)])
        ends = [len(ids) - min(n, 1) for ids, n in _texts(prompts)]
        # of each prompt, the first position that is kept
        self._first_position = [end - int(n) for end, n in zip(ends, self.counts, strict=True)]
        self._shortest = min(range(len(self._ids)), key=lambda i: len(self._ids[i]))
        self.on_progress: Callable[[float], None] = lambda share: None
        self._use_prefix([])
        self._tried_prefix = False

    # --- the shared prefix

    def share_prefix(self) -> None:
        """Sets `shared_prefix` if the hidden states with it are those of prompts run whole. Looks at most once.

        Not where weights are sharded (there a pass costs more than its tokens), nor where the model puts tokens of its
        own before the prompts. A collective; never raises.
        """
        if self._tried_prefix or self._backend.shards_weights or self._model.virtual_tokens:
            return
        self._tried_prefix, prefix, right = True, [], False
        with contextlib.suppress(Exception):  # whatever a model cannot do with a cache
            prefix = common_prefix(self._ids, self._first_position)
            right = bool(prefix) and self._reads_the_same(prefix)
        if collectives.least(int(right), self._device):
            self._use_prefix(prefix)

    def _reads_the_same(self, prefix: list[int]) -> bool:
        """Whether the shortest and the longest prompt with `prefix` have the same states behind it as run whole."""
        having = [i for i in range(len(self._ids)) if self._skip(i, prefix)]
        ends = [pick(having, key=lambda i: len(self._ids[i])) for pick in (min, max)]
        whole = [self._states(Batch([i])) for i in ends]
        cache = self._run_prefix(prefix)
        behind = [self._states(Batch([i], len(prefix)), cache) for i in ends]
        tolerance = rounding({whole[0].dtype, self._model.autocast})
        return all(within_rounding(a, b, tolerance) for a, b in zip(behind, whole, strict=True))

    def _use_prefix(self, prefix: list[int]) -> None:
        self.shared_prefix = prefix
        self._skips = [self._skip(i, prefix) for i in range(len(self._ids))]
        self._tokens = [len(ids) - skip for ids, skip in zip(self._ids, self._skips, strict=True)]

    def _skip(self, prompt: int, prefix: list[int]) -> int:
        """How many tokens of a prompt `prefix` runs for it: all of `prefix` or none."""
        has_it = self._first_position[prompt] >= len(prefix) and self._ids[prompt][: len(prefix)] == prefix
        return len(prefix) if has_it else 0

    def _run_prefix(self, prefix: list[int]) -> DynamicCache:
        """Runs `prefix`; its keys and values, for the prompts' own tokens.

        Raises:
            ValueError: the model keeps something else than keys and values.
        """
        ids, cache = torch.tensor([prefix], device=self._device), DynamicCache()
        self._call(ids, torch.ones_like(ids), cache)
        cache.layers = shared_layers(cache, len(self._model.layers))
        return cache

    # --- batches

    def shares(self) -> list[list[int]]:
        """Each rank's prompts, so that all have about as many tokens to run."""
        return shares(self._tokens, collectives.world_size())

    def pieces(self, most: float) -> list[list[list[int]]]:
        """The ranks' shares, cut into pieces of `most` kept positions a rank, or of one prompt that has more.

        All ranks get as many pieces; the last ones may be empty.
        """
        cut = [cut_by(share, self.counts.tolist(), most) for share in self.shares()]
        return [[parts[i] if i < len(parts) else [] for parts in cut] for i in range(max(map(len, cut)))]

    def plan(self, share: list[int], budget: int) -> list[Batch]:
        """The batches for a share of the prompts; `budget`: tokens of a batch at most, padding counted."""
        # gathering weights once more costs more than padding does
        cost = sum(self._tokens) if self._backend.shards_weights else BATCH_COST
        return [
            Batch(batch, skip)
            for skip in sorted(set(self._skips))
            for batch in batches([i for i in share if self._skips[i] == skip], self._tokens, budget, cost)
        ]

    def _plan_of_rank(self, parts: list[list[int]], budget: int) -> tuple[list[Batch], int]:
        """This rank's batches and how many of them are its own: with sharded weights all ranks must run as many."""
        plan = self.plan(parts[collectives.rank()], budget)
        # a rank without prompts runs one all the same: the states it has none of have a shape
        most = max(len(self.plan(part, budget)) for part in parts) if self._backend.shards_weights else 1
        return plan + [Batch([self._shortest])] * (most - len(plan)), len(plan)

    # --- passes

    def states(self, parts: list[list[int]], budget: int, before: int = 0, in_all: int = 0) -> Tensor:
        """`[L, R, d]` of this rank's part of the prompts, in its order; `budget`: tokens of a batch at most.

        `before`, `in_all`: for `on_progress`, how many of its prompts this rank has run before, and of how many.
        """
        share = parts[collectives.rank()]
        plan, own = self._plan_of_rank(parts, budget)
        inputs = collectives.together(lambda: [self._inputs(batch) for batch in plan], self._device)
        cache = self._run_prefix(self.shared_prefix) if any(batch.skip for batch in plan) else None
        kept, done = [], before
        with surviving(self._model.layers, self._backend, self._model.returns_tuple):
            for batch, given in zip(plan, inputs, strict=True):
                kept.append(self._run(*given, cache if batch.skip else None))
                done += len(batch.prompts)
                self.on_progress(min(done / max(in_all, len(share), 1), 1.0))
        whole = [stack_states(states) for states in kept]  # not before all have run: it may raise
        rows: dict[int, Tensor] = {}
        for batch, states in zip(plan[:own], whole, strict=False):
            rows |= zip(batch.prompts, states.split(self.counts[batch.prompts].tolist(), dim=1), strict=True)
        return torch.cat([whole[0][:, :0], *(rows[i] for i in share)], dim=1)

    def run_alone(self, prompt: int) -> None:
        """Runs one prompt, the same on every rank, and raises whatever is wrong with its states."""
        inputs = self._inputs(Batch([prompt]))
        with surviving(self._model.layers, self._backend, self._model.returns_tuple):
            kept = self._run(*inputs, None)
        stack_states(kept)

    def _inputs(self, batch: Batch) -> tuple[Tensor, tuple[Tensor, Tensor], int]:
        """Token ids on the device, which positions of them to keep (batch index, token index), tokens run before."""
        prompts = [torch.tensor(self._ids[i][batch.skip :]) for i in batch.prompts]
        ids = nn.utils.rnn.pad_sequence(prompts, batch_first=True)  # to the right: causal attention never looks there
        counts = self.counts[batch.prompts]
        which = torch.arange(len(batch.prompts)).repeat_interleave(counts)
        firsts = [self._first_position[i] - batch.skip for i in batch.prompts]
        where = [torch.arange(n) + first for first, n in zip(firsts, counts, strict=True)]
        return ids.to(self._device), (which, torch.cat(where)), batch.skip

    def _run(
        self, ids: Tensor, where: tuple[Tensor, Tensor], skip: int, cache: DynamicCache | None
    ) -> list[Tensor | None]:
        # no padding mask: some architectures make NaN of a row that is masked out
        mask = torch.ones(ids.shape[0], skip + ids.shape[1], dtype=ids.dtype, device=ids.device)
        with kept_states(self._kept, where, ids.shape[1]) as kept:
            self._call(ids, mask, cache)
        return kept

    def _call(self, ids: Tensor, mask: Tensor, cache: DynamicCache | None) -> None:
        earlier = {} if cache is None else {self._model.cache_argument: cache}
        with autocast_to(self._model.autocast, self._device):
            self._model.forward(input_ids=ids, attention_mask=mask, use_cache=cache is not None, **earlier)

    def _states(self, batch: Batch, cache: DynamicCache | None = None) -> Tensor:
        return stack_states(self._run(*self._inputs(batch), cache))


def _texts(prompts: PromptSet) -> Iterable[tuple[list[int], int]]:
    return zip(prompts.ids, prompts.answers, strict=True)


def within_rounding(states: Tensor, others: Tensor, tolerance: float) -> bool:
    """Whether `[L, R, d]` hidden states differ by no more than `tolerance`, each relative to its own norm."""
    far = (states - others).double().norm(dim=-1) / others.double().norm(dim=-1)
    return bool((far <= tolerance).all())
