"""The suite's finished runs, as they lie in `traces/`: what each was, what became of it, and what was recorded."""

from __future__ import annotations

import gzip
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from arms import TIERS, Job, jobs
from harm import harm_step

from spinal_callback.config import SpinalConfig
from spinal_callback.probe import answers
from spinal_callback.probe.measures import standard_error
from spinal_callback.traces import Trace, load_trace

TRACES = Path(__file__).parent / "traces"
PAIRS = SpinalConfig().answers  # of the recorded pairs: as many as the probe reads by default


@dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes:
        harm: the step at which harm shows; None: never.
        alarms: rule -> level -> step of its first alarm.
        scores: rule -> the greatest value of what it watches up to the harm step.
    """

    job: Job
    harm: int | None
    trace: Trace
    log: Mapping[str, Sequence[float | None]]
    alarms: dict[str, dict[str, int]] = field(default_factory=dict)
    scores: dict[str, float] = field(default_factory=dict)

    @property
    def group(self) -> str:
        """harmed, healthy, or unharmed (destabilized without harm)."""
        return "harmed" if self.harm is not None else "healthy" if self.job.arm.healthy else "unharmed"

    @property
    def steps(self) -> int:
        return self.trace.readings[-1].step


def load(tier: str) -> list[Run]:
    """Every run of the tier that is there."""
    return [_run(job) for job in jobs(tier) if (TRACES / tier / f"{job.name}.truth.json").exists()]


def _run(job: Job) -> Run:
    folder = TRACES / job.tier
    truth = json.loads((folder / f"{job.name}.truth.json").read_text(encoding="utf-8"))
    measures = {name: [math.nan if x is None else x for x in column] for name, column in truth["heldout"].items()}
    trace, recorded = load_trace(folder / f"{job.name}.jsonl.gz"), folder / f"{job.name}.answers.json.gz"
    if recorded.exists():
        trace = with_answers(trace, json.loads(gzip.decompress(recorded.read_bytes())))
    return Run(job, harm_step(measures, TIERS[job.tier].long), trace, truth["log"])


def with_answers(trace: Trace, recorded: Mapping[str, Any], pairs: int = PAIRS) -> Trace:
    """The trace as it is with `answers=pairs`: the likelihoods that a run records beside it, in its readings."""
    tokens = torch.tensor([recorded["tokens"][name][:pairs] for name in ("chosen", "rejected")])
    columns = ([row[:pairs] for row in recorded[name]] for name in ("chosen", "rejected"))
    at = {
        step: torch.tensor([[math.nan if x is None else x for x in part] for part in both], dtype=torch.float64)
        for step, *both in zip(recorded["step"], *columns, strict=True)
    }
    first = at[trace.readings[0].step]
    return replace(
        trace, readings=[_answered(r, at[r.step], first, tokens) if r.step in at else r for r in trace.readings]
    )


def _answered(reading: Any, now: torch.Tensor, first: torch.Tensor, tokens: torch.Tensor) -> Any:
    nll, margin = answers.chosen_nll(now, tokens), answers.margins(now, first)
    risen = nll - answers.chosen_nll(first, tokens)
    delta = {
        "chosen_nll": float(risen.mean()),
        "chosen_nll_se": float(standard_error(risen)),
        "margin_se": float(standard_error(margin)),
    }
    return replace(
        reading,
        chosen_nll=float(nll.mean()),
        margin=float(margin.mean()),
        accuracy=answers.accuracy(margin),
        delta=reading.delta | delta,
    )
