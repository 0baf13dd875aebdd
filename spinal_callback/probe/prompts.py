"""The probe set: which prompts, as token ids. From text, chat messages, or a data set that a trainer has tokenized."""

from __future__ import annotations

import hashlib
import itertools
import json
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

PROMPT_COLUMNS = ("prompt_ids", "prompt_input_ids")  # TRL's tokenized preference data, new and old
ANSWER_COLUMNS = ("chosen_ids", "chosen_input_ids", "completion_ids")


@dataclass(frozen=True)
class PromptSet:
    """N prompts as token ids, and how many of their last tokens are the answer (0: the prompt alone)."""

    ids: list[list[int]]
    answers: list[int]

    @property
    def hash(self) -> str:
        """SHA-256 of the token ids: two traces with the same hash can be compared prompt by prompt."""
        return hashlib.sha256(json.dumps([self.ids, self.answers]).encode()).hexdigest()


def collect(source: Any, tokenizer: Any, *, count: int, longest: int, with_answers: bool, seed: int) -> PromptSet:
    """Draws `count` different prompts from `source`, or takes as many as there are.

    Args:
        source: strings, chat message lists, or a data set of rows with `prompt_ids`, `prompt`, `messages`, `input_ids`
            or `text`. A list of strings or messages is taken in order; a data set with a length is sampled by `seed`;
            an iterable one gives its first rows.
        tokenizer: anything callable like a transformers tokenizer; not needed for tokenized rows.
        longest: prompts keep their last `longest` tokens.
        with_answers: also keep the chosen answer's tokens.

    Raises:
        ValueError: no prompts, an empty prompt, messages without a chat template, rows with none of the columns, or
            no answers where they are asked for. The message names the field.
    """
    ids: dict[tuple[int, ...], int] = {}  # a prompt that occurs twice would only lower the rank
    for place, row in _rows(source, seed):
        prompt, answer = _tokens(row, tokenizer, place)
        if with_answers and not answer:
            raise ValueError(f'position="response" needs chosen answers: row {place} has none; use position="last"')
        answer = answer if with_answers else []
        ids.setdefault((*prompt[-longest:], *answer), len(answer))
        if len(ids) == count:
            break
    if not ids:
        raise ValueError("prompts is empty: give at least one prompt, or a data set with rows")
    return PromptSet([list(k) for k in ids], list(ids.values()))


def _rows(source: Any, seed: int) -> Iterator[tuple[int, Any]]:
    if isinstance(source, str):
        raise ValueError(f"prompts must be a list of prompts, got the single string {source[:40]!r}: write [prompt]")
    if isinstance(source, dict):  # a DatasetDict is one
        raise ValueError(f"prompts must be a list or one data set, got a dictionary of {', '.join(map(repr, source))}")
    if isinstance(source, list | tuple):
        return enumerate(source)
    if hasattr(source, "__len__") and hasattr(source, "__getitem__"):
        order = list(range(len(source)))
        random.Random(seed).shuffle(order)  # its own generator: the global one belongs to the training run
        return ((i, source[i]) for i in order)
    if isinstance(source, Iterable):
        return enumerate(itertools.islice(source, 10_000))
    raise ValueError(f"prompts must be a list or a data set, got {type(source).__name__}")


def _tokens(row: Any, tokenizer: Any, place: int) -> tuple[list[int], list[int]]:
    """Token ids of the prompt and of its answer (empty: there is none)."""
    if isinstance(row, str) or _is_chat(row):
        return _encode(row, tokenizer, place), []
    if not isinstance(row, dict):
        raise ValueError(f"prompts[{place}] must be a string, chat messages or a row, got {type(row).__name__}")
    for column in PROMPT_COLUMNS:
        if column in row:
            answers = (_ids(row[c]) for c in ANSWER_COLUMNS if c in row)
            return _some(_ids(row[column]), place), next(answers, [])
    for column in ("prompt", "messages", "text"):
        if column in row:
            return _with_answer(row, column, tokenizer, place)
    if "input_ids" in row:
        return _split_labels(row, place)
    columns = ", ".join(map(repr, row))
    raise ValueError(
        f"prompts[{place}] has the columns {columns}; one of prompt_ids, prompt, messages, text, input_ids is needed"
    )


def _with_answer(row: dict[str, Any], column: str, tokenizer: Any, place: int) -> tuple[list[int], list[int]]:
    text = row[column]
    if column == "messages" and len(text) > 1 and text[-1].get("role") == "assistant":
        text, answer = text[:-1], text[-1:]
    else:
        answer = row.get("chosen") or row.get("completion") or ""
    answer = answer[-1]["content"] if _is_chat(answer) else answer
    tokens = tokenizer(answer, add_special_tokens=False)["input_ids"] if answer else []
    return _encode(text, tokenizer, place), list(tokens)


def _split_labels(row: dict[str, Any], place: int) -> tuple[list[int], list[int]]:
    """A language-modelling row: the answer is what the labels or masks train on; without them, all of it is prompt."""
    ids = _ids(row["input_ids"])
    ids = ids[: next(iter(row.get("seq_lengths", [])), None)]  # packed: several texts in a row; the first of them
    masks = [_ids(row[name]) for name in ("completion_mask", "assistant_masks") if name in row]
    trained = masks[0] if masks else [label != -100 for label in _ids(row.get("labels", []))]
    start = next((i for i, on in enumerate(trained[: len(ids)]) if on), 0)
    start = start or len(ids)  # trained on from the first token: no prompt of its own
    return _some(ids[:start], place), ids[start:]


def _encode(prompt: str | Sequence[dict[str, str]], tokenizer: Any, place: int) -> list[int]:
    if tokenizer is None:
        raise ValueError(f"prompts[{place}] is text, but the trainer has no processing_class (tokenizer) to read it")
    if isinstance(prompt, str):
        return _some(list(tokenizer(prompt)["input_ids"]), place)
    if not getattr(tokenizer, "chat_template", None):
        raise ValueError(
            f"prompts[{place}] is a list of chat messages, but the tokenizer has no chat template:"
            " give plain strings or set tokenizer.chat_template"
        )
    return _some(list(tokenizer.apply_chat_template(prompt, add_generation_prompt=True)["input_ids"]), place)


def _ids(values: Iterable[Any]) -> list[int]:
    return [int(value) for value in values]  # a data set may be formatted to give tensors


def _some(ids: list[int], place: int) -> list[int]:
    if not ids:
        raise ValueError(f"prompts[{place}] is empty: every prompt needs at least one token")
    return ids


def _is_chat(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(m, dict) and "role" in m for m in value)
