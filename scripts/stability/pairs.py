"""The preference pairs and texts of a run: what it trains on, step by step, and what is held out."""

from __future__ import annotations

import functools
import gzip
import json
import random
from pathlib import Path
from typing import Any

from arms import Arm, Tier

HERE = Path(__file__).parent
PREFERENCES = HERE.parent.parent / "recipes" / "data" / "preferences.jsonl"
HELD_OUT = 48  # pairs kept from training, and from the pretraining of the tiny models
ANSWERS = 32  # long tiers: pairs kept from both, whose answers' likelihoods are recorded: a run's evaluation set
ROOM = 16  # tokens of an answer that training must at least see

Row = dict[str, Any]  # prompt, chosen, rejected: lists of one chat message each


@functools.cache  # a suite's runs have the same rows, whatever becomes of the file meanwhile
def own() -> tuple[list[Row], list[Row]]:
    """The project's own pairs: (for training, held out). The same ones whatever the seed of a run."""
    rows = [json.loads(line) for line in PREFERENCES.read_text(encoding="utf-8").splitlines()]
    return _parted([{key: row[key] for key in ("prompt", "chosen", "rejected")} for row in rows])


def harmless(path: Path) -> tuple[list[Row], list[Row]]:
    """Single-turn dialogues of an HH file (gzipped JSON lines of "chosen" and "rejected"): (training, held out)."""
    rows = []
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            dialogue = json.loads(line)
            prompt, _, chosen = dialogue["chosen"].rpartition("\n\nAssistant:")
            same, _, rejected = dialogue["rejected"].rpartition("\n\nAssistant:")
            one_turn = prompt == same and prompt.count("\n\nHuman:") == 1
            if one_turn and min(len(chosen.split()), len(rejected.split())) >= 5:
                rows.append(_row(prompt.replace("\n\nHuman:", "").strip(), chosen.strip(), rejected.strip()))
    return _parted(rows)


def neutral() -> list[str]:
    """Plain paragraphs on everyday matters, seen by no training: how well the model still knows the language."""
    lines = (HERE / "neutral.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["text"] for line in lines]


def short(rows: list[Row], tokenizer: Any, longest: int) -> list[Row]:
    """Rows whose prompt leaves room for an answer: TRL drops the others, and later steps would shift."""
    return [row for row in rows if len(prompt_ids(tokenizer, row)) <= longest - ROOM]


def prompt_ids(tokenizer: Any, row: Row) -> list[int]:
    return list(tokenizer.apply_chat_template(row["prompt"], add_generation_prompt=True, return_dict=True)["input_ids"])


def evaluated(rows: list[Row]) -> tuple[list[Row], list[Row]]:
    """(rows for training, `ANSWERS` rows kept from it) of the long tiers."""
    return rows[ANSWERS:], rows[:ANSWERS]


def script(rows: list[Row], arm: Arm, tier: Tier, seed: int) -> list[Row]:
    """What a run reads, in order, `tier.batch` rows a step: its destabilizer sits in the rows it concerns."""
    draw = random.Random(seed)
    order: list[Row] = []
    while len(order) < tier.steps * tier.batch:
        order += draw.sample(rows, len(rows))
    told = order[: tier.steps * tier.batch]
    first = arm.onset(tier, seed) * tier.batch
    if arm.alike:
        same = first if tier.long else 0
        told[same:] = [_alike(row, draw) for row in told[same:]]
    if arm.flip:
        told[first:] = [{**row, "chosen": row["rejected"], "rejected": row["chosen"]} for row in told[first:]]
    if arm.corrupt:
        told[first:] = [_corrupt(row, draw) for row in told[first:]]
    return told


def _row(prompt: str, chosen: str, rejected: str) -> Row:
    return {
        "prompt": [{"role": "user", "content": prompt}],
        "chosen": [{"role": "assistant", "content": chosen}],
        "rejected": [{"role": "assistant", "content": rejected}],
    }


def _parted(rows: list[Row]) -> tuple[list[Row], list[Row]]:
    rows = random.Random(0).sample(rows, len(rows))
    return rows[HELD_OUT:], rows[:HELD_OUT]


def _alike(row: Row, draw: random.Random) -> Row:
    """The rejected answer becomes the chosen one with a word of its first half replaced by another of its words."""
    words = row["chosen"][0]["content"].split()
    words[draw.randrange(1, max(len(words) // 2, 2))] = draw.choice(words)
    return {**row, "rejected": [{"role": "assistant", "content": " ".join(words)}]}


def _corrupt(row: Row, draw: random.Random) -> Row:
    """The chosen answer's characters in random order: what a broken preparation of the data leaves."""
    letters = list(row["chosen"][0]["content"])
    draw.shuffle(letters)
    return {**row, "chosen": [{"role": "assistant", "content": "".join(letters)}]}
