"""A run that resumes from damaged or foreign records goes on, says once what it left out, and keeps the old file."""

import itertools
import json
import os
import warnings
from pathlib import Path

import pytest
import twins
from builders import header, reading
from damage import VALUES, all_damage, damaged, paths
from resuming import part, weights
from stepwise import Run

from spinal_callback import load_trace
from spinal_callback.records import dump_record
from spinal_callback.run_folder import trace_path
from spinal_callback.sinks.trace_file import TraceFile
from spinal_callback.trainer.resume import KEY


def heard(caught):
    return [str(w.message) for w in caught if str(w.message).startswith("spinal")]


# --- the trace


@pytest.mark.parametrize("every", [pytest.param(1, marks=pytest.mark.slow), 6], ids=["all", "each sixth"])
def test_every_value_in_every_field_of_a_trace_that_is_continued(tmp_path, every):
    """1,920 traces, or each sixth of them: what is left out is said once, by file and line, and nothing is lost."""
    tried, said = 0, 0
    for number, (what, lines) in enumerate(all_damage()):
        if number % every:
            continue
        path, tried = tmp_path / str(number) / "trace.jsonl", tried + 1
        path.parent.mkdir()
        before = "\n".join(lines) + "\n"
        path.write_text(before)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            sink = TraceFile(path, resume_at=10, header=header())
            sink.write(header())
            sink.write(reading(20))
            sink.close()
        assert load_trace(path).readings[-1].step == 20, what
        kept = path.with_name("trace_before_10.jsonl")
        assert len(heard(caught)) == kept.exists(), what
        if kept.exists():
            said += 1
            assert kept.read_text() == before and f"{path}, line " in heard(caught)[0], what
        else:
            assert len(path.read_text().splitlines()) == 6 or "step" in what, what  # a step beyond 10 runs again
    assert tried >= 1900 // every and said >= 1400 // every


@pytest.mark.parametrize("kind", ["folder", "pipe", "link to nowhere"])
def test_what_is_no_file_in_the_traces_place_is_moved_away(tmp_path, kind):
    path = trace_path(tmp_path)
    path.parent.mkdir()
    {"folder": path.mkdir, "pipe": lambda: os.mkfifo(path), "link to nowhere": lambda: path.symlink_to("none")}[kind]()
    with pytest.warns(UserWarning, match=r"trace.jsonl was no file; it is now trace_before_0.jsonl"):
        run = Run(tmp_path)
    run.to(2)
    assert [r.step for r in load_trace(tmp_path).readings] == [0, 2]
    assert os.path.lexists(path.with_name("trace_before_0.jsonl"))


def test_a_link_beside_the_trace_is_not_written_through(tmp_path):
    other = tmp_path / "other"
    other.write_text("mine")
    trace_path(tmp_path).parent.mkdir()
    trace_path(tmp_path).with_suffix(".part").symlink_to(other)
    Run(tmp_path).to(2)
    assert other.read_text() == "mine"


# --- what the checkpoint carries


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """A run that was cut off after its checkpoint of step 4: its folder, its state, and its probe."""
    folder = tmp_path_factory.mktemp("first")
    run = Run(folder)
    run.to(4)
    (folder / "checkpoint-4").mkdir()
    run.monitor.logged({"loss": 0.5}, run.state)
    run.monitor.saved(run.state)
    run.monitor._recorder.close()
    return folder, json.loads(json.dumps(run.state.stateful_callbacks[KEY])), run.probe


def resumed(first, saved, **fields):
    folder, _, probe = first
    probe.reference = None
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run = Run(folder, step=4, saved=saved, probe=probe, **fields)
        run.to(6)
        run.monitor._recorder.close()
    return run, heard(caught)


def test_the_state_as_it_was_saved_is_continued_in_silence(first):
    run, said = resumed(first, first[1])
    assert said == [] and run.steps == [6]
    assert [r.step for r in load_trace(first[0]).readings] == [0, 2, 4, 6]


@pytest.mark.parametrize("every", [pytest.param(1, marks=pytest.mark.slow), 40], ids=["all", "each fortieth"])
def test_every_value_in_every_field_of_the_state(first, every):
    """Training goes on whatever the checkpoint carries. At most one warning; later steps are read."""
    saved = first[1]
    cases = list(itertools.product(paths(saved), VALUES.items()))[::every]
    tried = 0
    for path, (name, value) in cases:
        try:
            state = json.loads(damaged(saved, path, value))
        except (ValueError, RecursionError):  # then the Trainer cannot read its own state
            continue
        tried += 1
        run, said = resumed(first, state)
        assert run.steps in ([6], [4, 6]), (path, name)  # the state was taken over, or the run began a new reference
        assert len(said) <= 1, (path, name, said)
        assert all("trainer_state.json, stateful_callbacks.spinal_callback: " in text or "no alert rules" in text
                   for text in said), (path, name)  # fmt: skip
    assert tried >= 900 // every


@pytest.mark.parametrize("state", [3, "x", [], True, {}, {"last": 3}])
def test_what_is_no_state(first, state):
    run, (said,) = resumed(first, state)
    assert run.steps == [4, 6]
    assert "checkpoint-4: trainer_state.json, stateful_callbacks.spinal_callback: " in said


@pytest.mark.parametrize(
    "fields",
    [{"tail": (0.0, 1.0)}, {"top_k": 5}, {"window": (2, 3)}, {"group": 12}],
    ids=lambda fields: next(iter(fields)),
)
def test_another_measure_begins_a_new_reference_and_says_so(tmp_path, capsys, fields):
    run = Run(tmp_path)
    run.to(4)
    (tmp_path / "checkpoint-4").mkdir()
    run.monitor.saved(run.state)
    run.monitor._recorder.close()
    again = Run(tmp_path, step=4, saved=run.state.stateful_callbacks[KEY], **fields)
    again.to(6)
    name = next(iter(fields))
    assert f"the readings so far cannot be continued: {name} was " in capsys.readouterr().out
    assert again.steps == [4, 6] and again.memory.readings[0].delta["alpha"] == 0
    before = load_trace(trace_path(tmp_path).with_name("trace_before_4.jsonl"))
    assert [r.step for r in before.readings] == [0, 2, 4]


# --- whole runs


def damage_trace(folder):
    path = trace_path(folder)
    lines = path.read_text().splitlines()
    lines[0] = json.dumps(json.loads(lines[0]) | {"window": 5})
    path.write_text("\n".join(lines) + "\n")


def damage_state(folder):
    file = folder / "checkpoint-4" / "trainer_state.json"
    state = json.loads(file.read_text())
    state["stateful_callbacks"][KEY] |= {"rules": {"path": 3, "alarms": []}, "checkpoints": "none"}
    file.write_text(json.dumps(state))


@pytest.mark.parametrize("damage", [damage_trace, damage_state])
def test_a_resumed_run_has_the_weights_of_one_with_sound_records(tmp_path, whole, damage):
    part(tmp_path, twins.watcher(), until=4)
    damage(tmp_path)
    with pytest.warns(UserWarning, match=r"spinal: .*(trace.jsonl, line 1: window|: checkpoints must be a list)"):
        part(tmp_path, twins.watcher(), until=8, resume=True)
    name = "model.safetensors"
    assert weights(tmp_path)[name] == weights(whole)[name]
    assert [r.step for r in load_trace(tmp_path).readings][-4:] == [5, 6, 7, 8]
    if damage is damage_trace:  # the reference was sound: the readings are those of the whole run
        later = [r.late for r in load_trace(tmp_path).readings]
        assert later == [r.late for r in load_trace(whole).readings][5:]
        assert Path(tmp_path / "_spinal" / "trace_before_4.jsonl").exists()


def test_a_record_of_a_later_schema_is_not_erased(tmp_path):
    path = tmp_path / "trace.jsonl"
    text = dump_record(header()).replace('"schema": 2', '"schema": 99') + "\n" + dump_record(reading(0)) + "\n"
    path.write_text(text)
    with pytest.warns(
        UserWarning, match=r"line 1: schema 99; .* and 1 more,: the trace begins anew; the old file is kept"
    ):
        TraceFile(path, resume_at=10, header=header()).close()
    assert path.with_name("trace_before_10.jsonl").read_text() == text
