"""Files that a command writes: none is overwritten unasked, none is left half-written."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def free(path: str | Path, force: bool) -> Path:
    """The path, if it may be written.

    Raises:
        ValueError: it is there already and `force` is not given, it is a folder, or its folder is not there.
    """
    output = Path(path)
    if output.exists() and not force:
        raise ValueError(f"{output} is there already: give another -o, or --force to replace it")
    if output.is_dir():
        raise ValueError(f"{output} is a folder: give -o a file in it")
    if not output.parent.is_dir():
        raise ValueError(f"there is no folder {output.parent}: make it, or give another -o")
    return output


def save(path: Path, text: str) -> None:
    """Writes beside the place and renames: a reader finds the old file or the new one, never half of one."""
    handle, made = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        with open(handle, "w", encoding="utf-8") as file:
            file.write(text)
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(made, 0o666 & ~mask)  # mkstemp's file is for its owner alone, a report is for sending
        os.replace(made, path)
    except BaseException:
        os.unlink(made)
        raise
