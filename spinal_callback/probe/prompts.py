"""The probe set: which prompts, as token ids. From text, chat messages, or a data set that a trainer has tokenized."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..config import SpinalConfig
from .bounds import Bounds
from .kept_state import reachable, state_kept
from .rows import EmptyPromptError, Row, read_row
from .sources import rows_of
from .undisturbed import random_states_kept

Pair = tuple[list[int], list[int], list[int]]  # token ids of a prompt, its chosen and its rejected answer
MOST_ROWS = 10_000  # of a data set that are looked at
FRUITLESS_ROWS = 2_000  # in a row without a new prompt, after which no more are looked at


@dataclass(frozen=True)
class PromptSet:
    """N prompts as token ids, and how many tokens at the end of each are the answer (0: the prompt alone).

    `pairs` are the first of the rows that have a chosen and a rejected answer; the hash leaves them out, since
    contraction and transport do not depend on them.
    `skipped`: rows of the trainer's data that were passed over because their prompt is empty.
    """

    ids: list[list[int]]
    answers: list[int]
    pairs: list[Pair] = field(default_factory=list)
    skipped: int = 0

    @property
    def hash(self) -> str:
        """SHA-256 of the token ids: two traces with the same hash can be compared prompt by prompt."""
        return hashlib.sha256(json.dumps([self.ids, self.answers]).encode()).hexdigest()

    @classmethod
    def collect(
        cls,
        source: Any,
        tokenizer: Any,
        config: SpinalConfig,
        model: Any = None,
        template: Mapping[str, Any] | None = None,
        skip_empty: bool = False,
    ) -> PromptSet:
        """`collect` with the settings of `config`, for a model whose vocabulary and positions the prompts must fit.

        Raises:
            ValueError: as `collect`; or there are fewer different prompts than the tail needs.
        """
        found = collect(
            source,
            tokenizer,
            count=config.num_prompts,
            longest=config.max_prompt_tokens,
            with_answers=config.position == "response",
            seed=config.seed,
            pairs=config.answers,
            bounds=Bounds() if model is None else Bounds.of(model),
            template=template,
            skip_empty=skip_empty,
        )
        if config.position != "response" and len(found.ids) < config.num_prompts:
            _check_enough(len(found.ids), config)
        return found


def collect(
    source: Any,
    tokenizer: Any,
    *,
    count: int,
    longest: int,
    with_answers: bool,
    seed: int,
    pairs: int = 0,
    bounds: Bounds | None = None,
    template: Mapping[str, Any] | None = None,
    skip_empty: bool = False,
) -> PromptSet:
    """Draws `count` different prompts from `source`, or takes as many as there are.

    Args:
        source: strings, chat message lists, or a data set whose rows `read_row` reads. A list is taken in order; a data
            set with a length is sampled by `seed`; an iterable one gives its first rows. `MOST_ROWS` are looked at.
            Random generators that it owns are afterwards as before.
        tokenizer: a transformers tokenizer or processor; not needed for tokenized rows.
        longest: prompts keep their last `longest` tokens.
        with_answers: also keep the chosen answer's tokens.
        pairs: of how many rows to keep both answers, where they have them.
        bounds: what the model's inputs must fit; longer prompts lose their first tokens, longer answers their last.
        template: arguments for the chat template, as the trainer's own.
        skip_empty: pass over rows whose prompt is empty, as training does.

    Raises:
        ValueError: no prompts, a row that `read_row` refuses, an id that the model has no embedding for, or no answers
            where they are asked for. The message names the field or the row.
    """
    found: list[Pair] = []
    bounds, skipped, fruitless = bounds or Bounds(), 0, 0
    ids: dict[tuple[int, ...], int] = {}  # each prompt once: a repeated one would only lower the rank of the states
    with random_states_kept(), state_kept([] if isinstance(source, list | tuple) else reachable(source)):
        for place, row in itertools.islice(rows_of(source, seed), MOST_ROWS):
            try:
                read = _tokens(row, tokenizer, template)
                bounds.check(read.prompt + (read.chosen if with_answers or pairs else []) + read.rejected * bool(pairs))
            except ValueError as error:
                if skip_empty and isinstance(error, EmptyPromptError):
                    skipped += 1
                    continue
                raise ValueError(f"prompts[{place}] {error}") from None
            if with_answers and not read.chosen:
                raise ValueError(f'position="response" needs chosen answers: row {place} has none; use position="last"')
            prompt, answer = bounds.cut(read.prompt, read.chosen if with_answers else [], longest)
            if len(found) < pairs and read.chosen and read.rejected:
                begin, chosen = bounds.cut(read.prompt, read.chosen, longest)
                found.append((begin, chosen, bounds.cut(begin, read.rejected, longest)[1]))
            known = len(ids)
            ids.setdefault((*prompt, *answer), len(answer))
            fruitless = 0 if len(ids) > known else fruitless + 1
            if len(ids) == count or fruitless == FRUITLESS_ROWS:
                break
    if not ids:
        empty = f": those of all {skipped} rows that were looked at are" if skipped else ""
        raise ValueError(f"prompts is empty{empty}: give at least one prompt, or a data set with rows")
    return PromptSet([list(k) for k in ids], list(ids.values()), found, skipped)


def _tokens(row: Any, tokenizer: Any, template: Mapping[str, Any] | None) -> Row:
    """`read_row`; raises ValueError for whatever is wrong with the row."""
    try:
        return read_row(row, tokenizer, template)
    except UnicodeError:
        raise ValueError("is no valid Unicode text: remove its lone surrogates") from None
    except ValueError:
        raise
    except Exception as error:  # whatever a tokenizer or a template raises for what it does not take
        raise ValueError(f"cannot be tokenized: {type(error).__name__}: {error}") from error


def _check_enough(found: int, config: SpinalConfig) -> None:
    """Raises ValueError if `found` different prompts are too few for the tail, and says how many would do."""

    def fits(count: int) -> bool:
        try:
            config.tail_ranks(count)
        except ValueError:
            return False
        return True

    if not fits(found):
        need = next((n for n in range(found, config.num_prompts + 1) if fits(n)), config.num_prompts)
        raise ValueError(f"prompts has only {found} different prompts: give at least {need}")
