"""A saved trace: its header, readings, alerts and notices, read back and checked. Standard library only.

pandas is imported only in `to_pandas`, and the report only when a notebook shows a trace.
"""

from __future__ import annotations

import dataclasses
import gzip
import warnings
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .records import Alert, Header, Notice, Reading, Record, null_for_nan, parse_record
from .run_folder import trace_path

Run = Mapping[str, Any]  # a trace as JSON: header, readings, alerts, notices

NO_HEADER = "a trace begins with its header"
LISTS = {"alpha": 0, "alpha_se": 0, "effective_rank": 0, "transport": 1, "transport_se": 1}  # how many fewer than L
LATER_LISTS = {"alpha_change_se": 0, "transport_change_se": 1}  # the same; empty in traces of earlier versions
SCALARS = (
    "displacement",
    "entropy",
    "localization",
    "coherence",
    "gradient_concentration",
    "delta_align",
    "score",
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
    with (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8", errors="replace") as file:
        try:
            lines = file.read().splitlines()
        except (EOFError, zlib.error):
            raise ValueError(f"{path}: the packed file is cut off or damaged") from None
    for number, line in enumerate(lines, start=1):
        try:
            record = parse_record(line)
        except ValueError as error:
            if number < len(lines) or number == 1:
                raise ValueError(f"{path}, line {number}: {error}") from None
            warnings.warn(f"{path}: skipped the torn last line {number}", stacklevel=2)
            break
        if why := _misplaced(record, records):
            raise ValueError(f"{path}, line {number}: {why}")
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


def _misplaced(record: Record, before: list[Record]) -> str:
    """Why a record may not follow those `before` it in a trace; empty if it may."""
    if not before:
        return "" if isinstance(record, Header) else NO_HEADER
    if isinstance(record, Header):
        return "a second header: two traces in one file"
    if not isinstance(record, Reading):
        return ""
    last = next((r.step for r in reversed(before) if isinstance(r, Reading)), record.step)
    # a step that is there already is one that was run again
    if record.step >= last or any(isinstance(r, Reading) and r.step == record.step for r in before):
        return ""
    return f"step {record.step} comes after step {last}: the steps are out of order"


def load_sound(path: str | Path) -> Trace:
    """As `load_trace`, and checks that there are readings and that their fields hold numbers.

    Raises:
        ValueError: no trace there, a damaged one, another file, or no readings; names the path.
    """
    try:
        trace = load_trace(path)
        check_sound(str(path), trace.to_json())
    except FileNotFoundError as error:
        raise ValueError(f"no trace at {error.filename}: give a trace.jsonl or the output folder of a run") from None
    except (OSError, ValueError) as error:
        raise ValueError(str(error) if str(path) in str(error) else f"{path}: {error}") from None
    except (TypeError, AttributeError, KeyError):
        raise ValueError(f"{path}: a record has the wrong form: the file is damaged or not a trace") from None
    return trace


# --- are its numbers sound? ------------------------------------------------------------------------------------------


def check_sound(name: str, run: Run) -> None:
    """Raises ValueError, naming the run, if it has no readings or if a field that must hold numbers does not."""
    if not run["readings"]:
        raise ValueError(f"{name} has no readings yet: make the report once the run has probed")
    for reading in run["readings"]:
        if wrong := _wrong(reading, run["header"]["layers"]):
            raise ValueError(f"{name}, step {reading['step']}: {wrong}: the trace is damaged or foreign")


def _wrong(reading: Mapping[str, Any], layers: int) -> str:
    for name, fewer in (LISTS | LATER_LISTS).items():
        values = reading[name]
        if name in LATER_LISTS and values == []:
            continue
        if not isinstance(values, list) or len(values) != layers - fewer:
            return f"{name} is not a list of {layers - fewer} numbers"
        if not all(value is None or isinstance(value, int | float) for value in values):
            return f"{name} has what is no number"
    single = [reading["step"], *(reading[n] for n in SCALARS), *reading["late"].values(), *reading["delta"].values()]
    return "" if all(v is None or isinstance(v, int | float) for v in single) else "a field has what is no number"
