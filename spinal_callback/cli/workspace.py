"""`spinal workspace`: a ready dashboard on W&B."""

from __future__ import annotations

import argparse
import json
from typing import Any

from ..sinks.wandb_workspace import make, spec


def add(commands: Any) -> None:
    """Adds the command to the parser's."""
    board = commands.add_parser("workspace", help="make a ready W&B dashboard for a project's SPINAL runs")
    board.add_argument("--entity", required=True, help="user or team on W&B")
    board.add_argument("--project", required=True, help="project on W&B; `huggingface` is the Trainer's default")
    board.add_argument("--dry-run", action="store_true", help="print what would be sent, as JSON; no network")
    board.set_defaults(run=_workspace)


def _workspace(args: argparse.Namespace) -> int:
    if args.dry_run:
        print(json.dumps(spec(args.entity, args.project), indent=2))
    else:
        print(f"made {make(args.entity, args.project)}")
    return 0
