"""What differs between two checkpoints, or between two saved traces, and how surely: `compare`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..config import SpinalConfig
from ..run_folder import trace_path
from ..traces import Trace, load_sound
from .checkpoints import find
from .reader import Walk, configured
from .results import Comparison
from .significance import paired, student_t, unpaired

SAME = ("position", "tail", "top_k")  # settings that two traces must share to be compared


def compare(
    a: str | Path | Trace,
    b: str | Path | Trace,
    prompts: Any = None,
    config: SpinalConfig | None = None,
    *,
    device_map: Any = "auto",
    **fields: Any,
) -> Comparison:
    """Which layers of `b` differ from those of `a`, by how much, and how surely.

    Args:
        a, b: two checkpoints, as for `audit`: read with the same prompts, and so compared prompt by prompt. Or two
            saved traces (`Trace`, a .jsonl file, a run's folder that is no model itself): the last reading of each,
            with the errors that a trace has (`significance.unpaired`).

    Raises:
        ValueError, ImportError: as `audit`; a trace and a checkpoint; traces of different depth, prompts or settings.
    """
    student_t()
    traces = _trace(a), _trace(b)
    if traces[0] is not None and traces[1] is not None:
        return _of_traces(_called(a), _called(b), traces[0], traces[1])
    for path, trace in ((a, traces[0]), (b, traces[1])):
        if trace is not None:
            raise ValueError(f"{path} is a saved trace and the other is not: compare two checkpoints, or two traces")
    plan = {0: find(str(a)), 1: find(str(b))}
    walk = Walk(plan, prompts, configured(config, fields), device_map).go()
    (before, after), (x, y) = list(walk.samples.values())[-2:], list(walk.names.values())[-2:]
    return Comparison(x, y, paired(before, after, walk.window), walk.readings[-1].displacement)


def _trace(source: str | Path | Trace) -> Trace | None:
    """The trace that `source` is or names; None if it names something else."""
    if isinstance(source, Trace):
        return source
    path = Path(source).expanduser()
    if path.name.endswith((".jsonl", ".jsonl.gz")):
        return load_sound(path)
    saved = trace_path(path).exists() and not (path / "config.json").exists()
    return load_sound(path) if saved else None


def _called(source: str | Path | Trace) -> str:
    return source.header.model if isinstance(source, Trace) else str(source)


def _of_traces(x: str, y: str, first: Trace, second: Trace) -> Comparison:
    one, other = first.header, second.header
    if one.layers != other.layers:
        raise ValueError(f"{x} has {one.layers} layers and {y} {other.layers}: only one depth can be compared")
    if one.probe != other.probe:
        raise ValueError(f"{x} and {y} were read with different prompts: compare the checkpoints themselves")
    for name in SAME:
        if one.config.get(name) != other.config.get(name):
            values = f"{one.config.get(name)!r} and {other.config.get(name)!r}"
            raise ValueError(f"{x} and {y} differ in {name} ({values}): compare the checkpoints themselves")
    if one.window != other.window:
        raise ValueError(f"{x} and {y} have the late windows {one.window} and {other.window}: they must be the same")
    starts, ends = (first.readings[0], second.readings[0]), (first.readings[-1], second.readings[-1])
    return Comparison(x, y, unpaired(one, starts, ends))
