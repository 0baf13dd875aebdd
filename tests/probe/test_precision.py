"""The probe runs in the precision that training does, whoever asked for it; FSDP's and DeepSpeed's: `distributed/`."""

import json
import os
import subprocess
import sys

import pytest
import tiny
import torch
import twins
from accelerate.utils import AutocastKwargs
from paths import PYTHONPATH, SUPPORT
from worker_precision import pair

AUTOCAST, FLOAT32 = "torch.bfloat16", "None"


def check(result, autocast):
    assert json.dumps(result["with"]) == json.dumps(result["without"]), "the same weights and logs"
    assert result["steps"] == list(range(7))
    assert {how[0] for how in result["forwards"]["training"]} == {autocast}, "the setting is what it is meant to be"
    assert result["forwards"]["probe"] == result["forwards"]["training"]


# --- accelerate's launcher


def launched(folder, *options, **environment):
    command = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes=1", *options]
    done = subprocess.run(
        [*command, str(SUPPORT / "worker_precision.py"), str(folder)],
        env=os.environ | {"PYTHONPATH": PYTHONPATH} | environment,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads((folder / "result.json").read_text())


def config_file(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        'compute_environment: LOCAL_MACHINE\ndistributed_type: "NO"\nuse_cpu: true\nnum_processes: 1\n'
        "num_machines: 1\nmachine_rank: 0\nmain_training_function: main\nmixed_precision: bf16\n"
    )
    return path


def test_launcher_with_an_option(tmp_path):
    check(launched(tmp_path, "--cpu", "--mixed_precision=bf16"), AUTOCAST)


@pytest.mark.slow
def test_launcher_without_one(tmp_path):
    check(launched(tmp_path, "--cpu", "--mixed_precision=no"), FLOAT32)


@pytest.mark.slow
def test_launcher_with_a_config_file(tmp_path):
    check(launched(tmp_path, f"--config_file={config_file(tmp_path / 'own.yaml')}"), AUTOCAST)


@pytest.mark.slow
def test_launcher_with_the_config_file_of_accelerate_config(tmp_path):
    config_file(tmp_path / "home" / "accelerate" / "default_config.yaml")
    check(launched(tmp_path, HF_HOME=str(tmp_path / "home")), AUTOCAST)


# --- in this process


@pytest.mark.parametrize(
    ("variable", "arguments", "autocast"),
    [
        (None, {}, FLOAT32),
        (None, {"bf16": True}, AUTOCAST),
        ("bf16", {}, AUTOCAST),
        ("bf16", {"bf16": True}, AUTOCAST),
        ("no", {"bf16": True}, AUTOCAST),
        ("fp16", {"bf16": True}, AUTOCAST),
        ("fp16", {}, FLOAT32),  # accelerate has no float16 on a CPU and says nothing
        (None, {"fp16": True}, FLOAT32),
        ("bf16", {"trainer": {"ref_model": None, "peft_config": tiny.lora()}}, AUTOCAST),
        ("bf16", {"fp16": True}, FLOAT32),
    ],
)
def test_environment_and_arguments(tmp_path, monkeypatch, variable, arguments, autocast):
    monkeypatch.delenv("ACCELERATE_MIXED_PRECISION", raising=False)
    if variable is not None:
        monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", variable)
    check(pair(tmp_path, **arguments), autocast)


@pytest.mark.parametrize("own", [False, True])
def test_another_trainer_made_in_between(tmp_path, own):
    """accelerate keeps one state for the process: by the time the first trainer trains it holds the second's."""
    if tiny.OLD_TRANSFORMERS and not own:
        pytest.skip("transformers before 5.0 leaves the second precision to the next run")
    result = pair(tmp_path, lambda trainer: twins.dpo(tmp_path / "other", bf16=not own), bf16=own)
    check(result, AUTOCAST if own else FLOAT32)


def test_autocast_that_the_user_turned_off(tmp_path):
    def turn_off(trainer):
        trainer.accelerator.autocast_handler = AutocastKwargs(enabled=False)

    check(pair(tmp_path, turn_off, bf16=True), FLOAT32)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_wrapper_of_the_users_own(tmp_path, dtype):
    def wrap(trainer):
        trainer.model.forward = torch.autocast("cpu", dtype)(trainer.model.forward)

    check(pair(tmp_path, wrap), str(dtype))
