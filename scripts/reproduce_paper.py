"""The paper's setting, base against aligned: `python scripts/reproduce_paper.py`; prints a Markdown table.

    python scripts/reproduce_paper.py [--prompts Anthropic/hh-rlhf] [--pairs phi-2 ...]   # a machine that has the hub
    python scripts/reproduce_paper.py --here [--prompts hh.jsonl.gz]                      # SmolLM2 before and after DPO

512 prompts of HH; for each pair both checkpoints are audited (`audit(preset="paper")`), their traces go to `--output`.
With `--here` the pair is SmolLM2-135M-Instruct and the same after a short DPO run of our own on the project's pairs,
with the quickstart's settings. The paper names the families; which checkpoints stand for them here is our choice.
"""

from __future__ import annotations

import argparse
import gzip
import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "recipes"))

from smollm2 import smollm2  # noqa: E402

from spinal_callback import audit  # noqa: E402
from spinal_callback.auditing.results import Audit  # noqa: E402
from spinal_callback.probe.prompt_files import SHIPPED, load_prompts  # noqa: E402
from spinal_callback.records import Record, dump_record  # noqa: E402

PAIRS = {  # base, aligned: hub ids
    "phi-2": ("microsoft/phi-2", "lxuechen/phi-2-dpo"),
    "deepseek": ("deepseek-ai/deepseek-llm-7b-base", "deepseek-ai/deepseek-llm-7b-chat"),
    "gemma": ("google/gemma-2b", "google/gemma-2b-it"),
    "qwen": ("Qwen/Qwen2.5-7B", "Qwen/Qwen2.5-7B-Instruct"),
    "llama-3": ("meta-llama/Meta-Llama-3-8B", "meta-llama/Meta-Llama-3-8B-Instruct"),
}
TURNS = {"Human": "user", "Assistant": "assistant"}
COLUMNS = ("pair", "prompts", "late contraction", "late transport, rad", "first, last changed layer", "score")
HEAD = f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--here", action="store_true", help="SmolLM2 before and after our own DPO run, without a hub")
    parser.add_argument("--pairs", nargs="+", choices=PAIRS, default=list(PAIRS), help="which of the paper's families")
    parser.add_argument("--prompts", help="HH as a hub id or a .jsonl.gz; with --here the project's own if left out")
    parser.add_argument("--num-prompts", type=int, default=512)
    parser.add_argument("--steps", type=int, default=20, help="of our own DPO run")
    parser.add_argument("--output", default="runs/paper", help="where traces, and our own run, go")
    args = parser.parse_args()
    output = Path(args.output)
    output.mkdir(parents=True, exist_ok=True)
    prompts = prompts_of(args.prompts or (None if args.here else "Anthropic/hh-rlhf"), args.num_prompts)
    pairs = {"SmolLM2-135M": own_run(output, args.steps)} if args.here else {name: PAIRS[name] for name in args.pairs}
    rows, failed = [], 0
    for name, (base, aligned) in pairs.items():
        try:
            found = audit(aligned, base, prompts, preset="paper", num_prompts=max(len(prompts), 2))
        except (OSError, ValueError, ImportError) as error:  # a gated model must not end the others
            print(f"{name}: {error}", file=sys.stderr)
            failed += 1
            continue
        records: list[Record] = [found.trace.header, *found.readings]
        (output / f"{name}.jsonl").write_text("".join(dump_record(record) + "\n" for record in records))
        print(f"\n{found}\n", file=sys.stderr)
        rows.append(row(name, found))
    print("\n".join([HEAD, *rows]))
    return int(failed > 0)


def row(name: str, found: Audit) -> str:
    """One pair as a row of the table; intervals of 95 %."""
    changes = found.changes[-1]
    late = [
        f"{c.before:.3f} to {c.after:.3f}: {c.change:+.4f} ({c.low:+.4f} to {c.high:+.4f})"
        for c in (changes.late["alpha"], changes.late["transport"])
    ]
    depth = found.trace.header.layers
    where = f"{changes.first}, {changes.last} of {depth}" if changes.first else f"none of {depth}"
    return f"| {name} | {found.readings[-1].prompts} | {late[0]} | {late[1]} | {where} | {found.score:.3f} |"


def prompts_of(source: str | None, count: int) -> list[Any]:
    """Chat messages of the first HH rows, or of a file of prompts; None: the project's own probes and pairs."""
    if source is None:
        files = [SHIPPED, ROOT / "recipes" / "data" / "preferences.jsonl"]
        return [json.loads(line)["prompt"] for file in files for line in file.read_text().splitlines()][:count]
    if source.endswith(".gz"):
        with gzip.open(source, "rt", encoding="utf-8") as file:
            rows: Any = [json.loads(line) for _, line in zip(range(count), file, strict=False)]
    elif Path(source).is_file():
        rows = load_prompts(source)
    else:
        from datasets import load_dataset

        rows = load_dataset(source, split=f"test[:{count}]")
    return [messages(row["chosen"]) if isinstance(row, dict) and "chosen" in row else row for row in rows][:count]


def messages(conversation: str) -> list[dict[str, str]]:
    """An HH conversation without its last answer, as chat messages that begin with the person's."""
    turns: list[dict[str, str]] = []
    for part in (
        conversation.replace("\n\nHuman: ", "\0Human: ").replace("\n\nAssistant: ", "\0Assistant: ").split("\0")
    ):
        speaker, colon, text = part.partition(": ")
        if colon and speaker in TURNS and text.strip():
            turns.append({"role": TURNS[speaker], "content": text.strip()})
    while turns and turns[-1]["role"] == "assistant":
        turns.pop()
    return turns


def own_run(output: Path, steps: int) -> tuple[str, str]:
    """SmolLM2 and, after DPO with the quickstart's settings, its checkpoint; trained on the first call."""
    import torch
    from datasets import load_dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import DPOConfig, DPOTrainer

    base, target = str(smollm2()), output / f"smollm2-dpo-{steps}"
    if not (target / "config.json").exists():
        tokenizer = AutoTokenizer.from_pretrained(base)
        trainer = DPOTrainer(
            AutoModelForCausalLM.from_pretrained(base, dtype="float32"),
            args=DPOConfig(
                output_dir=str(target),
                max_steps=steps,
                learning_rate=2e-6,
                lr_scheduler_type="constant_with_warmup",
                warmup_steps=5,
                per_device_train_batch_size=4,
                max_length=64,
                activation_checkpointing=False,
                bf16=False,
                save_strategy="no",
                report_to=[],
                dataloader_pin_memory=torch.cuda.is_available(),
            ),
            train_dataset=load_dataset(
                "json", data_files=str(ROOT / "recipes" / "data" / "preferences.jsonl"), split="train"
            ),
            processing_class=tokenizer,
        )
        trainer.train()
        trainer.save_model(str(target))
        tokenizer.save_pretrained(target)
    return base, str(target)


if __name__ == "__main__":
    sys.exit(main())
