"""What the callback does about drift in a real DPOTrainer: tells it, names the last good checkpoint, stops."""

import json

import pytest
import tiny
import twins
from transformers import TrainerCallback

from spinal_callback import MemorySink, SpinalCallback, load_trace
from spinal_callback.alerts.detector import replay
from spinal_callback.alerts.rules import RULES
from spinal_callback.records import TRAINER_KEYS

BREAKS = 6  # the step after which the late layers are thrown about
SAVING = {"save_strategy": "steps", "save_steps": 2, "max_steps": 12}


class Throws(TrainerCallback):
    """Scales what the late layers write after a step: the trace jumps, and every number stays finite."""

    def on_step_end(self, args, state, control, model=None, **kwargs):
        if state.global_step == BREAKS:
            for layer in model.model.layers[3:]:
                layer.mlp.down_proj.weight.data.mul_(30.0)


def broken(folder, memory, *, calm=False, **fields):
    watching = SpinalCallback(sinks=[memory], **{"every": 1, "num_prompts": 16, **fields})
    trainer = twins.dpo(folder, *([] if calm else [Throws()]), watching, learning_rate=1e-6, **SAVING)
    trainer.train()
    return trainer


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    folder, memory = tmp_path_factory.mktemp("stopped"), MemorySink()
    return folder, memory, broken(folder, memory, stop_on="error")


def test_an_error_stops_the_run_and_says_where_to_go_back_to(stopped):
    folder, memory, trainer = stopped
    error = next(a for a in memory.alerts if a.level == "error")
    assert BREAKS <= error.since <= error.step == trainer.state.global_step < 12
    assert error.last_good == "checkpoint-4"
    assert (folder / error.last_good).is_dir()  # 6 was saved in the step that broke
    assert error.action.endswith(
        ', or go back to checkpoint-4: trainer.train(resume_from_checkpoint=f"{args.output_dir}/checkpoint-4")'
    )


def test_the_twin_that_is_left_alone_runs_to_its_end(tmp_path):
    memory = MemorySink()
    assert broken(tmp_path, memory, calm=True, stop_on="warn").state.global_step == 12
    assert memory.alerts == []


def test_a_replay_of_the_trace_raises_the_same_alerts(stopped):
    folder, memory, _ = stopped
    again = replay(load_trace(folder))
    assert [(a.step, a.rule, a.level, a.layers, a.since) for a in again] == [
        (a.step, a.rule, a.level, a.layers, a.since) for a in memory.alerts
    ]
    assert load_trace(folder).alerts == sorted(memory.alerts, key=lambda a: (a.step, a.rule, a.level))


@pytest.mark.parametrize(("logging", "steps"), [(1, [0, 0, 1, 2, 3, 4, 5]), (2, [0, 0, 0, 2, 2, 4, 4])])
def test_a_reading_holds_the_trainers_own_numbers_and_the_step_they_are_of(tmp_path, logging, steps):
    """The Trainer logs a step after its probe; a row of an evaluation in between changes nothing."""
    memory = MemorySink()
    trainer = twins.dpo(
        tmp_path,
        twins.watcher(memory),
        logging_steps=logging,
        eval_strategy="steps",
        eval_steps=3,
        trainer={"ref_model": twins.reference_model(), "eval_dataset": tiny.preferences(8, 5)},
    )
    trainer.train()
    logged = {row["step"]: row for row in trainer.state.log_history if "loss" in row}
    assert [r.trainer.get("step", 0) for r in memory.readings] == steps
    assert [r.trainer for r in memory.readings if not r.trainer.get("step")] == [{}] * steps.count(0)
    for reading in memory.readings[steps.count(0) :]:
        row = logged[reading.trainer["step"]] | {"beta": 0.1}
        assert reading.trainer == {key: row[key] for key in TRAINER_KEYS}


def test_a_checkpoint_that_no_calm_reading_came_after_is_not_called_good(tmp_path):
    """Probed at 0, 5 and 10: checkpoint-6 may have been broken already when it was saved, checkpoint-4 was not."""
    memory = MemorySink()
    broken(tmp_path, memory, stop_on="warn", every=5)
    assert {(a.step, a.since, a.last_good) for a in memory.alerts} == {(10, 10, "checkpoint-4")}


def test_without_a_checkpoint_none_is_named(tmp_path):
    memory = MemorySink()
    watching = SpinalCallback(sinks=[memory], every=1, num_prompts=16, stop_on="warn")
    twins.dpo(tmp_path, Throws(), watching, learning_rate=1e-6, max_steps=12).train()
    assert memory.alerts
    assert all(a.last_good == "" and "go back" not in a.action for a in memory.alerts)


def test_a_checkpoint_that_is_gone_is_not_named(tmp_path):
    memory = MemorySink()
    watching = SpinalCallback(sinks=[memory], every=5, num_prompts=16, stop_on="warn")
    limited = {**SAVING, "save_total_limit": 1}
    twins.dpo(tmp_path, Throws(), watching, learning_rate=1e-6, **limited).train()
    assert memory.alerts
    assert all(a.last_good == "" for a in memory.alerts)  # at step 10 only checkpoint-8 is left


def test_limits_come_from_the_rules_file(tmp_path):
    rules = {name: {"warn": 1e6, "error": 1e6} for name, rule in RULES.items() if not rule.at_once}
    (tmp_path / "rules.json").write_text(json.dumps({"rules": rules}))
    memory = MemorySink()
    trainer = broken(tmp_path, memory, stop_on="warn", rules=str(tmp_path / "rules.json"))
    assert trainer.state.global_step == 12
    assert memory.alerts == []


def test_a_bad_rules_file_is_refused_before_training(tmp_path):
    (tmp_path / "rules.json").write_text('{"rules": {"collapse": {"warn": -1, "error": 1}}}')
    with pytest.raises(ValueError, match=r"rules\.json: collapse\.warn must be a number > 0, got -1"):
        SpinalCallback(rules=str(tmp_path / "rules.json"))
    with pytest.raises(FileNotFoundError, match=r"none\.json"):
        SpinalCallback(rules=str(tmp_path / "none.json"))


def test_a_resumed_run_raises_the_alerts_of_an_uninterrupted_one(tmp_path):
    first, second, whole = MemorySink(), MemorySink(), MemorySink()
    broken(tmp_path / "whole", whole)
    until = {**SAVING, "learning_rate": 1e-6}
    twins.dpo(tmp_path, Throws(), Cut(), SpinalCallback(sinks=[first], every=1, num_prompts=16), **until).train()
    going_on = SpinalCallback(sinks=[second], every=1, num_prompts=16)
    twins.dpo(tmp_path, Throws(), going_on, **until).train(resume_from_checkpoint=True)
    assert first.alerts
    assert second.alerts
    told = [
        [(a.step, a.rule, a.level, a.layers, a.since, a.last_good) for a in s]
        for s in (first.alerts + second.alerts, whole.alerts)
    ]
    assert told[0] == told[1]


class Cut(TrainerCallback):
    """Ends the run at a step, as a person would who stops it after a checkpoint."""

    def on_step_end(self, args, state, control, **kwargs):
        control.should_training_stop = state.global_step == BREAKS
