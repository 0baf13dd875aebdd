"""Runs that are cut off and resumed: in one process by an exception, or in one of their own by SIGKILL."""

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import tiny
import torch
import twins
from paths import PYTHONPATH
from transformers import TrainerCallback

from spinal_callback import load_trace
from spinal_callback.run_folder import REFERENCE_FILE, trace_path

CLOCKED = ("seconds", "overhead", "peak_bytes")  # of a reading: what differs between two runs of the same thing
SAVES = {"save_strategy": "steps", "save_steps": 2}


def adapters():
    return {"ref_model": None, "peft_config": tiny.lora(target_modules=["q_proj"])}


KINDS = {"full": dict, "lora": adapters}


def part(folder, *callbacks, until, resume=None, **arguments):
    """Trains to step `until` of a run of 8, and stops there as a kill would: nothing is done at the end of training."""
    torch.manual_seed(0)
    settings = {**SAVES, "max_steps": 8, **arguments}
    trainer = twins.dpo(folder, *callbacks, *([Interrupts(until)] if until < 8 else []), **settings)
    with contextlib.suppress(KeyboardInterrupt):
        trainer.train(resume_from_checkpoint=resume)
    return trainer


class Interrupts(TrainerCallback):
    def __init__(self, step):
        self.step = step

    def on_save(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            raise KeyboardInterrupt


def told(folder):
    """A trace without what differs between two runs of the same thing; its lines are as many as its records."""
    trace = load_trace(folder)
    lines = trace_path(Path(folder)).read_text().splitlines()
    assert len(lines) == 1 + len(trace.readings) + len(trace.alerts)
    whole = trace.to_json()
    for reading in whole["readings"]:
        for name in CLOCKED:
            del reading[name]
    return whole


def without_logs(trace):
    """The readings without the Trainer's numbers of a step that was trained without the callback."""
    return [{name: value for name, value in r.items() if name != "trainer"} for r in trace["readings"]]


def weights(folder):
    return {
        path.name: path.read_bytes()
        for path in (folder / "checkpoint-8").iterdir()
        if path.name in ("model.safetensors", "adapter_model.safetensors", REFERENCE_FILE)
    }


# --- the process that is killed


def killed(folder, kind, at):
    """How a process ended that trains and kills itself after step `at`."""
    paths = os.pathsep.join([PYTHONPATH, os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, __file__, str(folder), kind, str(at)]
    return subprocess.run(command, env={**os.environ, "PYTHONPATH": paths}, timeout=240).returncode


class Kills(TrainerCallback):
    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    import conftest  # noqa: F401

    folder, kind, at = sys.argv[1:]
    part(Path(folder), twins.watcher(), Kills(int(at)), until=8, trainer=KINDS[kind]())
