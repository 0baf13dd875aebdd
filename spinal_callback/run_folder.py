"""Where a training run keeps trace, report, checkpoints and reference: the only file that spells their names.

    RUN/                                  `output_dir` of the Trainer
        _spinal/trace.jsonl               header, readings, alerts, notices
        _spinal/trace_before_{step}.jsonl an earlier trace, with another reference, or damaged; more: `..._2.jsonl`
        _spinal/report.html
        _spinal/trace_2.jsonl             of a second run that began in the same folder before the first had ended;
        _spinal/report_2.html             a third has `trace_3.jsonl`, and so on
        _spinal/start.safetensors         the reference of a run that pushes its checkpoints
        checkpoint-{step}/                written by the Trainer
            spinal_start.safetensors      the reference: the sample that changes are measured from

The leading underscore keeps the folder out of `push_to_hub`.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

FOLDER, TRACE, REPORT = "_spinal", "trace.jsonl", "report.html"
REFERENCE_FILE = "spinal_start.safetensors"


def trace_path(run: Path, number: int = 1) -> Path:
    """The trace of a run's folder; `number`: of the runs that write there at the same time."""
    return numbered(run / FOLDER / TRACE, number)


def replaced_trace_path(trace: Path, step: int) -> Path:
    """Where a trace is put when a run resumed at `step` cannot continue it: a name that is free."""
    path = trace.with_name(f"{trace.stem}_before_{step}{trace.suffix}")
    free = (numbered(path, number) for number in range(1, 1000))
    return next((place for place in free if not os.path.lexists(place)), path)


def report_path(trace: Path) -> Path:
    """The report beside a trace."""
    return trace.with_name(trace.name.replace("trace", "report").replace(".jsonl", ".html"))


def pushed_reference_path(run: Path) -> Path:
    """Where the reference of a run is whose checkpoints are pushed to a hub: the folder beside them is not."""
    return run / FOLDER / "start.safetensors"


def numbered(path: Path, number: int) -> Path:
    return path if number == 1 else path.with_name(f"{path.stem}_{number}{path.suffix}")


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
    """The reference as each of a run's checkpoints has it, in the order of their steps, and the one beside them."""
    files = [path / REFERENCE_FILE for path in checkpoints(run).values()]
    return [file for file in [*files, pushed_reference_path(run)] if file.exists()]
