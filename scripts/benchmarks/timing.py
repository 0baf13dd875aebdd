"""How the benchmarks measure: works timed in turn, medians of ratios, the machine's own rate, peak memory."""

from __future__ import annotations

import ctypes
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

Work = Callable[[], Any]
clock = time.perf_counter


def use_processor_time() -> None:
    """From now on `seconds` measures processor time instead of wall time."""
    global clock
    clock = time.process_time


def seconds(work: Work) -> float:
    """Seconds that one call takes, of all the work that it puts on a GPU too."""
    began = clock()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return clock() - began


def in_turn(repeats: int, **works: Work) -> dict[str, list[float]]:
    """Seconds of each in every round, one work after the other; a first round that warms up does not count."""
    for work in works.values():
        work()
    rounds = [{name: seconds(work) for name, work in works.items()} for _ in range(repeats)]
    return {name: [r[name] for r in rounds] for name in works}


def ratio(a: list[float], b: list[float]) -> float:
    """Median of a / b, round by round: what slows the machine down slows both of a round."""
    return statistics.median(x / y for x, y in zip(a, b, strict=True))


def product(rows: int, width: int, columns: int, repeats: int = 8) -> tuple[Work, float]:
    """A matrix product of the size that the probe's have, `repeats` times, and its number of operations."""
    a, b = torch.randn(rows, width), torch.randn(columns, width)
    return lambda: [torch.mm(a, b.T) for _ in range(repeats)], 2.0 * rows * width * columns * repeats


def peak_mib(work: Work) -> float:
    """Peak memory that `work` adds, MiB: on the GPU if there is one, else in this process (Linux only)."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    ctypes.CDLL("libc.so.6").malloc_trim(0)  # give back what earlier work has freed, or it hides what this work takes
    Path("/proc/self/clear_refs").write_text("5")  # Linux: the peak begins anew
    before = _status("VmRSS")
    work()
    return (_status("VmHWM") - before) / 2**10


def _status(name: str) -> int:
    """A field of /proc/self/status, KiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name))
