"""The commands that read saved traces: `spinal show`, `replay`, `calibrate`, `report`."""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from pathlib import Path
from typing import Any

from ..alerts.calibration import calibrate, load_rules, save_rules
from ..alerts.detector import replay
from ..alerts.rules import RULES
from ..files import free, save
from ..records import dump_record
from ..report.page import names, page
from ..report.text import alert_line, line, summary
from ..run_folder import REPORT, trace_path
from ..traces import load_sound, load_trace


def add(commands: Any) -> None:
    """Puts these commands into the parser of `spinal`."""
    show = commands.add_parser("show", help="print a saved trace: its readings, a table of the late layers, a picture")
    show.add_argument("trace", help="trace.jsonl, or the run's output folder")
    show.add_argument("--json", action="store_true", help="header, readings and alerts as JSON")
    show.set_defaults(run=_show)
    again = commands.add_parser("replay", help="run the alert rules over a saved trace: which alerts, and when")
    again.add_argument("trace", help="trace.jsonl, or the run's output folder")
    again.add_argument("--rules", help="rules file made by spinal calibrate; the default limits if left out")
    again.add_argument("--json", action="store_true", help="the alerts as JSON")
    again.set_defaults(run=_replay)
    fit = commands.add_parser("calibrate", help="fit the alert rules' limits to your own healthy runs")
    fit.add_argument("traces", nargs="+", help="trace.jsonl of healthy runs of one model, or their output folders")
    fit.add_argument("-o", "--output", default="rules.json", help="the rules file to write (default: rules.json)")
    fit.add_argument("--force", action="store_true", help="replace the output file if it is there")
    fit.set_defaults(run=_calibrate)
    draw = commands.add_parser("report", help="write a saved trace, or several, as one HTML page that needs no network")
    draw.add_argument("traces", nargs="+", help="trace.jsonl, or output folders; several are laid over one another")
    draw.add_argument("-o", "--output", default=REPORT, help=f"the page to write (default: {REPORT})")
    draw.add_argument("--force", action="store_true", help="replace the output file if it is there")
    draw.set_defaults(run=_report)


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


def _replay(args: argparse.Namespace) -> int:
    limits = load_rules(args.rules) if args.rules else None
    trace = load_trace(args.trace)
    try:
        alerts = replay(trace, limits)
    except ValueError as error:
        raise ValueError(f"{args.trace}: {error}") from None
    if args.json:
        print(json.dumps([json.loads(dump_record(alert)) for alert in alerts]))
    else:
        for alert in alerts:
            print(alert_line(alert))
        last = trace.readings[-1].step
        print(f"{len(alerts)} alerts in {len(trace.readings)} readings, steps 0 to {last}")
    return 1 if alerts else 0


def _calibrate(args: argparse.Namespace) -> int:
    output = free(args.output, args.force)
    limits = calibrate({path: load_trace(path) for path in args.traces})
    save_rules(output, limits)
    for name, limit in limits.items():
        print(f"{name:18} warn {limit.warn:.4g}  error {limit.error:.4g}  {RULES[name].unit}")
    print(f'written to {output}: use it with SpinalCallback(rules="{output}")')
    return 0


def _report(args: argparse.Namespace) -> int:
    output = free(args.output, args.force)
    runs = {name: _drawable(path, output) for name, path in names(args.traces).items()}
    save(output, page(runs))
    print(f"written to {output} ({output.stat().st_size / 1000:.0f} kB): open it in a browser")
    return 0


def _drawable(path: str, output: Path) -> dict[str, Any]:
    """A trace that can be drawn, as JSON; whatever is wrong with it becomes a ValueError that names the path."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run = load_sound(path).to_json()
    if any(output.exists() and output.samefile(p) for p in (Path(path), trace_path(Path(path))) if p.exists()):
        raise ValueError(f"{output} is the trace itself: give another -o")
    for warning in caught:
        print(f"spinal report: {warning.message}", file=sys.stderr)
    return run
