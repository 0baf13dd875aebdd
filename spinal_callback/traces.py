"""A saved trace: its header, readings, alerts and notices, read back and checked. Standard library only.

pandas is imported only in `to_pandas`, and the report only when a notebook shows a trace.
"""

from __future__ import annotations

import dataclasses
import gzip
import json
import warnings
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .records import Alert, Header, Notice, Reading, Record, null_for_nan, parse_record
from .run_folder import trace_path

Run = Mapping[str, Any]  # a trace as JSON: header, readings, alerts, notices

NO_HEADER = "a trace begins with its header"
# of a reading: by how many each list is shorter than L, and what each dictionary must have
LISTS = {"alpha": 0, "alpha_se": 0, "alpha_r2": 0, "effective_rank": 0, "transport": 1, "transport_se": 1}
# empty where they were not read, as in traces of earlier versions
LATER_LISTS = {"alpha_change_se": 0, "transport_change_se": 1, "layer_entropy": 0}
KEYS = {"late": ("alpha", "transport"), "delta": ("alpha", "alpha_se", "transport", "transport_se")}
SCALARS = (
    "displacement",
    "entropy",
    "localization",
    "coherence",
    "gradient_concentration",
    "delta_align",
    "score",
    "chosen_nll",
    "margin",
    "accuracy",
    "nonfinite",
    "prompts",
    "seconds",
    "overhead",
)


@dataclass(frozen=True)
class Trace:
    """A run's trace, read back: `readings`, `alerts` and `notices`, each in the order of their steps."""

    header: Header
    readings: list[Reading] = field(default_factory=list)
    alerts: list[Alert] = field(default_factory=list)
    notices: list[Notice] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Header, readings, alerts and notices as plain JSON values."""
        return null_for_nan(dataclasses.asdict(self))

    def to_pandas(self) -> Any:
        """The readings as a pandas DataFrame: a row each, its index the step.

        Numbers of a reading are named as in W&B, without `spinal/`: `displacement`, `late_alpha`, `delta_alpha_se`. A
        layer's are `alpha/layer_1` and `transport/layer_2` (the step that ends there; in W&B `spinal_layers/alpha_01`),
        the Trainer's `trainer/loss`.

        Raises:
            ImportError: pandas is not installed.
        """
        pandas = import_pandas()
        frame = pandas.DataFrame([_columns(reading) for reading in self.readings])
        return frame.set_index("step") if self.readings else frame

    def _repr_html_(self) -> str | None:
        """What a notebook shows: the report. Without readings None, and the notebook shows plain text."""
        from .report.page import notebook  # so that who only reads a trace does not import the report

        return notebook(self.to_json()) if self.readings else None


def import_pandas() -> Any:
    try:
        import pandas
    except ImportError as error:
        raise ImportError("to_pandas needs pandas: pip install pandas") from error
    return pandas


def numbers(reading: Reading) -> dict[str, Any]:
    """The numbers that a reading has one of, by the names of `Trace.to_pandas`; without the Trainer's own."""
    row: dict[str, Any] = {}
    for key, value in vars(reading).items():
        if isinstance(value, dict):
            row |= {f"{key}_{name}": number for name, number in value.items() if key != "trainer"}
        elif not isinstance(value, list):
            row[key] = value
    return row


def _columns(reading: Reading) -> dict[str, Any]:
    """Every number of a reading, with a name for each layer's and each of the Trainer's."""
    row = numbers(reading)
    for key, value in vars(reading).items():
        if isinstance(value, list):
            first = 2 if key.startswith("transport") else 1
            row |= {f"{key}/layer_{layer}": number for layer, number in enumerate(value, start=first)}
    return row | {f"trainer/{name}": number for name, number in reading.trainer.items()}


def load_trace(path: str | Path) -> Trace:
    """Reads a trace.

    An incomplete last line, left by a killed process, is skipped with a warning. A step that was probed again (a
    resumed run) keeps its latest reading.

    Args:
        path: a trace.jsonl, plain or packed as trace.jsonl.gz, or the output folder of a run.

    Raises:
        FileNotFoundError: no such file, or no trace in the folder.
        ValueError: not a trace, of another schema, two traces in one file, or steps out of order; the message names
            the file and the line.
    """
    path = Path(path)
    if path.is_dir():
        path = trace_path(path)
    records: list[Record] = []
    for number, record in checked_lines(path):
        if record is None:
            warnings.warn(f"{path}: skipped the torn last line {number}", stacklevel=2)
        elif isinstance(record, ValueError):
            raise ValueError(f"{path}, line {number}: {record}") from None
        else:
            records.append(record)
    if not records:
        raise ValueError(f"{path}, line 1: {NO_HEADER}")
    assert isinstance(records[0], Header)
    readings = {r.step: r for r in records if isinstance(r, Reading)}
    alerts = {(a.step, a.rule, a.level): a for a in records if isinstance(a, Alert)}
    notices = {(n.step, n.event, n.message): n for n in records if isinstance(n, Notice)}
    return Trace(
        records[0],
        [readings[step] for step in sorted(readings)],
        [alerts[key] for key in sorted(alerts)],
        [notices[key] for key in sorted(notices)],
    )


def checked_lines(path: Path) -> Iterator[tuple[int, Record | ValueError | None]]:
    """Number of each line of a trace file, and its record; what is wrong with it; or None for a torn last line.

    Raises:
        ValueError: a packed file is cut off or damaged.
        OSError: the file cannot be read.
    """
    with (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8", errors="replace") as file:
        try:
            text = file.read()
        except (EOFError, zlib.error):
            raise ValueError(f"{path}: the packed file is cut off or damaged") from None
    lines = text.removesuffix("\n").split("\n") if text else []  # not splitlines: JSON may hold other line ends
    checker = _Checker()
    for number, line in enumerate(lines, start=1):
        try:
            yield number, checker.record(line)
        except ValueError as error:
            torn = isinstance(error, json.JSONDecodeError) and 1 < number == len(lines)
            yield number, None if torn else error


class _Checker:
    """Checks the records of a trace one after another."""

    def __init__(self) -> None:
        self._header: Header | None = None
        self._steps: set[int] = set()  # of the readings so far
        self._last = -1

    def record(self, line: str) -> Record:
        """The record of a line.

        Raises:
            ValueError: as `parse_record`, or the record does not fit the header, or may not come here.
        """
        record = parse_record(line)
        header = record if self._header is None else self._header
        if why := self._misplaced(record) or misfit(record, header):
            raise ValueError(why)
        if isinstance(record, Header):
            self._header = record
        elif isinstance(record, Reading):
            self._last = record.step
            self._steps.add(record.step)
        return record

    def _misplaced(self, record: Record) -> str:
        """Why a record may not come here; empty if it may."""
        if self._header is None:
            return "" if isinstance(record, Header) else NO_HEADER
        if isinstance(record, Header):
            return "a second header: two traces in one file"
        # a step that is there already is one that was run again
        if not isinstance(record, Reading) or record.step >= self._last or record.step in self._steps:
            return ""
        return f"step {record.step} comes after step {self._last}: the steps are out of order"


def misfit(record: Record, header: Record) -> str:
    """What is wrong with a record's values in a trace with this header, beyond their types; empty if nothing is."""
    assert isinstance(header, Header)
    if isinstance(record, Header):
        first, last = record.window
        inside = 1 <= first <= last <= record.layers
        return "" if inside else f"window must lie in layers 1..{record.layers}, got {record.window}"
    if record.step < 0:
        return f"step must be >= 0, got {record.step}"
    if not isinstance(record, Reading):
        return ""
    for name, fewer in (LISTS | LATER_LISTS).items():
        values, length = getattr(record, name), header.layers - fewer
        if len(values) != length and not (name in LATER_LISTS and not values):
            return f"{name} must have {length} values for {header.layers} layers, got {len(values)}"
    missing = [f"{name}.{key}" for name, keys in KEYS.items() for key in keys if key not in getattr(record, name)]
    return f"reading without {', '.join(missing)}" if missing else ""


def load_sound(path: str | Path) -> Trace:
    """`load_trace` of a trace that has readings.

    Raises:
        ValueError: there is no trace, it cannot be read, it is damaged or foreign, or it has no readings yet; names the
            file, and of what is damaged line and field.
    """
    try:
        trace = load_trace(path)
    except FileNotFoundError as error:
        raise ValueError(f"no trace at {error.filename}: give a trace.jsonl or the output folder of a run") from None
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror or error}") from None
    if not trace.readings:
        raise ValueError(f"{path} has no readings yet: wait for the run's first probe")
    return trace
