"""The probe set: which prompts, as token ids. From text, chat messages, or a data set that a trainer has tokenized."""

from __future__ import annotations

import hashlib
import itertools
import json
import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from torch.utils.data import IterableDataset

from ..config import SpinalConfig
from .kept_state import reachable, state_kept
from .rows import read_row
from .undisturbed import random_states_kept

Pair = tuple[list[int], list[int], list[int]]  # token ids of a prompt, its chosen and its rejected answer


@dataclass(frozen=True)
class PromptSet:
    """N prompts as token ids, and how many tokens at the end of each are the answer (0: the prompt alone).

    `pairs` are the first of the rows that have a chosen and a rejected answer; the hash leaves them out, since
    contraction and transport do not depend on them.
    """

    ids: list[list[int]]
    answers: list[int]
    pairs: list[Pair] = field(default_factory=list)

    @property
    def hash(self) -> str:
        """SHA-256 of the token ids: two traces with the same hash can be compared prompt by prompt."""
        return hashlib.sha256(json.dumps([self.ids, self.answers]).encode()).hexdigest()

    @classmethod
    def collect(cls, source: Any, tokenizer: Any, config: SpinalConfig) -> PromptSet:
        """`collect` with the settings of `config`."""
        return collect(
            source,
            tokenizer,
            count=config.num_prompts,
            longest=config.max_prompt_tokens,
            with_answers=config.position == "response",
            seed=config.seed,
            pairs=config.answers,
        )


def collect(
    source: Any, tokenizer: Any, *, count: int, longest: int, with_answers: bool, seed: int, pairs: int = 0
) -> PromptSet:
    """Draws `count` different prompts from `source`, or takes as many as there are.

    Args:
        source: strings, chat message lists, or a data set whose rows `read_row` reads. A list is taken in order; a data
            set with a length is sampled by `seed`; an iterable one gives its first rows. Random generators that it owns
            are afterwards as before.
        tokenizer: a transformers tokenizer or processor; not needed for tokenized rows.
        longest: prompts keep their last `longest` tokens.
        with_answers: also keep the chosen answer's tokens.
        pairs: of how many rows to keep both answers, where they have them.

    Raises:
        ValueError: no prompts, a row that `read_row` refuses, or no answers where they are asked for. The message
            names the field or the row.
    """
    found: list[Pair] = []
    ids: dict[tuple[int, ...], int] = {}  # each prompt once: a repeated one would only lower the rank of the states
    with random_states_kept(), state_kept([] if isinstance(source, list | tuple) else reachable(source)):
        for place, row in rows_of(source, seed):
            try:
                read = read_row(row, tokenizer)
            except ValueError as error:
                raise ValueError(f"prompts[{place}] {error}") from None
            if with_answers and not read.chosen:
                raise ValueError(f'position="response" needs chosen answers: row {place} has none; use position="last"')
            answer = read.chosen if with_answers else []
            if len(found) < pairs and read.chosen and read.rejected:
                found.append((read.prompt[-longest:], read.chosen, read.rejected))
            ids.setdefault((*read.prompt[-longest:], *answer), len(answer))
            if len(ids) == count:
                break
    if not ids:
        raise ValueError("prompts is empty: give at least one prompt, or a data set with rows")
    return PromptSet([list(k) for k in ids], list(ids.values()), found)


def rows_of(source: Any, seed: int, name: str = "prompts") -> Iterator[tuple[int, Any]]:
    """The rows of `source` with their places: a list's in order, a data set's by `seed`, an iterable's first ones.

    Raises:
        ValueError: something else, which the message calls `name`.
    """
    if isinstance(source, str):
        raise ValueError(f"{name} must be a list of {name}, got the single string {source[:40]!r}: write [{name[:-1]}]")
    if isinstance(source, dict):  # a DatasetDict is one
        raise ValueError(f"{name} must be a list or one data set, got a dictionary of {', '.join(map(repr, source))}")
    if isinstance(source, list | tuple):
        return enumerate(source)
    if _has_places(source):
        order = list(range(len(source)))
        random.Random(seed).shuffle(order)  # its own generator: the global one belongs to the training run
        return ((i, source[i]) for i in order)
    if isinstance(source, Iterable):
        return enumerate(itertools.islice(source, 10_000))
    raise ValueError(f"{name} must be a list or a data set, got {type(source).__name__}")


def check_restart(stream: Any, tokenizer: Any) -> None:
    """Checks that a second `iter()` of a trainer's data begins anew: else rows that are read here would be missing from
    training.

    Raises:
        ValueError: it does not.
    """
    if not _has_places(stream) and _first_row(stream, tokenizer) != _first_row(stream, tokenizer):
        raise ValueError(
            "prompts is None, but reading prompts from the trainer's data would take rows away from training: a second"
            f" iter() of this {type(stream).__name__} does not begin with the same row; give prompts=[...]"
        )


def _first_row(stream: Any, tokenizer: Any) -> Any:
    with random_states_kept(), state_kept(reachable(stream)):
        row = next(iter(stream), None)
        try:
            return read_row(row, tokenizer)
        except ValueError as error:  # `collect` names the row
            return str(error)


def _has_places(source: Any) -> bool:
    """Whether rows can be read by their number."""
    stream = isinstance(source, IterableDataset)  # has a `__getitem__` that raises
    return not stream and hasattr(source, "__len__") and hasattr(source, "__getitem__")
