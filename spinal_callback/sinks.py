"""Where records go: the trace file, Weights & Biases, memory. Only rank zero has sinks."""

from __future__ import annotations

import importlib.util
import math
import sys
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol

from .records import Alert, Header, Reading, Record, dump_record

STEP = "train/global_step"  # the x axis that the Trainer's own rows carry


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
    """The trace: one JSON object a line, each flushed whole. A resumed run appends to the trace that is there.

    Raises:
        ValueError: the file cannot be written; names the folder.
    """

    def __init__(self, path: Path, append: bool = False) -> None:
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._header_is_there = append and path.exists() and path.stat().st_size > 0
            self._file = path.open("a" if append else "w", encoding="utf-8")
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


class WandbSink:
    """Scalars in the W&B run that is open when a record comes; nothing where none is.

    Rows carry `train/global_step` and no `step=`: with it W&B drops rows once its own counter is ahead. Per-layer
    scalars are defined by exact names, hidden from the automatic charts.

    Raises:
        ImportError: wandb is not installed.
    """

    def __init__(self) -> None:
        if importlib.util.find_spec("wandb") is None:
            raise ImportError('sinks asks for "wandb", which is not installed: pip install wandb')
        self._defined: str | None = None  # id of the run whose metrics are defined
        self._header: Header | None = None
        self._alerts = 0

    def write(self, record: Record) -> None:
        if isinstance(record, Header):
            self._header = record
            return
        run = getattr(sys.modules.get("wandb"), "run", None)  # looked up at use: a run may end or change
        if run is None:
            return
        self._alerts += isinstance(record, Alert)
        row = {"spinal/alerts": float(self._alerts), **(scalars(record) if isinstance(record, Reading) else {})}
        if self._defined != run.id:
            self._defined = run.id
            self._introduce(run, list(row))
        run.log({**{name: value for name, value in row.items() if math.isfinite(value)}, STEP: record.step})

    def _introduce(self, run: Any, names: list[str]) -> None:
        if self._header is not None:
            settings = {"version": self._header.version, "probe": self._header.probe, **self._header.config}
            run.config.update({"spinal": settings}, allow_val_change=True)
        for name in names:
            per_layer = "/layer_" in name
            run.define_metric(name, step_metric=STEP, hidden=per_layer, summary="none" if per_layer else None)

    def close(self) -> None:
        pass


def scalars(reading: Reading) -> dict[str, float]:
    """What trackers are given of a reading: every logged name but the count of alerts. NaN where there is no value."""
    row = {
        "spinal/late_alpha": reading.late["alpha"],
        "spinal/late_transport": reading.late["transport"],
        "spinal/displacement": reading.displacement,
        "spinal/localization": reading.localization,
        "spinal/score": reading.score,
        "spinal/overhead": reading.overhead,
    }
    row |= {f"spinal/alpha/layer_{i}": value for i, value in enumerate(reading.alpha, start=1)}
    row |= {f"spinal/transport/layer_{i}": value for i, value in enumerate(reading.transport, start=2)}
    return row


class Fanout:
    """Several sinks as one. A sink that throws is dropped with one warning; the others go on."""

    def __init__(self, sinks: Iterable[Sink]) -> None:
        self.sinks = list(sinks)

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
                warnings.warn(f"spinal: {type(sink).__name__} failed and is dropped: {error!r}", stacklevel=3)
