"""The records of a trace, one JSON object per line: header, readings, alerts and notices. Standard library only.

A value that is missing is NaN here and `null` in JSON.
"""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass, field
from typing import Any, Literal

from .schema import build, load_json, written

SCHEMA = 2  # raised when a reader of older traces would misunderstand a newer one
READS = (1, 2)  # schema 1 had no notices: their events were alerts of these rules
EVENTS = ("probe_failed", "probe_memory", "sink_failed", "sink_slow")
LEVELS = ("warn", "error")
MEASURE_SETTINGS = ("position", "tail", "group", "top_k")  # another value of one makes another measure
# what a reading keeps of the Trainer's last log, for the alert rules, and its step; beta is a training argument
TRAINER_KEYS = ("step", "loss", "grad_norm", "rewards/chosen", "rewards/margins", "logps/chosen", "beta")


@dataclass(frozen=True)
class Header:
    """The first line of a trace: which model, which prompts, which settings.

    Attributes:
        version: of spinal_callback.
        model: a hub id or a folder; the class if the model has neither.
        layers: number of decoder layers, L.
        window: first and last layer of the late window, counted from 1, both included.
        probe: hash of the prompts' token ids; `prompts_hash` is the same. The prompts themselves are in no trace.
        prompts: number of prompts.
        config: the fields of `SpinalConfig`.
        schema: of the trace.
        checkpoints: in an audit's trace, which checkpoint each reading is of; empty in a training run's.
        pairs: in an audit's trace, of how many preference pairs gradient concentration is; 0 if it was not measured.
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
    pairs: int = 0

    kind = "header"

    @property
    def prompts_hash(self) -> str:
        return self.probe

    @property
    def measure(self) -> dict[str, Any]:
        """What readings must have in common to be compared: prompts, depth, late window and settings, as JSON."""
        settings = {name: self.config.get(name) for name in MEASURE_SETTINGS}
        return {"prompts": self.probe, "layers": self.layers, "window": list(self.window), **_as_json(settings)}


@dataclass(frozen=True)
class Reading:
    """One probe of a policy. Lists run over layers 1..L, or over the steps l -> l+1, l = 1..L-1. NaN: no value.

    The formulas are in `probe/measures.py`; what each number is called in reports and trackers, in `report/labels.py`.

    Attributes:
        step: optimizer steps so far.
        alpha, alpha_se, alpha_r2: contraction of each layer: tail exponent, standard error and R^2 of its fit.
        effective_rank: of each layer's hidden states: the exponential of their spectral entropy.
        transport, transport_se: mean over prompts of each step's Fisher-Rao distance, radians, and its standard error.
        late: means over the late window: `alpha`, `transport`.
        delta: change of the late means since step 0 and its paired standard error: `alpha`, `alpha_se`,
            `transport`, `transport_se`.
        displacement: mean Fisher-Rao distance of the final next-token distribution from step 0's, radians.
        entropy: mean entropy of the final next-token distribution, nats.
        localization: share of the whole trace's change since step 0 that lies in the late window.
        coherence: in (0, 1]; 1 for a depth path without curvature in the late window. NaN, and with it the score, if
            fewer than three layers or transport steps lie there: two points have no curvature.
        gradient_concentration: share of the decoder layers' squared gradient norm that lies in the late window.
        delta_align: change of late contraction minus change of late transport.
        score: SPINAL score, the sum of delta_align, coherence and gradient_concentration.
        nonfinite: number of hidden states and final logits that are NaN or infinite.
        prompts: number of prompts.
        seconds: time that the probe took.
        overhead: share of the run's wall time so far that was spent probing.
        interval: planned number of steps until the next probe; 0 if none is planned.
        peak_bytes: by how much the probe raised the process's peak memory; 0 if it stayed below training's own peak.
        chosen_nll: negative log-likelihood of the probe's chosen answers given their prompts, nats per token; its
            change since step 0 and the paired standard error are in `delta` (`chosen_nll`, `chosen_nll_se`).
        margin: how much more log-likelihood chosen answers have gained since step 0 than rejected ones, nats; the mean
            over pairs, with its standard error in `delta` (`margin_se`).
        accuracy: share of the pairs whose margin is positive; equal ones count half. These three are NaN where the
            probe reads no answers.
        trainer: the Trainer's last logged numbers (`TRAINER_KEYS`), for the alert rules. They were logged at
            `trainer["step"]`, which comes before `step`: the Trainer logs a step after the probe of that step.
        alpha_change_se, transport_change_se: paired standard errors of each layer's change since step 0, as long as
            `alpha` and `transport`. Empty in traces of earlier versions.
        layer_entropy: mean entropy of each layer's next-token distribution, nats; empty unless it was read
            (`SpinalConfig.layer_entropy`).
        length: transport summed over depth, the length of the path in radians: `late`, `whole`. Empty in traces of
            earlier versions.
        greatest: the layer whose value changed most since step 0: `alpha`, `transport`. Empty in traces of earlier
            versions.
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
    layer_entropy: list[float] = field(default_factory=list)
    length: dict[str, float] = field(default_factory=dict)
    greatest: dict[str, float] = field(default_factory=dict)
    chosen_nll: float = math.nan
    margin: float = math.nan
    accuracy: float = math.nan

    kind = "reading"


@dataclass(frozen=True)
class Alert:
    """A rule was broken: something in the run that a person should look at.

    Attributes:
        step: at which it was raised.
        rule: name of the rule, a key of `RULES`.
        level: "warn" or "error".
        layers: those that moved first; empty if no layer stands out.
        value, threshold: what the rule measured, and its limit.
        message: what was seen.
        action: what to try.
        since: step of the first sign; -1 if the rule does not keep it.
        last_good: the last checkpoint saved before the first sign; empty if there is none.
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
        """The same alert with the name of the last good checkpoint, a folder in the run's `output_dir`."""
        command = f'trainer.train(resume_from_checkpoint=f"{{args.output_dir}}/{checkpoint}")'
        action = f"{self.action}, or go back to {checkpoint}: {command}"
        return dataclasses.replace(self, last_good=checkpoint, action=action)


@dataclass(frozen=True)
class Notice:
    """Something happened to the monitor itself: a probe or a sink failed, or a probe ran out of memory. Not an alert.

    Attributes:
        step: at which it happened.
        event: one of `EVENTS`.
        message: what happened, and why.
        action: what to do.
    """

    step: int
    event: str
    message: str
    action: str

    kind = "notice"


Record = Header | Reading | Alert | Notice
_KINDS: dict[str, type[Record]] = {cls.kind: cls for cls in (Header, Reading, Alert, Notice)}


def dump_record(record: Record) -> str:
    """One line of JSON, without the newline. NaN and infinities become null."""
    return json.dumps({"kind": record.kind, **null_for_nan(dataclasses.asdict(record))}, allow_nan=False)


def parse_record(line: str) -> Record:
    """The record of one line. null becomes NaN. A notice that schema 1 wrote as an alert is read as a notice.

    Raises:
        ValueError: not JSON (then a JSONDecodeError), an unknown kind, another schema, a field that is missing or of
            another type; the message says which.
    """
    data = load_json(line)
    if isinstance(data, dict) and data.get("kind") == "alert" and data.get("rule") in EVENTS:
        data |= {"kind": "notice", "event": data["rule"]}
    cls = _KINDS.get(str(data.pop("kind", ""))) if isinstance(data, dict) else None
    if cls is None:
        raise ValueError(f"not a record of a trace (its kind must be one of {', '.join(_KINDS)}): {line[:60]!r}")
    if cls is Header and data.get("schema") not in READS:
        known = " and ".join(map(str, READS))
        raise ValueError(f"schema {written(data.get('schema'))}; this version of spinal_callback reads schemas {known}")
    return build(cls, data)


def other_measure(before: dict[str, Any], now: dict[str, Any]) -> str:
    """In what two headers' `measure` differ, in words; empty if in nothing. What `before` lacks is not compared."""
    changed = [name for name, value in now.items() if name in before and before[name] != value]
    words = {name: f"{name} was {before[name]} and is now {now[name]}" for name in changed}
    return ", ".join((words | {"prompts": "the prompts are others"} if "prompts" in words else words).values())


def _as_json(value: Any) -> Any:
    return json.loads(json.dumps(value))  # tuples become lists


def null_for_nan(value: Any) -> Any:
    """The value with None for NaN and infinity, which JSON does not have."""
    if isinstance(value, dict):
        return {k: null_for_nan(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [null_for_nan(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
