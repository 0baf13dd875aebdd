"""The command `spinal`: a module for each family of commands, and their exit codes.

0: fine, 1: alerts, or a difference found, 2: wrong use. `spinal report` is fine once its page is written, alerts or
not: the page says what they are.
"""

from __future__ import annotations

import argparse
import os
import sys

from ..version import __version__
from . import audit, trace, workspace

FAMILIES = (audit, trace, workspace)  # each has `add`, which sets `run` for each of its commands


def main(argv: list[str] | None = None) -> int:
    """Runs one command and returns its exit code."""
    args = _parser().parse_args(argv)
    try:
        return int(args.run(args))
    except (OSError, ValueError, ImportError) as error:
        if os.environ.get("RANK", "0") == "0":  # under torchrun every rank fails alike
            print(f"spinal {args.command}: {error}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="spinal", description="SPINAL traces of DPO runs.")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True)
    for family in FAMILIES:
        family.add(commands)
    return parser
