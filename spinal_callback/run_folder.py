"""Where a training run keeps trace, report, checkpoints and reference: the only file that spells their names.

    RUN/                                  `output_dir` of the Trainer
        _spinal/trace.jsonl               header, readings, alerts, notices
        _spinal/trace_before_{step}.jsonl an earlier trace, with another reference
        _spinal/report.html
        checkpoint-{step}/                written by the Trainer
            spinal_start.safetensors      the reference: the sample that changes are measured from

The leading underscore keeps the folder out of `push_to_hub`.
"""

from __future__ import annotations

import re
from pathlib import Path

FOLDER, TRACE, REPORT = "_spinal", "trace.jsonl", "report.html"
REFERENCE_FILE = "spinal_start.safetensors"


def trace_path(run: Path) -> Path:
    return run / FOLDER / TRACE


def replaced_trace_path(run: Path, step: int) -> Path:
    """Where a trace is moved to when a run resumed at `step` begins a new one."""
    return run / FOLDER / f"trace_before_{step}.jsonl"


def report_path(run: Path) -> Path:
    return run / FOLDER / REPORT


def run_of(path: Path) -> Path:
    """The run's folder, of a path to its trace or report; any other path as it is."""
    return path.parent.parent if path.parent.name == FOLDER else path


def checkpoint_name(step: int) -> str:
    return f"checkpoint-{step}"


def checkpoint_step(path: Path) -> int | None:
    """The step of a path that is named like a checkpoint; None for any other."""
    named = re.fullmatch(r"checkpoint-(\d+)", path.name)
    return int(named[1]) if named else None


def checkpoints(run: Path) -> dict[int, Path]:
    """Step -> folder of a run's checkpoints, in order; none if it is not a run's folder."""
    found = ((checkpoint_step(path), path) for path in run.glob("checkpoint-*") if path.is_dir())
    return dict(sorted((step, path) for step, path in found if step is not None))


def references(run: Path) -> list[Path]:
    """The reference as each of a run's checkpoints has it, in the order of their steps."""
    files = (path / REFERENCE_FILE for path in checkpoints(run).values())
    return [file for file in files if file.exists()]
