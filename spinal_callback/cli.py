"""The command `spinal`: arguments, printing, exit codes. 0: fine, 1: the trace has alerts, 2: wrong use."""

from __future__ import annotations

import argparse
import json
import sys

from . import __version__
from .records import load_trace
from .terminal import alert_line, line, summary


def main(argv: list[str] | None = None) -> int:
    """Runs one command and returns its exit code."""
    args = _parser().parse_args(argv)
    try:
        return int(args.run(args))
    except (OSError, ValueError) as error:
        print(f"spinal {args.command}: {error}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="spinal", description="SPINAL traces of DPO runs.")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True)
    show = commands.add_parser("show", help="print a saved trace: its readings, a table of the late layers, a picture")
    show.add_argument("trace", help="trace.jsonl, or the run's output folder")
    show.add_argument("--json", action="store_true", help="header, readings and alerts as JSON")
    show.set_defaults(run=_show)
    return parser


def _show(args: argparse.Namespace) -> int:
    trace = load_trace(args.trace)
    if not trace.readings:
        raise ValueError(f"{args.trace} has no readings yet")
    if args.json:
        print(json.dumps(trace.to_json()))
    else:
        for text in (*map(line, trace.readings), *map(alert_line, trace.alerts), "", summary(trace)):
            print(text)
    return 1 if trace.alerts else 0
