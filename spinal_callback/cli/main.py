"""The command `spinal`: a module for each family of commands; how they end."""

from __future__ import annotations

import argparse
import sys
import warnings

from ..version import __version__
from . import audit, card, run, trace, workspace
from .output import complain, drop_output, is_first_rank, print_anywhere, warn_in_lines

FAMILIES = (audit, card, run, trace, workspace)  # each has `add`, which sets `run` for each of its commands
FINE, FOUND, WRONG, INTERRUPTED, NO_READER = 0, 1, 2, 130, 141  # the last two as shells count signals: 128 + number
EXIT_CODES = """\
exit codes:
  0    fine
  1    show, replay, audit of a run: there are alerts; compare, audit --base: changed by more than --at-least
  2    wrong use, or input that cannot be read: one line on stderr says why
  3    compare, audit --base: these prompts cannot say whether it changed; more might
  130  interrupted (Ctrl-C)
  141  the reader of the output has gone (spinal show RUN | head)"""


def main(argv: list[str] | None = None) -> int:
    """Runs one command and returns its exit code (`EXIT_CODES`)."""
    print_anywhere()
    args = _parser().parse_args(argv)
    with warnings.catch_warnings():
        warn_in_lines(args.command)
        return _run(args)


def _run(args: argparse.Namespace) -> int:
    try:
        code = int(args.run(args))
        sys.stdout.flush()  # so that a reader that has gone is noticed here
        return code
    except BrokenPipeError:
        drop_output()
        return NO_READER
    except KeyboardInterrupt:
        complain(args.command, "interrupted")
        return INTERRUPTED
    except (OSError, ValueError, ImportError) as error:
        if not args.on_all_ranks or is_first_rank():  # every rank fails alike
            complain(args.command, error)
        return WRONG


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="spinal",
        description="Reads the SPINAL traces of DPO runs, makes them of checkpoints, and watches a training command.",
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(on_all_ranks=False)
    parser.add_argument("--version", action="version", version=__version__, help="print the version and exit")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for family in FAMILIES:
        family.add(commands)
    return parser
