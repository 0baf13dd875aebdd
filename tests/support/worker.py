"""What one rank does under torchrun: `torchrun worker.py FOLDER SCENARIO...`; started by `launch.py`.

A scenario is a function of its folder that returns JSON. What fails on one rank fails on rank 1: rank 0 has the trace.
"""

import contextlib
import faulthandler
import json
import os
import signal
import sys
import time
import warnings
from pathlib import Path

import tiny
import torch
import torch.distributed as dist
from precision import Forwards
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor
from transformers import TrainerCallback
from trl import DPOConfig, DPOTrainer
from twins import Watched

from spinal_callback import MemorySink
from spinal_callback.distributed import collectives as ranks
from spinal_callback.probe import forward, sample
from spinal_callback.probe import model_parts as anatomy
from spinal_callback.probe.forward import Forward
from spinal_callback.probe.sample import Sampler
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


class Shrinks(TrainerCallback):
    """Changes the weights at the end of a step, as a projection does or an average of weights."""

    def on_step_end(self, args, state, control, model=None, **kwargs):
        with torch.no_grad():
            for p in model.parameters():
                (p.to_local() if isinstance(p, DTensor) else p).mul_(0.999)


class EndsItself(TrainerCallback):
    """Rank 1 is sent SIGTERM at the end of step 3."""

    def on_step_end(self, args, state, control, **kwargs):
        if RANK == 1 and state.global_step == 3:
            os.kill(os.getpid(), signal.SIGTERM)


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
    }


def run(folder, *callbacks, **arguments):
    trainer = dpo(folder, *callbacks, **arguments)
    trainer.train()
    return outcome(trainer, next((c for c in callbacks if isinstance(c, Seen)), None))


# --- DDP: twins and readings


def ddp(folder):
    """Six steps of two micro-batches, with and without the callback."""
    arguments, norms = {"max_steps": 6, "gradient_accumulation_steps": 2}, Norms()
    return {
        "plain": run(folder / "plain", **arguments),
        "watched": run(folder / "watched", norms, Seen(), **arguments),
        "norms": norms.seen,
    }


def more_ranks_than_prompts(folder):
    """Rank 1 has no prompt of its own, as where there are more ranks than prompts."""
    dealt = forward.shares
    forward.shares = lambda tokens, world: [list(range(len(tokens))), *([] for _ in range(world - 1))]
    try:
        return run(folder, Seen())
    finally:
        forward.shares = dealt


SAVING = {"max_steps": 6, "save_strategy": "steps", "save_steps": 2}


class Killed(TrainerCallback):
    """Rank 1 is killed at the end of step 5: the last checkpoint is step 4's."""

    def on_step_end(self, args, state, control, **kwargs):
        if RANK == 1 and state.global_step == 5:
            os.kill(os.getpid(), signal.SIGKILL)


def killed(folder):
    return run(folder, Seen(every=1), Killed(), **SAVING)


def resumed(folder):
    """Goes on where `killed` ended, in other processes; and the same run without a kill."""
    callback = Seen(every=1)
    trainer = dpo(folder.parent / "killed", callback, **SAVING)
    trainer.train(resume_from_checkpoint=True)
    return {"resumed": outcome(trainer, callback), "through": run(folder, Seen(every=1), **SAVING)}


# --- what fails on one rank


def patched(owner, name, replacement, folder, callback=None, **arguments):
    """A run in which rank 1's `owner.name` is replaced by `replacement(owner.name)`."""
    real = getattr(owner, name)
    if RANK == 1:
        setattr(owner, name, replacement(real))
    try:
        return run(folder, callback or Seen(), **arguments)
    finally:
        setattr(owner, name, real)


def fails_once(error, when=2):
    """A function whose call number `when` fails; without a word more, that of the second reading."""

    def replacement(real):
        calls = []

        def failing(*args, **kwargs):
            calls.append(1)
            if len(calls) == when:
                raise error
            return real(*args, **kwargs)

        return failing

    return replacement


def tokenizing(folder):
    """Rank 1 cannot tokenize when training begins."""
    callback = Seen(prompts=[f"w{i} w{i + 1}" for i in range(20)])
    trainer = dpo(folder, callback)
    if RANK == 1:
        callback._collect = lambda kwargs: (_ for _ in ()).throw(OSError("no tokenizer here"))
    try:
        trainer.train()
    except Exception as error:
        return {"raised": repr(error), "step": trainer.state.global_step}


def hook(folder):
    """A hook of the probe finds nothing to keep at layer 3, in the second reading on rank 1."""

    def replacement(real):
        calls = []

        def states(self, *args):
            calls.append(1)
            stack = anatomy.stack_states
            if len(calls) == 2:
                anatomy.stack_states = lambda kept: stack([None if i == 2 else h for i, h in enumerate(kept)])
            try:
                return real(self, *args)
            finally:
                anatomy.stack_states = stack

        return states

    return patched(Forward, "states", replacement, folder)


def in_measures(folder):
    return patched(Sampler, "_contraction", fails_once(ArithmeticError("no spectrum")), folder)


def in_gradients(folder):
    return patched(ranks, "_square", fails_once(ArithmeticError("no norm")), folder)


def in_pooling(folder):
    return patched(sample, "_spread", fails_once(ArithmeticError("no buffer"), when=12), folder)


def memory_in_forward(folder):
    """The first forward pass of the second reading has too little memory: the batch is halved and it goes on."""
    callback = Seen()

    def replacement(real):
        calls = []

        def failing(*args):
            if callback.probe.start is not None and not calls:
                calls.append(1)
                raise torch.OutOfMemoryError("forward")
            return real(*args)

        return failing

    result = patched(Forward, "_run", replacement, folder, callback)
    return result | {"batch": callback.probe.sampler.at_a_time["tokens"]}


def memory_in_lens(folder):
    """The lens of the second reading has too little memory, as a CPU says it: its pieces are halved and it goes on."""
    callback = Seen()
    error = RuntimeError("DefaultCPUAllocator: can't allocate memory")
    result = patched(Sampler, "_read_lens", fails_once(error), folder, callback)
    return result | {"block": callback.probe.sampler.at_a_time["logits"]}


def memory_for_good(folder):
    """From the second reading on no lens is small enough."""

    def replacement(real):
        calls = []

        def failing(*args, **kwargs):
            calls.append(1)
            if len(calls) > 1:
                raise torch.OutOfMemoryError("lens")
            return real(*args, **kwargs)

        return failing

    return patched(Sampler, "_read_lens", replacement, folder)


def nan_once(real):
    """Hidden states with a NaN at layer 5, in the second reading."""
    calls = []

    def states(*args, **kwargs):
        calls.append(1)
        h = real(*args, **kwargs)
        if len(calls) == 2:
            h[4, 0] = torch.nan
        return h

    return states


def nan(folder):
    return patched(Forward, "states", nan_once, folder)


def stop(folder):
    """The same NaN, and the run is to stop at an error."""
    return patched(Forward, "states", nan_once, folder, Seen(stop_on="error"), max_steps=6)


def sink(folder):
    class Down(MemorySink):
        def write(self, record):
            if record.kind == "reading":
                raise OSError("tracker is down")

    return run(folder, Seen(sinks=[Down()]))


def _refused(folder, **fields):
    trainer = dpo(folder, Seen(**fields))
    try:
        trainer.train()
    except ValueError as error:
        return {"raised": str(error), "step": trainer.state.global_step}


def other_prompts(folder):
    return _refused(folder, prompts=[f"w{i} w{i + 1 + RANK}" for i in range(20)])


def other_config(folder):
    return _refused(folder, every=2 + RANK)


def sigterm(folder):
    """Rank 1 is told to end in the middle of training."""
    return run(folder, Seen(every=1), EndsItself())


# --- FSDP2


def shard(trainer, reshard, dtype=None, output=None):
    """Shards a trainer's policy by hand: on a CPU accelerate does not, and would wrap it in DDP."""
    base = trainer.model.get_base_model() if hasattr(trainer.model, "get_base_model") else trainer.model
    reduce = torch.float32 if dtype else None
    policy = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=reduce, output_dtype=output)
    for module in (*base.model.layers, trainer.model):
        fully_shard(module, reshard_after_forward=reshard, mp_policy=policy)
    prepare = trainer.accelerator.prepare_model
    trainer.accelerator.prepare_model = lambda model, **kwargs: prepare(model, evaluation_mode=True, **kwargs)


def sharded(folder, *callbacks, reshard, tied=False, adapters=False, dtype=None, output=None, max_steps=6):
    """A run of a DPOTrainer whose policy is sharded by hand."""
    trainer = dpo(
        folder,
        *callbacks,
        model=dropping_out(tie_word_embeddings=tied),
        peft_config=tiny.lora() if adapters else None,
        max_steps=max_steps,
    )
    shard(trainer, reshard, dtype, output)
    trainer.train()
    return outcome(trainer, next((c for c in callbacks if isinstance(c, Seen)), None))


def fsdp(folder, **how):
    """Twins. The batches of the probe are so small that a rank has more of them than the other."""
    norms, looks, callback, usual = Norms(), Forwards(), Seen(), sample.BATCH_TOKENS
    sample.BATCH_TOKENS = 35
    try:
        result = {
            "plain": sharded(folder / "plain", **how),
            "watched": sharded(folder / "watched", norms, looks, callback, **how),
        }
    finally:
        sample.BATCH_TOKENS = usual
    lengths = [len(ids) for ids in callback.probe.prompts.ids]
    batches = [len(forward.batches(share, lengths, 35, batch=sum(lengths))) for share in forward.shares(lengths, 2)]
    return result | {"norms": norms.seen, "batches": batches, "forwards": looks.seen}


def fsdp_resharded_untied(folder):
    return fsdp(folder, reshard=True)


def fsdp_whole_tied(folder):
    return fsdp(folder, reshard=False, tied=True)


def fsdp_resharded_tied(folder):
    return fsdp(folder, reshard=True, tied=True)


def fsdp_whole_untied(folder):
    return fsdp(folder, reshard=False)


def fsdp_adapters(folder):
    return fsdp(folder, reshard=True, adapters=True)


def fsdp_bfloat16(folder):
    """Float32 weights that are gathered as bfloat16; outputs stay as they are."""
    return fsdp(folder, reshard=True, dtype=torch.bfloat16)


def fsdp_bfloat16_outputs(folder):
    """The policy that accelerate makes of mixed_precision: bf16."""
    return fsdp(folder, reshard=True, dtype=torch.bfloat16, output=torch.bfloat16)


def fsdp_weights_change(folder):
    """Weights that change after the probe of the same step, with `ranks.settle` and without."""
    how = {"reshard": False, "max_steps": 3}
    results = {
        "plain": sharded(folder / "plain", Shrinks(), **how),
        "watched": sharded(folder / "watched", Seen(), Shrinks(), **how),
    }
    real, ranks.settle = ranks.settle, lambda model: None
    try:
        return results | {"not settled": sharded(folder / "not", Seen(), Shrinks(), **how)}
    finally:
        ranks.settle = real


@contextlib.contextmanager
def failing_in_layer_5():
    """On rank 1 a part of layer 5 runs out of memory in the second reading and raises in the third.

    It is a hook behind the layer's MLP that does: by then half the layer is done, and rank 0 waits at the next.
    """
    real, calls = Forward.states, []

    def run(self, *args):
        calls.append(1)
        error = {2: torch.OutOfMemoryError("layer 5"), 4: ArithmeticError("layer 5")}.get(len(calls))

        def fail(*_):
            raise error

        hook = self._anatomy.layers[4].mlp.register_forward_hook(fail) if RANK == 1 and error is not None else None
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


def fsdp_fails_in_a_layer(folder):
    callback = Seen()
    with failing_in_layer_5():
        return sharded(folder, callback, reshard=True) | {"batch": callback.probe.sampler.at_a_time["tokens"]}


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


if __name__ == "__main__":
    main(globals())
