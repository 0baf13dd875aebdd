"""How the benchmarks measure: works taken in turn, ratios of neighbours, the machine's own rate, peak memory."""

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
    """From now on seconds are of the processor, not of the wall."""
    global clock
    clock = time.process_time


def seconds(work: Work) -> float:
    began = clock()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return clock() - began


def in_turn(repeats: int, **works: Work) -> dict[str, list[float]]:
    """Seconds of each, taken in turn; the first round is not counted."""
    for work in works.values():
        work()
    rounds = [{name: seconds(work) for name, work in works.items()} for _ in range(repeats)]
    return {name: [r[name] for r in rounds] for name in works}


def ratio(a: list[float], b: list[float]) -> float:
    return statistics.median(x / y for x, y in zip(a, b, strict=True))


def product(rows: int, width: int, columns: int, repeats: int = 8) -> tuple[Work, float]:
    """A product as the probe's are, and its operations."""
    a, b = torch.randn(rows, width), torch.randn(columns, width)
    return lambda: [torch.mm(a, b.T) for _ in range(repeats)], 2.0 * rows * width * columns * repeats


def peak_mib(work: Work) -> float:
    """MiB by which `work` raises what is taken, at its highest: of the GPU if there is one, else of this process."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    ctypes.CDLL("libc.so.6").malloc_trim(0)  # what earlier work has freed does not count as there already
    Path("/proc/self/clear_refs").write_text("5")  # Linux: the peak begins anew
    before = _status("VmRSS")
    work()
    return (_status("VmHWM") - before) / 2**10


def _status(name: str) -> int:
    """A field of /proc/self/status, KiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name))
