"""The small tier's model: a tiny Llama that has learnt the project's own texts, made in a minute or two and cached."""

from __future__ import annotations

import hashlib
import math
import os
import random
from pathlib import Path
from typing import Any

import pairs
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

VOCABULARY, LAYERS, WIDTH, HEADS = 1024, 8, 64, 4
STEPS, BATCH, LENGTH, RATE = 600, 16, 96, 3e-3
SPECIAL = ["<pad>", "<user>", "<assistant>", "<end>"]
CHAT_TEMPLATE = (
    "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}<end>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


def small(cache: Path) -> tuple[Any, Any]:
    """(model, tokenizer), from `cache` or made and put there."""
    rows, _ = pairs.own()
    texts = [text for row in rows for text in _dialogues(row)]
    recipe = (VOCABULARY, LAYERS, WIDTH, HEADS, STEPS, BATCH, LENGTH, RATE, texts)
    folder = cache / f"small-{hashlib.sha256(repr(recipe).encode()).hexdigest()[:12]}"
    if not folder.exists():
        print(f"pretraining the small model, kept in {folder}", flush=True)
        scratch = folder.with_name(f"{folder.name}.{os.getpid()}")
        tokenizer = _tokenizer(texts)
        tokenizer.save_pretrained(scratch)
        _pretrained(texts, tokenizer).save_pretrained(scratch)
        scratch.rename(folder)  # all or nothing: a killed run leaves no half model
    loaded: Any = LlamaForCausalLM.from_pretrained(folder, dtype="float32")
    return loaded, PreTrainedTokenizerFast.from_pretrained(folder)


def _dialogues(row: pairs.Row) -> list[str]:
    """Both answers, so that the model knows either way of speaking and prefers neither."""
    prompt = row["prompt"][0]["content"]
    return [f"<user>{prompt}<end><assistant>{row[key][0]['content']}<end>" for key in ("chosen", "rejected")]


def _tokenizer(texts: list[str]) -> PreTrainedTokenizerFast:
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    inner.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=VOCABULARY, special_tokens=SPECIAL, initial_alphabet=alphabet)
    )
    made = PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="<pad>", eos_token="<end>")
    made.chat_template = CHAT_TEMPLATE
    return made


def _pretrained(texts: list[str], tokenizer: Any) -> LlamaForCausalLM:
    """Next-token training; a cosine from a short warm-up."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=WIDTH,
        intermediate_size=3 * WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=HEADS,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    model: Any = LlamaForCausalLM(config).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.1)
    draw, ids = random.Random(0), [tokenizer(text)["input_ids"] for text in texts]
    for step in range(STEPS):
        rate = RATE * min((step + 1) / 50, 0.5 + 0.5 * math.cos(math.pi * step / STEPS))
        for group in optimizer.param_groups:
            group["lr"] = rate
        batch = tokenizer.pad({"input_ids": [row[:LENGTH] for row in draw.sample(ids, BATCH)]}, return_tensors="pt")
        labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
        loss = model(**batch, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % 100 == 0 or step == STEPS - 1:
            print(f"  step {step}: loss {loss.item():.3f}", flush=True)
    return model.eval()
