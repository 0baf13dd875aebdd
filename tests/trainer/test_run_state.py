"""resume.py: what a checkpoint carries, as JSON there and back; and what the callback puts into real checkpoints."""

import dataclasses
import json
import re

import pytest
import tiny
import twins
from resuming import part
from transformers import TrainerState

from spinal_callback.probe import Probe
from spinal_callback.trainer.resume import KEY, RunState, load_state, save_state
from spinal_callback.trainer.schedule import FIRST

STATE = RunState(
    last=40,
    interval=7,
    rules={"alarms": {}},
    reference="ab",
    folder="/runs/mine",
    at_a_time={"tokens": 512},
    saved_for_alert=True,
    checkpoints=[20, 40],
    logged={"step": 35.0, "loss": 0.5},
    asked=45,
    log_watch={"rows": [[35, 0.01]], "asked": 20, "quiet": 40},
)
DEFAULTS = {"at_a_time": {}, "saved_for_alert": False, "checkpoints": [], "logged": {}, "asked": -1, "log_watch": {}}
DEFAULTS |= {"measure": {}, "number": 1}


def test_a_state_comes_back_as_it_was():
    assert RunState.from_json(json.loads(json.dumps(STATE.to_json()))) == STATE


def test_the_trainer_writes_it_and_reads_it(tmp_path):
    state = TrainerState(global_step=40)
    save_state(state, STATE)
    state.save_to_json(str(tmp_path / "trainer_state.json"))
    assert load_state(TrainerState.load_from_json(str(tmp_path / "trainer_state.json"))) == STATE


def test_a_checkpoint_without_one():
    assert load_state(TrainerState()) is None


def test_what_is_written_later_is_a_state_of_its_own():
    """The run goes on after a checkpoint; what was saved stays as it was."""
    checkpoints, state = [20], TrainerState()
    save_state(state, dataclasses.replace(STATE, checkpoints=checkpoints))
    checkpoints.append(40)
    assert load_state(state).checkpoints == [20]


def test_a_state_of_an_earlier_version_lacks_what_was_added():
    old = {name: value for name, value in STATE.to_json().items() if name not in DEFAULTS}
    assert RunState.from_json(old) == dataclasses.replace(STATE, **DEFAULTS)


def test_fields_of_a_later_version_are_ignored():
    assert RunState.from_json(STATE.to_json() | {"colour": "red"}) == STATE


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (3, "must be an object, got 3"),
        ({}, "RunState without folder, interval, last, reference, rules"),
        (STATE.to_json() | {"last": "x"}, 'last must be a whole number of at most 64 bits, got "x"'),
        (STATE.to_json() | {"interval": 0}, "interval is too small"),
        (STATE.to_json() | {"at_a_time": {"tokens": 0}}, "at_a_time.tokens is too small"),
    ],
)
def test_what_is_no_state_is_named(data, words):
    with pytest.raises(ValueError, match=f"^{re.escape(words)}$"):
        RunState.from_json(data)
    state = TrainerState()
    state.stateful_callbacks[KEY] = data
    with pytest.raises(ValueError, match=f"^trainer_state.json, stateful_callbacks.{KEY}: {re.escape(words)}$"):
        load_state(state)


# --- in real checkpoints


def saved_at(folder, step):
    state = json.loads((folder / f"checkpoint-{step}" / "trainer_state.json").read_text())
    return state["stateful_callbacks"][KEY]


def test_what_is_saved_is_small_and_no_text(tmp_path, whole):
    saved = saved_at(whole, 8)
    assert set(saved) == {field.name for field in dataclasses.fields(RunState)}
    assert (saved["last"], saved["checkpoints"], saved["logged"]["step"]) == (8, [2, 4, 6], 8)
    text = json.dumps(saved)
    assert len(text) < 20_000
    assert not any(f'"{word}"' in text or f"{word} " in text for word in tiny.WORDS)
    assert not list(whole.glob("checkpoint-*/*.part"))


def test_a_probe_that_failed_counts_as_the_last_one(tmp_path, monkeypatch):
    """Else a resumed run would probe at another step than one that was not interrupted."""
    real = Probe.read

    def read(self, step, *args):
        if step == FIRST:
            raise RuntimeError("no luck")
        return real(self, step, *args)

    monkeypatch.setattr(Probe, "read", read)
    with pytest.warns(UserWarning, match="no reading at step 5: RuntimeError"):
        part(tmp_path, twins.watcher(every="auto"), until=6)
    saved = saved_at(tmp_path, 6)
    assert (saved["last"], saved["interval"]) == (FIRST, FIRST)
