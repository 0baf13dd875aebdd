"""The depth trace of any checkpoint against its base, or of all checkpoints of a run: `audit`."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from ..alerts.detector import Detector
from ..config import SpinalConfig
from ..distributed import collectives as ranks
from ..records import Alert
from ..run_folder import checkpoint_name, checkpoints
from ..traces import Trace, load_trace
from .checkpoints import Checkpoint, find
from .reader import Plan, Walk, configured
from .results import Audit
from .significance import paired, student_t, turns


def audit(
    model: str | Path,
    base: str | Path | None = None,
    prompts: Any = None,
    adapter: str | Path | None = None,
    config: SpinalConfig | None = None,
    *,
    device_map: Any = "auto",
    **fields: Any,
) -> Audit:
    """The depth trace of a checkpoint, held against its base; or of all checkpoints of a run, against its start.

    Args:
        model: a folder, a hub id, a GGUF file, an adapter's folder; or a run's folder, which has `checkpoint-N` in it.
        base: what to hold it against, of the same kinds. None: for an adapter the policy without it (TRL's "ref"
            adapter, if the run began with one); for a run the model that its trace names, or else its first checkpoint;
            for another checkpoint nothing.
        prompts: strings, chat message lists, a data set, or the path of one (`sources.load_prompts`). None: 64 that
            come with the package. Messages are put into the model's chat template, as in training.
        adapter: a PEFT adapter's folder or hub id, to be put on `model`.
        config: a `SpinalConfig`; or its fields as keywords: `audit("out", num_prompts=512)`.
        device_map: as `from_pretrained` takes it. Under torchrun or `accelerate launch` every rank loads the model onto
            its own device and reads its share of the prompts.

    Returns:
        the base's (or start's) reading as step 0, then the checkpoint as step 1, or a run's at their own steps; what
        changed, layer by layer; and for a run alerts and turning points. Equal on all ranks.

    Raises:
        ValueError, ImportError: no model, no tokenizer, prompts that cannot be read, policies that differ in depth or
            in what their tokens mean, whatever `Probe` refuses; the message says what to do.
    """
    student_t()
    config = configured(config, fields)
    run = checkpoints(Path(model)) if adapter is None else {}
    plan = _run(Path(model), run, base) if run else _pair(model, base, adapter)
    walk = Walk(plan, prompts, config, device_map).go()
    alerts = _alerts(walk) if run else []
    samples = list(walk.samples.values())
    changes = [paired(samples[0], sample, walk.window) for sample in samples[1:]]
    names = list(walk.names.values())
    turned = turns(walk.samples, walk.window) if run else []
    return Audit(Trace(walk.header(), walk.readings, alerts), names, changes, turned)


# --- what to read -----------------------------------------------------------------------------------------------------


def _pair(model: str | Path, base: str | Path | None, adapter: str | Path | None) -> Plan:
    target = find(model, adapter)
    if base is not None:
        return {0: find(base), 1: target}
    return {1 if target.adapter else 0: target}


def _run(run: Path, folders: dict[int, Path], base: str | Path | None) -> Plan:
    """A run's checkpoints, its start before them if it can be had. One that was not saved whole is left out."""
    plan: Plan = {}
    for step, folder in folders.items():
        try:
            plan[step] = find(folder)
        except ValueError as error:
            _say(f"left out: {error}")
    if not plan:
        raise ValueError(f"{run} has no checkpoint that is whole: there is nothing to read")
    if base is not None:
        return {0: find(base)} | plan
    if next(iter(plan.values())).adapter:
        return plan
    start = _recorded(run)
    if start is None:
        _say(f"{run} does not tell which model it began with: its first checkpoint is the start (or give --base)")
    return plan if start is None else {0: start} | plan


def _recorded(run: Path) -> Checkpoint | None:
    """The model that a run's trace names, if it can be found here."""
    with contextlib.suppress(OSError, ValueError):
        name = load_trace(run).header.model
        if Path(name).is_dir() or "/" in name:  # else a class's name: the model was never saved
            return find(name)
    return None


def _alerts(walk: Walk) -> list[Alert]:
    """What the alert rules say of a run's checkpoints, each with the last one before the first sign."""
    detector, alerts = Detector(walk.window), []
    for reading in walk.readings:
        for alert in detector.update(reading):
            calm = detector.calm(alert.rule)
            saved = calm > 0 and calm in walk.plan
            alerts.append(alert.going_back_to(checkpoint_name(calm)) if saved else alert)
    return alerts


def _say(text: str) -> None:
    if ranks.rank() == 0:
        tqdm.write(f"spinal audit: {text}", file=sys.stderr)
