"""One run that is being watched: when to probe, what to record, whether to stop."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from transformers import TrainerControl, TrainerState

from ..alerts.detector import CONFIRM_AFTER, Detector
from ..alerts.log_watch import LogWatch
from ..alerts.rules import Limit
from ..config import SpinalConfig
from ..distributed import collectives
from ..failures import described, placed, warn
from ..probe import Probe
from ..probe.undisturbed import random_states_kept
from ..records import LEVELS, TRAINER_KEYS, Alert, Header, Reading, other_measure
from ..run_folder import REFERENCE_FILE, checkpoint_name
from ..sinks.recorder import Recorder
from ..sinks.terminal import say
from .resume import KEY, RunState, find_reference, load_state, save_state
from .schedule import CEILING, Clock, Cost, Schedule

T = TypeVar("T")


class Monitor:
    """Watches one run, from the beginning of training to its end.

    Once `begin` has returned, nothing is raised: what fails is recorded, with a warning, and training continues. With
    several ranks, call every method on all of them, since they contain collectives; only rank zero has sinks.

    Args:
        config: the settings.
        limits: limits of alert rules, in place of the default ones.
        probe: reads the policy.
        recorder: the sinks, not open yet.
        folder: the run's folder, `output_dir`.
        step: optimizer steps done; more than 0 for a resumed run.
    """

    def __init__(
        self,
        config: SpinalConfig,
        limits: Mapping[str, Limit],
        probe: Probe,
        recorder: Recorder,
        folder: Path,
        step: int,
    ) -> None:
        self.probe, self._config, self._recorder, self._limits = probe, config, recorder, limits
        self.folder = folder.absolute()  # now, since a script may go to another folder
        self._device = probe.sampler.device
        self._schedule = Schedule(config.every, config.overhead)
        self._clock = Clock(step)
        self._detector = Detector(probe.window, limits)
        self._log_watch, self._log_asks = LogWatch(), False  # whether the log has asked for a probe since the last step
        self._last_step = -1  # of the last probe, also if it failed
        self._logged: dict[str, float] = {}  # the Trainer's numbers as it logged them last
        self._checkpoints: list[int] = []  # steps of those saved so far
        self._gradients: torch.Tensor | None = None  # squared norms, for the probe after the step
        self._saved_for_alert = self._said_gradients = False
        self._measure: dict[str, Any] = {}
        self._first: Reading | None = None
        self._weights: list[tuple[int, int]] = []  # at the end of the last epoch
        self._writing = 0.0  # seconds that the sinks took for the last reading

    # --- what happens in a run

    @random_states_kept()  # sinks may draw random numbers
    def begin(
        self, header: Header, state: TrainerState, control: TrainerControl, before: Monitor | None = None
    ) -> None:
        """Continues the run that wrote the checkpoint, if training resumes from one; else opens a new trace and probes.

        Args:
            before: of the same run, which ran out of memory and begins again at step 0 with weights that have moved.
                Its start is this run's.

        Raises:
            ValueError: the run's folder cannot be written.
        """
        self._measure = header.measure
        home, number, why = self._begun_again(before) if before is not None else self._resume(state)
        collectives.together(lambda: self._open(header, home, state, number), self._device)
        for note in self.probe.notes:
            self._say(note)
        if self.probe.reference is None:
            self._guarded(self._take_reference, state, "no reading of the policy without adapters")
        if home is None:
            if state.global_step > 0:
                now = "the policy as it is now" if self.probe.reference is None else "the policy without adapters"
                self._say(f"{why}; changes are measured from {now}")
            self._take_reading(state, control)

    def before_optimizer_step(self, state: TrainerState) -> None:
        """Probes after this step if the log asks for it; reads the gradients, if the step will be probed."""
        if self._log_asked(state):
            self._schedule.ask(state.global_step + 1)
        if self._config.gradients and self._due(state, state.global_step + 1):
            squared = self.probe.sampler.squared_gradients
            self._gradients = self._guarded(squared, state, "no gradient concentration")

    def step_ended(self, state: TrainerState, control: TrainerControl) -> None:
        if self._due(state, state.global_step) or control.should_training_stop:
            self._guarded(lambda: self._take_reading(state, control), state, "the reading was not recorded")

    def logged(self, numbers: Mapping[str, Any], state: TrainerState) -> None:
        """Keeps the Trainer's own numbers for the next reading, with the step that they belong to.

        A reading is taken before the Trainer logs its own step, so these are always of an earlier one. Where they move
        fast, the next step is probed.
        """
        known = {k: float(v) for k in TRAINER_KEYS if isinstance(v := numbers.get(k), int | float)}
        if known.keys() - {"beta"}:  # a setting, which comes with every row, also with that of an evaluation
            self._logged |= known | {"step": float(state.global_step)}
            self._log_asks |= self._log_watch.update(state.global_step, numbers)
            self._remember(state)

    @random_states_kept()
    def saved(self, state: TrainerState, place: Path | None = None) -> None:
        """Saves the reference with a checkpoint: a run resumed there measures from the same step 0.

        Args:
            place: its file; None: beside the checkpoint's weights.
        """
        file = place or self.folder / checkpoint_name(state.global_step) / REFERENCE_FILE
        self._checkpoints.append(state.global_step)
        if state.is_world_process_zero:
            self._guarded(lambda: self.probe.save_reference(file), state, "the reference was not saved")
        self._remember(state)

    @random_states_kept()
    def end(self, state: TrainerState, control: TrainerControl, last_weights: bool) -> None:
        """Probes the last step, unless that was done or the model has other weights by now; closes the sinks."""
        if last_weights:
            self.take_last(state, control)
        self._recorder.close()

    def epoch_ended(self, state: TrainerState, control: TrainerControl) -> None:
        """Probes the last step of training, where it has been told to stop since; notes which weights these are."""
        self._weights = self.probe.sampler.weights_mark()
        if control.should_training_stop:
            self.take_last(state, control)

    def take_last(self, state: TrainerState, control: TrainerControl, unless_loaded: bool = False) -> None:
        """Probes the last step, unless that was done or the model cannot be read after training.

        Args:
            unless_loaded: nor if the model's weights have been loaded since the end of the last epoch.
        """
        if self._last_step == state.global_step or not self.probe.sampler.backend.reads_after_training:
            return
        if not unless_loaded or self._weights == self.probe.sampler.weights_mark():
            self._guarded(lambda: self._take_reading(state, control), state, "the reading was not recorded")

    # --- probing

    def _due(self, state: TrainerState, step: int) -> bool:
        return self._schedule.due(step) or step >= state.max_steps

    def _log_asked(self, state: TrainerState) -> bool:
        """Whether the log has asked for a probe. All ranks take rank zero's word, after each step that is logged."""
        if state.global_step == 0 or state.global_step % max(state.logging_steps, 1) != 0:
            return False
        own, self._log_asks = self._log_asks, False
        return bool(collectives.broadcast_from_zero([float(own)], self._device)[0])

    @random_states_kept()
    def _take_reading(self, state: TrainerState, control: TrainerControl) -> None:
        """Probes the policy, records what was read, and acts on the alerts."""
        step, gradients, self._gradients = state.global_step, self._gradients, None
        self._last_step = step
        fitted, began = dict(self.probe.sampler.at_a_time), time.perf_counter()
        reading = self._guarded(
            lambda: collectives.together(lambda: self.probe.read(step, gradients), self._device), state, "no reading"
        )
        if reading is None:
            self._clock.add_probe(time.perf_counter() - began)
            self._schedule.adopt(step, self._schedule.interval)
        else:
            self._report_memory(fitted, step)
            self._record(reading, state, control)
            self._report_missing_gradients(gradients, reading)
        self._remember(state)
        if control.should_training_stop:
            self._recorder.complete()

    def _record(self, reading: Reading, state: TrainerState, control: TrainerControl) -> None:
        reading, cost = self._agreed(reading, state)
        alerts, tension = self._guarded(lambda: self._judge(reading), state, "no alert rules") or ([], 0.0)
        interval = self._schedule.proposed(cost, reading.step, state.max_steps, tension)
        self._schedule.adopt(reading.step, interval)
        if self._detector.unconfirmed:
            self._schedule.ask(reading.step + CONFIRM_AFTER)
        self._first, began = self._first or reading, time.perf_counter()
        self._recorder.write(dataclasses.replace(reading, interval=self._schedule.until_next(reading.step)))
        for alert in alerts:
            named = self._with_last_good(alert)
            self._recorder.write(named)
            self._act(named, control)
        self._writing = time.perf_counter() - began  # training waits for the sinks, too
        self._clock.add_probe(self._writing)

    def _agreed(self, reading: Reading, state: TrainerState) -> tuple[Reading, Cost]:
        """The reading with what each rank measures for itself. All take rank zero's, so that they decide alike."""
        own = [self._clock.add_probe(reading.seconds), float(reading.peak_bytes)]
        own += [reading.seconds + self._writing, self._clock.step_seconds(state.global_step), self._clock.spent]
        own += [self._logged.get(key, math.nan) for key in TRAINER_KEYS]
        own.append(reading.seconds)
        overhead, peak, cost, step, spent, *logged, seconds = collectives.broadcast_from_zero(own, self._device)
        trainer = {key: value for key, value in zip(TRAINER_KEYS, logged, strict=True) if key in self._logged}
        agreed = dataclasses.replace(reading, seconds=seconds, overhead=overhead, peak_bytes=int(peak), trainer=trainer)
        return agreed, Cost(cost, step, spent)

    def _judge(self, reading: Reading) -> tuple[list[Alert], float]:
        """The alerts that a reading raises, and how near the nearest rule is to its limit."""
        try:
            return self._detector.update(reading), self._detector.tension
        except Exception:  # a state of the rules that a damaged checkpoint has brought: they begin anew
            self._detector = Detector(self.probe.window, self._limits)
            raise

    def _with_last_good(self, alert: Alert) -> Alert:
        """Names the last checkpoint saved before a reading without a sign of what the alert warns of."""
        calm = self._detector.calm(alert.rule)
        names = [checkpoint_name(step) for step in self._checkpoints if step <= calm]
        kept = [name for name in names if os.path.isdir(self.folder / name)]  # also False if the file system fails
        return alert.going_back_to(kept[-1]) if kept else alert

    def _act(self, alert: Alert, control: TrainerControl) -> None:
        if self._config.save_on_alert and not self._saved_for_alert:
            self._saved_for_alert = control.should_save = True
        stop_on = self._config.stop_on
        if stop_on is not None and LEVELS.index(alert.level) >= LEVELS.index(stop_on):
            control.should_training_stop = True
            self._say(f"stops training at step {alert.step}: {alert.rule}, stop_on={stop_on!r}")

    # --- the reference, and what a checkpoint carries

    def _open(self, header: Header, home: Path | None, state: TrainerState, number: int) -> None:
        if state.is_world_process_zero:
            self._recorder.open(header, self.folder, state.global_step, home, number)

    def _take_reference(self) -> None:
        """Reads an adapter run's policy without its adapters; a full model's reference is its first reading."""
        began = time.perf_counter()
        collectives.together(self.probe.take_reference, self._device)
        self._clock.add_probe(time.perf_counter() - began)

    def _resume(self, state: TrainerState) -> tuple[Path | None, int, str]:
        """Takes over what the checkpoint carries: the folder of the run that wrote it, and the number of its trace.

        None instead of a folder, if there is no checkpoint or no reference for it, and why: this step has still to be
        probed.
        """
        saved, home, why = self._saved(state), None, "the checkpoint has no reference for these prompts"
        if saved is not None and (other := other_measure(saved.measure, self._measure)):
            saved, why = None, f"the readings so far cannot be continued: {other}"
        if saved is not None:
            # the Trainer does not say where it resumes from: this run's folder, or that of the run which was saved
            home = find_reference(self.probe, saved, (self.folder, Path(saved.folder)))
        everywhere = collectives.least(int(home is not None), self._device)
        if saved is None or not everywhere:
            self.probe.reference = None
            return None, 1, why
        if self._config.every == "auto":
            self._schedule.adopt(min(saved.last, state.global_step), min(saved.interval, CEILING))
        self._restore_rules(saved)
        self._schedule.ask(saved.asked)
        self.probe.sampler.remember(saved.at_a_time)
        self._last_step, self._saved_for_alert = saved.last, saved.saved_for_alert
        self._checkpoints = [*saved.checkpoints, state.global_step]
        self._logged = dict(saved.logged)
        return home, saved.number, ""

    def _restore_rules(self, saved: RunState) -> None:
        """The state of the alert rules and of the watch on the log; they begin anew, with a warning, if damaged."""
        try:
            self._log_watch = LogWatch.from_json(saved.log_watch)
            self._detector.restore(saved.rules)
            self._detector.tension  # noqa: B018  # computes every measure: a value of a wrong type shows here
        except Exception as error:
            self._detector, self._log_watch = Detector(self.probe.window, self._limits), LogWatch()
            if collectives.rank() == 0:
                warn(f"trainer_state.json, stateful_callbacks.{KEY}: the rules begin anew: {described(error)}")

    def _begun_again(self, before: Monitor) -> tuple[Path | None, int, str]:
        """Takes over the start of the same run, as `_resume` does: the reference, and its first reading."""
        first, reference = before._first, before.probe.reference
        same = first is not None and reference is not None and before._measure == self._measure
        if not collectives.least(int(same), self._device) or first is None:
            return None, 1, ""
        self.probe.reference, self._first, self._last_step = reference, first, first.step
        self._judge(first)
        self._say("training begins again after it ran out of memory; changes are still measured from its first start")
        return self.folder, self._recorder.number, ""

    def _saved(self, state: TrainerState) -> RunState | None:
        """What the checkpoint carries; None without one, and, with a warning, if it is damaged."""
        try:
            return load_state(state) if state.global_step > 0 else None
        except ValueError as error:
            if collectives.rank() == 0:
                warn(f"{self.folder / checkpoint_name(state.global_step)}: {error}; the run continues without it")
            return None

    def _remember(self, state: TrainerState) -> None:
        run = RunState(
            last=self._last_step,
            interval=self._schedule.interval,
            asked=self._schedule.asked,
            rules=self._detector.state(),
            log_watch=self._log_watch.to_json(),
            reference=self.probe.fingerprint,
            folder=str(self.folder),
            at_a_time=self.probe.sampler.at_a_time,
            saved_for_alert=self._saved_for_alert,
            checkpoints=self._checkpoints,
            logged=self._logged,
            measure=self._measure,
            number=self._recorder.number,
        )
        save_state(state, run)

    # --- messages

    def _report_memory(self, fitted: Mapping[str, int], step: int) -> None:
        for what, now in self.probe.sampler.at_a_time.items():
            if now < fitted[what]:
                words = (
                    f"out of memory at step {step}: the probe was repeated, and from now on it runs {now} {what}"
                    f" at a time, not {fitted[what]}"
                )
                self._recorder.notice("probe_memory", step, words)

    def _report_missing_gradients(self, gradients: torch.Tensor | None, reading: Reading) -> None:
        missing = gradients is not None and bool(gradients.isnan().all()) and reading.nonfinite == 0
        if missing and not self._said_gradients:
            self._said_gradients = True
            self._say("layer gradients are unavailable in this mode; gradient concentration and score are not computed")

    @random_states_kept()
    def _guarded(self, work: Callable[[], T], state: TrainerState, otherwise: str) -> T | None:
        """What `work` returns. None if it fails; the failure is recorded, and training continues."""
        try:
            return work()
        except Exception as error:
            what = f"{otherwise} at step {state.global_step}"
            reported = described(error) if self._config.log_prompts else placed(error)  # a message may quote a prompt
            self._recorder.notice("probe_failed", state.global_step, f"{what}: {reported}")
            warn(f"{what}: {described(error)}")
            return None

    def _say(self, text: str) -> None:
        if collectives.rank() == 0:
            with contextlib.suppress(Exception):  # standard output may be closed
                say(f"spinal  {text}")
