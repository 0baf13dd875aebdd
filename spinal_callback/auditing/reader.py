"""Reads checkpoints one after the other with the same prompts: what `audit` and `compare` stand on. Wiring only."""

from __future__ import annotations

import dataclasses
import gc
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm

from ..config import SpinalConfig
from ..distributed import collectives as ranks
from ..probe import model_parts as anatomy
from ..probe.probe import Probe
from ..probe.prompt_files import load_prompts, shipped
from ..probe.prompts import PromptSet, collect
from ..probe.sample import Sample
from ..records import Header, Reading
from .checkpoints import Checkpoint, entrance

Plan = dict[int, Checkpoint]  # step -> what to read, in order


def configured(config: SpinalConfig | None, fields: dict[str, Any]) -> SpinalConfig:
    if config is not None and fields:
        raise ValueError(f"give config or its fields, not both: config and {', '.join(fields)}")
    return config or SpinalConfig(**fields)


@dataclass
class Walk:
    """Reads one checkpoint after the other with the same prompts; only one is in memory at a time."""

    plan: Plan
    prompts_from: Any
    config: SpinalConfig
    device_map: Any
    readings: list[Reading] = field(default_factory=list)
    samples: dict[int, Sample] = field(default_factory=dict)  # step -> sample; only the first keeps its logits
    names: dict[int, str] = field(default_factory=dict)
    window: tuple[int, int] = (0, 0)

    def go(self) -> Walk:
        self.device = ranks.join()
        if self.device is not None:
            self.device_map = {"": self.device}
        self.prompts = ranks.together(self._collect, self.device or torch.device("cpu"))
        first, *_ = self.plan.values()
        count = len(self.plan) + (0 not in self.plan and bool(first.adapter))
        with self._progress(count) as self.bar, tempfile.TemporaryDirectory(prefix="spinal_") as offload:
            for step, checkpoint in self.plan.items():
                self.bar.set_description(f"spinal  {checkpoint.name}")
                device = self.device or torch.device("cpu")
                model = ranks.together(lambda c=checkpoint: c.load(self.device_map, offload), device)  # type: ignore[misc]
                self._look(step, checkpoint, model)
                del model
                gc.collect()
                if torch.cuda.is_available():
                    torch.cuda.empty_cache()
        return self

    def _collect(self) -> PromptSet:
        """The prompts as token ids of the last checkpoint, which is the one that chats; all must read them alike."""
        *_, last = self.plan.values()
        tokenizers = {c.name: t for c in self.plan.values() if (t := c.tokenizer()) is not None}
        if not tokenizers:
            raise ValueError(f"{last.name} has no tokenizer, nor has what it is held against: save one in its folder")
        name = last.name if last.name in tokenizers else next(reversed(tokenizers))
        _check_words(tokenizers, name)
        source = self.prompts_from
        if source is None:
            source = shipped(tokenizers[name])
        elif isinstance(source, str | Path):
            source = load_prompts(source)
        config = self.config
        return collect(
            source,
            tokenizers[name],
            count=config.num_prompts,
            longest=config.max_prompt_tokens,
            with_answers=config.position == "response",
            seed=config.seed,
        )

    def _look(self, step: int, checkpoint: Checkpoint, model: Any) -> None:
        _check_embeddings(model, self.prompts, checkpoint.name)
        device = self.device or entrance(model)
        probe = ranks.together(lambda: Probe(model, self.prompts, self.config, device=device), device)
        if self.readings:
            self._take_up(probe, checkpoint.name)
        self.window, self.written = probe.window, probe.header(model)
        counted = probe.sampler.anatomy.layers[0].register_forward_hook(self._count)
        try:
            if not self.readings and step > 0 and checkpoint.adapter:
                with anatomy.without_adapters(model):
                    self._read(probe, 0, f"{checkpoint.model} (without the adapter)")
            self._read(probe, step, checkpoint.name)
        finally:
            counted.remove()

    def _read(self, probe: Probe, step: int, name: str) -> None:
        self.readings.append(probe.read(step))
        assert probe.now is not None
        self.names[step] = name
        self.samples[step] = probe.now  # without logits, but for the first

    def _take_up(self, probe: Probe, name: str) -> None:
        """Holds a probe against the first sample. Tokens that only one of the two models has count as never said."""
        start, first = next(iter(self.samples.values())), next(iter(self.names.values()))
        layers = len(start.alpha)
        if probe.layers != layers:
            raise ValueError(f"{name} has {probe.layers} layers and {first} {layers}: only one depth can be compared")
        more = probe.sampler.anatomy.vocabulary - start.logits.shape[1]
        logits = torch.nn.functional.pad(start.logits, (0, more), value=-torch.inf)  # a negative number crops
        probe.start = dataclasses.replace(start, logits=logits)

    def _progress(self, count: int) -> Any:
        """A bar on stderr, where a person looks at it."""
        own = -(-len(self.prompts.ids) // ranks.world())
        return tqdm(total=own * count, unit="prompt", leave=False, disable=True if ranks.rank() else None)

    def _count(self, module: Any, args: Any, output: Any) -> None:
        self.bar.update((output[0] if isinstance(output, tuple) else output).shape[0])

    def header(self) -> Header:
        """Of the trace that the readings make: named for the last checkpoint."""
        names = list(self.names.values())
        return dataclasses.replace(self.written, model=names[-1], checkpoints=names)


def _check_words(tokenizers: dict[str, Any], name: str) -> None:
    """Raises ValueError where a word that two tokenizers know has not the same number in both."""
    vocabulary = tokenizers[name].get_vocab()
    for other, tokenizer in tokenizers.items():
        theirs = tokenizer.get_vocab()
        if any(theirs.get(word, number) != number for word, number in vocabulary.items()):
            raise ValueError(f"{name} and {other} have different tokenizers: their layers cannot be compared")


def _check_embeddings(model: Any, prompts: PromptSet, name: str) -> None:
    highest, rows = max(map(max, prompts.ids)), model.get_input_embeddings().num_embeddings
    if highest >= rows:
        raise ValueError(
            f"{name} has {rows} embeddings and the prompts use token {highest}, which the other's chat template brings:"
            " give prompts as plain text"
        )
