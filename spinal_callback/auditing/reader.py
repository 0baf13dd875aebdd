"""Reads one checkpoint after another with the same prompts: what `audit` and `compare` stand on."""

from __future__ import annotations

import dataclasses
import gc
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm

from ..config import SpinalConfig
from ..distributed import collectives
from ..probe import Probe
from ..probe.model_parts import without_adapters
from ..probe.prompt_files import load_prompts, shipped
from ..probe.prompts import PromptSet
from ..probe.sample import Sample
from ..records import Header, Reading
from .checkpoints import Checkpoint, entrance
from .gradients import GradientReader, Pairs, answers_of

Plan = dict[int, Checkpoint]  # step -> what to read, in order


@dataclass(frozen=True)
class CheckpointReadings:
    """What was read of the checkpoints, in order.

    Attributes:
        header: of the trace that the readings make, named after the last checkpoint.
        readings: one for each checkpoint.
        names: step -> the checkpoint's name.
        samples: step -> everything that was measured; only the first keeps its final logits.
    """

    header: Header
    readings: list[Reading]
    names: dict[int, str]
    samples: dict[int, Sample]


class CheckpointReader:
    """Reads checkpoints with the same prompts. Only one model is in memory at a time.

    Under torchrun or `accelerate launch` every rank builds one, loads each model onto its own device and reads its
    share of the prompts; all ranks get equal readings.

    Args:
        plan: step -> checkpoint, in the order to read them. The first one is the reference of all others. If it is an
            adapter at a step after 0, its model without the adapter is read first, as step 0.
        prompts: as for `audit`; tokenized by the last checkpoint's tokenizer.
        config: what to measure.
        device_map: as `from_pretrained` takes it; for a process that was started alone.
        pairs: preference pairs for gradient concentration, as for `audit`; None: it is not measured.

    Attributes:
        prompts: the prompts as tokens.

    Raises:
        ValueError: no checkpoint has a tokenizer, two have different ones, or the prompts cannot be read.
    """

    def __init__(
        self, plan: Plan, prompts: Any, config: SpinalConfig, device_map: Any = "auto", pairs: Pairs | None = None
    ) -> None:
        self._plan, self._config = plan, config
        self._own_device = collectives.join_ranks()  # None for a process that was started alone
        self._meeting = self._own_device or torch.device("cpu")  # where the ranks' tensors meet
        self._device_map = device_map if self._own_device is None else {"": self._own_device}
        texts = collectives.together(lambda: _collect(plan, prompts, config, pairs), self._meeting)
        self.prompts, answers = texts
        self._gradients = GradientReader(answers, pairs.beta) if pairs and answers else None
        self._ids = self.prompts.ids + (answers.ids if answers else [])
        self._texts, self._pairs = len(self._ids), len(answers.ids) // 2 if answers else 0
        self._readings: list[Reading] = []
        self._names: dict[int, str] = {}
        self._samples: dict[int, Sample] = {}

    def read_all(self) -> CheckpointReadings:
        """Loads and reads every checkpoint of the plan.

        Raises:
            ValueError, ImportError: a checkpoint cannot be loaded or read, has another depth than the first, or lacks
                embeddings for the prompts' tokens.
        """
        with self._progress() as self._bar, tempfile.TemporaryDirectory(prefix="spinal_") as offload:
            for step, checkpoint in self._plan.items():
                self._bar.set_description(f"spinal  {checkpoint.name}")
                header = self._read_checkpoint(step, checkpoint, offload)
                gc.collect()  # the model, before the next one is loaded
                if torch.cuda.is_available():
                    torch.cuda.empty_cache()
        names = list(self._names.values())
        header = dataclasses.replace(header, model=names[-1], checkpoints=names, pairs=self._pairs)
        return CheckpointReadings(header, self._readings, self._names, self._samples)

    def _read_checkpoint(self, step: int, checkpoint: Checkpoint, offload: str) -> Header:
        model = collectives.together(lambda: checkpoint.load(self._device_map, offload), self._meeting)
        _check_embeddings(model, self._ids, checkpoint.name)
        device = self._own_device or entrance(model)
        probe = collectives.together(lambda: Probe(model, self.prompts, self._config, device=device), device)
        if self._readings:
            self._adopt_reference(probe, checkpoint.name)
        if self._adapter_is_first(step, checkpoint):
            with without_adapters(model):
                self._read(model, probe, 0, f"{checkpoint.model} (without the adapter)")
        self._read(model, probe, step, checkpoint.name)
        return probe.header(model)

    def _read(self, model: Any, probe: Probe, step: int, name: str) -> None:
        before, prompts = len(self._readings) * self._texts, len(self.prompts.ids)
        gradients = None
        if self._gradients is not None:
            self._gradients.on_progress = lambda share: self._show(before + share * (self._texts - prompts))
            gradients = self._gradients.read(model, probe.sampler.parts, probe.sampler.device)
        before += self._texts - prompts
        probe.sampler.forward.on_progress = lambda share: self._show(before + share * prompts)
        self._readings.append(probe.read(step, gradients))
        assert probe.now is not None
        self._names[step], self._samples[step] = name, probe.now

    def _adopt_reference(self, probe: Probe, name: str) -> None:
        """Makes the first sample the probe's reference. Tokens missing from one vocabulary get probability 0."""
        reference, first = next(iter(self._samples.values())), next(iter(self._names.values()))
        layers = len(reference.alpha)
        if probe.layers != layers:
            raise ValueError(
                f"{name} has {probe.layers} layers and {first} has {layers}: only equal depths can be compared"
            )
        more = probe.sampler.parts.vocabulary - reference.logits.shape[1]
        logits = torch.nn.functional.pad(reference.logits, (0, more), value=-torch.inf)  # a negative number crops
        probe.reference = dataclasses.replace(reference, logits=logits)

    def _adapter_is_first(self, step: int, checkpoint: Checkpoint) -> bool:
        return not self._readings and step > 0 and bool(checkpoint.adapter)

    def _progress(self) -> Any:
        """A bar of what is read on stderr if that is a terminal. The first rank shows it, as if all kept its pace."""
        step, first = next(iter(self._plan.items()))
        readings = len(self._plan) + self._adapter_is_first(step, first)
        unit = "prompt" if self._gradients is None else "text"  # the prompts, and the answers of the pairs
        return tqdm(total=readings * self._texts, unit=unit, leave=False, disable=True if collectives.rank() else None)

    def _show(self, prompts: float) -> None:
        self._bar.update(round(prompts) - self._bar.n)  # goes back where memory ran out and a pass begins again


# --- prompts ----------------------------------------------------------------------------------------------------------


def _collect(
    plan: Plan, source: Any, config: SpinalConfig, pairs: Pairs | None = None
) -> tuple[PromptSet, PromptSet | None]:
    """Prompts and pairs as token ids of the last checkpoint, the one that was aligned; all must read them alike."""
    *_, last = plan.values()
    tokenizers = {c.name: t for c in plan.values() if (t := c.tokenizer()) is not None}
    if not tokenizers:
        alone = len(plan) == 1 and not last.adapter
        none = f"{last.name} has no tokenizer" if alone else f"neither {last.name} nor its base has a tokenizer"
        raise ValueError(f"{none}; save one in its folder")
    name = last.name if last.name in tokenizers else next(reversed(tokenizers))
    _check_vocabularies(tokenizers, name)
    if source is None:
        source = shipped(tokenizers[name])
    elif isinstance(source, str | Path):
        source = load_prompts(source)
    prompts = PromptSet.collect(source, tokenizers[name], config)
    if pairs is None:
        return prompts, None
    rows = load_prompts(pairs.source) if isinstance(pairs.source, str | Path) else pairs.source
    return prompts, answers_of(rows, tokenizers[name], pairs.count, config.max_prompt_tokens, config.seed)


def _check_vocabularies(tokenizers: dict[str, Any], name: str) -> None:
    """Raises ValueError where two tokenizers give a word that both know different numbers."""
    vocabulary = tokenizers[name].get_vocab()
    for other, tokenizer in tokenizers.items():
        theirs = tokenizer.get_vocab()
        if any(theirs.get(word, number) != number for word, number in vocabulary.items()):
            raise ValueError(f"{name} and {other} have different tokenizers: their layers cannot be compared")


def _check_embeddings(model: Any, ids: list[list[int]], name: str) -> None:
    highest, rows = max(map(max, ids)), model.get_input_embeddings().num_embeddings
    if highest >= rows:
        raise ValueError(
            f"{name} has only {rows} embeddings, but the other model's tokenizer or chat template uses token {highest}:"
            " give prompts as plain text"
        )
