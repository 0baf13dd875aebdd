"""llama_factory.py: LLaMA-Factory's entry point, as its version 0.9.5 has it."""

import inspect
import json
import re
import runpy
import sys

import pytest
import stand_ins

from spinal_callback import load_trace

READ = """
import json, sys
from pathlib import Path

def read_args(args=None):  # without OmegaConf: the tests' files are JSON, which is YAML
    if args is not None: return args
    return json.loads(Path(sys.argv[1]).read_text()) if sys.argv[1:] and sys.argv[1].endswith(".yaml") else sys.argv[1:]
"""
# Refuses keys that it does not know, then trains a tiny model on rows as LLaMA-Factory tokenizes them.
RUN = """
import tiny, torch
from datasets import Dataset
from transformers import Trainer, TrainingArguments

def pair(prompt, answers):
    row = {}
    for name, answer in zip(("chosen", "rejected"), answers):
        whole = prompt + answer
        labels = [-100] * len(prompt) + answer
        row |= {f"{name}_input_ids": whole, f"{name}_attention_mask": [1] * len(whole), f"{name}_labels": labels}
    return row

def collate(rows):
    ids = torch.nn.utils.rnn.pad_sequence([torch.tensor(r["chosen_input_ids"]) for r in rows], batch_first=True)
    return {"input_ids": ids, "labels": ids}

def run_exp(args=None, callbacks=None):
    unknown = set(args) - {"stage", "output_dir"}
    if unknown: raise ValueError(f"Some specified arguments are not used by the HfArgumentParser: {unknown}")
    rows = [pair(p, (c, r)) for p, c, r in zip(*(tiny.prompts(24, seed) for seed in range(3)))]
    settings = tiny.SETTINGS | {"max_steps": 4, "remove_unused_columns": False, "output_dir": args["output_dir"]}
    Trainer(tiny.llama(), TrainingArguments(**settings), collate, Dataset.from_list(rows), callbacks=callbacks).train()
"""
FILES = {"llamafactory/hparams/__init__.py": READ, "llamafactory/train/tuner.py": RUN}


@pytest.fixture
def run(tmp_path, monkeypatch):
    """`python -m spinal_callback.hosts.llama_factory ...`, in this process."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["llama_factory", *map(str, arguments)])
        runpy.run_module("spinal_callback.hosts.llama_factory", run_name="__main__", alter_sys=False)

    with stand_ins.importable(monkeypatch, stand_ins.make(tmp_path / "stand_in", "llamafactory", "0.9.5", FILES)):
        yield run


def configuration(tmp_path, **fields):
    path = tmp_path / "config.yaml"
    path.write_text(json.dumps({"stage": "dpo", "output_dir": str(tmp_path / "run"), **fields}))
    return path


def test_a_configuration_with_our_section_trains(run, tmp_path):
    run(configuration(tmp_path, spinal={"every": 2, "num_prompts": 24}))
    trace = load_trace(tmp_path / "run")
    assert [r.step for r in trace.readings] == [0, 2, 4] and trace.header.prompts == 24


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"spinal": {"evry": 2}}, "spinal: there is no setting evry (got evry=2): did you mean every?"),
        ({"spinal": 5}, "spinal must be a section of settings, such as every: 25, got 5"),
        ({"spinnal": {}}, "not used by the HfArgumentParser: {'spinnal'}"),
    ],
)
def test_a_wrong_configuration_is_refused(run, tmp_path, fields, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        run(configuration(tmp_path, **fields))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("flags", [[], ["--stage", "dpo"]])
def test_without_a_configuration_file_it_says_what_is_needed(run, flags):
    got = " ".join(flags) or "nothing"
    with pytest.raises(ValueError, match=rf"^give LLaMA-Factory's configuration as a \.yaml file, got {got}$"):
        run(*flags)


def test_other_versions_are_refused(monkeypatch, tmp_path):
    stand_ins.check_refusals(monkeypatch, tmp_path, "llama_factory", "llamafactory", FILES, old="0.9.3")


def test_the_stand_in_is_like_the_real_one():
    tuner = pytest.importorskip("llamafactory.train.tuner", reason="LLaMA-Factory is not installed")
    assert list(inspect.signature(tuner.run_exp).parameters) == ["args", "callbacks"]
    assert list(inspect.signature(tuner.read_args).parameters) == ["args"]
