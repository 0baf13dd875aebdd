"""One run that a test takes step by step: a monitor with a real probe, without a trainer."""

import tiny
import torch
from transformers import TrainerControl, TrainerState

from spinal_callback import MemorySink, SpinalConfig
from spinal_callback.alerts.rules import RULES, Limit
from spinal_callback.probe.probe import Probe
from spinal_callback.probe.prompts import PromptSet
from spinal_callback.sinks.recorder import Recorder
from spinal_callback.trainer.monitor import Monitor
from spinal_callback.trainer.resume import KEY

PROMPTS = PromptSet(tiny.prompts(12), [0] * 12)
NEVER = {name: Limit(1e9, 1e9) for name, rule in RULES.items() if not rule.at_once}


class Run:
    """A run of ten steps that a test takes step by step."""

    def __init__(self, folder, step=0, limits=NEVER, sinks=(), saved=None, probe=None, before=None, **fields):
        """`saved`: what the checkpoint carries that the run resumes from; `probe`: one that other runs have had."""
        self.folder, self.memory = folder, MemorySink()
        self.model = probe.sampler._model if probe else tiny.llama(layers=5, width=24)
        config = SpinalConfig(num_prompts=12, **{"every": 2, **fields})
        self.probe = probe or Probe(self.model, PROMPTS, config)
        self.monitor = Monitor(config, limits, self.probe, Recorder([self.memory, *sinks]), folder, step)
        self.state, self.control = TrainerState(global_step=step, max_steps=10), TrainerControl()
        if saved is not None:
            self.state.stateful_callbacks[KEY] = saved
        self.monitor.begin(self.probe.header(self.model), self.state, self.control, before)

    def to(self, step):
        """The events of the steps up to `step`."""
        while self.state.global_step < step:
            self.monitor.before_optimizer_step(self.state)
            self.state.global_step += 1
            self.monitor.step_ended(self.state, self.control)

    def end(self, last_weights=True):
        self.monitor.end(self.state, self.control, last_weights)

    def gradients(self, value):
        for p in self.model.parameters():
            p.grad = None if value is None else torch.full_like(p, value)

    def grow(self, factor):
        with torch.no_grad():
            for layer in self.model.model.layers[3:]:
                layer.mlp.down_proj.weight.mul_(factor)

    @property
    def steps(self):
        return [reading.step for reading in self.memory.readings]
