"""Writes files whole or not at all, and replaces none unasked."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def free(path: str | Path, force: bool) -> Path:
    """The path of an output file, if it may be written.

    Raises:
        ValueError: it exists and `force` is False, it is a folder, or its folder does not exist.
    """
    output = Path(path)
    if output.exists() and not force:
        raise ValueError(f"{output} already exists; choose another -o or use --force")
    if output.is_dir():
        raise ValueError(f"{output} is a folder: choose a file in it with -o")
    if not output.parent.is_dir():
        raise ValueError(f"there is no folder {output.parent}: make it or choose another -o")
    return output


def save(path: Path, text: str) -> None:
    """Writes a temporary file beside `path` and renames it: a reader finds the old file or the new one, never half."""
    handle, made = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        with open(handle, "w", encoding="utf-8") as file:
            file.write(text)
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(made, 0o666 & ~mask)  # mkstemp lets only the owner read, and a report is for others too
        os.replace(made, path)
    except BaseException:
        os.unlink(made)
        raise
