"""What one rank does under torchrun with DeepSpeed: `torchrun worker_deepspeed.py FOLDER SCENARIO...`; see `launch.py`.

As `worker.py`, but the model is loaded from a folder: with ZeRO-3 it is sharded while it is loaded.
"""

import os

os.environ["DS_ACCELERATOR"] = "cpu"  # before deepspeed is imported

import deepspeed
import tiny
import torch
import worker
from accelerate.state import AcceleratorState
from trl import DPOConfig, DPOTrainer
from worker import RANK, Seen, main

from spinal_callback import ranks, sample

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


def trained(folder, *callbacks, zero, tied=False, **arguments):
    AcceleratorState._reset_state()
    if not deepspeed.comm.is_initialized():
        deepspeed.init_distributed("gloo", auto_mpi_discovery=False)
    home = folder / "model"
    if RANK == 0:
        tiny.llama(attention_dropout=0.2, tie_word_embeddings=tied).save_pretrained(home)
    torch.distributed.barrier()
    settings = {
        "max_steps": 6,
        "per_device_train_batch_size": 2,
        "learning_rate": 1e-3,
        "max_length": 64,
        "activation_checkpointing": False,
        "disable_dropout": False,
        "use_cpu": True,
        "bf16": False,
        "disable_tqdm": True,
        "report_to": [],
        "save_strategy": "no",
        "logging_steps": 1,
        "dataloader_pin_memory": False,
        "deepspeed": zero,
    }
    torch.manual_seed(0)
    trainer = DPOTrainer(
        str(home),
        args=DPOConfig(output_dir=str(folder), **settings | arguments),
        train_dataset=tiny.preferences(),
        processing_class=tiny.tokenizer(),
        callbacks=list(callbacks),
    )
    trainer.train()
    return outcome(trainer, next((c for c in callbacks if isinstance(c, Seen)), None))


def whole(model):
    weights = {}
    for name, p in model.state_dict(keep_vars=True).items():
        gathered = [p] if ranks.is_zero3(model) and hasattr(p, "ds_id") else []
        with deepspeed.zero.GatheredParameters(gathered, modifier_rank=None, enabled=bool(gathered)):
            weights[name] = p.detach().clone()
    return weights


worker.whole = whole
outcome = worker.outcome


def twins(folder, **how):
    callback, usual = Seen(), sample.BATCH_TOKENS
    sample.BATCH_TOKENS = SMALL_BATCH
    try:
        plain = trained(folder / "plain", **how)
        return {"plain": plain, "watched": trained(folder / "watched", callback, **how)}
    finally:
        sample.BATCH_TOKENS = usual


def zero1_untied(folder):
    return twins(folder, zero=engine(1))


def zero2_tied(folder):
    return twins(folder, zero=engine(2), tied=True)


def zero3_untied(folder):
    return twins(folder, zero=engine(3, **SHARDED))


def zero3_tied(folder):
    return twins(folder, zero=engine(3, **SHARDED), tied=True)


if __name__ == "__main__":
    main(globals())
