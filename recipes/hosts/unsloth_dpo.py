"""DPO with Unsloth, watched: `python recipes/hosts/unsloth_dpo.py FOLDER`, the folder that prepare.py has made.

Unsloth's models are trained by TRL's DPOTrainer, so the callback goes in as anywhere else.
"""

import sys
from pathlib import Path

import unsloth  # isort: skip  # before trl and transformers, which it changes
import torch
from datasets import load_dataset
from trl import DPOConfig, DPOTrainer

from spinal_callback import SpinalCallback

folder = Path(sys.argv[1])
model, tokenizer = unsloth.FastLanguageModel.from_pretrained(
    str(folder / "tiny"),
    max_seq_length=512,
    load_in_4bit=False,
    dtype=torch.float32,  # in bfloat16 so narrow a model has too few singular values above the rounding error
)
model = unsloth.FastLanguageModel.get_peft_model(model, r=4, target_modules=["q_proj", "v_proj"], lora_alpha=8)
pairs = Path(__file__).parents[1] / "data" / "preferences.jsonl"
trainer = DPOTrainer(
    model,
    ref_model=None,
    args=DPOConfig(
        output_dir=str(folder / "unsloth"),
        max_steps=4,
        per_device_train_batch_size=2,
        learning_rate=1e-3,
        max_length=512,
        logging_steps=1,
        report_to=[],
        save_strategy="no",
    ),
    train_dataset=load_dataset("json", data_files=str(pairs), split="train"),
    processing_class=tokenizer,
    callbacks=[SpinalCallback(every=2, num_prompts=32)],
)
trainer.train()
