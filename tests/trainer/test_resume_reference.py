"""Which reference a resumed run measures from: its own if it is found, else a new one, and a line that says so."""

import shutil

import pytest
import twins
from resuming import adapters, part, told, without_logs

from spinal_callback import MemorySink
from spinal_callback.run_folder import REFERENCE_FILE, trace_path


def test_a_checkpoint_torn_from_its_run_starts_a_new_baseline_and_says_so(tmp_path, capsys):
    part(tmp_path / "first", twins.watcher(), until=4)
    shutil.move(tmp_path / "first" / "checkpoint-4", tmp_path / "alone")
    shutil.rmtree(tmp_path / "first")
    memory = MemorySink()
    part(tmp_path / "second", twins.watcher(memory), until=8, resume=str(tmp_path / "alone"))
    assert capsys.readouterr().out.count("changes are measured from the policy as it is now") == 1
    assert [r.step for r in memory.readings] == [4, 5, 6, 7, 8]
    assert memory.readings[0].displacement == 0


def test_a_checkpoint_made_without_the_callback(tmp_path, capsys):
    part(tmp_path, until=4)
    memory = MemorySink()
    part(tmp_path, twins.watcher(memory), until=8, resume=True)
    out = capsys.readouterr().out
    assert out.count("the checkpoint has no reference for these prompts") == 1
    assert "changes are measured from the policy as it is now" in out
    assert [r.step for r in memory.readings] == [r["step"] for r in told(tmp_path)["readings"]] == [4, 5, 6, 7, 8]
    assert [r.displacement > 0 for r in memory.readings] == [False, True, True, True, True]


def test_an_adapter_run_has_its_reference_even_then(tmp_path, whole, capsys):
    part(tmp_path / "with", twins.watcher(), until=8, trainer=adapters())
    part(tmp_path / "without", until=4, trainer=adapters())
    part(tmp_path / "without", twins.watcher(), until=8, resume=True, trainer=adapters())
    assert capsys.readouterr().out.count("changes are measured from the policy without adapters") == 1
    late = [r for r in without_logs(told(tmp_path / "with")) if r["step"] >= 4]
    resumed = without_logs(told(tmp_path / "without"))
    assert resumed[1:] == late[1:]
    assert resumed[0]["displacement"] == late[0]["displacement"] > 0


def test_the_callback_can_be_dropped_and_taken_up_again(tmp_path, whole):
    """Steps 5 and 6 are trained without it. What comes after is held against the first run's step 0."""
    part(tmp_path, twins.watcher(), until=4)
    dropped = part(tmp_path, until=6, resume=True)
    assert dropped.state.global_step == 6
    assert not (tmp_path / "checkpoint-6" / REFERENCE_FILE).exists()
    part(tmp_path, twins.watcher(), until=8, resume=True)
    expected = [r for r in without_logs(told(whole)) if r["step"] not in (5, 6)]
    assert without_logs(told(tmp_path)) == expected


def test_a_torn_reference_is_no_obstacle(tmp_path, whole):
    """Another checkpoint's is taken: they are all the same."""
    part(tmp_path, twins.watcher(), until=4)
    (tmp_path / "checkpoint-2" / REFERENCE_FILE).write_bytes(b"torn")  # the first that is looked at
    with pytest.warns(UserWarning, match="cannot read .*checkpoint-2"):
        part(tmp_path, twins.watcher(), until=8, resume=True)
    assert told(tmp_path) == told(whole)


def test_other_prompts_get_a_trace_of_their_own(tmp_path, capsys):
    part(tmp_path, twins.watcher(), until=4)
    before = trace_path(tmp_path).read_bytes()
    part(tmp_path, twins.watcher(seed=7), until=8, resume=True)
    assert trace_path(tmp_path).with_name("trace_before_4.jsonl").read_bytes() == before
    assert [r["step"] for r in told(tmp_path)["readings"]] == [4, 5, 6, 7, 8]
    assert "the readings so far cannot be continued: the prompts are others" in capsys.readouterr().out
