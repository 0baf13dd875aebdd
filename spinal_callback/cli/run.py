"""`spinal run`: a training command that cannot be edited, watched."""

from __future__ import annotations

import argparse
import dataclasses
from typing import Any

from ..config import SpinalConfig
from ..hosts.any_command import run
from ..hosts.settings import parse


def add(commands: Any) -> None:
    """Puts the command into the parser of `spinal`."""
    names = ", ".join(field.name for field in dataclasses.fields(SpinalConfig))
    command = commands.add_parser(
        "run",
        help="run a training command that cannot be edited, and watch every transformers Trainer in it",
        usage="spinal run [NAME=VALUE ...] -- COMMAND ...",
        description="Runs COMMAND unchanged, such as `trl dpo --config dpo.yaml` or `torchrun train.py`, and adds a"
        f" SpinalCallback to every transformers Trainer in it. Settings: {names}.",
    )
    command.add_argument("words", nargs=argparse.REMAINDER, metavar="NAME=VALUE ... -- COMMAND")
    command.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    words = args.words
    end = words.index("--") if "--" in words else len(words)
    strange = [word for word in words[:end] if "=" not in word]
    if strange or end == len(words):
        what = f"{strange[0]!r} is not NAME=VALUE" if strange else "there is no --"
        raise ValueError(f"{what}: write the settings, then --, then the command (spinal run every=25 -- trl dpo)")
    run(words[end + 1 :], SpinalConfig.of(None, parse(words[:end])))
    return 0
