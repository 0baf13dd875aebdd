"""The callback: wiring only. When to probe, whom to tell, when to stop."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import time
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, cast

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ..alerts.calibration import load_rules
from ..alerts.detector import Detector
from ..config import SpinalConfig
from ..distributed import collectives as ranks
from ..probe import model_parts as anatomy
from ..probe.probe import Probe
from ..probe.prompts import PromptSet, collect
from ..probe.undisturbed import random_states_kept
from ..records import LEVELS, TRAINER_KEYS, Alert, Reading
from ..run_folder import REFERENCE_FILE, checkpoint_name, references
from ..sinks import Sink
from ..sinks.recorder import Recorder
from ..sinks.terminal import say
from .schedule import Clock, Cost, Schedule

KEY = "spinal_callback"  # of our part of the trainer's state; not the class's name, which the Trainer would look up


class SpinalCallback(TrainerCallback):
    """Shows layer by layer how training reshapes a policy: `Trainer(..., callbacks=[SpinalCallback()])`.

    Args:
        config: a `SpinalConfig`; or give its fields as keywords: `SpinalCallback(every=25, stop_on="error")`.
        prompts: strings, chat message lists, or a data set. None: the trainer's evaluation data if it has been loaded
            when training begins, else its training data.
        sinks: `Sink` objects, or the names "wandb", "trackio" and "terminal", beside the trace file that is always
            written. None: all that are installed (a tracker takes part where a run is open).
        fields: fields of `SpinalConfig`.

    Writes `output_dir/_spinal/trace.jsonl` and at the end `report.html` beside it, and logs to W&B

        spinal/late_alpha               mean contraction of the late window
        spinal/late_transport           mean transport of the late window, radians
        spinal/delta_alpha              change of late_alpha since step 0
        spinal/delta_alpha_se           its paired standard error
        spinal/delta_transport          change of late_transport since step 0, radians
        spinal/delta_transport_se       its paired standard error
        spinal/score                    SPINAL score: the sum of the three terms below, with weight 1 each
        spinal/delta_align              term 1: delta_alpha - delta_transport
        spinal/coherence                term 2: 1 for a depth path without curvature in the late window
        spinal/gradient_concentration   term 3: share of the squared gradient norm that lies in the late window
        spinal/displacement             distance of the final distribution from step 0's, radians
        spinal/localization             share of the change since step 0 that lies in the late window
        spinal/alerts                   alerts so far
        spinal/overhead                 share of wall time spent probing so far
        spinal/interval                 steps until the next probe
        spinal/verdict                  in the run's summary: the report's verdict, such as Healthy
        spinal/worst_alert              in the run's summary: none, warn or error
        spinal/start/late_alpha         in the run's summary: the late means of the first reading
        spinal/start/late_transport
        spinal/heatmaps                 image: contraction and transport of each layer over the steps, and changes
        spinal/depth_trace              image: both against the layer, now and at the start
        spinal/layers                   table, at the end: a row per reading and layer
        spinal_layers/alpha_{01..L}     contraction of each layer
        spinal_layers/transport_{02..L} transport of the step that ends at the layer, radians

    Other trackers get the numbers among these that are one per reading. `layer_logging` says how much W&B gets per
    layer.

    A resumed run goes on with the trace and the reference of the run that made the checkpoint; with another
    `output_dir` it takes both along, as long as the first run's folder is where it was or was moved as a whole. Where
    no reference is found it says so: an adapter run is held against the policy without adapters, another against the
    policy as it is then, and an older trace is kept as `trace_before_{step}.jsonl`.

    Raises:
        ValueError, ImportError: before training, for whatever cannot work: a value of the configuration, the prompts, a
            model that the lens cannot read, a folder that cannot be written, a tracker that is not installed. Once
            training runs nothing is raised: a probe that fails warns and is recorded as missing.
    """

    def __init__(
        self,
        config: SpinalConfig | None = None,
        *,
        prompts: Any = None,
        sinks: Iterable[Sink | str] | None = None,
        **fields: Any,
    ) -> None:
        if config is not None and fields:
            raise ValueError(f"give config or its fields, not both: config and {', '.join(fields)}")
        self.config = config or SpinalConfig(**fields)
        self._limits = load_rules(self.config.rules) if self.config.rules else {}
        self._prompts = prompts
        self._recorder = Recorder(sinks)
        self._probe: Probe | None = None
        self._fresh()

    def _fresh(self) -> None:
        """As before a run: one callback may see several."""
        self._logged: dict[str, float] = {}  # what the Trainer logged last
        self._checkpoints: list[int] = []  # steps at which one was saved
        self._schedule = Schedule(self.config.every, self.config.overhead)
        self._gradients: torch.Tensor | None = None
        self._last_step = -1  # last step with a reading, or an attempt at one
        self._saved_for_alert = self._said_gradients = False

    # --- the Trainer's events

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._fresh()
        model = kwargs["model"]
        anatomy.locate(model)  # a model that cannot be read is refused before its data are
        device = args.device if ranks.world() > 1 else model.get_input_embeddings().weight.device
        with random_states_kept():  # a data set may draw when it is looked at
            prompts = ranks.together(lambda: self._collect(kwargs), device)
        for what, digest in (("prompts", prompts.hash), ("config", _digest(self.config.to_json()))):
            if not ranks.alike(digest, device):
                raise ValueError(f"{what} must be the same on every rank, but the ranks' hashes differ")
        autocast = ranks.engine_autocast(args)
        probe = self._probe = ranks.together(lambda: Probe(model, prompts, self.config, autocast, device), device)
        self._detector = Detector(probe.window, self._limits)
        folder = Path(args.output_dir or ".")
        home = self._resume(folder, state, device)
        ranks.together(lambda: self._open(folder, home, state, model), device)
        self._clock = Clock(state.global_step)
        if probe.start is None:
            self._guarded(
                lambda: ranks.together(probe.take_reference, device), state, "no reading of the policy without adapters"
            )
        if home is None:
            if state.global_step > 0:
                now = "the policy as it is now" if probe.start is None else "the policy without adapters"
                self._say(f"no reference for these prompts in the checkpoint: readings are held against {now}")
            self._look(state, control)

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self._probe is None or not self.config.gradients or not self._due(state, state.global_step + 1):
            return
        sampler = self._probe.sampler
        self._gradients = self._guarded(
            lambda: ranks.squared_gradients(sampler.anatomy.layers, sampler.device), state, "no gradient concentration"
        )

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self._due(state, state.global_step) or control.should_training_stop:
            self._look(state, control)

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        logs = {"beta": getattr(args, "beta", None), **(kwargs.get("logs") or {})}
        self._logged.update({key: float(logs[key]) for key in TRAINER_KEYS if isinstance(logs.get(key), int | float)})

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """The reference goes beside the checkpoint's weights: a run resumed there is held against the same step 0."""
        folder = Path(args.output_dir or ".") / checkpoint_name(state.global_step)
        probe = self._probe
        self._checkpoints.append(state.global_step)
        if state.is_world_process_zero and probe is not None:
            self._guarded(lambda: probe.save_start(folder / REFERENCE_FILE), state, "the reference was not saved")

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        best_was_loaded = args.load_best_model_at_end  # then these are not the last step's weights
        sharded = ranks.is_fsdp(kwargs["model"])  # forward passes outside the training loop are not safe there
        if self._last_step != state.global_step and not best_was_loaded and not sharded:
            self._look(state, control)
        self._recorder.close()

    # --- what they lead to

    def _due(self, state: TrainerState, step: int) -> bool:
        return self._schedule.due(step) or step >= state.max_steps

    def _look(self, state: TrainerState, control: TrainerControl) -> None:
        """One probe, told to everyone who listens. A failure is recorded; training goes on."""
        if self._probe is None:
            return
        self._last_step, gradients, self._gradients = state.global_step, self._gradients, None
        probe, began = self._probe, time.perf_counter()
        before = dict(probe.sampler.at_a_time)
        try:
            reading = ranks.together(lambda: probe.read(state.global_step, gradients), probe.sampler.device)
        except Exception as error:
            self._clock.probed(time.perf_counter() - began)
            self._schedule.probed(state.global_step, self._schedule.interval)
            self._failed(state, "no reading", error)
            return
        reading, cost = self._agreed(reading, state, probe)
        alerts = self._guarded(lambda: self._detector.update(reading), state, "no alert rules")
        tension = 0.0 if alerts is None else self._detector.tension
        interval = self._schedule.proposed(cost, reading.step, state.max_steps, tension)
        self._schedule.probed(reading.step, interval)
        self._recorder.write(dataclasses.replace(reading, interval=interval))
        for what, now in probe.sampler.at_a_time.items():
            if now < before[what]:
                words = (
                    f"out of memory at step {reading.step}: the probe was repeated, and from now on it runs"
                    f" {now} {what} at a time, not {before[what]}"
                )
                self._recorder.notice("probe_memory", reading.step, words)
        for alert in alerts or []:
            alert = self._with_last_good(alert)
            self._recorder.write(alert)
            self._act(alert, control)
        none = gradients is not None and bool(gradients.isnan().all()) and reading.nonfinite == 0
        if none and not self._said_gradients:
            self._said_gradients = True
            self._say("the layers' gradients are not to be had here: no gradient concentration and no score")
        self._remember(state, probe)
        if control.should_training_stop:
            self._recorder.complete()

    def _agreed(self, reading: Reading, state: TrainerState, probe: Probe) -> tuple[Reading, Cost]:
        """With what each rank measures for itself: rank zero's word counts, so that every rank has the same."""
        own = [self._clock.probed(reading.seconds), float(reading.peak_bytes)]
        own += [reading.seconds, self._clock.step_seconds(state.global_step), self._clock.spent]
        own += [self._logged.get(key, math.nan) for key in TRAINER_KEYS]
        overhead, peak, seconds, step, spent, *logged = ranks.from_zero(own, probe.sampler.device)
        trainer = {key: value for key, value in zip(TRAINER_KEYS, logged, strict=True) if key in self._logged}
        agreed = dataclasses.replace(reading, seconds=seconds, overhead=overhead, peak_bytes=int(peak), trainer=trainer)
        return agreed, Cost(seconds, step, spent)

    def _remember(self, state: TrainerState, probe: Probe) -> None:
        """What a resumed run goes on with."""
        _remembered(state)[KEY] = {
            "last": state.global_step,
            "interval": self._schedule.interval,
            "rules": self._detector.state(),
            "at_a_time": probe.sampler.at_a_time,
            "saved_for_alert": self._saved_for_alert,
            "checkpoints": self._checkpoints,  # these two change after the probe and before the next save
            "logged": self._logged,
            "reference": probe.fingerprint,
            "folder": self._folder,
        }

    def _with_last_good(self, alert: Alert) -> Alert:
        """Names the last checkpoint that a reading without a sign came after, and that is still there."""
        calm = self._detector.calm(alert.rule)
        names = [checkpoint_name(step) for step in self._checkpoints if step <= calm]
        kept = [name for name in names if (Path(self._folder) / name).is_dir()]
        return alert.going_back_to(kept[-1]) if kept else alert

    def _act(self, alert: Alert, control: TrainerControl) -> None:
        if self.config.save_on_alert and not self._saved_for_alert:
            self._saved_for_alert = control.should_save = True
        if self.config.stop_on is not None and LEVELS.index(alert.level) >= LEVELS.index(self.config.stop_on):
            control.should_training_stop = True
            if ranks.rank() == 0:
                say(f"spinal  stops training at step {alert.step}: {alert.rule}, stop_on={self.config.stop_on!r}")

    def _resume(self, folder: Path, state: TrainerState, device: torch.device) -> Path | None:
        """Takes up where a checkpoint left off; its run's folder. None: this step has still to be probed."""
        assert self._probe is not None
        probe, saved = self._probe, _remembered(state).get(KEY)
        self._folder, home = str(folder.absolute()), None
        if state.global_step > 0 and saved is not None:
            # the Trainer does not tell where it resumes from: this run's folder, or that of the run which was saved
            places = (folder, Path(saved["folder"]))
            home = next((place for place in places if self._reference_in(place, saved)), None)
        everywhere = ranks.least(int(home is not None), device)
        if saved is None or not everywhere:
            probe.start = None
            return None
        if self.config.every == "auto":
            self._schedule.probed(saved["last"], saved["interval"])
        self._detector.restore(saved["rules"])
        probe.sampler.remember(saved.get("at_a_time", {}))
        self._last_step, self._saved_for_alert = saved["last"], saved["saved_for_alert"]
        self._checkpoints = [*saved.get("checkpoints", []), state.global_step]
        self._logged = dict(saved.get("logged", {}))
        return home

    def _reference_in(self, folder: Path, saved: dict[str, Any]) -> bool:
        """Takes up the reference that `saved` tells of, from any checkpoint in `folder`: a run has only one."""
        assert self._probe is not None
        probe = self._probe
        return any(probe.load_start(path, saved["reference"]) for path in references(folder))

    def _say(self, text: str) -> None:
        if ranks.rank() == 0:
            say(f"spinal  {text}")

    def _guarded(self, work: Callable[[], Any], state: TrainerState, otherwise: str) -> Any:
        """What `work` gives. None if it fails, which is recorded."""
        try:
            return work()
        except Exception as error:
            self._failed(state, otherwise, error)

    def _failed(self, state: TrainerState, what: str, error: Exception) -> None:
        self._recorder.notice("probe_failed", state.global_step, f"{what} at step {state.global_step}: {error!r}")
        warnings.warn(f"spinal: {what} at step {state.global_step}: {error!r}", stacklevel=2)

    def _collect(self, trainer: dict[str, Any]) -> PromptSet:
        source, tokenizer = self._prompts, trainer.get("processing_class")
        if source is None:
            loaders = (trainer.get("eval_dataloader"), trainer.get("train_dataloader"))
            loader = next((x for x in loaders if x is not None), None)
            if loader is None:
                raise ValueError(
                    "prompts is None and the trainer has no data set to take them from: give prompts=[...]"
                )
            source = loader.dataset
        config = self.config
        return collect(
            source,
            tokenizer,
            count=config.num_prompts,
            longest=config.max_prompt_tokens,
            with_answers=config.position == "response",
            seed=config.seed,
        )

    def _open(self, folder: Path, home: Path | None, state: TrainerState, model: Any) -> None:
        if self._probe is not None and state.is_world_process_zero:
            self._recorder.open(self._probe.header(model), folder, state.global_step, home)


def _remembered(state: TrainerState) -> dict[str, Any]:
    """What is saved in every checkpoint's trainer_state.json. (The Trainer declares a list and keeps a dictionary.)"""
    return cast(dict[str, Any], state.stateful_callbacks)


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()
