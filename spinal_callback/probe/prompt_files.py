"""Prompts that come from no trainer: the bundled ones, a file, or a data set. `prompts.collect` tokenizes them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

SHIPPED = Path(__file__).parent / "prompts.jsonl"  # 64 questions of one turn, written for this project
SPLITS = ("test", "validation", "train")  # the first of these that a data set has, else its first split


def shipped(tokenizer: Any) -> list[Any]:
    """The bundled prompts: chat messages, or their plain text for a tokenizer without a chat template."""
    chats = [row["prompt"] for row in _json_lines(SHIPPED)]
    return chats if getattr(tokenizer, "chat_template", None) else [chat[-1]["content"] for chat in chats]


def load_prompts(source: str | Path) -> Any:
    """Prompts from a file or a data set.

    Args:
        source: a file of JSON lines or a JSON list (rows with `prompt` or `messages`, strings, or chat messages), a
            text file with one prompt on each line, a folder written by `Dataset.save_to_disk`, or what
            `datasets.load_dataset` takes.

    Returns:
        a list, or a data set, with the rows as they are.

    Raises:
        ValueError: no such file or data set, a file of another format than its suffix, no prompts, or rows with neither
            `prompt` nor `messages`; names the file and, if there is one, the line.
    """
    path = Path(source).expanduser()
    if path.is_file():
        return _from_file(path)
    if path.suffix in (".json", ".jsonl", ".txt"):
        raise ValueError(f"prompts: the file {source} does not exist")
    rows = _data_set(source, path)
    _check(rows[0] if len(rows) else {}, f"prompts {source}")
    return rows


def _from_file(path: Path) -> list[Any]:
    readers = {".jsonl": _json_lines, ".json": _json_list, ".txt": _text_lines}
    reader = readers.get(path.suffix)
    if reader is None:
        raise ValueError(f"prompts: {path} must be a .jsonl, .json or .txt file, or a data set")
    try:
        rows = reader(path)
    except UnicodeDecodeError:
        raise ValueError(f"prompts: {path} is not text in UTF-8") from None
    if not rows:
        raise ValueError(f"prompts: {path} is empty")
    for number, row in enumerate(rows, start=1):
        _check(row, f"prompts: {path}, {'prompt' if path.suffix == '.json' else 'line'} {number}")
    return rows


def _json_lines(path: Path) -> list[Any]:
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError as error:
            raise ValueError(f"prompts: {path}, line {number}: not JSON ({error.msg})") from None
    return rows


def _json_list(path: Path) -> list[Any]:
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"prompts: {path}, line {error.lineno}: not JSON ({error.msg})") from None
    if not isinstance(rows, list):
        raise ValueError(f"prompts: {path} must be a list of prompts, got {type(rows).__name__}")
    return rows


def _text_lines(path: Path) -> list[Any]:
    return [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def _data_set(source: str | Path, path: Path) -> Any:
    from datasets import load_dataset, load_from_disk  # takes a second to import; a file does not need it

    try:
        saved = (path / "state.json").exists() or (path / "dataset_dict.json").exists()
        rows = load_from_disk(str(path)) if saved else load_dataset(str(source))
    except Exception as error:  # the hub's own errors are of a dozen classes
        why = str(error).partition("\n")[0]
        raise ValueError(f"prompts: {source} is neither a file nor a data set that can be read: {why}") from error
    if isinstance(rows, dict):
        rows = rows[next((split for split in SPLITS if split in rows), next(iter(rows)))]
    return rows


def _check(row: Any, where: str) -> None:
    if isinstance(row, Mapping) and not {"prompt", "messages"} & set(row):
        columns = ", ".join(map(repr, row)) or "none"
        raise ValueError(f"{where} has neither `prompt` nor `messages`, its columns are {columns}")
