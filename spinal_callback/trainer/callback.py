"""SpinalCallback: the Trainer's events, each passed on to the monitor of the run."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any
from weakref import WeakSet

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import HubStrategy

from ..alerts.calibration import load_rules
from ..config import SpinalConfig
from ..distributed import collectives
from ..distributed.sharding import engine_autocast
from ..failures import described, warn
from ..probe import Probe
from ..probe.model_parts import locate
from ..probe.prompts import MOST_ROWS, PromptSet
from ..probe.sources import check_restart, data_of
from ..run_folder import REFERENCE_FILE, checkpoint_name, pushed_reference_path
from ..sinks import Sink
from ..sinks.recorder import Recorder
from .monitor import Monitor


class SpinalCallback(TrainerCallback):
    """Shows layer by layer how training changes a policy: `Trainer(..., callbacks=[SpinalCallback()])`.

    Args:
        config: a `SpinalConfig`; or give its fields as keywords: `SpinalCallback(every=25, stop_on="error")`.
        prompts: strings, lists of chat messages, or a data set. None: the trainer's training data.
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
        spinal/step                     training step of the row, the x axis of all
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
        # an iterator is used up by the first run
        self._prompts = list(itertools.islice(prompts, MOST_ROWS)) if isinstance(prompts, Iterator) else prompts
        self._recorder = Recorder(sinks)
        self._monitor: Monitor | None = None  # while a run is watched
        self._state: TrainerState | None = None  # of that run
        self._trials = 0  # of a hyperparameter search

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        before, self._monitor, self._state = self._monitor, None, None  # of a run which was interrupted
        collectives.meet("SpinalCallback")
        self._check_alone(state)
        probe, folder = self._build_probe(args, kwargs), self._folder(args, state)
        monitor = Monitor(self.config, self._limits, probe, self._recorder, folder, state.global_step)
        # after running out of memory the Trainer begins again at step 0, with the weights as they are
        again = before if args.auto_find_batch_size and state.global_step == 0 else None
        monitor.begin(probe.header(kwargs["model"]), state, control, again)
        self._monitor, self._state = monitor, state
        _WATCHING.add(self)

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._pass_on(lambda monitor: monitor.before_optimizer_step(state))

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._pass_on(lambda monitor: monitor.step_ended(state, control))

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        numbers = {"beta": getattr(args, "beta", None), **(kwargs.get("logs") or {})}
        self._pass_on(lambda monitor: monitor.logged(numbers, state))
        if "train_runtime" in numbers:  # the last row; in some versions the best model has been loaded by then
            self._pass_on(lambda monitor: monitor.take_last(state, control, unless_loaded=True))

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._pass_on(lambda monitor: monitor.saved(state, self._place_of_reference(args, state, monitor.folder)))
        if control.should_training_stop:  # told by an evaluation, after the step had ended
            self._pass_on(lambda monitor: monitor.take_last(state, control))

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._pass_on(lambda monitor: monitor.epoch_ended(state, control))

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        best_was_loaded = args.load_best_model_at_end  # then these are not the last step's weights
        self._pass_on(lambda monitor: monitor.end(state, control, last_weights=not best_was_loaded))
        self._monitor = self._state = None

    def _folder(self, args: TrainingArguments, state: TrainerState) -> Path:
        """The run's folder; in a hyperparameter search the trial's, as the Trainer names it."""
        folder = Path(args.output_dir or ".")
        if not state.is_hyper_param_search:
            return folder
        self._trials += 1
        return folder / (state.trial_name or f"run-{self._trials - 1}")

    @staticmethod
    def _place_of_reference(args: TrainingArguments, state: TrainerState, folder: Path) -> Path:
        """Where the reference goes with a checkpoint: into it, unless it is pushed."""
        if args.push_to_hub and args.hub_strategy in (HubStrategy.CHECKPOINT, HubStrategy.ALL_CHECKPOINTS):
            return pushed_reference_path(folder)
        checkpoint = folder / checkpoint_name(state.global_step)
        if state.is_hyper_param_search and not checkpoint.is_dir():  # a study that was continued counts on
            named = Path(args.output_dir or ".").glob(f"*/{checkpoint.name}")
            checkpoint = max(named, key=os.path.getmtime, default=checkpoint)
        return checkpoint / REFERENCE_FILE

    def _pass_on(self, event: Callable[[Monitor], None]) -> None:
        """Gives an event to the monitor. The last guard: whatever it raises does not reach training."""
        if self._monitor is not None:
            try:
                event(self._monitor)
            except Exception as error:
                warn(f"the monitor failed, training continues: {described(error)}")

    def _check_alone(self, state: TrainerState) -> None:
        """Raises ValueError if another callback watches the same training: both would write one trace."""
        if any(other._state is state for other in _WATCHING if other is not self):
            raise ValueError("callbacks has two SpinalCallbacks: remove one of them, they would write the same trace")

    def _build_probe(self, args: TrainingArguments, trainer: Mapping[str, Any]) -> Probe:
        """The probe of a run that begins. Raises as the class says, on all ranks if on any."""
        model = trainer["model"]
        locate(model)  # a model that cannot be read is refused before its data are
        device = args.device if collectives.world_size() > 1 else model.get_input_embeddings().weight.device
        prompts = collectives.together(lambda: self._collect(args, trainer), device)
        for what, digest in (("prompts", prompts.hash), ("config", _digest(self.config.to_json()))):
            if not collectives.same_on_all_ranks(digest, device):
                raise ValueError(
                    f"{what} must be the same on every rank, but the ranks' hashes differ:"
                    " start all of them with the same data and settings"
                )
        autocast = engine_autocast(args)
        return collectives.together(lambda: Probe(model, prompts, self.config, autocast, device), device)

    def _collect(self, args: TrainingArguments, trainer: Mapping[str, Any]) -> PromptSet:
        """The given prompts; without any, prompts of the training data: the same whatever has been called before."""
        source, tokenizer = self._prompts, trainer.get("processing_class")
        if own := source is None:
            source = data_of(trainer.get("train_dataloader"))
            check_restart(source, tokenizer)
        template = getattr(args, "chat_template_kwargs", None)  # of trainers that generate
        template = json.loads(template) if isinstance(template, str) else template
        return PromptSet.collect(source, tokenizer, self.config, trainer["model"], template, skip_empty=own)


_WATCHING: WeakSet[SpinalCallback] = WeakSet()  # callbacks of this process that have seen a run begin


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()
