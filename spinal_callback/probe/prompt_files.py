"""Prompts that come from no trainer: the bundled ones, a file, or a data set. `prompts.collect` tokenizes them."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

SHIPPED = Path(__file__).parent / "prompts.jsonl"  # 64 questions of one turn, written for this project
PACKED = ".gz"
SPLITS = ("test", "validation", "train")  # the first of these that a data set has, else its first split


def shipped(tokenizer: Any) -> list[Any]:
    """The bundled prompts: chat messages, or their plain text for a tokenizer without a chat template."""
    chats = [row["prompt"] for row in _json_lines(SHIPPED)]
    return chats if getattr(tokenizer, "chat_template", None) else [chat[-1]["content"] for chat in chats]


def load_prompts(source: str | Path) -> Any:
    """Prompts from a file or a data set.

    Args:
        source: a file of JSON lines or a JSON list (rows with `prompt`, `messages`, or `chosen` and `rejected`;
            strings; chat messages), a text file with one prompt on each line, each plain or packed (.gz); a folder
            written by `Dataset.save_to_disk`; or what `datasets.load_dataset` takes.

    Returns:
        a list, or a data set, with the rows as they are.

    Raises:
        ValueError: no such file or data set, a file of another format than its suffix, no prompts, or rows without
            these columns; names the file and, if there is one, the line.
        ImportError: a data set, and `datasets` is not installed.
    """
    path = Path(source).expanduser()
    if path.is_file():
        return _from_file(path)
    if path.suffix in (".json", ".jsonl", ".txt", PACKED):
        raise ValueError(f"prompts: the file {source} does not exist")
    rows = _data_set(source, path)
    _check(rows[0] if len(rows) else {}, f"prompts {source}")
    return rows


def _from_file(path: Path) -> list[Any]:
    readers = {".jsonl": _json_lines, ".json": _json_list, ".txt": _text_lines}
    suffix = Path(path.stem).suffix if path.suffix == PACKED else path.suffix
    reader = readers.get(suffix)
    if reader is None:
        raise ValueError(f"prompts: {path} must be a .jsonl, .json or .txt file (or one packed as .gz), or a data set")
    try:
        rows = reader(path)
    except UnicodeDecodeError:
        raise ValueError(f"prompts: {path} is not text in UTF-8") from None
    except (gzip.BadGzipFile, EOFError, zlib.error):
        raise ValueError(f"prompts: {path} is cut off or damaged: it cannot be unpacked") from None
    if not rows:
        raise ValueError(f"prompts: {path} is empty")
    for number, row in enumerate(rows, start=1):
        _check(row, f"prompts: {path}, {'prompt' if suffix == '.json' else 'line'} {number}")
    return rows


def _text(path: Path) -> str:
    if path.suffix == PACKED:
        return gzip.decompress(path.read_bytes()).decode("utf-8")
    return path.read_text(encoding="utf-8")


def _json_lines(path: Path) -> list[Any]:
    rows = []
    for number, line in enumerate(_text(path).splitlines(), start=1):
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError as error:
            raise ValueError(f"prompts: {path}, line {number}: not JSON ({error.msg})") from None
    return rows


def _json_list(path: Path) -> list[Any]:
    try:
        rows = json.loads(_text(path))
    except json.JSONDecodeError as error:
        raise ValueError(f"prompts: {path}, line {error.lineno}: not JSON ({error.msg})") from None
    if not isinstance(rows, list):
        raise ValueError(f"prompts: {path} must be a list of prompts, got {type(rows).__name__}")
    return rows


def _text_lines(path: Path) -> list[Any]:
    return [line for line in _text(path).splitlines() if line.strip()]


def _data_set(source: str | Path, path: Path) -> Any:
    try:
        from datasets import load_dataset, load_from_disk  # takes a second to import; a file does not need it
    except ImportError as error:
        raise ImportError(
            f"prompts: {source} is no file of prompts, and a data set needs datasets: pip install datasets"
        ) from error
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
    if isinstance(row, Mapping) and not {"prompt", "messages"} & set(row) and not {"chosen", "rejected"} <= set(row):
        columns = ", ".join(map(repr, row)) or "none"
        raise ValueError(
            f"{where} has neither `prompt` nor `messages`, nor `chosen` with `rejected`; its columns are {columns}"
        )
