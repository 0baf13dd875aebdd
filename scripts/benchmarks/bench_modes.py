"""Peak memory of DPO training without and with the probe, in every mode.

    python scripts/benchmarks/bench_modes.py [--modes full lora bf16 checkpointing ddp fsdp2 zero2 zero3]
        [--model MODEL]

SmolLM2-135M-Instruct (or `--model`), the quickstart's pairs and probe prompts, two steps, a probe before the first and
after the last. Every run has a process of its own (two ranks for DDP, FSDP2 and DeepSpeed, over gloo on a CPU); the
figure is its peak resident memory, or what CUDA had allocated at most where there is a GPU for each rank. For FSDP2 it
also counts how many weights are whole at one time while the probe runs. Exit code 1 if a limit is broken.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from datasets import load_dataset
from torch import nn
from torch.distributed.tensor import DTensor
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import DPOConfig, DPOTrainer

ROOT = Path(__file__).parents[2]
DATA = ROOT / "recipes" / "data"
sys.path[:0] = [str(ROOT / "recipes"), str(ROOT / "tests"), str(ROOT / "tests" / "support")]

from smollm2 import smollm2  # noqa: E402

from spinal_callback import MemorySink, SpinalCallback  # noqa: E402
from spinal_callback.distributed import collectives  # noqa: E402
from spinal_callback.distributed.sharding import FSDP2, Backend  # noqa: E402
from spinal_callback.probe import lens_check, sampler  # noqa: E402
from spinal_callback.probe.model_parts import locate  # noqa: E402
from spinal_callback.probe.prompt_files import SHIPPED  # noqa: E402
from spinal_callback.probe.undisturbed import undisturbed  # noqa: E402

LEAST, SHARE = 128.0, 0.03  # the probe may add this many MiB, or this share of the training peak
STEPS = 2
RANKS = {"ddp": 2, "fsdp2": 2, "zero2": 2, "zero3": 2}
MODES = ("full", "lora", "bf16", "checkpointing", *RANKS)


# --- one run, in its own process


def load(path: str, mode: str) -> Any:
    return AutoModelForCausalLM.from_pretrained(path, dtype=torch.bfloat16 if mode == "bf16" else torch.float32)


def trainer(path: str, mode: str, folder: str, callbacks: list[Any]) -> DPOTrainer:
    adapters = None
    if mode == "lora":
        from peft import LoraConfig

        adapters = LoraConfig(r=16, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    zero = engine(int(mode[-1])) if mode.startswith("zero") else None  # the trainer then loads the models, in shards
    torch.manual_seed(0)
    made = DPOTrainer(
        path if zero else load(path, mode),
        ref_model=None if adapters or zero else load(path, mode),
        args=DPOConfig(
            deepspeed=zero,
            output_dir=folder,
            max_steps=STEPS,
            learning_rate=3e-6,
            per_device_train_batch_size=2,
            max_length=64,
            activation_checkpointing=mode == "checkpointing",
            bf16=False,
            use_cpu=not torch.cuda.is_available(),
            dataloader_pin_memory=torch.cuda.is_available(),
            disable_tqdm=True,
            logging_steps=1,
            save_strategy="no",
            report_to=[],
        ),
        train_dataset=load_dataset("json", data_files=str(DATA / "preferences.jsonl"), split="train"),
        processing_class=AutoTokenizer.from_pretrained(path),
        peft_config=adapters,
        callbacks=callbacks,
    )
    if mode == "fsdp2":
        from worker import shard

        shard(made, reshard=True)
    return made


def engine(stage: int) -> dict[str, Any]:
    """DeepSpeed's settings; the process group must be there before a model is loaded."""
    import deepspeed  # type: ignore[import-not-found, unused-ignore]

    deepspeed.init_distributed("nccl" if torch.cuda.is_available() else "gloo", auto_mpi_discovery=False)
    sizes = ("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps", "gradient_clipping")
    automatic = dict.fromkeys(sizes, "auto")
    return {**automatic, "zero_allow_untested_optimizer": True, "zero_optimization": {"stage": stage}}


def one_run(path: str, mode: str, watched: bool, folder: str) -> dict[str, int]:
    """Trains and returns the peak in bytes; under FSDP2 with the probe also how many weights were whole."""
    sink = MemorySink()
    probes = load_dataset("json", data_files=str(SHIPPED), split="train")
    callback = SpinalCallback(every=STEPS, prompts=probes, sinks=[sink])
    made = trainer(path, mode, folder, [callback] if watched else [])
    model: Any = made.model
    told = {"allowed": allowed(model)} if mode == "fsdp2" else {}
    with whole_weights(model) as most:
        made.train()
    if watched and collectives.rank() == 0 and len(sink.readings) != 2:
        raise RuntimeError(f"{mode}: {len(sink.readings)} readings instead of 2: {sink.alerts}")
    if torch.cuda.is_available():
        return told | {"peak": torch.cuda.max_memory_allocated(), "whole": most[0]}
    return told | {"peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, "whole": most[0]}


def allowed(model: Any) -> int:
    """Elements of the largest layer, the head, the final norm, and the embedding, which the root gathers with them."""
    found = locate(model)
    around = (found.norm, found.head, model.get_input_embeddings())
    shared = {id(p): p.numel() for module in around for p in module.parameters()}  # a tied weight counts once
    return max(sum(p.numel() for p in layer.parameters()) for layer in found.layers) + sum(shared.values())


@contextlib.contextmanager
def whole_weights(policy: nn.Module) -> Iterator[list[int]]:
    """Counts inside, as long as the probe runs, the elements of unsharded weights: before each module's forward and
    where the probe gathers by itself. Yields a list of one number, the most that were whole at one time."""
    most = [0]
    whole = FSDP2.whole

    def count(*_: Any) -> None:
        most[0] = max(most[0], sum(p.numel() for p in policy.parameters() if not isinstance(p, DTensor)))

    @contextlib.contextmanager
    def counted(model: nn.Module, backend: Backend) -> Iterator[None]:
        handle = nn.modules.module.register_module_forward_pre_hook(count)
        try:
            with undisturbed(model, backend):
                yield
        finally:
            handle.remove()

    @contextlib.contextmanager
    def gathered(self: FSDP2, *modules: nn.Module) -> Iterator[None]:
        with whole(self, *modules):
            count()
            yield

    with contextlib.ExitStack() as patches:
        for module in (sampler, lens_check):
            patches.enter_context(mock.patch.object(module, "undisturbed", counted))
        patches.enter_context(mock.patch.object(FSDP2, "whole", gathered))
        yield most


# --- all runs


def launched(path: str, mode: str, watched: bool) -> list[dict[str, int]]:
    """What each rank of a run measured."""
    world, gpus = RANKS.get(mode, 1), torch.cuda.device_count()
    environment = dict(os.environ)
    if gpus < world:
        environment |= {"CUDA_VISIBLE_DEVICES": "", "DS_ACCELERATOR": "cpu"}
    elif world == 1 and gpus > 1:  # the Trainer would use them all
        environment |= {"CUDA_VISIBLE_DEVICES": os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]}
    start = [sys.executable]
    if world > 1:
        start += ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={world}"]
        environment |= {"OMP_NUM_THREADS": "1"}
    with tempfile.TemporaryDirectory() as folder:
        command = [*start, __file__, "--model", path, "--modes", mode, "--one", folder, *["--watched"] * watched]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)
        if done.returncode:
            raise RuntimeError(f"{mode} failed:\n{done.stdout[-8000:]}")
        return [json.loads((Path(folder) / f"rank{rank}.json").read_text()) for rank in range(world)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="folder or hub id; SmolLM2-135M-Instruct if left out")
    parser.add_argument("--modes", nargs="+", choices=MODES, default=list(MODES), help="which to run; all if left out")
    parser.add_argument("--one", help=argparse.SUPPRESS)  # folder: run one mode here, write its peak there
    parser.add_argument("--watched", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    path = args.model or str(smollm2())
    if args.one:
        told = one_run(path, args.modes[0], args.watched, args.one)
        (Path(args.one) / f"rank{collectives.rank()}.json").write_text(json.dumps(told))
        if collectives.world_size() > 1:
            torch.distributed.destroy_process_group()
        return 0
    broken, notes = 0, []
    print(f"{'mode, peak MiB':18}{'without':>9}{'with':>9}{'probe adds':>12}{'limit':>8}")
    for mode in args.modes:
        runs = launched(path, mode, False), launched(path, mode, True)
        for rank, (plain, watched) in enumerate(zip(*runs, strict=True)):
            before, after = plain["peak"] / 2**20, watched["peak"] / 2**20
            limit = max(LEAST, SHARE * before)
            name = mode if mode not in RANKS else f"{mode} rank {rank}"
            over = after - before > limit
            broken += over
            row = f"{name:18}{before:>9.0f}{after:>9.0f}{after - before:>12.0f}{limit:>8.0f}"
            print(row + "  BROKEN" * over, flush=True)
            if "allowed" in watched:
                over = watched["whole"] > watched["allowed"]
                broken += over
                notes.append(
                    f"{name}: at most {watched['whole']:,} weights whole at one time in the probe; one layer, norm,"
                    f" head and embedding have {watched['allowed']:,}" + "  BROKEN" * over
                )
    for note in notes:
        print(note)
    return int(broken > 0)


if __name__ == "__main__":
    sys.exit(main())
