"""`spinal card`: a run as a Markdown section, printed or put into an existing document."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ..files import save
from ..report.card import card, insert
from ..traces import load_sound
from .output import say
from .trace import TRACE, files_of


def add(commands: Any) -> None:
    """Puts the command into the parser of `spinal`."""
    command = commands.add_parser(
        "card",
        help="write a run as a Markdown section, for a model card, a pull request or a CI summary",
        description="Prints a run as a Markdown section, or puts it into a file. Exit code 0 with or without alerts.",
    )
    command.add_argument("trace", metavar="TRACE", help=TRACE)
    command.add_argument(
        "--into",
        metavar="FILE",
        help="put the section into this Markdown file, in place of an earlier one, or at its end;"
        " the rest of the file stays as it is",
    )
    command.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    section = card(load_sound(args.trace).to_json())
    if args.into is None:
        say(section.rstrip("\n"))
        return 0
    path = Path(args.into)
    before = _document(path, args.trace)
    try:
        after = insert(before, section)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    if after != before:
        save(path, after)
    say(f"{path}: {'the section is there already' if after == before else 'the section was put in'}")
    return 0


def _document(path: Path, trace: str) -> str:
    """What a file holds, its line ends as they are.

    Raises:
        ValueError: there is no such file, it is no text, or it is the trace.
    """
    if not path.is_file():
        what = "is not a file" if path.exists() else "does not exist"
        raise ValueError(
            f"{path} {what}: give an existing Markdown file to --into, or redirect what spinal card prints"
        )
    if any(file.exists() and path.samefile(file) for file in files_of([trace])):
        raise ValueError(f"{path} is the trace: give a Markdown file to --into")
    try:
        return path.read_bytes().decode("utf-8")
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not text in UTF-8: give a Markdown file to --into") from None
