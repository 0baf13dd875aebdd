"""What a run writes down: configuration, readings, alerts, and the trace that holds them.

Frozen dataclasses with JSON in and out; standard library only, so a trace can be read anywhere. NaN is `null` there.
"""

from __future__ import annotations

import dataclasses
import json
import math
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

SCHEMA = 1  # raised when a reader of older traces would misunderstand a newer one
MIN_RANKS = 8  # fewest singular values that the tail exponent is fitted to
LEVELS = ("warn", "error")


@dataclass(frozen=True)
class SpinalConfig:
    """What to measure, when, and what to do about it. Every value is checked when the object is made.

    Attributes:
        every: steps between two probes, or "auto": as often as `overhead` allows.
        overhead: share of wall time that probing may take when `every="auto"`, in (0, 1].
        num_prompts: N, how many prompts the probe uses; the same ones at every step.
        max_prompt_tokens: longer prompts lose their first tokens.
        position: "last": the last prompt token; "response": every token of the chosen answer.
        window: the late window W: a share of the depth, or `(first, last)` layer, counted from 1, both included.
        tail: ranks that the tail exponent is fitted to, as shares of r = min(N - 1, d).
        top_k: read transport over the union of the layers' k most probable tokens; None: the whole vocabulary.
        stop_on: "warn" or "error": stop training at an alert of this level or worse.
        save_on_alert: ask for a checkpoint at the first alert.
        gradients: read gradient concentration before each optimizer step that is probed.
        log_prompts: prompt text may go into records and reports.
        seed: draws the prompts from the data set.

    Raises:
        ValueError: a value out of its range; the message names the field, the value and what would be right.
    """

    every: int | Literal["auto"] = "auto"
    overhead: float = 0.01
    num_prompts: int = 64
    max_prompt_tokens: int = 256
    position: Literal["last", "response"] = "last"
    window: float | tuple[int, int] = 1 / 3
    tail: tuple[float, float] = (0.1, 0.9)
    top_k: int | None = None
    stop_on: Literal["warn", "error"] | None = None
    save_on_alert: bool = False
    gradients: bool = True
    log_prompts: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("window", "tail"):  # JSON and command lines give lists
            if isinstance(getattr(self, name), list):
                object.__setattr__(self, name, tuple(getattr(self, name)))
        if self.every != "auto":
            _check_count("every", self.every, 1, 'or "auto"')
        if not _is_number(self.overhead) or not 0 < self.overhead <= 1:
            raise ValueError(f"overhead must be a share of wall time in (0, 1], got {self.overhead!r}")
        _check_count("num_prompts", self.num_prompts, 2)
        _check_count("max_prompt_tokens", self.max_prompt_tokens, 1)
        _check_choice("position", self.position, ("last", "response"))
        _check_window(self.window)
        _check_tail(self.tail)
        if self.position == "last":  # otherwise the rows are tokens, known only with the data
            self.tail_ranks(self.num_prompts)
        if self.top_k is not None:
            _check_count("top_k", self.top_k, 1, "or None for the whole vocabulary")
        _check_choice("stop_on", self.stop_on, (None, *LEVELS))
        for name in ("save_on_alert", "gradients", "log_prompts"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"{name} must be True or False, got {getattr(self, name)!r}")
        _check_count("seed", self.seed, 0)

    def tail_ranks(self, rows: int, width: int = 1 << 20, least: int = MIN_RANKS) -> tuple[int, int]:
        """First and last rank k (from 1, both included) of the tail of a `[rows, width]` matrix's spectrum.

        Raises:
            ValueError: fewer than `least` ranks; the message says how many prompts it would need.
        """
        low, high = _tail_ranks(min(rows - 1, width), self.tail)
        if high - low + 1 < least:
            enough = (n for n in range(rows, 1000) if _count_ranks(min(n - 1, width), self.tail) >= least)
            need = next(enough, None)
            right = f"use num_prompts >= {need} or a wider tail" if need else "use a wider tail"
            raise ValueError(
                f"tail={self.tail} leaves {max(high - low + 1, 0)} of the {min(rows - 1, width)} ranks that"
                f" num_prompts={rows} gives, a fit takes at least {least}: {right}"
            )
        return low, high

    def late_window(self, layers: int) -> tuple[int, int]:
        """First and last layer (from 1, both included) of the late window W of a model with `layers` layers.

        Raises:
            ValueError: the window does not lie inside the model's depth.
        """
        if isinstance(self.window, tuple):
            if self.window[1] > layers:
                raise ValueError(f"window must lie in layers 1..{layers} of this model, got {self.window}")
            return self.window
        return layers - max(_ceil(self.window * layers), 1) + 1, layers

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


@dataclass(frozen=True)
class Header:
    """The first line of a trace: which model, which prompts, which settings.

    `layers` is L, `window` the late window `(first, last)`, `probe` a hash of the probe's token ids.
    """

    version: str
    model: str
    layers: int
    window: tuple[int, int]
    probe: str
    prompts: int
    config: dict[str, Any]
    schema: int = SCHEMA

    kind = "header"


@dataclass(frozen=True)
class Reading:
    """One probe of a policy. Lists run over layers 1..L, or over the steps l -> l+1, l = 1..L-1. NaN: not to be had.

    Attributes:
        step: optimizer steps done.
        alpha, alpha_se, alpha_r2: contraction of each layer: tail exponent, standard error and R^2 of its fit.
        effective_rank: of each layer's hidden states.
        transport, transport_se: mean over prompts of each step's Fisher-Rao distance, radians, and its standard error.
        late: means over the late window: `alpha`, `transport`.
        delta: change of the late means since step 0 and its paired standard error: `alpha`, `alpha_se`,
            `transport`, `transport_se`.
        displacement: mean Fisher-Rao distance of the final next-token distribution from step 0's, radians.
        entropy: mean entropy of the final next-token distribution, nats.
        localization, coherence, gradient_concentration, delta_align, score: see `measures`.
        nonfinite: how many kept activations and final logits are NaN or Inf.
        prompts: how many prompts were used.
        seconds: what the probe took.
        overhead: share of the run's wall time so far that went into probing.
        peak_bytes: by how much the probe raised the process's peak memory (0: it stayed below the training's own).
    """

    step: int
    alpha: list[float]
    alpha_se: list[float]
    alpha_r2: list[float]
    effective_rank: list[float]
    transport: list[float]
    transport_se: list[float]
    late: dict[str, float]
    delta: dict[str, float]
    displacement: float
    entropy: float
    localization: float
    coherence: float
    gradient_concentration: float
    delta_align: float
    score: float
    nonfinite: int
    prompts: int
    seconds: float = math.nan
    overhead: float = math.nan
    peak_bytes: int = 0

    kind = "reading"


@dataclass(frozen=True)
class Alert:
    """Something a person should look at. `message` says what was seen, `action` what to try."""

    step: int
    rule: str
    level: Literal["warn", "error"]
    layers: list[int]
    value: float
    threshold: float
    message: str
    action: str

    kind = "alert"


Record = Header | Reading | Alert
_KINDS: dict[str, Any] = {cls.kind: cls for cls in (Header, Reading, Alert)}


@dataclass(frozen=True)
class Trace:
    """A run's trace, read back: `readings` and `alerts` in the order of their steps."""

    header: Header
    readings: list[Reading] = field(default_factory=list)
    alerts: list[Alert] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Header, readings and alerts as plain JSON values."""
        return _null_for_nan(dataclasses.asdict(self))


def dump_record(record: Record) -> str:
    """One line of JSON, without the newline. NaN and infinities become null."""
    return json.dumps({"kind": record.kind, **_null_for_nan(dataclasses.asdict(record))}, allow_nan=False)


def parse_record(line: str) -> Record:
    """The record of one line. null becomes NaN.

    Raises:
        ValueError: not JSON, an unknown kind, or a field missing; the message says which.
    """
    data = json.loads(line)
    cls = _KINDS.get(str(data.pop("kind", ""))) if isinstance(data, dict) else None
    if cls is None:
        raise ValueError(f"not a record of a trace (its kind must be one of {', '.join(_KINDS)}): {line[:60]!r}")
    if cls is Header and data.get("schema") != SCHEMA:
        raise ValueError(f"schema {data.get('schema')}, this version reads schema {SCHEMA}")
    names = {f.name for f in dataclasses.fields(cls)}
    missing = {f.name for f in dataclasses.fields(cls) if f.default is dataclasses.MISSING} - set(data)
    if missing:
        raise ValueError(f"{cls.kind} without {', '.join(sorted(missing))}")
    if cls is Header:
        data["window"] = tuple(data["window"])
        return Header(**{k: v for k, v in data.items() if k in names})
    return cls(**{k: _nan_for_null(v) for k, v in data.items() if k in names})


def load_trace(path: str | Path) -> Trace:
    """Reads `trace.jsonl` (or the run's folder that holds `_spinal/trace.jsonl`).

    A torn last line, left by a killed process, is skipped with a warning. A step that was probed again (a resumed run)
    keeps its latest reading.

    Raises:
        FileNotFoundError: no such file, or no trace in the folder.
        ValueError: not a trace, or of another schema version; the message names the file and the line.
    """
    path = Path(path)
    if path.is_dir():
        path = path / "_spinal" / "trace.jsonl"
    records: list[Record] = []
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    for number, line in enumerate(lines, start=1):
        try:
            records.append(parse_record(line))
        except ValueError as error:
            if number < len(lines) or number == 1:
                raise ValueError(f"{path}, line {number}: {error}") from None
            warnings.warn(f"{path}: skipped the torn last line {number}", stacklevel=2)
    if not records or not isinstance(records[0], Header):
        raise ValueError(f"{path}, line 1: a trace begins with its header")
    readings = {r.step: r for r in records if isinstance(r, Reading)}
    alerts = {(a.step, a.rule): a for a in records if isinstance(a, Alert)}
    return Trace(records[0], [readings[s] for s in sorted(readings)], [alerts[k] for k in sorted(alerts)])


def _null_for_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _null_for_nan(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_null_for_nan(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _nan_for_null(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _nan_for_null(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_nan_for_null(v) for v in value]
    return math.nan if value is None else value


def _ceil(x: float) -> int:
    return math.ceil(round(x, 9))  # 0.28 * 25 is 7.000000000000001 in binary


def _tail_ranks(r: int, tail: tuple[float, float]) -> tuple[int, int]:
    return max(_ceil(tail[0] * r), 1), math.floor(round(tail[1] * r, 9))


def _count_ranks(r: int, tail: tuple[float, float]) -> int:
    low, high = _tail_ranks(r, tail)
    return high - low + 1


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _check_count(name: str, value: Any, least: int, more: str = "") -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ValueError(f"{name} must be a whole number >= {least}{more and ' ' + more}, got {value!r}")


def _check_choice(name: str, value: Any, choices: tuple[Any, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, got {value!r}")


def _check_window(window: Any) -> None:
    if isinstance(window, tuple):
        whole = len(window) == 2 and all(isinstance(v, int) and not isinstance(v, bool) for v in window)
        if not whole or not 1 <= window[0] <= window[1]:
            raise ValueError(f"window must be (first, last) with 1 <= first <= last, got {window!r}")
    elif not _is_number(window) or not 0 < window <= 1:
        raise ValueError(f"window must be a share of the depth in (0, 1] or (first, last), got {window!r}")


def _check_tail(tail: Any) -> None:
    numbers = isinstance(tail, tuple) and len(tail) == 2 and all(map(_is_number, tail))
    if not numbers or not 0 <= tail[0] < tail[1] <= 1:
        raise ValueError(f"tail must be (low, high) shares with 0 <= low < high <= 1, got {tail!r}")
