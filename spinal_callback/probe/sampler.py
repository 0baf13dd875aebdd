"""Takes samples of one model with one set of prompts: forward pass, lens, spectra."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import torch
from torch import Tensor

from ..config import SpinalConfig
from ..distributed import collectives
from ..distributed.sharding import backend_of
from .answers import AnswerReader
from .forward import Forward
from .grouped_fit import GroupedFit
from .lens_check import check_lens
from .logit_lens import lens_chunks, row_blocks
from .model_parts import locate, without_adapters
from .prompts import PromptSet
from .sample import Sample
from .transport import FisherRaoStream, TopTokens
from .undisturbed import undisturbed

T = TypeVar("T")
CHECKED_TOKENS = 16  # of the prompt that the lens check runs, at most
BATCH_TOKENS = 4096  # padded tokens of one forward pass
LOGITS_BLOCK = 1 << 21  # logits held at a time: 8 MiB of float32; fewer make narrow products, which are slow
GPU_LOGITS_BLOCK = 1 << 26  # at most, on a GPU: 256 MiB of float32
STATES_LIMIT = 2 << 30  # bytes of kept hidden states, all layers
PIECE_LIMIT = 1 << 27  # bytes of hidden states held at a time where every token is read: 128 MiB
SPECTRA_BLOCK = 1 << 22  # entries of hidden states decomposed at a time (32 MiB of float64)


class Sampler:
    """Takes samples of one model. Arguments and errors: see `probe.Probe`.

    Attributes:
        backend: what keeps the model's weights.
        parts: the parts of the model, checked.
        forward: the forward pass.
        answers: reads the answers of preference pairs; None without pairs.
        device: where inputs go and ranks talk.
        at_a_time: tokens of a batch and logits of a piece of the lens at most; halved where memory runs out.
    """

    def __init__(
        self,
        model: Any,
        prompts: PromptSet,
        config: SpinalConfig,
        autocast: torch.dtype | None = None,
        device: torch.device | None = None,
    ) -> None:
        self._model, self._config = model, config
        self.device = device or model.get_input_embeddings().weight.device
        self.at_a_time = {"tokens": BATCH_TOKENS, "logits": _logits_block(self.device)}
        self.backend = backend_of(model)
        found = locate(model, self.backend.root_only)
        config.late_window(len(found.layers))
        tokens = min(prompts.ids, key=len)[:CHECKED_TOKENS]
        self.parts = check_lens(model, found, tokens, self.backend, self.device, autocast)
        self._everywhere = config.position == "prompt"
        self.forward = Forward(self.parts, prompts, self.backend, self.device, self._everywhere)
        self._counts = self.forward.counts  # rows of each prompt that the lens reads
        # rows of each prompt that spectra are of, and the one of its last token
        self._fitted = torch.ones_like(self._counts) if self._everywhere else self._counts
        self._last_token = self._counts - 1 if self._everywhere else torch.zeros_like(self._counts)
        self._fit = GroupedFit(self._fitted, config, self.parts.width)
        self._bytes_a_row = self.parts.width * len(self.parts.layers) * next(model.parameters()).element_size()
        self._check_size()
        self.answers = AnswerReader(self.parts, prompts.pairs, self.backend, self.device) if prompts.pairs else None
        self._check_longest(prompts)

    def _check_size(self) -> None:
        rows, prompts = int(self._fitted.sum()), len(self._counts)
        size = rows * self._bytes_a_row
        if size > STATES_LIMIT:
            raise ValueError(
                f"position={self._config.position!r} with num_prompts={prompts} keeps {rows} hidden states a layer,"
                f" {size >> 20} MiB; num_prompts={prompts * STATES_LIMIT // size} would fit"
            )

    def _check_longest(self, prompts: PromptSet) -> None:
        """Runs the longest prompt: the lens check has run the beginning of the shortest alone.

        Raises:
            ValueError: the model cannot run it.
        """
        longest = max(range(len(prompts.ids)), key=lambda i: len(prompts.ids[i]))
        try:
            with self._undisturbed():
                collectives.together(lambda: self.forward.run_alone(longest), self.device)
        except torch.OutOfMemoryError:  # a reading that runs out of memory is recorded
            return
        except Exception as error:
            raise ValueError(
                f"{self.parts.name} cannot run the longest prompt, which has {len(prompts.ids[longest])} tokens"
                f" ({type(error).__name__}: {error}): use a smaller max_prompt_tokens, or other prompts"
            ) from error

    def sample(self, reference: Sample | None = None) -> Sample:
        """One pass. Without a `reference` the final logits are kept, so that the sample can be one. A collective."""
        with self._undisturbed():
            if self.parts.draws:
                torch.manual_seed(0)
            self.forward.share_prefix()
            most = max(PIECE_LIMIT / self._bytes_a_row, 1) if self._everywhere else math.inf
            pieces = collectives.together(lambda: self.forward.pieces(most), self.device)
            own = [i for parts in pieces for i in parts[collectives.rank()]]
            read: list[dict[str, Tensor]] = []
            done = 0
            for parts in pieces:
                read.append(self._read_piece(parts, reference, (done, len(own))))
                done += len(parts[collectives.rank()])
            answers = {} if self.answers is None else self._read_answers(self.answers)
        whole = collectives.summed_together(lambda: self._spread_over_prompts(own, read), self.device)
        hidden = whole.pop("hidden")
        whole |= collectives.summed_together(lambda: self.read_spectra(hidden), self.device)
        whole = {name: x.cpu() for name, x in whole.items()}
        return Sample(logits=whole.pop("logits").T, groups=self._fit.left_out, **whole, **answers)

    def _read_answers(self, reader: AnswerReader) -> dict[str, Tensor]:
        """`Sample.answers` and `Sample.answer_tokens`."""
        reader.forward.share_prefix()
        parts = collectives.together(reader.forward.shares, self.device)
        own = parts[collectives.rank()]
        states = self._halving("tokens", lambda: reader.forward.states(parts, self.at_a_time["tokens"]))
        with self.backend.whole(self.parts.norm, self.parts.head):
            read = self._halving("logits", lambda: reader.log_likelihood(states, own, self.at_a_time["logits"]))
        place, count = torch.tensor(own, dtype=torch.long), reader.tokens.numel()
        whole = collectives.summed_together(lambda: {"answers": _spread(read, place, count, dim=0)}, self.device)
        return {"answers": whole["answers"].cpu().view(2, -1), "answer_tokens": reader.tokens}

    @contextlib.contextmanager
    def _undisturbed(self) -> Iterator[None]:
        """`undisturbed`, entered and left by all ranks or by none: a rank that fails there must not go on alone."""
        with contextlib.ExitStack() as stack:
            collectives.together(lambda: stack.enter_context(undisturbed(self._model, self.backend)), self.device)
            yield
            collectives.together(stack.close, self.device)

    def without_adapters(self) -> Sample | None:
        """A sample of an adapter run's policy before any training, without a second model; None for a full model."""
        with contextlib.ExitStack() as stack:
            has_adapters = collectives.together(lambda: stack.enter_context(without_adapters(self._model)), self.device)
            return self.sample() if has_adapters else None

    def squared_gradients(self) -> Tensor:
        """Squared norm of each layer's gradients as they are now: `[L]`; see `Backend.squared_gradients`."""
        return self.backend.squared_gradients(self.parts.layers, self.device)

    def weights_mark(self) -> list[tuple[int, int]]:
        """Of each trained parameter which tensor it is, and how often that was changed: other weights have another."""
        return [(id(p), p._version) for p in self._model.parameters() if p.requires_grad]

    def remember(self, at_a_time: dict[str, int]) -> None:
        """Takes no more at a time than `at_a_time`, to which an earlier process of the run had to go down."""
        self.at_a_time = {what: min(now, at_a_time.get(what, now)) for what, now in self.at_a_time.items()}

    def _halving(self, what: str, work: Callable[[], T]) -> T:
        """What `work` returns. Where memory runs out on a rank, all try again with half as many `what` at a time."""
        while True:
            try:
                return collectives.together(work, self.device)
            except torch.OutOfMemoryError:
                if self.at_a_time[what] == 1:
                    raise
            collectives.release_memory()  # what the failed try has left reserved
            self.at_a_time[what] //= 2

    def _read_piece(
        self, parts: list[list[int]], reference: Sample | None, progress: tuple[int, int]
    ) -> dict[str, Tensor]:
        """What one pass over some of the prompts gives: `read_lens`, and `hidden`, the rows that spectra are of.

        `progress`: how many of its prompts this rank has run before, and of how many.
        """
        own = parts[collectives.rank()]
        states = self._halving("tokens", lambda: self.forward.states(parts, self.at_a_time["tokens"], *progress))
        with self.backend.whole(self.parts.norm, self.parts.head):
            read = self._halving("logits", lambda: self.read_lens(states, own, reference))
        hidden = states[:, self._counts[own].cumsum(0).to(states.device) - 1] if self._everywhere else states
        return read | {"nonfinite": (~states.isfinite()).sum() + read["nonfinite"], "hidden": hidden}

    def _spread_over_prompts(self, own: list[int], read: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        """What this rank has of its prompts `own`, in zeros for all prompts: the sum over ranks is whole."""
        numbers = torch.tensor(own, dtype=torch.long)  # empty where there are more ranks than prompts
        nonfinite = torch.stack([piece.pop("nonfinite") for piece in read]).sum()
        states = torch.cat([piece.pop("hidden") for piece in read], dim=1)
        first = self._fitted.cumsum(0) - self._fitted
        rows = [first[i] + torch.arange(int(self._fitted[i])) for i in own]
        hidden = _spread(states, torch.cat(rows or [numbers]), int(self._fitted.sum()), dim=1)
        joined = {name: torch.cat([piece[name] for piece in read], dim=-1) for name in read[0]}
        whole = {name: _spread(x, numbers, len(self._counts), dim=-1) for name, x in joined.items()}
        return whole | {"nonfinite": nonfinite, "hidden": hidden}

    # --- what the lens reads

    def read_lens(self, states: Tensor, own: list[int], reference: Sample | None) -> dict[str, Tensor]:
        """From hidden states `[L, R, d]` of the prompts `own`, n of them.

        Returns:
            `transport [L - 1, n]`, `displacement [n]`, `entropy [n]`, `entropies [L, n]` (`[0, n]` if they are not to
            be read), `logits [V, n]` (`[0, n]` with a reference) and
            `nonfinite []`, of the final logits alone.
        """
        numbers = torch.tensor(own, dtype=torch.long)
        counts = self._counts[numbers]
        owner = torch.arange(len(own)).repeat_interleave(counts)
        last = counts.cumsum(0) - counts + self._last_token[numbers]  # the row of each prompt's last token
        blocks = []
        for rows in row_blocks(self.parts, states, self.at_a_time["logits"]):
            here = last[(last >= rows.start) & (last < rows.stop)]
            whose = numbers[owner[here]]
            blocks.append(self._read_block(states[:, rows], here - rows.start, whose, reference))
        read = {name: torch.cat([block[name] for block in blocks], dim=-1) for name in blocks[0]}
        for name in ("transport", "entropy", "entropies"):  # from rows to prompts
            mean = read[name].new_zeros(*read[name].shape[:-1], len(own))
            read[name] = mean.index_add_(-1, owner.to(mean.device), read[name]) / counts.to(mean.device)
        return {**read, "nonfinite": read["nonfinite"].sum()}

    def _read_block(self, states: Tensor, last: Tensor, whose: Tensor, reference: Sample | None) -> dict[str, Tensor]:
        """The same for a block of rows. `last`: those of a prompt's last token; `whose`: these prompts' numbers."""
        path, moved = FisherRaoStream(0 if self._config.layer_entropy else -1), FisherRaoStream()
        best = TopTokens(self._config.top_k) if self._config.top_k else None
        bad, logits = torch.zeros(1, dtype=torch.long, device=states.device), []
        for cols, z in lens_chunks(self.parts, states, self.at_a_time["logits"]):
            path.update(z)
            bad = bad + (~z[-1].isfinite()).sum().to(bad.device)
            final = z[-1, last.to(z.device)]
            if reference is None:
                logits.append(final.T)
            else:
                moved.update(torch.stack([reference.logits[whose, cols].to(z.device), final]))
            if best is not None:
                best.update(z, cols.start)
        transport = path.distances() if best is None else self._over_top(states, best.union(cols.stop))
        still = torch.zeros(len(last), dtype=torch.float64, device=transport.device)
        return {
            "transport": transport,
            "entropy": path.entropy(),
            "entropies": path.entropies()[: None if self._config.layer_entropy else 0],
            "displacement": still if reference is None else moved.distances()[0],
            "logits": torch.cat(logits) if reference is None else transport.new_zeros(0, len(last)),
            "nonfinite": bad,
        }

    def _over_top(self, states: Tensor, union: Tensor) -> Tensor:
        stream = FisherRaoStream()
        for cols, z in lens_chunks(self.parts, states, self.at_a_time["logits"]):
            stream.update(z.where(union[:, cols], -torch.inf))
        return stream.distances()

    # --- spectra

    def read_spectra(self, hidden: Tensor) -> dict[str, Tensor]:
        """From all prompts' hidden states `[L, R, d]`: this rank's part of the layers, zeros for the others."""
        depth, rows, width = hidden.shape
        at_once = max(SPECTRA_BLOCK // (rows * width), 1)
        own = torch.arange(depth)[collectives.rank() :: collectives.world_size()]
        blocks = [self._fit.read(hidden[layers.to(hidden.device)]) for layers in own.split(at_once)]
        return {name: _spread(torch.cat([b[name] for b in blocks], -1), own, depth, dim=-1) for name in blocks[0]}


def _logits_block(device: torch.device) -> int:
    """Logits to hold at a time: on a GPU enough to keep it busy, but a small part of the free memory."""
    if device.type != "cuda":
        return LOGITS_BLOCK
    free, _ = torch.cuda.mem_get_info(device)
    return max(LOGITS_BLOCK, min(GPU_LOGITS_BLOCK, free // 64))


def _spread(own: Tensor, place: Tensor, size: int, dim: int) -> Tensor:
    """The own part at `place` in zeros of `size` along `dim`: the sum over ranks is all ranks' parts in one tensor."""
    shape = list(own.shape)
    shape[dim] = size
    return own.new_zeros(shape).index_copy_(dim, place.to(own.device), own)
