"""DPO of any model on any preference data, watched by SPINAL.

    python recipes/dpo.py --model_name_or_path MODEL --dataset_name DATA --output_dir runs/mine [any DPOConfig,
        ModelConfig flag] [--spinal_every 25 --spinal_stop_on error ...]

MODEL: a hub id or a local folder. DATA: a hub id, a folder, or a .json/.jsonl file of rows with prompt, chosen and
rejected. Every field of SpinalConfig is a flag behind `spinal_`. A YAML file with the same names goes in by `--config`.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field, make_dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, DatasetDict, load_dataset, load_from_disk
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import DPOConfig, DPOTrainer, ModelConfig, TrlParser, get_peft_config, get_quantization_config

from spinal_callback import SpinalCallback, SpinalConfig


@dataclass
class DataArguments:
    """Which preference data to train on."""

    dataset_name: str = field(metadata={"help": "hub id, folder, or .json/.jsonl file"})
    dataset_config: str | None = field(default=None, metadata={"help": "configuration of a hub data set"})
    dataset_train_split: str = field(default="train", metadata={"help": "split to train on"})
    dataset_test_split: str = field(default="test", metadata={"help": "split to evaluate on, if there is one"})


def _flag(config_field: dataclasses.Field[Any]) -> tuple[str, type, Any]:
    """A flag takes JSON, or a bare word: 25, auto, null, "[21, 30]"."""
    about = {"help": f"SpinalConfig.{config_field.name}, default {config_field.default}"}
    return f"spinal_{config_field.name}", str, field(default=json.dumps(config_field.default), metadata=about)


SpinalArguments: Any = make_dataclass("SpinalArguments", [_flag(f) for f in dataclasses.fields(SpinalConfig)])


def spinal_config(arguments: Any) -> SpinalConfig:
    """The configuration that the `--spinal_*` flags say. Raises ValueError as SpinalConfig does."""
    values = {}
    for name, text in vars(arguments).items():
        try:
            values[name.removeprefix("spinal_")] = json.loads(text)
        except json.JSONDecodeError:
            values[name.removeprefix("spinal_")] = text
    return SpinalConfig(**values)


def load(name: str, config: str | None = None) -> DatasetDict:
    """All splits of a hub data set, a folder, or a JSON file (its one split is called train).

    Raises:
        FileNotFoundError: `name` looks like a file and is not there.
    """
    path = Path(name)
    if path.suffix in (".json", ".jsonl"):
        if not path.exists():
            raise FileNotFoundError(f"--dataset_name {name}: no such file")
        return load_dataset("json", data_files=name)
    if (path / "state.json").exists() or (path / "dataset_dict.json").exists():
        saved = load_from_disk(name)
        return DatasetDict(train=saved) if isinstance(saved, Dataset) else saved
    return load_dataset(name, config)


def arguments(command: list[str] | None = None) -> tuple[DataArguments, DPOConfig, ModelConfig, SpinalConfig]:
    """What the flags and the file behind `--config` ask for; `command`: the process's own arguments if left out.

    Raises:
        ValueError: no model is named, or a field of SpinalConfig is out of its range.
    """
    kinds: Any = (DataArguments, DPOConfig, ModelConfig, SpinalArguments)
    data_args, args, model_args, spinal_args = TrlParser(kinds).parse_args_and_config(command)
    if model_args.model_name_or_path is None:
        raise ValueError("--model_name_or_path is missing: give a hub id or a folder")
    return data_args, args, model_args, spinal_config(spinal_args)


def main() -> None:
    data_args, args, model_args, config = arguments()
    name = str(model_args.model_name_or_path)

    precision = {} if model_args.dtype in (None, "auto") else {"dtype": getattr(torch, model_args.dtype)}
    model = AutoModelForCausalLM.from_pretrained(
        name,
        revision=model_args.model_revision,
        attn_implementation=model_args.attn_implementation,
        quantization_config=get_quantization_config(model_args),
        **precision,
    )
    tokenizer = AutoTokenizer.from_pretrained(name)
    splits = load(data_args.dataset_name, data_args.dataset_config)

    trainer = DPOTrainer(
        model,
        args=args,
        train_dataset=splits[data_args.dataset_train_split],
        eval_dataset=splits.get(data_args.dataset_test_split) if args.eval_strategy != "no" else None,
        processing_class=tokenizer,
        peft_config=get_peft_config(model_args),
        callbacks=[SpinalCallback(config)],
    )
    trainer.train()
    trainer.save_model(args.output_dir)


if __name__ == "__main__":
    main()
