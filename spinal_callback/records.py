"""What a run writes down, one JSON object a line: its header, readings, alerts and notices. Standard library only.

NaN is `null` in JSON.
"""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass, field
from typing import Any, Literal

SCHEMA = 2  # raised when a reader of older traces would misunderstand a newer one
READS = (1, 2)  # schema 1 had no notices: their events were alerts of these rules
EVENTS = ("probe_failed", "probe_memory", "sink_failed")
LEVELS = ("warn", "error")
# what a reading keeps of the Trainer's log; beta is its setting
TRAINER_KEYS = ("loss", "grad_norm", "rewards/chosen", "rewards/margins", "logps/chosen", "beta")


@dataclass(frozen=True)
class Header:
    """The first line of a trace: which model, which prompts, which settings.

    `layers` is L, `window` the late window `(first, last)`, `probe` a hash of the probe's token ids. `checkpoints` says
    of an audit's trace what each reading, in order, is a reading of; it is empty for a training run's.
    """

    version: str
    model: str
    layers: int
    window: tuple[int, int]
    probe: str
    prompts: int
    config: dict[str, Any]
    schema: int = SCHEMA
    checkpoints: list[str] = field(default_factory=list)

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
        interval: steps until the next probe, as planned; 0 where none is.
        peak_bytes: by how much the probe raised the process's peak memory (0: it stayed below the training's own).
        trainer: the Trainer's own numbers as it logged them last (`TRAINER_KEYS`), for the alert rules.
        alpha_change_se, transport_change_se: paired standard errors of each layer's change since step 0, as long as
            `alpha` and `transport`. Empty in traces of earlier versions.
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
    interval: int = 0
    peak_bytes: int = 0
    trainer: dict[str, float] = field(default_factory=dict)
    alpha_change_se: list[float] = field(default_factory=list)
    transport_change_se: list[float] = field(default_factory=list)

    kind = "reading"


@dataclass(frozen=True)
class Alert:
    """Something a person should look at. `message` says what was seen, `action` what to try.

    `layers` are those that moved first, `since` is the step of the first sign (-1: the rule keeps none), `last_good`
    the last checkpoint saved before it (empty: none was).
    """

    step: int
    rule: str
    level: Literal["warn", "error"]
    layers: list[int]
    value: float
    threshold: float
    message: str
    action: str
    since: int = -1
    last_good: str = ""

    kind = "alert"

    def going_back_to(self, checkpoint: str) -> Alert:
        """The same alert, naming a checkpoint as the last good one."""
        return dataclasses.replace(self, last_good=checkpoint, action=f"{self.action}, or go back to {checkpoint}")


@dataclass(frozen=True)
class Notice:
    """Something happened to the monitor itself: a probe or a sink failed, or a probe ran out of memory. Not an alert.

    `event` is one of `EVENTS`, `message` says what happened and why, `action` what to do.
    """

    step: int
    event: str
    message: str
    action: str

    kind = "notice"


Record = Header | Reading | Alert | Notice
_KINDS: dict[str, Any] = {cls.kind: cls for cls in (Header, Reading, Alert, Notice)}


def dump_record(record: Record) -> str:
    """One line of JSON, without the newline. NaN and infinities become null."""
    return json.dumps({"kind": record.kind, **null_for_nan(dataclasses.asdict(record))}, allow_nan=False)


def parse_record(line: str) -> Record:
    """The record of one line. null becomes NaN. A notice that schema 1 wrote as an alert is read as a notice.

    Raises:
        ValueError: not JSON, an unknown kind, another schema, or a field missing; the message says which.
    """
    data = json.loads(line)
    if isinstance(data, dict) and data.get("kind") == "alert" and data.get("rule") in EVENTS:
        data |= {"kind": "notice", "event": data["rule"]}
    cls = _KINDS.get(str(data.pop("kind", ""))) if isinstance(data, dict) else None
    if cls is None:
        raise ValueError(f"not a record of a trace (its kind must be one of {', '.join(_KINDS)}): {line[:60]!r}")
    if cls is Header and data.get("schema") not in READS:
        known = " and ".join(map(str, READS))
        raise ValueError(f"schema {data.get('schema')}; this version of spinal_callback reads schemas {known}")
    names = {f.name for f in dataclasses.fields(cls)}
    needed = [f for f in dataclasses.fields(cls) if f.default is f.default_factory is dataclasses.MISSING]
    missing = {f.name for f in needed} - set(data)
    if missing:
        raise ValueError(f"{cls.kind} without {', '.join(sorted(missing))}")
    if cls is Header:
        data["window"] = tuple(data["window"])
        return Header(**{k: v for k, v in data.items() if k in names})
    return cls(**{k: _nan_for_null(v) for k, v in data.items() if k in names})


def null_for_nan(value: Any) -> Any:
    """JSON has no NaN and no infinity: null."""
    if isinstance(value, dict):
        return {k: null_for_nan(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [null_for_nan(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _nan_for_null(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _nan_for_null(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_nan_for_null(v) for v in value]
    return math.nan if value is None else value
