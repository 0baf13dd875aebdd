"""What all workers share. A worker is what one rank does under torchrun: `torchrun worker_*.py FOLDER SCENARIO...`.

A scenario is a function of its folder that returns JSON. `launch.py` starts the workers.
"""

import contextlib
import faulthandler
import json
import os
import sys
import time
import warnings
from pathlib import Path

import tiny
import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor
from transformers import TrainerCallback
from trl import DPOConfig, DPOTrainer
from twins import Watched

from spinal_callback import MemorySink
from spinal_callback.probe.forward import Forward
from spinal_callback.records import dump_record

RANK = int(os.environ.get("RANK", "0"))
SMALL = {"num_prompts": 21}  # two ranks cannot share them evenly
WATCHED = {"every": 2, "sinks": [], **SMALL}


class Seen(Watched):
    """Keeps, on every rank, what rank zero writes."""

    def __init__(self, **fields):
        super().__init__(**WATCHED | fields)
        self.seen = MemorySink()
        write = self._recorder.write
        self._recorder.write = lambda record: (self.seen.write(record), write(record))


class Norms(TrainerCallback):
    """Squared gradient norms of the layers before each step, of gradients made whole."""

    def __init__(self):
        self.seen = []

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        base = model.get_base_model() if hasattr(model, "get_base_model") else model
        grads = [[p.grad for p in layer.parameters() if p.grad is not None] for layer in base.model.layers]
        wholes = [[g.full_tensor() if isinstance(g, DTensor) else g for g in layer] for layer in grads]
        self.seen.append([sum(float(g.double().pow(2).sum()) for g in layer) for layer in wholes])


def dropping_out(**fields):
    return tiny.llama(attention_dropout=0.2, **fields)


def dpo(folder, *callbacks, model=None, peft_config=None, **arguments):
    """A DPOTrainer, always with the same data, weights and dropout."""
    torch.manual_seed(0)
    return DPOTrainer(
        model or dropping_out(),
        ref_model=None if peft_config or hasattr(model, "peft_config") else dropping_out(),
        args=DPOConfig(output_dir=str(folder), **tiny.DPO_SETTINGS | {"max_steps": 4} | arguments),
        train_dataset=tiny.preferences(),
        processing_class=tiny.tokenizer(),
        callbacks=list(callbacks),
        peft_config=peft_config,
    )


def whole(model):
    """The state dict with every weight whole; a collective under FSDP2."""
    return {
        name.replace("_orig_mod.", ""): (p.full_tensor() if isinstance(p, DTensor) else p).detach().clone()
        for name, p in model.state_dict().items()
    }


def outcome(trainer, callback=None):
    weights = whole(trainer.model)
    if RANK == 0 and callback is not None:
        torch.save(weights, Path(trainer.args.output_dir) / "weights.pt")
    logs = [
        {k: v for k, v in row.items() if "runtime" not in k and "per_second" not in k}
        for row in trainer.state.log_history
    ]
    told = {"weights": tiny.digest(weights), "logs": logs, "step": trainer.state.global_step}
    if callback is None:
        return told
    readings, alerts = callback.seen.readings, callback.seen.alerts
    return told | {
        "readings": [json.loads(dump_record(r)) for r in readings],
        "alerts": [[a.step, a.rule, a.message] for a in alerts],
        "notices": [[n.step, n.event, n.message] for n in callback.seen.notices],
        "prompts": callback.probe.prompts.ids,
        "sinks": len(callback._recorder.sinks),
        "backend": type(callback.probe.sampler.backend).__name__,
    }


def run(folder, *callbacks, **arguments):
    trainer = dpo(folder, *callbacks, **arguments)
    trainer.train()
    return outcome(trainer, next((c for c in callbacks if isinstance(c, Seen)), None))


@contextlib.contextmanager
def failing_in_layer_5():
    """On rank 1 a part of layer 5 runs out of memory in the second reading and raises in the third.

    It is a hook behind the layer's MLP that does: by then half the layer is done, and rank 0 waits at the next.
    """
    real, calls = Forward.states, []

    def run(self, *args):
        calls.append(self)
        of_prompts = calls.count(calls[0]) if self is calls[0] else 0  # a reading has a pass over answers too
        error = {2: torch.OutOfMemoryError("layer 5"), 4: ArithmeticError("layer 5")}.get(of_prompts)

        def fail(*_):
            raise error

        hook = self._model.layers[4].mlp.register_forward_hook(fail) if RANK == 1 and error is not None else None
        try:
            return real(self, *args)
        finally:
            if hook is not None:
                hook.remove()

    Forward.states = run
    try:
        yield
    finally:
        Forward.states = real


def main(scenarios_of):
    folder, *scenarios = sys.argv[1:]
    faulthandler.dump_traceback_later(float(os.environ.get("WORKER_LIMIT", "400")), exit=True)
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    for name in scenarios:
        place, began = Path(folder) / name, time.perf_counter()
        place.mkdir(parents=True, exist_ok=True)
        result = scenarios_of[name](place)
        result["seconds"] = time.perf_counter() - began
        (place / f"rank{RANK}.json").write_text(json.dumps(result))
        print(f"rank {RANK}: {name} took {result['seconds']:.1f} s", flush=True)
        if dist.is_initialized():
            dist.barrier()
    if dist.is_initialized():
        dist.destroy_process_group()
