"""SpinalCallback: the Trainer's events, each passed on to the monitor of the run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ..alerts.calibration import load_rules
from ..config import SpinalConfig
from ..distributed import collectives
from ..distributed.sharding import engine_autocast
from ..probe import Probe
from ..probe.model_parts import locate
from ..probe.prompts import PromptSet, check_restart
from ..sinks import Sink
from ..sinks.recorder import Recorder
from .monitor import Monitor


class SpinalCallback(TrainerCallback):
    """Shows layer by layer how training changes a policy: `Trainer(..., callbacks=[SpinalCallback()])`.

    Args:
        config: a `SpinalConfig`; or give its fields as keywords: `SpinalCallback(every=25, stop_on="error")`.
        prompts: strings, lists of chat messages, or a data set. None: the trainer's evaluation data if they are loaded
            when training begins, else its training data.
        sinks: `Sink` objects, or the names "wandb", "trackio" and "terminal"; the trace file is always written. None:
            the terminal and every installed tracker. A tracker receives records only while a run of it is open.
        fields: fields of `SpinalConfig`.

    Writes `output_dir/_spinal/trace.jsonl` and, at the end, `report.html` beside it. Logs to W&B

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
        spinal/chosen_nll               negative log-likelihood of a few pairs' chosen answers, nats per token
        spinal/margin                   log-likelihood that these gained on the rejected ones since step 0, nats
        spinal/accuracy                 share of the pairs whose margin is positive
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

    A resumed run continues the original trace and reference, also in a new `output_dir`, if the old folder is still
    found: where it was, or moved as a whole. If no reference is found, a line says so: changes are then measured from
    the policy without adapters, or for a full model from the policy at that step; a trace that is in the folder is kept
    as `trace_before_{step}.jsonl`.

    Raises:
        ValueError, ImportError: before training, for what cannot work: a setting, the prompts, a model that the lens
            cannot read, a folder that cannot be written, a tracker that is not installed. Nothing is raised during
            training: a probe that fails is recorded, with a warning, and training continues.
    """

    def __init__(
        self,
        config: SpinalConfig | None = None,
        *,
        prompts: Any = None,
        sinks: Iterable[Sink | str] | None = None,
        **fields: Any,
    ) -> None:
        self.config = SpinalConfig.of(config, fields, ("prompts", "sinks"))
        self._limits = load_rules(self.config.rules) if self.config.rules else {}
        self._prompts = prompts
        self._recorder = Recorder(sinks)
        self._monitor: Monitor | None = None  # while a run is watched

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._monitor = None  # that of a run which was interrupted
        probe, folder = self._build_probe(args, kwargs), Path(args.output_dir or ".")
        monitor = Monitor(self.config, self._limits, probe, self._recorder, folder, state.global_step)
        monitor.begin(probe.header(kwargs["model"]), state, control)
        self._monitor = monitor

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self._monitor is not None:
            self._monitor.before_optimizer_step(state)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self._monitor is not None:
            self._monitor.step_ended(state, control)

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self._monitor is not None:
            self._monitor.logged({"beta": getattr(args, "beta", None), **(kwargs.get("logs") or {})}, state)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self._monitor is not None:
            self._monitor.saved(state)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        monitor, self._monitor = self._monitor, None
        if monitor is not None:
            best_was_loaded = args.load_best_model_at_end  # then these are not the last step's weights
            readable = monitor.probe.sampler.backend.reads_after_training
            monitor.end(state, control, last_weights=not best_was_loaded and readable)

    def _build_probe(self, args: TrainingArguments, trainer: Mapping[str, Any]) -> Probe:
        """The probe of a run that begins. Raises as the class says, on all ranks if on any."""
        model = trainer["model"]
        locate(model)  # a model that cannot be read is refused before its data are
        device = args.device if collectives.world_size() > 1 else model.get_input_embeddings().weight.device
        prompts = collectives.together(lambda: self._collect(trainer), device)
        for what, digest in (("prompts", prompts.hash), ("config", _digest(self.config.to_json()))):
            if not collectives.same_on_all_ranks(digest, device):
                raise ValueError(
                    f"{what} must be the same on every rank, but the ranks' hashes differ:"
                    " start all of them with the same data and settings"
                )
        autocast = engine_autocast(args)
        return collectives.together(lambda: Probe(model, prompts, self.config, autocast, device), device)

    def _collect(self, trainer: Mapping[str, Any]) -> PromptSet:
        """The given prompts; without any, prompts of the evaluation data if loaded, else of the training data."""
        source = self._prompts
        if source is None:
            loaders = (trainer.get("eval_dataloader"), trainer.get("train_dataloader"))
            loader = next((x for x in loaders if x is not None), None)
            if loader is None:
                raise ValueError(
                    "prompts is None, but the trainer has no data set to take them from: give prompts=[...]"
                )
            source = loader.dataset
            check_restart(source, trainer.get("processing_class"))
        return PromptSet.collect(source, trainer.get("processing_class"), self.config)


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()
