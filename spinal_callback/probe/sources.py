"""Where prompts come from: lists, data sets that are read by place, streams; and the data behind a trainer's loader."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from typing import Any

from torch.utils.data import IterableDataset

from .kept_state import reachable, state_kept
from .rows import read_row
from .undisturbed import random_states_kept

LISTED = 200_000  # rows of a data set whose order is made as a list


def rows_of(source: Any, seed: int, name: str = "prompts") -> Iterator[tuple[int, Any]]:
    """Place and row: of a list in order, of a data set with a length in random order, of a stream as they come.

    Raises:
        ValueError: something else, which the message calls `name`.
    """
    if isinstance(source, str):
        raise ValueError(f"{name} must be a list of {name}, got a single string: write {name}=[...]")
    if isinstance(source, dict):  # a DatasetDict is one
        raise ValueError(f"{name} must be a list or one data set, got a dictionary of {', '.join(map(repr, source))}")
    if hasattr(source, "iloc"):
        raise ValueError(
            f"{name} must be a list or a data set, got a pandas DataFrame: write Dataset.from_pandas(frame)"
        )
    if isinstance(source, list | tuple):
        return enumerate(source)
    if _has_places(source):
        return ((i, source[i]) for i in _shuffled(len(source), seed))
    if isinstance(source, Iterable):
        return enumerate(source)
    raise ValueError(f"{name} must be a list or a data set, got {type(source).__name__}")


def _shuffled(size: int, seed: int) -> Iterator[int]:
    """The numbers below `size` in random order. Of many they are drawn one by one: a data set may have billions."""
    draw = random.Random(seed)  # its own generator: the global one belongs to the training run
    if size <= LISTED:
        order = list(range(size))
        draw.shuffle(order)
        yield from order
        return
    moved: dict[int, int] = {}
    for last in range(size - 1, -1, -1):
        i = draw.randrange(last + 1)
        yield moved.get(i, i)
        moved[i] = moved.pop(last, last)


def data_of(loader: Any) -> Any:
    """The data set behind a trainer's loader, without the wrapper that shares a stream out over ranks.

    Raises:
        ValueError: there is none.
    """
    source = getattr(loader, "dataset", None)
    while isinstance(source, IterableDataset) and isinstance(
        inner := getattr(source, "dataset", None), IterableDataset
    ):
        source = inner
    if source is None:
        raise ValueError("prompts is None, but the trainer has no data set to take them from: give prompts=[...]")
    return source


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
        except Exception as error:  # `collect` names the row
            return str(error)


def _has_places(source: Any) -> bool:
    """Whether rows can be read by their number."""
    stream = isinstance(source, IterableDataset)  # has a `__getitem__` that raises
    return not stream and hasattr(source, "__len__") and hasattr(source, "__getitem__")
