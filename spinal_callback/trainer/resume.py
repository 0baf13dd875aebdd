"""What a checkpoint carries of a run that is being watched, and how a resumed run finds its reference again."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from transformers import TrainerState

from ..probe.probe import Probe
from ..records import null_for_nan
from ..run_folder import references
from ..schema import build, written

KEY = "spinal_callback"  # in the Trainer's state; not the class's name, by which the Trainer would restore the callback


@dataclass(frozen=True)
class RunState:
    """What a resumed run continues with; small, JSON only, and without prompt text.

    Attributes:
        last: step of the last probe, also if it failed.
        interval: steps from there to the next probe, with `every="auto"`.
        asked: step of a probe that was asked for beside those (`Schedule.asked`).
        rules: state of the alert rules (`Detector.state`).
        log_watch: state of the watch on the Trainer's log (`LogWatch.to_json`).
        reference: fingerprint of the sample that changes are measured from; empty: there is none.
        folder: the run's folder, where its trace and its checkpoints are.
        at_a_time: what fitted into memory (`Sampler.at_a_time`).
        saved_for_alert: whether a checkpoint was asked for at an alert.
        checkpoints: steps of the checkpoints saved so far.
        logged: the Trainer's own numbers as it logged them last.
        measure: what readings must have in common to be compared (`Header.measure`); empty in earlier versions' states.
        number: of the run's trace in its folder.
    """

    last: int
    interval: int
    rules: dict[str, Any]
    reference: str
    folder: str
    at_a_time: dict[str, int] = field(default_factory=dict)
    saved_for_alert: bool = False
    checkpoints: list[int] = field(default_factory=list)
    logged: dict[str, float] = field(default_factory=dict)
    asked: int = -1
    log_watch: dict[str, Any] = field(default_factory=dict)
    measure: dict[str, Any] = field(default_factory=dict)
    number: int = 1

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, data: Any) -> RunState:
        """The state from JSON.

        Raises:
            ValueError: a field is missing, of another type, or out of its range; names it.
        """
        if not isinstance(data, dict):
            raise ValueError(f"must be an object, got {written(data)}")
        own = {name: data[name] for name in ("rules", "log_watch") if name in data}  # who made them checks them
        if wrong := [name for name, value in own.items() if not isinstance(value, dict)]:
            raise ValueError(f"{wrong[0]} must be an object, got {written(own[wrong[0]])}")
        try:
            plain = null_for_nan({name: value for name, value in data.items() if name not in own})
        except RecursionError:
            raise ValueError("is nested too deeply") from None
        state = dataclasses.replace(build(cls, plain | {name: {} for name in own}), **own)
        least = {"last": -1, "interval": 1, "number": 1}
        wrong = [name for name, value in least.items() if getattr(state, name) < value]
        wrong += [f"at_a_time.{name}" for name, value in state.at_a_time.items() if value < 1]
        if wrong:
            raise ValueError(f"{wrong[0]} is too small")
        return state


def load_state(state: TrainerState) -> RunState | None:
    """What the checkpoint that training resumes from carries; None: it was saved without the callback.

    Raises:
        ValueError: it is damaged or foreign; names the field.
    """
    saved = _entries(state).get(KEY)
    try:
        return None if saved is None else RunState.from_json(saved)
    except ValueError as error:
        raise ValueError(f"trainer_state.json, stateful_callbacks.{KEY}: {error}") from None


def save_state(state: TrainerState, run: RunState) -> None:
    """Puts it where the Trainer writes it into each checkpoint's `trainer_state.json`."""
    _entries(state)[KEY] = run.to_json()


def find_reference(probe: Probe, saved: RunState, folders: Iterable[Path]) -> Path | None:
    """Loads the saved run's reference into `probe`; the first of the run folders that has it, or None.

    Every checkpoint of a run has the same reference, so any of them will do.
    """
    for folder in folders:
        with contextlib.suppress(OSError, ValueError):  # a folder that cannot be looked into; a name that can be none
            if any(probe.load_reference(file, saved.reference) for file in references(folder)):
                return folder
    return None


def _entries(state: TrainerState) -> dict[str, Any]:
    return cast(dict[str, Any], state.stateful_callbacks)  # the Trainer declares a list and keeps a dictionary
