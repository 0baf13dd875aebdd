"""The depth trace of a checkpoint against its base, or of all checkpoints of a run against its start: `audit`."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from ..alerts.calibration import load_rules
from ..alerts.detector import Detector
from ..alerts.rules import Limit
from ..config import SpinalConfig
from ..distributed import collectives
from ..records import Alert
from ..run_folder import checkpoint_name, checkpoints
from ..traces import Trace, load_trace
from .checkpoints import Checkpoint, find
from .compare_traces import prompts_of_a_fit
from .effects import bounds
from .equivalence import judged
from .gradients import Pairs
from .p_values import student_t
from .reader import CheckpointReader, CheckpointReadings, Plan
from .results import Audit
from .settings import check_enough, settings
from .significance import estimates, paired, turning_points

ARGUMENTS = ("base", "prompts", "adapter", "pairs", "num_pairs", "beta", "preset", "at_least", "device_map")


def audit(
    model: str | Path,
    base: str | Path | None = None,
    prompts: Any = None,
    adapter: str | Path | None = None,
    config: SpinalConfig | None = None,
    *,
    pairs: Any = None,
    num_pairs: int = 32,
    beta: float = 0.1,
    preset: str | None = None,
    at_least: Mapping[str, float] | None = None,
    device_map: Any = "auto",
    **fields: Any,
) -> Audit:
    """The depth trace of a checkpoint against its base, or of all checkpoints of a run against its start.

    Args:
        model: a folder, a hub id, a GGUF file, an adapter's folder; or the output folder of a run, with `checkpoint-N`
            folders in it.
        base: the model to compare with, of the same kinds. Left out, it is for an adapter the policy without it (TRL's
            "ref" adapter, if the run began with one); for a run the model that its trace names, or else its first
            checkpoint; for any other checkpoint there is none.
        prompts: strings, chat message lists, a data set, or the path of one (`prompt_files.load_prompts`). None: the 64
            bundled prompts. Messages go through the model's chat template, as in training.
        adapter: folder or hub id of a PEFT adapter to add to `model`.
        config: a `SpinalConfig`, used as it is; or give its fields as keywords: `audit("out", num_prompts=512)`. With
            keywords `group` is 64 if left out. The settings of training alone are no keywords here (`settings.USED`).
        pairs: rows with chosen and rejected answers, or the path of some, for gradient concentration, the score's third
            term: that of the DPO loss over the first `num_pairs` of them (`gradients.py`). None: it is not measured.
        num_pairs, beta: how many pairs, and the loss's beta.
        preset: "paper": the paper's protocol (`settings.PRESETS`), where no keyword says otherwise.
        at_least: the least changes that matter: `contraction` and `transport` of the late window, `displacement`; those
            left out are `effects.AT_LEAST`. A verdict is about them (`equivalence.py`).
        device_map: as `from_pretrained` takes it. Under torchrun or `accelerate launch` every rank loads the model onto
            its own device instead, and reads its share of the prompts.

    Returns:
        the reading of the base (or start) as step 0, then that of the checkpoint as step 1, or those of a run's
        checkpoints at their own steps; what changed, layer by layer, and whether that is more than a change that
        matters; and for a run its alerts and turning points. Equal on all ranks.

    Raises:
        ValueError, ImportError: there is no such model, it has no tokenizer, the prompts cannot be read, the policies
            differ in depth or vocabulary, or `Probe` refuses the model; the message says what to do.
    """
    student_t()
    config = settings(config, fields, ARGUMENTS, preset)
    asked = Pairs(pairs, num_pairs, beta)
    matters = bounds(at_least)
    limits = load_rules(config.rules) if config.rules else {}
    run = checkpoints(Path(model)) if adapter is None else {}
    plan = _run(Path(model), run, base) if run else _pair(model, base, adapter)
    reader = CheckpointReader(plan, prompts, config, device_map, None if pairs is None else asked)
    check_enough(preset, config, len(reader.prompts.ids))
    read = reader.read_all()
    window, (first, *later) = read.header.window, read.samples.values()
    changes = [paired(first, sample, window) for sample in later]
    group = prompts_of_a_fit(read.header)
    effects = [judged(estimates(first, s, window), matters, read.header.prompts, group) for s in later]
    alerts = _alerts(read, limits) if run else []
    turned = turning_points(read.samples, window) if run else []
    return Audit(Trace(read.header, read.readings, alerts), list(read.names.values()), changes, turned, effects)


# --- what to read -----------------------------------------------------------------------------------------------------


def _pair(model: str | Path, base: str | Path | None, adapter: str | Path | None) -> Plan:
    target = find(model, adapter)
    if base is not None:
        return {0: find(base), 1: target}
    return {1 if target.adapter else 0: target}


def _run(run: Path, folders: dict[int, Path], base: str | Path | None) -> Plan:
    """A run's checkpoints, after its start if that is known. Incomplete checkpoints are left out, with a warning."""
    plan: Plan = {}
    for step, folder in folders.items():
        try:
            plan[step] = find(folder)
        except ValueError as error:
            _warn(f"left out: {error}")
    if not plan:
        raise ValueError(f"{run} has no complete checkpoint: there is nothing to read")
    if base is not None:
        return {0: find(base)} | plan
    if next(iter(plan.values())).adapter:
        return plan
    start = _recorded(run)
    if start is None:
        _warn(f"{run} does not say which model it began with: its first checkpoint is the start (or give --base)")
    return plan if start is None else {0: start} | plan


def _recorded(run: Path) -> Checkpoint | None:
    """The model that a run's trace names, if it can be found."""
    with contextlib.suppress(OSError, ValueError):
        name = load_trace(run).header.model
        if Path(name).is_dir() or "/" in name:  # otherwise the name of a class: the model was never saved
            return find(name)
    return None


def _alerts(read: CheckpointReadings, limits: dict[str, Limit]) -> list[Alert]:
    """The alerts of a run's checkpoints, each naming the last checkpoint before its first sign."""
    detector, alerts = Detector(read.header.window, limits), []
    for reading in read.readings:
        for alert in detector.update(reading):
            calm = detector.calm(alert.rule)
            alerts.append(alert.going_back_to(checkpoint_name(calm)) if calm > 0 and calm in read.names else alert)
    return alerts


def _warn(text: str) -> None:
    if collectives.rank() == 0:
        tqdm.write(f"spinal audit: {text}", file=sys.stderr)
