"""FSDP2: twins, readings, precision, a layer that fails on one rank. Started by `launch.py`."""

import tiny
import torch
from precision import Forwards
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor
from transformers import TrainerCallback
from worker import Norms, Seen, dpo, dropping_out, failing_in_layer_5, main, outcome

from spinal_callback.distributed.sharding import FSDP2
from spinal_callback.probe import forward, sampler


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
    norms, looks, callback, usual = Norms(), Forwards(), Seen(), sampler.BATCH_TOKENS
    sampler.BATCH_TOKENS = 35
    try:
        result = {
            "plain": sharded(folder / "plain", **how),
            "watched": sharded(folder / "watched", norms, looks, callback, **how),
        }
    finally:
        sampler.BATCH_TOKENS = usual
    lengths = [len(ids) for ids in callback.probe.prompts.ids]
    batches = [
        len(forward.batches(share, lengths, 35, batch_cost=sum(lengths))) for share in forward.shares(lengths, 2)
    ]
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


class Shrinks(TrainerCallback):
    """Changes the weights at the end of a step, as a projection does or an average of weights."""

    def on_step_end(self, args, state, control, model=None, **kwargs):
        with torch.no_grad():
            for p in model.parameters():
                (p.to_local() if isinstance(p, DTensor) else p).mul_(0.999)


def fsdp_weights_change(folder):
    """Weights that change after the probe of the same step, with `FSDP2.settle` and without."""
    how = {"reshard": False, "max_steps": 3}
    results = {
        "plain": sharded(folder / "plain", Shrinks(), **how),
        "watched": sharded(folder / "watched", Seen(), Shrinks(), **how),
    }
    real, FSDP2.settle = FSDP2.settle, lambda self, model: None
    try:
        return results | {"not settled": sharded(folder / "not", Seen(), Shrinks(), **how)}
    finally:
        FSDP2.settle = real


def fsdp_fails_in_a_layer(folder):
    callback = Seen()
    with failing_in_layer_5():
        return sharded(folder, callback, reshard=True) | {"batch": callback.probe.sampler.at_a_time["tokens"]}


if __name__ == "__main__":
    main(globals())
