"""Writes files whole or not at all. Replaces none unasked, and none that is being read; devices and pipes never."""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any

STANDARD_OUTPUT = Path("-")


def free(path: str | Path, force: bool, inputs: Iterable[str | Path] = ()) -> Path:
    """The path of an output file, if it may be written; "-" is standard output.

    Args:
        force: an existing file may be replaced.
        inputs: files that the command reads; none of them may be the output, not even by another name (a link).

    Raises:
        ValueError: it exists and `force` is False, it is an input, a folder, or neither a regular file nor a pipe nor a
            terminal, or its folder does not exist.
    """
    output = Path(path)
    if output == STANDARD_OUTPUT or _is_stream(output):
        return output
    if output.is_dir():
        raise ValueError(f"{output} is a folder: choose a file in it with -o")
    if any(_is_same(output, Path(file)) for file in inputs):
        raise ValueError(f"{output} is read by this command: choose another -o")
    if output.exists() and not output.is_file():
        raise ValueError(f"{output} is neither a file nor a pipe: choose another -o")
    if os.path.lexists(output) and not force:  # also a symlink to nowhere
        raise ValueError(f"{output} already exists; choose another -o or use --force")
    folder = _target(output).parent
    if not folder.is_dir():
        raise ValueError(f"there is no folder {folder}: make it or choose another -o")
    return output


def save(path: Path, text: str) -> None:
    """Writes a temporary file beside `path` and renames it: a reader finds the old file or the new one, never half.

    A symlink stays, and the file it points to is replaced. Pipes, terminals and `STANDARD_OUTPUT` are written into.
    """
    data = text.encode("utf-8")
    if path == STANDARD_OUTPUT:
        sys.stdout.flush()
        sys.stdout.buffer.write(data)
    elif _is_stream(path):
        path.write_bytes(data)
    else:
        _replace(_target(path), data)


def lock(file: IO[Any]) -> None:
    """Marks an open file as being written, until it is closed or its process ends. Nothing where locks do not work."""
    with contextlib.suppress(OSError):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def is_locked(path: Path) -> bool:
    """Whether a process that is alive has `lock`ed the file."""
    if not path.is_file():  # to open a pipe would be to wait
        return False
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # no such file, or a file system without locks
        return False
    return False


def _replace(path: Path, data: bytes) -> None:
    # the name is not part of the temporary one: it may be as long as names can be
    handle, made = tempfile.mkstemp(dir=path.parent, prefix=".spinal_", suffix=".tmp")
    try:
        with open(handle, "wb") as file:
            file.write(data)
        os.chmod(made, _mode(path))  # mkstemp lets only the owner read, and a report is for others too
        os.replace(made, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(made)
        raise


def _mode(path: Path) -> int:
    """Who may read and write a file: as now if it exists, as a new file's otherwise."""
    with contextlib.suppress(FileNotFoundError):
        return stat.S_IMODE(path.stat().st_mode)
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask


def _is_stream(path: Path) -> bool:
    """True for a pipe, a terminal or /dev/null: what is written there replaces nothing."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISCHR(mode)


def _is_same(path: Path, other: Path) -> bool:
    try:
        return path.samefile(other)
    except OSError:  # one of them does not exist
        return False


def _target(path: Path) -> Path:
    """The path itself, or the end of a symlink, whether or not there is a file."""
    return Path(os.path.realpath(path)) if path.is_symlink() else path
