"""`spinal workspace`: a ready dashboard on W&B."""

from __future__ import annotations

import argparse
import json
from typing import Any

from ..sinks.wandb_workspace import make, spec
from .output import say


def add(commands: Any) -> None:
    """Adds the command to the parser of `spinal`."""
    board = commands.add_parser(
        "workspace",
        help="make a W&B dashboard for a project's SPINAL runs",
        description="Makes a workspace on W&B with the charts of all SPINAL runs in a project, and prints its address.",
    )
    board.add_argument("--entity", required=True, help="W&B user or team that owns the project")
    board.add_argument("--project", required=True, help="W&B project; the Trainer's default is huggingface")
    board.add_argument("--dry-run", action="store_true", help="print the workspace as JSON and send nothing")
    board.set_defaults(run=_workspace)


def _workspace(args: argparse.Namespace) -> int:
    if args.dry_run:
        say(json.dumps(spec(args.entity, args.project), indent=2))
    else:
        say(f"made {make(args.entity, args.project)}")
    return 0
