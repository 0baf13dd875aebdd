"""What failed, in words, and the warning that says so. Nothing here raises: a monitor never ends the run it watches."""

from __future__ import annotations

import contextlib
import sys
import traceback
import warnings
from pathlib import Path

PACKAGE = Path(__file__).parent
LONGEST = 200  # characters of an error


def warn(text: str) -> None:
    """Warns. Where warnings are errors (`python -W error`), the text is printed to standard error instead."""
    try:
        warnings.warn(f"spinal: {text}", stacklevel=3)
    except Exception:
        with contextlib.suppress(Exception):
            print(f"spinal: {text}", file=sys.stderr)


def described(error: BaseException) -> str:
    """`repr` of an error, shortened; its class alone where `repr` fails, as it may for an error of a tracker."""
    try:
        text = repr(error)
    except Exception:
        return f"{type(error).__name__}, whose message cannot be shown"
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}..."


def placed(error: BaseException) -> str:
    """An error as records and trackers get it: class and place, without its message where a model raised it.

    A model's error may quote the prompt that it was given. Messages of this package and of the file system do not.
    """
    if place := getattr(error, "place", ""):  # of an error on another rank
        return str(place)
    try:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        if isinstance(error, OSError | MemoryError) or Path(frame.filename).is_relative_to(PACKAGE):
            return described(error)
        return f"{type(error).__name__} in {Path(frame.filename).name}, line {frame.lineno}"
    except Exception:
        return type(error).__name__
