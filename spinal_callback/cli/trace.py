"""The commands that read saved traces: `spinal show`, `replay`, `calibrate`, `report`."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from ..alerts.calibration import calibrate, check_enough, dump_rules, load_rules, loosened
from ..alerts.detector import replay
from ..alerts.rules import RULES
from ..files import free, save
from ..records import dump_record
from ..report.page import names, page
from ..report.text import alert_line, everything
from ..run_folder import REPORT, trace_path
from ..traces import load_sound
from .output import say

TRACE = "a trace.jsonl (or .jsonl.gz), or a run's output folder"


def add(commands: Any) -> None:
    """Adds these commands to the parser of `spinal`."""
    what = "print a trace: its readings, its alerts, a table and a plot of the layers"
    show = _add(commands, "show", _show, what, "Exit code 1 if the trace has alerts.")
    show.add_argument("trace", metavar="TRACE", help=TRACE)
    show.add_argument("--json", action="store_true", help="print header, readings, alerts and notices as JSON")
    what = "run the alert rules over a trace and print the alerts they raise"
    again = _add(commands, "replay", _replay, what, "Exit code 1 if they raise any.")
    again.add_argument("trace", metavar="TRACE", help=TRACE)
    again.add_argument("--rules", help="a rules file made by spinal calibrate (default: the built-in limits)")
    again.add_argument("--json", action="store_true", help="print the alerts as JSON")
    what = "fit the limits of the alert rules to your own healthy runs"
    fit = _add(commands, "calibrate", _calibrate, what, "Needs five runs of one model, and writes a rules file.")
    fit.add_argument("traces", metavar="TRACE", nargs="+", help=f"traces of healthy runs of one model; each is {TRACE}")
    fit.add_argument("-o", "--output", default="rules.json", help="the rules file to write (default: rules.json)")
    fit.add_argument("--force", action="store_true", help="replace the output file if it exists")
    fit.add_argument(
        "--alerts-were-false",
        action="store_true",
        help="take traces with alerts too: the runs were healthy, and the new limits shall not raise these alerts",
    )
    what = "write one trace, or several, as an HTML page that needs no network"
    draw = _add(commands, "report", _report, what, "Exit code 0 once it is written, with or without alerts.")
    draw.add_argument("traces", metavar="TRACE", nargs="+", help=f"{TRACE}; several are drawn over one another")
    draw.add_argument("-o", "--output", default=REPORT, help=f"the page to write (default: {REPORT})")
    draw.add_argument("--force", action="store_true", help="replace the output file if it exists")


def _add(commands: Any, name: str, run: Callable[[argparse.Namespace], int], what: str, more: str) -> Any:
    parser = commands.add_parser(name, help=what, description=f"{what[0].upper()}{what[1:]}. {more}")
    parser.set_defaults(run=run)
    return parser


def _show(args: argparse.Namespace) -> int:
    trace = load_sound(args.trace)
    if args.json:
        say(json.dumps(trace.to_json()))
    else:
        say(everything(trace))
    return 1 if trace.alerts else 0


def _replay(args: argparse.Namespace) -> int:
    limits = load_rules(args.rules) if args.rules else None
    trace = load_sound(args.trace)
    try:
        alerts = replay(trace, limits)
    except ValueError as error:
        raise ValueError(f"{args.trace}: {error}") from None
    if args.json:
        say(json.dumps([json.loads(dump_record(alert)) for alert in alerts]))
    else:
        last = trace.readings[-1].step
        total = f"{len(alerts)} alerts in {len(trace.readings)} readings, steps 0 to {last}"
        say("\n".join((*map(alert_line, alerts), total)))
    return 1 if alerts else 0


def _calibrate(args: argparse.Namespace) -> int:
    output = free(args.output, args.force, files_of(args.traces))
    traces = {path: load_sound(path) for path in args.traces}
    check_enough(traces, args.alerts_were_false)
    limits = calibrate(traces)
    save(output, dump_rules(limits))
    for name, limit in limits.items():
        stop = f"error {limit.error:.4g}" if math.isfinite(limit.error) else "never an error"
        say(f"{name:18} warn {limit.warn:.4g}  {stop}  {RULES[name].unit}", beside=output)
    for name, factor in loosened(limits).items():
        say(
            f"{name} now warns at {factor:.1f} times its default limit, since your runs reach that: a run that breaks"
            f" may pass it. Check that these runs are healthy, or delete the row of {name} to keep the default.",
            beside=output,
        )
    if output.is_file():
        say(f'written to {output}: use it with SpinalCallback(rules="{output}")')
    return 0


def _report(args: argparse.Namespace) -> int:
    output = free(args.output, args.force, files_of(args.traces))
    text = page({name: load_sound(path).to_json() for name, path in names(args.traces).items()})
    save(output, text)
    if output.is_file():
        say(f"written to {output} ({output.stat().st_size / 1000:.0f} kB): open it in a browser")
    return 0


def files_of(paths: Iterable[str | None]) -> list[Path]:
    """The files that a command may read for these arguments: each path itself, and the trace in it if it is a run."""
    return [file for path in paths if path for file in (Path(path), trace_path(Path(path)))]
