"""A run that was killed and resumed is the run that was not: trace, baseline, alerts, interval."""

import contextlib
import json
import math
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import tiny
import torch
import twins
from paths import PYTHONPATH
from peft import LoraConfig
from transformers import TrainerCallback
from wandb_runs import history, inspect

from spinal_callback import MemorySink, load_trace
from spinal_callback.probe import sample
from spinal_callback.probe.probe import Probe
from spinal_callback.run_folder import REFERENCE_FILE
from spinal_callback.trainer.resume import KEY
from spinal_callback.trainer.schedule import Schedule

CLOCKED = ("seconds", "overhead", "peak_bytes")
SAVES = {"save_strategy": "steps", "save_steps": 2}


def adapters():
    return {"ref_model": None, "peft_config": LoraConfig(r=4, lora_dropout=0.1, target_modules=["q_proj"])}


KINDS = {"full": dict, "lora": adapters}


@pytest.mark.parametrize("kind", ["full", pytest.param("lora", marks=pytest.mark.slow)])
def test_killed_and_resumed_is_uninterrupted(tmp_path, kind):
    """SIGKILL after step 5's reading is written; the last checkpoint is step 4's."""
    whole, torn = tmp_path / "whole", tmp_path / "torn"
    assert killed(torn, kind, at=5) == -signal.SIGKILL
    assert sorted(p.name for p in torn.glob("checkpoint-*")) == ["checkpoint-2", "checkpoint-4"]
    assert [r["step"] for r in told(torn)["readings"]] == [0, 1, 2, 3, 4, 5]
    with (torn / "_spinal" / "trace.jsonl").open("a") as trace:
        trace.write('{"kind": "reading", "step": 6, "alp')  # torn by the kill
    part(torn, twins.watcher(), until=8, resume=True, trainer=KINDS[kind]())
    part(whole, twins.watcher(), until=8, trainer=KINDS[kind]())
    assert told(torn) == told(whole) and weights(torn) == weights(whole)
    assert [r["step"] for r in told(torn)["readings"]] == list(range(9))


def killed(folder, kind, at):
    """How a process ended that trains and kills itself after step `at`."""
    paths = os.pathsep.join([PYTHONPATH, os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, __file__, str(folder), kind, str(at)]
    return subprocess.run(command, env={**os.environ, "PYTHONPATH": paths}, timeout=240).returncode


def told(folder):
    """A trace without what differs between two runs of the same thing; its lines are as many as its records."""
    trace = load_trace(folder)
    lines = (Path(folder) / "_spinal" / "trace.jsonl").read_text().splitlines()
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


# --- in one process: a run of some steps, then another trainer that goes on


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


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    part(folder, twins.watcher(), until=8)
    return folder


def test_the_baseline_is_the_original_one(tmp_path, whole):
    part(tmp_path, twins.watcher(), until=4)
    memory = MemorySink()
    part(tmp_path, twins.watcher(memory), until=8, resume=True)
    assert [r.step for r in memory.readings] == [5, 6, 7, 8]  # the resumed step was read before it was saved
    assert told(tmp_path) == told(whole)
    assert memory.readings[0].displacement > load_trace(whole).readings[1].displacement


@pytest.mark.parametrize("kept", [True, False])
def test_another_output_folder_takes_trace_and_baseline_along(tmp_path, whole, kept):
    """Found by the folder that the checkpoint names, or beside the checkpoint where that was moved along."""
    part(tmp_path / "first", twins.watcher(), until=4)
    new = tmp_path / "second"
    if not kept:
        shutil.move(tmp_path / "first", new)
    checkpoint = (tmp_path / "first" if kept else new) / "checkpoint-4"
    part(new, twins.watcher(), until=8, resume=str(checkpoint))
    assert told(new) == told(whole)
    if kept:
        assert [r["step"] for r in told(tmp_path / "first")["readings"]] == [0, 1, 2, 3, 4]


def test_a_checkpoint_torn_from_its_run_starts_a_new_baseline_and_says_so(tmp_path, capsys):
    part(tmp_path / "first", twins.watcher(), until=4)
    shutil.move(tmp_path / "first" / "checkpoint-4", tmp_path / "alone")
    shutil.rmtree(tmp_path / "first")
    memory = MemorySink()
    part(tmp_path / "second", twins.watcher(memory), until=8, resume=str(tmp_path / "alone"))
    assert capsys.readouterr().out.count("changes are measured from the policy as it is now") == 1
    assert [r.step for r in memory.readings] == [4, 5, 6, 7, 8] and memory.readings[0].displacement == 0


def test_a_checkpoint_made_without_the_callback(tmp_path, capsys):
    part(tmp_path, until=4)
    memory = MemorySink()
    part(tmp_path, twins.watcher(memory), until=8, resume=True)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("spinal")]
    assert len(lines) == 1 and "changes are measured from the policy as it is now" in lines[0]
    assert [r.step for r in memory.readings] == [r["step"] for r in told(tmp_path)["readings"]] == [4, 5, 6, 7, 8]
    assert [r.displacement > 0 for r in memory.readings] == [False, True, True, True, True]


def test_an_adapter_run_has_its_reference_even_then(tmp_path, whole, capsys):
    part(tmp_path / "with", twins.watcher(), until=8, trainer=adapters())
    part(tmp_path / "without", until=4, trainer=adapters())
    part(tmp_path / "without", twins.watcher(), until=8, resume=True, trainer=adapters())
    assert capsys.readouterr().out.count("changes are measured from the policy without adapters") == 1
    late = [r for r in without_logs(told(tmp_path / "with")) if r["step"] >= 4]
    resumed = without_logs(told(tmp_path / "without"))
    assert resumed[1:] == late[1:] and resumed[0]["displacement"] == late[0]["displacement"] > 0


def test_the_callback_can_be_dropped_and_taken_up_again(tmp_path, whole):
    """Steps 5 and 6 are trained without it. What comes after is held against the first run's step 0."""
    part(tmp_path, twins.watcher(), until=4)
    dropped = part(tmp_path, until=6, resume=True)
    assert dropped.state.global_step == 6 and not (tmp_path / "checkpoint-6" / REFERENCE_FILE).exists()
    part(tmp_path, twins.watcher(), until=8, resume=True)
    expected = [r for r in without_logs(told(whole)) if r["step"] not in (5, 6)]
    assert without_logs(told(tmp_path)) == expected


def test_weights_are_those_of_a_run_that_never_had_it(tmp_path, whole):
    part(tmp_path, until=4)
    part(tmp_path, until=8, resume=True)
    assert (tmp_path / "checkpoint-8" / "model.safetensors").read_bytes() == weights(whole)["model.safetensors"]


def test_a_torn_reference_is_no_obstacle(tmp_path, whole):
    """Another checkpoint's is taken: they are all the same."""
    part(tmp_path, twins.watcher(), until=4)
    (tmp_path / "checkpoint-2" / REFERENCE_FILE).write_bytes(b"torn")  # the first that is looked at
    with pytest.warns(UserWarning, match="cannot read .*checkpoint-2"):
        part(tmp_path, twins.watcher(), until=8, resume=True)
    assert told(tmp_path) == told(whole)


def test_other_prompts_get_a_trace_of_their_own(tmp_path, capsys):
    part(tmp_path, twins.watcher(), until=4)
    before = (tmp_path / "_spinal" / "trace.jsonl").read_bytes()
    part(tmp_path, twins.watcher(seed=7), until=8, resume=True)
    assert (tmp_path / "_spinal" / "trace_before_4.jsonl").read_bytes() == before
    assert [r["step"] for r in told(tmp_path)["readings"]] == [4, 5, 6, 7, 8]
    assert "the checkpoint has no reference for these prompts" in capsys.readouterr().out


class Breaks(TrainerCallback):
    """After step 3 a token that only the probe's prompts have becomes NaN: training goes on as if nothing were."""

    def on_step_end(self, args, state, control, model=None, **kwargs):
        if state.global_step == 3:
            model.model.embed_tokens.weight.data[tiny.tokenizer().convert_tokens_to_ids("<system>")] = math.nan


BREAKING = [f"w{i} w{i + 1}" for i in range(12)] + [f"<system> w{i} w{i + 1}" for i in range(4)]


def test_an_alert_is_not_raised_twice(tmp_path):
    def watcher(*sinks):
        return twins.watcher(*sinks, prompts=BREAKING, save_on_alert=True)

    part(tmp_path, Breaks(), watcher(), until=4)
    assert [(a.rule, a.step) for a in load_trace(tmp_path).alerts] == [("nonfinite", 3)]
    assert (tmp_path / "checkpoint-3").exists()
    memory = MemorySink()
    resumed = part(tmp_path, watcher(memory), until=8, resume=True)
    assert memory.alerts == [] and all(r.nonfinite > 0 for r in memory.readings)
    assert [(a.rule, a.step) for a in load_trace(tmp_path).alerts] == [("nonfinite", 3)]
    saved = resumed.state.stateful_callbacks[KEY]
    assert saved["rules"]["alarms"]["nonfinite"]["error"]["raised"] is True and saved["saved_for_alert"] is True


def test_the_count_of_alerts_goes_on(tmp_path):
    first, second = (twins.watcher("wandb", prompts=BREAKING) for _ in range(2))
    part(tmp_path / "a", Breaks(), first, until=4)
    part(tmp_path / "a", second, until=8, resume=True)
    raised = len([a for a in load_trace(tmp_path / "a").alerts if a.step <= 4])
    assert len(second._recorder.asked[0]._history.trace.alerts) == raised > 0


@pytest.mark.slow
def test_the_count_of_alerts_in_wandb_goes_on(tmp_path):
    """And is 0 again in another run of the same callback. Read back from W&B's own files."""
    wandb, counts = pytest.importorskip("wandb"), {}
    first, second = (twins.watcher("wandb", prompts=BREAKING) for _ in range(2))
    for name, callbacks, until in (("run", [Breaks(), first], 4), ("resumed", [second], 8), ("new", [first], 8)):
        (tmp_path / name).mkdir()
        with wandb.init(project="test", dir=tmp_path / name, mode="offline"):
            folder, resume = (tmp_path / "run", True) if name == "resumed" else (tmp_path / name, None)
            part(folder, *callbacks, until=until, resume=resume)
        wandb.teardown()
        counts[name] = [row["spinal/alerts"] for row in history(inspect(tmp_path / name))]
    raised = len([a for a in load_trace(tmp_path / "run").alerts if a.step <= 4])
    assert counts["run"][0] == 0 and counts["run"][-1] == raised > 0
    assert counts["resumed"][0] == raised and counts["new"][0] == 0


def test_the_interval_of_auto_is_restored(tmp_path, monkeypatch):
    """Rank zero's clock says three steps at first, and after the kill a hundred; what was agreed on before holds."""
    monkeypatch.setattr(Schedule, "proposed", lambda self, *cost: 3)
    part(tmp_path, twins.watcher(every="auto"), until=4)
    monkeypatch.setattr(Schedule, "proposed", lambda self, *cost: 100)
    memory = MemorySink()
    part(tmp_path, twins.watcher(memory, every="auto"), until=8, resume=True)
    readings = told(tmp_path)["readings"]
    assert [(r["step"], r["interval"]) for r in readings] == [(0, 3), (3, 3), (6, 100), (8, 100)]
    assert [r.step for r in memory.readings] == [6, 8]


def test_what_memory_allows_is_remembered(tmp_path):
    first, second = twins.watcher(), twins.watcher()
    read = Probe.read

    def halving(self, *args):
        self.sampler.at_a_time["tokens"] = 512
        return read(self, *args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Probe, "read", halving)
        part(tmp_path, first, until=4)
    part(tmp_path, second, until=8, resume=True)
    assert second.probe.sampler.at_a_time == {"tokens": 512, "logits": sample.LOGITS_BLOCK}


def test_a_new_interval_in_the_configuration_counts(tmp_path):
    part(tmp_path, twins.watcher(every=3), until=4)
    part(tmp_path, twins.watcher(every=2), until=8, resume=True)
    assert [r["step"] for r in told(tmp_path)["readings"]] == [0, 3, 6, 8]


def test_what_is_saved_is_small_and_no_text(tmp_path, whole):
    state = json.loads((whole / "checkpoint-8" / "trainer_state.json").read_text())
    saved = state["stateful_callbacks"][KEY]
    assert len(json.dumps(saved)) < 10_000 and saved["last"] == 8
    assert not list(whole.glob("checkpoint-*/*.part"))


def test_one_callback_may_see_two_runs(tmp_path):
    """From the start each: nothing of the first run is left in the second."""
    callback = twins.watcher()
    for name in ("a", "b"):
        part(tmp_path / name, callback, until=8)
    assert told(tmp_path / "a") == told(tmp_path / "b")


# --- the process that is killed


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
