"""A saved trace that can be drawn and compared: whatever is wrong with a file becomes one sentence that names it."""

from __future__ import annotations

from pathlib import Path

from .records import Trace, load_trace
from .report.page import check


def load_sound(path: str | Path) -> Trace:
    """`load_trace`, and its numbers are looked at. Warns of a torn last line, as that does.

    Raises:
        ValueError: no trace there, damaged, foreign, or without readings; names the path.
    """
    try:
        trace = load_trace(path)
        check({str(path): trace.to_json()})
    except FileNotFoundError as error:
        raise ValueError(f"no trace at {error.filename}: give a trace.jsonl or the output folder of a run") from None
    except (OSError, ValueError) as error:
        raise ValueError(str(error) if str(path) in str(error) else f"{path}: {error}") from None
    except (TypeError, AttributeError, KeyError):
        raise ValueError(f"{path}: a record does not hold what a trace's does: damaged, or not a trace") from None
    return trace
