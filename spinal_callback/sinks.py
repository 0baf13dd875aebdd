"""Where records go: the trace file, Weights & Biases, memory. Only rank zero has sinks."""

from __future__ import annotations

import importlib.util
import math
import sys
import time
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol

from .records import Alert, Header, Reading, Record, dump_record, parse_record

STEP = "train/global_step"  # the x axis that the Trainer's own rows carry
PAUSE = 60.0  # seconds between two W&B alerts of one rule and level; W&B itself does not hold back what is logged here


class Sink(Protocol):
    """Takes the header first, then readings and alerts as they come. `step` is the Trainer's global step."""

    def write(self, record: Record) -> None: ...

    def close(self) -> None: ...


class MemorySink:
    """Keeps every record in `records`; for tests and notebooks."""

    def __init__(self) -> None:
        self.records: list[Record] = []

    def write(self, record: Record) -> None:
        self.records.append(record)

    def close(self) -> None:
        pass

    @property
    def readings(self) -> list[Reading]:
        return [r for r in self.records if isinstance(r, Reading)]

    @property
    def alerts(self) -> list[Alert]:
        return [r for r in self.records if isinstance(r, Alert)]


class JsonLinesSink:
    """The trace: one JSON object a line, each flushed whole.

    Args:
        path: the file; its folder is made.
        resume_at: the step that a run resumes at: the trace that is there is kept up to it and goes on from there. What
            lies behind it will be run again, a line torn by a kill among it. None: a new trace.
        earlier: the trace to go on from, where it is another: a run resumed with another output folder.

    Attributes:
        alerts: how many the trace had when it was opened.

    Raises:
        ValueError: the file cannot be written; names the folder.
    """

    def __init__(self, path: Path, resume_at: int | None = None, earlier: Path | None = None) -> None:
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            kept = [] if resume_at is None else _until(earlier or path, resume_at)
            self._header_is_there = bool(kept)
            self.alerts = sum(isinstance(parse_record(line), Alert) for line in kept)
            whole = path.with_suffix(".part")  # a kill between the two lines loses nothing
            whole.write_text("".join(line + "\n" for line in kept), encoding="utf-8")
            whole.replace(path)
            self._file = path.open("a", encoding="utf-8")
        except OSError as error:
            raise ValueError(
                f"output_dir: cannot write {path} ({error.strerror}); give a folder you may write"
            ) from error

    def write(self, record: Record) -> None:
        if isinstance(record, Header) and self._header_is_there:
            return
        self._file.write(dump_record(record) + "\n")
        self._file.flush()

    def close(self) -> None:
        self._file.close()


def _until(path: Path, step: int) -> list[str]:
    """The lines of the trace at `path` up to and including `step`; none if there is no trace to go on with."""
    kept: list[str] = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []:
        try:
            record = parse_record(line)
        except ValueError:
            continue
        if isinstance(record, Header) != (not kept):
            continue
        if isinstance(record, Header) or record.step <= step:
            kept.append(line)
    return kept


class WandbSink:
    """Scalars in the W&B run that is open when a record comes; nothing where none is.

    Rows carry `train/global_step` and no `step=`: with it W&B drops rows once its own counter is ahead. Per-layer
    scalars are defined by exact names, hidden from the automatic charts. An alert is also sent as W&B's own, which can
    write to people.

    Attributes:
        alerts: alerts so far; a resumed run goes on with those of its trace.

    Raises:
        ImportError: wandb is not installed.
    """

    def __init__(self) -> None:
        if importlib.util.find_spec("wandb") is None:
            raise ImportError('sinks asks for "wandb", which is not installed: pip install wandb')
        self._defined: str | None = None  # id of the run whose metrics are defined
        self._header: Header | None = None
        self.alerts = 0
        self._told: dict[tuple[str, str], float] = {}  # rule and level -> when W&B was alerted last

    def write(self, record: Record) -> None:
        if isinstance(record, Header):
            self._header = record
            return
        run = getattr(sys.modules.get("wandb"), "run", None)  # looked up at use: a run may end or change
        if run is None:
            return
        self.alerts += isinstance(record, Alert)
        row = {"spinal/alerts": float(self.alerts), **(scalars(record) if isinstance(record, Reading) else {})}
        if self._defined != run.id and self._header is not None:
            self._defined = run.id
            self._introduce(run, self._header)
        run.log({**{name: value for name, value in row.items() if math.isfinite(value)}, STEP: record.step})

        if isinstance(record, Alert):
            self._alert(run, record)

    def _alert(self, run: Any, alert: Alert) -> None:
        now, key = time.monotonic(), (alert.rule, alert.level)
        if now - self._told.get(key, -math.inf) >= PAUSE:
            self._told[key] = now
            run.alert(f"spinal: {alert.rule}", f"{alert.message}. Try: {alert.action}.", level=alert.level.upper())

    def _introduce(self, run: Any, header: Header) -> None:
        settings = {"version": header.version, "probe": header.probe, **header.config}
        run.config.update({"spinal": settings}, allow_val_change=True)
        for name in logged_names(header.layers):
            per_layer = "/layer_" in name
            run.define_metric(name, step_metric=STEP, hidden=per_layer, summary="none" if per_layer else None)

    def close(self) -> None:
        pass


def scalars(reading: Reading) -> dict[str, float]:
    """What trackers are given of a reading: every logged name but the count of alerts. NaN where there is no value."""
    late, own = reading.late, (reading.displacement, reading.localization, reading.score, reading.overhead)
    values = (late["alpha"], late["transport"], *own, *reading.alpha, *reading.transport)
    return dict(zip(logged_names(len(reading.alpha))[1:], values, strict=True))


def logged_names(layers: int) -> list[str]:
    """Every name that trackers see, the count of alerts first."""
    headline = ("alerts", "late_alpha", "late_transport", "displacement", "localization", "score", "overhead")
    alpha = [f"spinal/alpha/layer_{i}" for i in range(1, layers + 1)]
    transport = [f"spinal/transport/layer_{i}" for i in range(2, layers + 1)]
    return [*(f"spinal/{name}" for name in headline), *alpha, *transport]


class Fanout:
    """Several sinks as one. A sink that throws is dropped with one warning; the others go on."""

    def __init__(self, sinks: Iterable[Sink]) -> None:
        self.sinks = list(sinks)
        self.dropped: list[str] = []  # what was said of each sink that threw

    def write(self, record: Record) -> None:
        self._each("write", record)

    def close(self) -> None:
        self._each("close")

    def _each(self, method: str, *args: Any) -> None:
        for sink in list(self.sinks):
            try:
                getattr(sink, method)(*args)
            except Exception as error:  # a full disk or a tracker that is down must not end the run
                self.sinks.remove(sink)
                self.dropped.append(f"{type(sink).__name__} failed and is dropped: {error!r}")
                warnings.warn(f"spinal: {self.dropped[-1]}", stacklevel=3)
