"""One forward pass over the probe's prompts: hidden states, the lens, spectra. Measures, but compares with nothing."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..config import SpinalConfig
from ..distributed import collectives as ranks
from . import lens_check as proof
from . import logit_lens as lens
from . import measures
from . import model_parts as anatomy
from .forward import Forward, raise_first
from .prompts import PromptSet
from .undisturbed import undisturbed

T = TypeVar("T")
BATCH_TOKENS = 4096  # padded tokens of one forward pass
LOGITS_BLOCK = 1 << 21  # logits held at a time: 8 MiB of float32; fewer make narrow products, which are slow
GPU_LOGITS_BLOCK = 1 << 26  # at most, on a GPU: 256 MiB of float32
STATES_LIMIT = 2 << 30  # bytes of kept hidden states, all layers
SPECTRA_BLOCK = 1 << 22  # entries of hidden states decomposed at a time (32 MiB of float64)
JACKKNIFE_GROUPS = 8


@dataclass(frozen=True)
class Sample:
    """Everything that one forward pass told, on the CPU and equal on all ranks. N prompts, G jackknife groups.

    Attributes:
        alpha, alpha_se, alpha_r2, effective_rank: `[L]`.
        deleted: `[G, L]` exponents with one group of prompts left out.
        transport: `[L - 1, N]`, radians.
        displacement: `[N]`, radians from the reference's final distribution; 0 without a reference.
        entropy: `[N]`, nats.
        logits: `[N, V]` final logits at the first kept position of each prompt, float32; empty unless kept.
        nonfinite: `[]` how many kept activations and final logits are NaN or Inf.
    """

    alpha: Tensor
    alpha_se: Tensor
    alpha_r2: Tensor
    effective_rank: Tensor
    deleted: Tensor
    transport: Tensor
    displacement: Tensor
    entropy: Tensor
    logits: Tensor
    nonfinite: Tensor


def save_sample(path: Path, sample: Sample, prompts: PromptSet) -> None:
    """Writes a sample as safetensors, with the hash of its prompts."""
    part = path.with_suffix(".part")  # a kill in between leaves no torn file
    save_file({k: v.contiguous() for k, v in vars(sample).items()}, part, metadata={"probe": prompts.hash})
    part.replace(path)


def fingerprint(sample: Sample) -> str:
    """SHA-256 of what the layers do: equal for the same weights and prompts alone."""
    return hashlib.sha256(sample.alpha.numpy().tobytes() + sample.transport.numpy().tobytes()).hexdigest()


def load_sample(path: Path, prompts: PromptSet) -> Sample | None:
    """The sample at `path`; None if there is none that can be read, or if it was taken with other prompts."""
    try:
        with safe_open(path, framework="pt") as file:
            if file.metadata()["probe"] == prompts.hash:
                return Sample(**{name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
    except Exception as error:  # torn, or another version's: whoever resumes goes on without it
        warnings.warn(f"spinal: cannot read {path}: {error!r}", stacklevel=2)
    return None


class Sampler:
    """Takes samples of one model with one probe set. Arguments and errors: see `probe.Probe`.

    Attributes:
        at_a_time: tokens of a batch and logits of a piece of the lens at most; halved where memory runs out.
    """

    def __init__(
        self,
        model: Any,
        prompts: PromptSet,
        config: SpinalConfig,
        autocast: torch.dtype | None,
        device: torch.device | None,
    ) -> None:
        self._model, self._prompts, self._config = model, prompts, config
        self.device = device or model.get_input_embeddings().weight.device
        self.at_a_time = {"tokens": BATCH_TOKENS, "logits": _logits_block(self.device)}
        self.anatomy = anatomy.locate(model)
        config.late_window(len(self.anatomy.layers))
        self.forward = Forward(model, self.anatomy, prompts, autocast, self.device)
        width = self._prove()
        self._counts = self.forward.counts  # kept rows of each prompt
        self._first = self._counts.cumsum(0) - self._counts  # number of each prompt's first row
        rows = int(self._counts.sum())
        self._ranks = config.tail_ranks(rows, width)
        size = rows * width * len(self.anatomy.layers) * next(model.parameters()).element_size()
        if size > STATES_LIMIT:
            raise ValueError(
                f"position={config.position!r} with num_prompts={len(prompts.ids)} keeps {rows} hidden states a layer,"
                f" {size >> 20} MiB; num_prompts={len(prompts.ids) * STATES_LIMIT // size} would fit"
            )

    def _prove(self) -> int:
        """Checks the lens on this model and finds what its passes are autocast to; returns the width d of a state."""
        model, found = self._model, self.anatomy
        if ranks.is_fsdp(model):
            found.forward = anatomy.through_root(model)
        tokens = min(self._prompts.ids, key=len)[:16]
        with undisturbed(model):
            with self.forward.precision(), self.forward.survival() as failures:
                seen = proof.observe(ranks.root(model), found, tokens, self.device)
            raise_first(failures)
            self.forward.autocast = seen.autocast
            with ranks.whole(found.norm, found.head):
                proof.prove(model.config, found, seen)
        return seen.states.shape[-1]

    def sample(self, reference: Sample | None = None) -> Sample:
        """One pass. Without a `reference` the final logits are kept, so that the sample can be one."""
        with undisturbed(self._model):
            self.forward.share_start()
            parts = self.forward.shares()
            own = parts[ranks.rank()]
            states = self._halving("tokens", lambda: self.forward.states(parts, self.at_a_time["tokens"]))
            with ranks.whole(self.anatomy.norm, self.anatomy.head):
                read = self._halving("logits", lambda: self._read_lens(states, own, reference))
        numbers = torch.tensor(own, dtype=torch.long)  # empty where there are more ranks than prompts

        def fill() -> dict[str, Tensor]:
            bad = (~states.isfinite()).sum() + read.pop("bad_logits")
            place = torch.cat([self._rows_of(i) for i in own] or [numbers])
            hidden = _spread(states, place, int(self._counts.sum()), dim=1)
            return {name: _spread(x, numbers, len(self._counts), dim=-1) for name, x in read.items()} | {
                "nonfinite": bad,
                "hidden": hidden,
            }

        whole = ranks.pooled(fill, self.device)
        hidden = whole.pop("hidden")
        whole |= ranks.pooled(lambda: self._contraction(hidden), self.device)
        whole = {name: x.cpu() for name, x in whole.items()}
        return Sample(logits=whole.pop("logits").T, **whole)

    def without_adapters(self) -> Sample | None:
        """A sample of an adapter run's policy before any training, without a second model; None for a full model."""
        with anatomy.without_adapters(self._model) as has_adapters:
            return self.sample() if has_adapters else None

    def remember(self, at_a_time: dict[str, int]) -> None:
        """Takes no more at a time than `at_a_time`, which an earlier process of the run came to."""
        self.at_a_time = {what: min(now, at_a_time.get(what, now)) for what, now in self.at_a_time.items()}

    def _halving(self, what: str, work: Callable[[], T]) -> T:
        """What `work` gives. Where memory runs out on a rank, all take half as many `what` at a time and try again."""
        while True:
            try:
                return ranks.together(work, self.device)
            except torch.OutOfMemoryError:
                if self.at_a_time[what] == 1:
                    raise
            ranks.give_back()  # what the try that failed has left reserved
            self.at_a_time[what] //= 2

    # --- what the lens reads

    def _read_lens(self, states: Tensor, own: list[int], reference: Sample | None) -> dict[str, Tensor]:
        """Per prompt of this rank: `transport [L - 1, n]`, `displacement [n]`, `entropy [n]`, `logits [V, n]`."""
        numbers = torch.tensor(own, dtype=torch.long)
        counts = self._counts[numbers]
        owner = torch.arange(len(own)).repeat_interleave(counts)
        first = counts.cumsum(0) - counts
        parts = []
        for rows in lens.row_blocks(self.anatomy, states, self.at_a_time["logits"]):
            firsts = first[(first >= rows.start) & (first < rows.stop)]
            whose = numbers[owner[firsts]]
            parts.append(self._read_block(states[:, rows], firsts - rows.start, whose, reference))
        read = {name: torch.cat([part[name] for part in parts], dim=-1) for name in parts[0]}
        for name in ("transport", "entropy"):  # from rows to prompts
            mean = read[name].new_zeros(*read[name].shape[:-1], len(own))
            read[name] = mean.index_add_(-1, owner.to(mean.device), read[name]) / counts.to(mean.device)
        return {**read, "bad_logits": read["bad_logits"].sum()}

    def _read_block(self, states: Tensor, firsts: Tensor, whose: Tensor, reference: Sample | None) -> dict[str, Tensor]:
        """The same for a block of rows. `firsts`: those that begin a prompt; `whose`: the numbers of these prompts."""
        path, moved = measures.FisherRaoStream(), measures.FisherRaoStream()
        best = measures.TopTokens(self._config.top_k) if self._config.top_k else None
        bad, logits = torch.zeros(1, dtype=torch.long, device=states.device), []
        for cols, z in lens.lens_chunks(self.anatomy, states, self.at_a_time["logits"]):
            path.update(z)
            bad = bad + (~z[-1].isfinite()).sum().to(bad.device)
            final = z[-1, firsts.to(z.device)]
            if reference is None:
                logits.append(final.T)
            else:
                moved.update(torch.stack([reference.logits[whose, cols].to(z.device), final]))
            if best is not None:
                best.update(z, cols.start)
        transport = path.distances() if best is None else self._over_top(states, best.union(cols.stop))
        still = torch.zeros(len(firsts), dtype=torch.float64, device=transport.device)
        return {
            "transport": transport,
            "entropy": path.entropy(),
            "displacement": still if reference is None else moved.distances()[0],
            "logits": torch.cat(logits) if reference is None else transport.new_zeros(0, len(firsts)),
            "bad_logits": bad,
        }

    def _over_top(self, states: Tensor, union: Tensor) -> Tensor:
        stream = measures.FisherRaoStream()
        for cols, z in lens.lens_chunks(self.anatomy, states, self.at_a_time["logits"]):
            stream.update(z.where(union[:, cols], -torch.inf))
        return stream.distances()

    # --- spectra

    def _contraction(self, hidden: Tensor) -> dict[str, Tensor]:
        """From the spectra of `[L, R, d]`: this rank's share of the layers, zeros for the others."""
        depth, rows, width = hidden.shape
        groups = (torch.arange(len(self._counts)) % JACKKNIFE_GROUPS).repeat_interleave(self._counts)
        left = [int((groups != group).sum()) for group in range(int(groups.max()) + 1)]
        deleted_ranks = [self._config.tail_ranks(n, width, least=2) for n in left]
        at_once = max(SPECTRA_BLOCK // (rows * width), 1)
        own = torch.arange(depth)[ranks.rank() :: ranks.world()]
        parts = []
        for layers in own.split(at_once):
            h = hidden[layers.to(hidden.device)]
            sigma = measures.spectrum(h)
            alpha, se, r2 = measures.tail_exponent(sigma, self._ranks)
            deleted = measures.deleted_exponents(h, groups, deleted_ranks)
            rank = measures.effective_rank(sigma)
            parts.append({"alpha": alpha, "alpha_se": se, "alpha_r2": r2, "effective_rank": rank, "deleted": deleted})
        return {name: _spread(torch.cat([p[name] for p in parts], -1), own, depth, dim=-1) for name in parts[0]}

    def _rows_of(self, prompt: int) -> Tensor:
        return self._first[prompt] + torch.arange(int(self._counts[prompt]))


def _logits_block(device: torch.device) -> int:
    """Logits to hold at a time: on a GPU many, so that it is not kept waiting, but little of what memory is free."""
    if device.type != "cuda":
        return LOGITS_BLOCK
    free, _ = torch.cuda.mem_get_info(device)
    return max(LOGITS_BLOCK, min(GPU_LOGITS_BLOCK, free // 64))


def _spread(own: Tensor, place: Tensor, size: int, dim: int) -> Tensor:
    """The own part at `place` in zeros of `size` along `dim`: the sum over ranks is all ranks' parts in one tensor."""
    shape = list(own.shape)
    shape[dim] = size
    return own.new_zeros(shape).index_copy_(dim, place.to(own.device), own)
