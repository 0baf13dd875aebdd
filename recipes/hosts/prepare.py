"""What the recipes of this folder train: a tiny Llama, and the preference pairs as each framework reads them.

python recipes/hosts/prepare.py FOLDER
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

PAIRS = Path(__file__).parents[1] / "data" / "preferences.jsonl"
SPECIAL = ["<pad>", "<|im_start|>", "<|im_end|>"]  # ChatML: a template that every framework knows
CHAT_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def tokenizer() -> PreTrainedTokenizerFast:
    """One token a byte: reads any text."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    inner = Tokenizer(models.BPE({token: i for i, token in enumerate(SPECIAL + alphabet)}, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="<pad>", eos_token="<|im_end|>")
    fast.chat_template = CHAT_TEMPLATE
    return fast


def model(vocabulary: int, layers: int = 9) -> LlamaForCausalLM:
    """Deep enough for a late window of three layers."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=1024,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    return LlamaForCausalLM(config)


def llama_factory(row: dict[str, Any]) -> dict[str, Any]:
    """Its alpaca format with `ranking: true`."""
    answers = {name: row[name][0]["content"] for name in ("chosen", "rejected")}
    return {"instruction": row["prompt"][0]["content"], **answers}


def ms_swift(row: dict[str, Any]) -> dict[str, Any]:
    """Its messages format with a rejected answer beside them."""
    return {"messages": row["prompt"] + row["chosen"], "rejected_response": row["rejected"][0]["content"]}


def axolotl(row: dict[str, Any]) -> dict[str, Any]:
    """Its `chat_template.default` for DPO."""
    return {"messages": row["prompt"], "chosen": row["chosen"][0], "rejected": row["rejected"][0]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where the model and the data go")
    folder = parser.parse_args().folder
    fast = tokenizer()
    fast.save_pretrained(folder / "tiny")
    model(len(fast)).save_pretrained(folder / "tiny")
    rows = [json.loads(line) for line in PAIRS.read_text(encoding="utf-8").splitlines()]
    for format_ in (llama_factory, ms_swift, axolotl):
        lines = "".join(json.dumps(format_(row)) + "\n" for row in rows)
        (folder / f"{format_.__name__}.jsonl").write_text(lines, encoding="utf-8")
    columns = {"prompt": "instruction", "chosen": "chosen", "rejected": "rejected"}
    about = {"pairs": {"file_name": "llama_factory.jsonl", "ranking": True, "columns": columns}}
    (folder / "dataset_info.json").write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
