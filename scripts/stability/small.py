"""The tiny models of the small tiers, pretrained on the spot in a minute or two each, and cached.

- tier `small`: a Llama that has learnt the project's own texts;
- tier `small-long`: the same Llama, which has also learnt the language of `language.py`;
- tier `second-long`: a GPT-NeoX of twice the depth and another width, for limits that are carried from model to model.
"""

from __future__ import annotations

import hashlib
import math
import os
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import language
import pairs
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

LLAMA = (1024, 8, 64, 4)  # vocabulary, layers, width, heads
NEOX = (1280, 16, 80, 5)
STEPS, BATCH, LENGTH, RATE = 600, 16, 96, 3e-3
LONG_STEPS = 500  # of the long tiers' models: any more, and what they know of dialogues is learnt by heart
STORIES, AGAIN = 1000, 3  # how many stories those read, and how often a dialogue stands among them: half and half
SPECIAL = ["<pad>", "<user>", "<assistant>", "<end>"]
CHAT_TEMPLATE = (
    "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}<end>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


@dataclass(frozen=True)
class Recipe:
    """How a tiny model is made.

    Attributes:
        name: of its folder in the cache.
        size: vocabulary, layers, width, heads.
        steps: of pretraining.
        texts: what it reads.
        make: its untrained self, from a tokenizer.
    """

    name: str
    size: tuple[int, int, int, int]
    steps: int
    texts: list[str]
    make: Callable[[Any], Any]

    @property
    def folder(self) -> str:
        told = repr((*self.size, self.steps, BATCH, LENGTH, RATE, self.texts))
        return f"{self.name}-{hashlib.sha256(told.encode()).hexdigest()[:12]}"


def recipe(tier: str) -> Recipe:
    """The tiny model of a tier."""
    rows, _ = pairs.own()
    if tier == "small":
        return Recipe("small", LLAMA, STEPS, _dialogues(rows), _llama)
    rows, _ = pairs.evaluated(rows)
    texts = AGAIN * _dialogues(rows) + language.stories(STORIES, "read")
    if tier == "small-long":
        return Recipe("first", LLAMA, LONG_STEPS, texts, _llama)
    return Recipe("second", NEOX, LONG_STEPS, texts, _neox)


def tiny(tier: str, cache: Path) -> tuple[Any, Any]:
    """(model, tokenizer) of a tier, from `cache` or made and put there."""
    how = recipe(tier)
    folder = cache / how.folder
    if not folder.exists():
        print(f"pretraining the model of tier {tier}, kept in {folder}", flush=True)
        scratch = folder.with_name(f"{folder.name}.{os.getpid()}")
        tokenizer = _tokenizer(how.texts, how.size[0])
        tokenizer.save_pretrained(scratch)
        torch.manual_seed(0)
        _pretrained(how.make(tokenizer), how.texts, tokenizer, how.steps).save_pretrained(scratch)
        scratch.rename(folder)  # all or nothing: a killed run leaves no half model
    loaded = AutoModelForCausalLM.from_pretrained(folder, dtype="float32")
    return loaded, PreTrainedTokenizerFast.from_pretrained(folder)


def _dialogues(rows: list[pairs.Row]) -> list[str]:
    """Both answers of each, so that the model knows either way of speaking and prefers neither."""
    return [
        f"<user>{row['prompt'][0]['content']}<end><assistant>{row[key][0]['content']}<end>"
        for row in rows
        for key in ("chosen", "rejected")
    ]


def _tokenizer(texts: list[str], vocabulary: int) -> PreTrainedTokenizerFast:
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    inner.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=vocabulary, special_tokens=SPECIAL, initial_alphabet=alphabet)
    )
    made = PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="<pad>", eos_token="<end>")
    made.chat_template = CHAT_TEMPLATE
    return made


def _llama(tokenizer: Any) -> LlamaForCausalLM:
    """RMSNorm, the head tied to the embedding."""
    vocabulary, layers, width, heads = LLAMA
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=3 * width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        tie_word_embeddings=True,
        **_ends(tokenizer),
    )
    return LlamaForCausalLM(config)


def _neox(tokenizer: Any) -> GPTNeoXForCausalLM:
    """LayerNorm with biases, attention and MLP side by side, GELU, a head of its own."""
    vocabulary, layers, width, heads = NEOX
    config = GPTNeoXConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        tie_word_embeddings=False,
        **_ends(tokenizer),
    )
    return GPTNeoXForCausalLM(config)


def _ends(tokenizer: Any) -> dict[str, Any]:
    pad, end = tokenizer.pad_token_id, tokenizer.eos_token_id
    return {"max_position_embeddings": 256, "pad_token_id": pad, "bos_token_id": pad, "eos_token_id": end}


def _pretrained(model: Any, texts: list[str], tokenizer: Any, steps: int) -> Any:
    """Next-token training; a cosine from a short warm-up."""
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.1)
    draw, ids = random.Random(0), [tokenizer(text)["input_ids"] for text in texts]
    for step in range(steps):
        rate = RATE * min((step + 1) / 50, 0.5 + 0.5 * math.cos(math.pi * step / steps))
        for group in optimizer.param_groups:
            group["lr"] = rate
        batch = tokenizer.pad({"input_ids": [row[:LENGTH] for row in draw.sample(ids, BATCH)]}, return_tensors="pt")
        labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
        loss = model(**batch, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % 100 == 0 or step == steps - 1:
            print(f"  step {step}: loss {loss.item():.3f}", flush=True)
    return model.eval()
