"""What one rank does under torchrun with DeepSpeed: `torchrun worker_deepspeed.py FOLDER SCENARIO...`; see `launch.py`.

As `worker.py`, but the model is loaded from a folder: with ZeRO-3 it is sharded while it is loaded.
"""

import contextlib
import io
import os
from unittest import mock

os.environ["DS_ACCELERATOR"] = "cpu"  # before deepspeed is imported

import deepspeed
import tiny
import torch
import worker
from accelerate.state import AcceleratorState
from deepspeed.runtime.zero.partition_parameters import ZeroParamStatus
from peft import get_peft_model
from precision import Forwards
from torch.nn.modules.module import register_module_forward_hook
from transformers import AutoModelForCausalLM, Trainer, TrainerCallback, TrainingArguments
from trl import DPOConfig, DPOTrainer
from twins import language_rows
from worker import RANK, Seen, failing_in_layer_5, main, outcome

from spinal_callback.probe import lens_check, sampler
from spinal_callback.probe.sampler import Sampler

SMALL_BATCH = 35  # tokens: one rank has more batches of the probe than the other


def engine(stage, **zero):
    return {
        "train_micro_batch_size_per_gpu": "auto",
        "train_batch_size": "auto",
        "gradient_accumulation_steps": "auto",
        "gradient_clipping": "auto",
        "zero_allow_untested_optimizer": True,
        "zero_optimization": {"stage": stage, **zero},
    }


SHARDED = {  # every parameter, however small, and as it is needed: by default a tiny model stays whole
    "stage3_param_persistence_threshold": 0,
    "stage3_prefetch_bucket_size": 0,
    "stage3_max_reuse_distance": 0,
}


def trained(folder, *callbacks, zero, tied=False, peft_config=None, head=False, resume=None, **arguments):
    AcceleratorState._reset_state()
    if not deepspeed.comm.is_initialized():
        deepspeed.init_distributed("gloo", auto_mpi_discovery=False)
    home = folder / "model"
    if RANK == 0:
        tiny.llama(attention_dropout=0.2, tie_word_embeddings=tied).save_pretrained(home)
    torch.distributed.barrier()
    arguments = {"deepspeed": zero} | arguments
    torch.manual_seed(0)
    if head:
        trainer = head_adapted(folder, home, arguments, callbacks)
    else:
        trainer = DPOTrainer(
            str(home),
            args=DPOConfig(output_dir=str(folder), **tiny.DPO_SETTINGS | arguments),
            train_dataset=tiny.preferences(),
            processing_class=tiny.tokenizer(),
            callbacks=list(callbacks),
            peft_config=peft_config,
        )
    trainer.train(resume_from_checkpoint=resume)
    return outcome(trainer, next((c for c in callbacks if isinstance(c, Seen)), None))


def head_adapted(folder, home, arguments, callbacks):
    args = TrainingArguments(output_dir=str(folder), **tiny.SETTINGS | arguments)
    # after these arguments: with ZeRO-3 a model is sharded while it is loaded
    model = AutoModelForCausalLM.from_pretrained(home)
    return Trainer(
        get_peft_model(model, tiny.lora(target_modules=["q_proj", "lm_head"])),
        args=args,
        train_dataset=language_rows(),
        callbacks=list(callbacks),
    )


def whole(model):
    weights = {}
    for name, p in model.state_dict(keep_vars=True).items():
        gathered = [p] if hasattr(p, "ds_id") else []
        with deepspeed.zero.GatheredParameters(gathered, modifier_rank=None, enabled=bool(gathered)):
            weights[name] = p.detach().clone()
    return weights


worker.whole = whole


def pair(folder, *others, **how):
    callback, usual = Seen(), sampler.BATCH_TOKENS
    sampler.BATCH_TOKENS = SMALL_BATCH
    try:
        plain = trained(folder / "plain", **how)
        with contextlib.redirect_stdout(io.StringIO()) as said, contextlib.redirect_stderr(said):
            watched = trained(folder / "watched", callback, *others, **how)
        return {"plain": plain, "watched": watched, "said": said.getvalue(), "rank": RANK}
    finally:
        sampler.BATCH_TOKENS = usual


def zero1_untied(folder):
    return pair(folder, zero=engine(1))


def zero1_tied(folder):
    return pair(folder, zero=engine(1), tied=True)


def zero2_untied(folder):
    return pair(folder, zero=engine(2))


def zero2_tied(folder):
    return pair(folder, zero=engine(2), tied=True)


def zero3_untied(folder):
    return pair(folder, zero=engine(3, **SHARDED))


def zero3_tied(folder):
    return pair(folder, zero=engine(3, **SHARDED), tied=True)


def zero3_as_it_comes(folder):
    """DeepSpeed's own settings, which keep small parameters whole, gradient checkpointing and two micro-batches."""
    more = {tiny.CHECKPOINTING: True, "gradient_accumulation_steps": 2}
    return pair(folder, zero=engine(3), **more)


def zero3_checkpointing(folder):
    return pair(folder, zero=engine(3, **SHARDED), **{tiny.CHECKPOINTING: True})


def zero3_adapters(folder):
    return pair(folder, zero=engine(3, **SHARDED), peft_config=tiny.lora())


def zero3_head_saved(folder):
    """A head that is trained whole beside the adapters: PEFT's wrapper calls it as a module of its own."""
    return pair(folder, zero=engine(3, **SHARDED), peft_config=tiny.lora(modules_to_save=["lm_head"]))


def zero3_head_adapted(folder):
    """Adapters on the head, with transformers' Trainer: DPOTrainer refuses them."""
    return pair(folder, zero=engine(3, **SHARDED), head=True)


def precision(folder, zero, **arguments):
    looks = Forwards()
    result = pair(folder, looks, zero=zero, **arguments)
    return result | {"forwards": looks.seen}


def zero1_bfloat16(folder):
    return precision(folder, engine(1) | {"bf16": {"enabled": "auto"}}, bf16=True)


def zero2_bfloat16(folder):
    return precision(folder, engine(2) | {"bf16": {"enabled": "auto"}}, bf16=True)


def zero3_bfloat16(folder):
    return precision(folder, engine(3, **SHARDED) | {"bf16": {"enabled": "auto"}}, bf16=True)


def zero3_not_cast(folder):
    """Without a section of its own for bf16 DeepSpeed leaves sharded weights as they were loaded: float32."""
    return precision(folder, engine(3, **SHARDED), bf16=True)


def zero3_autocast(folder):
    return precision(folder, engine(3, **SHARDED) | {"torch_autocast": {"enabled": True, "dtype": "bfloat16"}})


def zero3_bfloat16_by_the_launcher(folder):
    """What `accelerate launch --mixed_precision bf16` sets."""
    os.environ["ACCELERATE_MIXED_PRECISION"] = "bf16"
    try:
        return precision(folder, engine(3, **SHARDED))
    finally:
        del os.environ["ACCELERATE_MIXED_PRECISION"]


class Stops(TrainerCallback):
    """Ends training after step 3, behind our callback's back: its last reading is taken when training ends."""

    def on_step_end(self, args, state, control, **kwargs):
        control.should_training_stop = state.global_step == 3


def zero3_stops(folder):
    how = {"zero": engine(3, **SHARDED)}
    return {
        "plain": trained(folder / "plain", Stops(), **how),
        "watched": trained(folder / "watched", Seen(), Stops(), **how),
    }


def zero3_resumed(folder):
    """Six steps, and again the last three of them from a checkpoint."""
    how = {"zero": engine(3, stage3_param_persistence_threshold=0), "save_strategy": "steps", "save_steps": 3}
    through = trained(folder, Seen(every=1), **how)
    return {"through": through, "resumed": trained(folder, Seen(every=1), resume=str(folder / "checkpoint-3"), **how)}


def fails_in_a_layer(folder, **zero):
    callback, how = Seen(every=1), {"zero": engine(3, **zero)}
    plain = trained(folder / "plain", **how)
    with failing_in_layer_5():
        watched = trained(folder / "watched", callback, **how)
    return {"plain": plain, "watched": watched, "batch": callback.probe.sampler.at_a_time["tokens"]}


def zero3_fails_in_a_layer(folder):
    return fails_in_a_layer(folder, **SHARDED)


def zero3_fails_as_it_comes(folder):
    """With prefetching: from the second step on DeepSpeed compares over ranks what it has noted of the last one."""
    return fails_in_a_layer(folder)


def zero3_gathered(folder):
    """How many elements of the policy are whole at most, at any time in the probe, and how many after it."""
    seen, chunks = {"in layers": 0, "in lens": 0, "after": 0}, sampler.lens_chunks

    def count(model, where):
        held = [p for p in model.parameters() if getattr(p, "ds_status", None) != ZeroParamStatus.NOT_AVAILABLE]
        whole_now = sum(getattr(p, "ds_numel", p.numel()) for p in held)  # a plain parameter is whole
        seen[where] = max(seen[where], whole_now)

    def counted(real, model_of):
        def wrapper(first, *args, **kwargs):
            def counted_chunks(*a):
                for item in chunks(*a):
                    count(model_of(first), "in lens")
                    yield item

            # of every module, and before its own hooks: what it needs is still gathered
            handle = register_module_forward_hook(lambda *_: count(model_of(first), "in layers"))
            try:
                with (
                    mock.patch.object(sampler, "lens_chunks", counted_chunks),
                    mock.patch.object(lens_check, "lens_chunks", counted_chunks),
                ):
                    return real(first, *args, **kwargs)
            finally:
                handle.remove()
                count(model_of(first), "after")

        return wrapper

    with (
        mock.patch.object(sampler, "check_lens", counted(sampler.check_lens, lambda model: model)),
        mock.patch.object(Sampler, "sample", counted(Sampler.sample, lambda taker: taker._model)),
    ):
        return trained(folder, Seen(), zero=engine(3, **SHARDED)) | {"gathered": seen}


if __name__ == "__main__":
    main(globals())
