"""Which layers differ between two checkpoints, or between two saved traces, and how surely: `compare`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..config import SpinalConfig
from ..run_folder import trace_path
from ..traces import Trace, load_sound
from .compare_traces import compare_traces, prompts_of_a_fit
from .effects import bounds
from .equivalence import judged
from .p_values import student_t
from .results import Comparison
from .settings import check_enough, settings

if TYPE_CHECKING:
    from .reader import CheckpointReadings


def compare(
    a: str | Path | Trace,
    b: str | Path | Trace,
    prompts: Any = None,
    config: SpinalConfig | None = None,
    *,
    preset: str | None = None,
    at_least: Mapping[str, float] | None = None,
    device_map: Any = "auto",
    **fields: Any,
) -> Comparison:
    """Which layers of `b` differ from those of `a`, by how much, and how surely.

    Two checkpoints are read with the same prompts and compared prompt by prompt. Two saved traces are compared by their
    last readings, with the errors that a trace holds (`compare_traces.unpaired`), which takes seconds and no torch.

    Args:
        a, b: two checkpoints, given as for `audit`; or two traces: `Trace` objects, .jsonl files, or the output folders
            of runs that hold no model themselves.
        prompts, config, device_map, fields: as for `audit`; two traces do not use them.
        preset, at_least: as for `audit`.

    Raises:
        ValueError, ImportError: as `audit` does; also for a trace against a checkpoint, and for traces of different
            depth, prompts or settings.
    """
    student_t()
    matters = bounds(at_least)
    traces = _as_trace(a), _as_trace(b)
    if traces[0] is not None and traces[1] is not None:
        return compare_traces(_name(a), _name(b), traces[0], traces[1], matters)
    for source, trace in ((a, traces[0]), (b, traces[1])):
        if trace is not None:
            raise ValueError(f"{_name(source)} is a saved trace, the other is not: give two checkpoints or two traces")
    config = settings(config, fields, ("prompts", "preset", "at_least", "device_map"), preset)
    from .checkpoints import find  # these stand on torch and transformers, which take seconds to import
    from .reader import CheckpointReader

    reader = CheckpointReader({0: find(str(a)), 1: find(str(b))}, prompts, config, device_map)
    check_enough(preset, config, len(reader.prompts.ids))
    return _compared(reader.read_all(), matters)


def _compared(read: CheckpointReadings, at_least: Mapping[str, float]) -> Comparison:
    from .significance import estimates, paired  # torch

    header, pair = read.header, (read.samples[0], read.samples[1], read.header.window)
    effects = judged(estimates(*pair), at_least, header.prompts, prompts_of_a_fit(header))
    a, b = read.readings
    entropies = a.layer_entropy, b.layer_entropy
    return Comparison(read.names[0], read.names[1], paired(*pair), effects, b.displacement, entropies)


def _as_trace(source: str | Path | Trace) -> Trace | None:
    """The trace that `source` is or names; None if it names something else."""
    if isinstance(source, Trace):
        return source
    path = Path(source).expanduser()
    if path.name.endswith((".jsonl", ".jsonl.gz")):
        return load_sound(path)
    saved = trace_path(path).exists() and not (path / "config.json").exists()
    return load_sound(path) if saved else None


def _name(source: str | Path | Trace) -> str:
    return source.header.model if isinstance(source, Trace) else str(source)
