"""Gradient concentration outside training: the gradient of the DPO loss over preference pairs. No weight is changed.

The loss (Rafailov et al. 2023) is the mean over pairs of `-log sigmoid(m)` with the margin
`m = beta (log pi(c) - log pi0(c) - log pi(r) + log pi0(r))`: c and r are the chosen and rejected answer, pi0 is the
policy that the audit compares with. Its gradient is `sum_i w_i grad log pi(y_i)` over all answers y_i with the weights
`-+ beta sigmoid(-m) / M`, which need no gradient: so a few answers at a time are run back, and the sum is kept for a
few layers at a time. Without a policy to compare with, and for that policy itself, m is 0: a DPO run's first step.

The gradient is that of the layers' own weights, also for an adapter, whose parameters are left out: so that a
checkpoint and its base are read alike. In the training of an adapter the callback reads the adapter's gradient instead.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..distributed import collectives
from ..probe.answers import answer_set
from ..probe.batching import batches, shares
from ..probe.model_parts import ReadableModel
from ..probe.prompts import Pair, PromptSet
from ..probe.rows import read_row
from ..probe.sources import rows_of

GRADIENT_LIMIT = 2 << 30  # bytes of gradients, in float32, held at a time: more layers take more passes
BATCH_TOKENS = 1024  # padded tokens of the answers, with their prompts, that run together
ANSWER_TOKENS = 512  # an answer keeps its first ones


@dataclass(frozen=True)
class Pairs:
    """Which preference pairs, and the beta of the loss.

    Raises:
        ValueError: `count` is no whole number >= 1, or `beta` no number > 0.
    """

    source: Any
    count: int = 32
    beta: float = 0.1

    def __post_init__(self) -> None:
        if not isinstance(self.count, int) or isinstance(self.count, bool) or self.count < 1:
            raise ValueError(f"num_pairs must be a whole number >= 1, got {self.count!r}")
        number = isinstance(self.beta, int | float) and not isinstance(self.beta, bool)
        if not number or not math.isfinite(self.beta) or self.beta <= 0:
            raise ValueError(f"beta must be a number > 0, got {self.beta!r}")


def answers_of(source: Any, tokenizer: Any, count: int, longest: int, seed: int) -> PromptSet:
    """The first `count` pairs of `source`, or of a data set as many drawn by `seed`, or as many as there are.

    Args:
        source: rows with chosen and rejected answers, in any form that `read_row` reads.
        longest: prompts keep their last `longest` tokens, answers their first `ANSWER_TOKENS`.

    Returns:
        M pairs as 2 M texts (`answers.answer_set`).

    Raises:
        ValueError: there are no rows, or one has not both answers; the message names the row.
    """
    found: list[Pair] = []
    for place, row in rows_of(source, seed, "pairs"):
        try:
            read = read_row(row, tokenizer)
        except ValueError as error:
            raise ValueError(f"pairs[{place}] {error}") from None
        if not read.chosen or not read.rejected:
            raise ValueError(f"pairs[{place}] has not both a chosen and a rejected answer")
        found.append((read.prompt[-longest:], read.chosen, read.rejected))
        if len(found) == count:
            break
    if not found:
        raise ValueError("pairs is empty: give at least one row with a chosen and a rejected answer")
    return answer_set(found, ANSWER_TOKENS)


class GradientReader:
    """Reads the gradient of the DPO loss. Under torchrun the answers are shared out over the ranks.

    Args:
        answers: M pairs as 2 M texts, as `answers_of` gives them.
        beta: of the DPO loss.

    Attributes:
        on_progress: called with the share of the work that is done, in [0, 1].
    """

    def __init__(self, answers: PromptSet, beta: float) -> None:
        self._answers, self._beta = answers, beta
        self._reference: Tensor | None = None
        self.on_progress: Callable[[float], None] = lambda share: None

    def read(self, model: nn.Module, parts: ReadableModel, device: torch.device) -> Tensor:
        """Squared gradient norm of each layer, `[L]`, float64. The first model read is the reference of all others.

        Raises:
            ValueError: the layers' weights are quantized, or not all in memory.
        """
        layers = [_weights(model, parts, i) for i in range(len(parts.layers))]
        flags = [(p, p.requires_grad) for p in model.parameters()]
        try:
            model.requires_grad_(False)
            blocks = _blocks(layers)
            passes = len(blocks) + 1
            found = self._log_likelihoods(parts, device, passes)
            if self._reference is None:
                self._reference = found
            chosen, rejected = (found - self._reference).view(2, -1)
            push = self._beta * torch.sigmoid(self._beta * (rejected - chosen)) / chosen.numel()
            weights = torch.cat([-push, push])
            squares = [self._squares(parts, block, weights, device, (i + 1, passes)) for i, block in enumerate(blocks)]
            return torch.cat(squares)
        finally:
            for p, flag in flags:
                p.requires_grad_(flag)

    def _log_likelihoods(self, parts: ReadableModel, device: torch.device, passes: int) -> Tensor:
        """Log-likelihood of each answer, `[2 M]`, nats, float64, on the CPU."""

        def own() -> dict[str, Tensor]:
            found = torch.zeros(len(self._answers.ids), dtype=torch.float64)
            with torch.no_grad():
                for batch in self._batches((0, passes)):
                    found[batch] = self._run(parts, batch, device).cpu()
            return {"found": found}

        return collectives.summed_together(own, device)["found"].cpu()

    def _squares(
        self,
        parts: ReadableModel,
        block: list[list[nn.Parameter]],
        weights: Tensor,
        device: torch.device,
        stage: tuple[int, int],
    ) -> Tensor:
        """Squared gradient norms of a block of layers, each given by its weights."""
        total = {p: torch.zeros(p.shape, dtype=torch.float32, device=p.device) for layer in block for p in layer}

        def add(p: Tensor) -> None:
            assert p.grad is not None
            total[p] += p.grad  # type: ignore[index]
            p.grad = None

        def own() -> dict[str, Tensor]:
            hooks = [p.requires_grad_().register_post_accumulate_grad_hook(add) for p in total]
            try:
                with torch.enable_grad():
                    for batch in self._batches(stage):
                        likelihoods = self._run(parts, batch, device)
                        (weights[batch].to(likelihoods.device) * likelihoods).sum().backward()
            finally:
                for hook in hooks:
                    hook.remove()
            return {str(i): x for i, x in enumerate(total.values())}

        whole = iter(collectives.summed_together(own, device).values())
        for p in total:
            p.requires_grad_(False)
        norms = [[torch.linalg.vector_norm(next(whole), dtype=torch.float64) for _ in layer] for layer in block]
        return torch.stack([torch.stack([n.cpu() for n in layer]).square().sum() for layer in norms])

    def _batches(self, stage: tuple[int, int]) -> Iterator[list[int]]:
        """This rank's texts, in batches. `stage`: which of how many passes over them it is, for the progress."""
        tokens = [len(ids) for ids in self._answers.ids]
        share = shares(tokens, collectives.world_size())[collectives.rank()]
        done = 0
        for batch in batches(share, tokens, BATCH_TOKENS):
            yield batch
            done += len(batch)
            self.on_progress((stage[0] + done / len(share)) / stage[1])

    def _run(self, parts: ReadableModel, batch: list[int], device: torch.device) -> Tensor:
        """Log-likelihoods of a batch's answers, `[B]`, nats, float64."""
        texts = [torch.tensor(self._answers.ids[i]) for i in batch]
        ids = nn.utils.rnn.pad_sequence(texts, batch_first=True).to(device)  # to the right, as in `Forward`
        kept: list[Tensor] = []
        hook = parts.layers[-1].register_forward_hook(lambda module, args, output: kept.append(output))
        try:
            parts.forward(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False)
        finally:
            hook.remove()
        last = kept[0][0] if isinstance(kept[0], tuple) else kept[0]
        virtual = last.shape[1] - ids.shape[1]  # tokens that the model puts before the prompts
        found = []
        for row, i in enumerate(batch):
            end, length = len(self._answers.ids[i]), self._answers.answers[i]
            h = last[row, virtual + end - length - 1 : virtual + end - 1]
            z = parts.finish(parts.head(parts.norm(h[None])))[0].float()
            asked = ids[row, end - length : end].to(z.device)
            found.append(z.log_softmax(-1).gather(-1, asked[:, None]).double().sum())
        return torch.stack(found)


def _weights(model: nn.Module, parts: ReadableModel, layer: int) -> list[nn.Parameter]:
    """The weights of a layer itself, without those of an adapter.

    Raises:
        ValueError: they are quantized, or not all in memory.
    """
    of_adapter = getattr(getattr(model, "base_model", None), "prefix", None) if hasattr(model, "peft_config") else None
    named: Mapping[str, nn.Parameter] = dict(parts.layers[layer].named_parameters())
    own = [p for name, p in named.items() if not (of_adapter and of_adapter in name)]
    if not all(p.is_floating_point() for p in own):
        raise ValueError(
            f"{parts.name}: the weights of layer {layer + 1} are quantized and have no gradients;"
            " pairs need the checkpoint as it was before it was quantized"
        )
    if any(p.device.type == "meta" for p in own):
        raise ValueError(
            f"{parts.name}: layer {layer + 1} is kept in CPU memory or on disk and has no gradients; pairs need the"
            " whole model on its devices"
        )
    return own


def _blocks(layers: list[list[nn.Parameter]]) -> list[list[list[nn.Parameter]]]:
    """The layers, cut where their gradients would take more than `GRADIENT_LIMIT`."""
    blocks: list[list[list[nn.Parameter]]] = [[]]
    filled = 0
    for weights in layers:
        size = 4 * sum(p.numel() for p in weights)
        if blocks[-1] and filled + size > GRADIENT_LIMIT:
            blocks.append([])
            filled = 0
        blocks[-1].append(weights)
        filled += size
    return blocks
