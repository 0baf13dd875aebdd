"""What logging a reading costs the training loop: 80 layers, a real offline W&B run, medians.

    python scripts/benchmarks/bench_logging.py

Prints milliseconds for a probe's scalars (limit: 20), for the pictures, and for the end: table, report, artifact.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ |= {"WANDB_MODE": "offline", "WANDB_SILENT": "true"}

import wandb

from spinal_callback import MemorySink, Reading
from spinal_callback.records import Header
from spinal_callback.sinks.recorder import Recorder
from spinal_callback.sinks.wandb import WandbSink


def header(layers: int) -> Header:
    window = (layers - layers // 3, layers)
    return Header("0", "made-up", layers, window, "0" * 64, 64, {"stop_on": None})


def reading(step: int, layers: int, draw: random.Random) -> Reading:
    def numbers(count: int) -> list[float]:
        return [draw.random() for _ in range(count)]

    fields: dict[str, Any] = {f.name: draw.random() for f in dataclasses.fields(Reading)}
    for field in dataclasses.fields(Reading):
        if str(field.type).startswith("list"):  # over layers, or over the steps between two
            fields[field.name] = numbers(layers - field.name.startswith("transport"))
    fields["late"] = {"alpha": draw.random(), "transport": draw.random()}
    fields |= {"length": {"late": 9.0, "whole": 30.0}, "greatest": {"alpha": 1.0, "transport": 2.0}}
    fields["delta"] = {**fields["late"], "alpha_se": 0.01, "transport_se": 0.01}
    return Reading(**{**fields, "step": step, "nonfinite": 0, "prompts": 64, "peak_bytes": 0, "trainer": {"loss": 0.7}})


def milliseconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return 1000 * (time.perf_counter() - began)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=80)
    parser.add_argument("--readings", type=int, default=1000)
    args = parser.parse_args()
    draw = random.Random(0)
    with tempfile.TemporaryDirectory() as folder, wandb.init(project="bench", dir=folder) as run:
        sink, recorder = WandbSink(), Recorder([])
        recorder.asked = [sink, MemorySink()]
        recorder.open(header(args.layers), Path(folder), 0, None)
        recorder.write(reading(0, args.layers, draw))  # defines the names and draws the first pictures
        sink._images._last = float("inf")  # no pictures among the scalars: they are timed below
        told = []
        for step in range(1, args.readings):
            one = reading(step, args.layers, draw)
            told.append(milliseconds(lambda one=one: recorder.write(one)))  # type: ignore[misc]
        assert sink._history.trace is not None
        trace = sink._history.trace
        drawn = [milliseconds(lambda: sink._draw(run, trace)) for _ in range(5)]
        ended = milliseconds(recorder.close)
        size = (Path(folder) / "_spinal" / "report.html").stat().st_size
    print(f"{args.layers} layers, {args.readings} readings, W&B offline; ms: median (least to most)")
    for name, times in (("a probe's scalars and trace line", told), ("pictures, at most every 30 s", drawn)):
        print(f"{name:34} {statistics.median(times):8.1f} ({min(times):.1f} to {max(times):.1f})")
    print(f"{'the end: page, table, artifact':34} {ended:8.1f}    page {size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
