"""How the commands print: one process of a group, in characters that the terminal can show and that cannot steer it."""

from __future__ import annotations

import codecs
import io
import os
import re
import sys
import warnings
from pathlib import Path
from typing import Any

from ..files import STANDARD_OUTPUT
from ..report.text import in_ascii

PACKAGE = Path(__file__).parent.parent
# control characters other than tab and newline, and those that change the direction of the text
CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
LAUNCHERS_SET = {"RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"}


def say(text: Any, beside: Path | None = None) -> None:
    """Prints `text`. Control characters, which a trace or a path may hold, are written as their escapes.

    `beside`: the command's output file. If that is standard output, the text goes to stderr.
    """
    print(_without_control(str(text)), file=sys.stderr if beside == STANDARD_OUTPUT else sys.stdout)


def complain(command: str, text: Any) -> None:
    """Prints one line on stderr, named after the command."""
    if isinstance(text, OSError) and text.filename and text.strerror:
        text = f"{text.filename}: {text.strerror}"  # without the number
    line = " ".join(_without_control(str(text)).split("\n"))
    print(f"spinal {command}: {line}", file=sys.stderr)


def is_first_rank() -> bool:
    """True for the process that prints: the only one, or rank zero of those that torchrun or accelerate started.

    RANK alone may be left over from something else: a launcher sets all four variables.
    """
    alone = not set(os.environ) >= LAUNCHERS_SET or os.environ["WORLD_SIZE"] == "1"
    return alone or os.environ["RANK"] == "0"


def print_anywhere() -> None:
    """Lets stdout and stderr take every character: what their encoding lacks is printed as ASCII."""
    codecs.register_error("spinal", _stand_in)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a notebook or a test may have put something else there
            stream.reconfigure(errors="spinal")


def warn_in_lines(command: str) -> None:
    """Prints this package's warnings as lines on stderr, whatever PYTHONWARNINGS says. Call in `catch_warnings`."""
    warnings.filterwarnings("always", category=UserWarning, module=r"spinal_callback\b")
    show_others = warnings.showwarning

    def show(message: Any, category: type[Warning], filename: str, *args: Any, **kwargs: Any) -> None:
        if category is UserWarning and Path(filename).is_relative_to(PACKAGE):
            complain(command, message)
        else:
            show_others(message, category, filename, *args, **kwargs)

    warnings.showwarning = show


def drop_output() -> None:
    """Sends the rest of stdout nowhere: its reader is gone, and Python would complain when it flushes at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _without_control(text: str) -> str:
    return CONTROL.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def _stand_in(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeEncodeError)
    return in_ascii(error.object[error.start : error.end]), error.end
