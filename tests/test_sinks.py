"""sinks.py: the trace file, the fan-out, and a real offline W&B run read back from its file."""

import dataclasses
import json
import math
import re
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
from test_records import alert, header, reading

from spinal_callback import MemorySink, load_trace, sinks
from spinal_callback.records import dump_record
from spinal_callback.sinks import STEP, Fanout, JsonLinesSink, WandbSink, scalars

# --- memory and the trace


def test_memory_keeps_what_it_is_given():
    sink = MemorySink()
    for record in (header(), reading(0), alert(5), reading(10)):
        sink.write(record)
    sink.close()
    assert [r.kind for r in sink.records] == ["header", "reading", "alert", "reading"]
    assert [r.step for r in sink.readings] == [0, 10]
    assert sink.alerts == [alert(5)]


def test_every_line_is_whole_on_disk_at_once(tmp_path):
    path = tmp_path / "a" / "b" / "trace.jsonl"
    sink = JsonLinesSink(path)
    for count, record in enumerate((header(), reading(0), alert(0), reading(5)), start=1):
        sink.write(record)  # nothing is closed yet: this is what a killed run leaves
        text = path.read_text()
        assert text.endswith("\n")
        assert [json.loads(line)["kind"] for line in text.splitlines()][-1] == record.kind
        assert len(text.splitlines()) == count
    sink.close()
    assert path.read_text() == text


@pytest.mark.parametrize("append", [False, True])
def test_a_resumed_run_appends_and_a_new_one_overwrites(tmp_path, append):
    path = tmp_path / "trace.jsonl"
    for steps, more in (((0, 5), False), ((10, 15), append)):
        sink = JsonLinesSink(path, resume_at=5 if more else None)
        for record in (header(), *map(reading, steps)):
            sink.write(record)
        sink.close()
    assert path.read_text().count('"header"') == 1
    assert [r.step for r in load_trace(path).readings] == ([0, 5, 10, 15] if append else [10, 15])


@pytest.mark.parametrize("there", [False, True])
def test_appending_to_no_trace_or_an_empty_one_writes_the_header(tmp_path, there):
    path = tmp_path / "trace.jsonl"
    if there:
        path.touch()
    sink = JsonLinesSink(path, resume_at=5)
    sink.write(header())
    sink.close()
    assert load_trace(path).header == header()


def test_a_run_resumed_after_a_torn_line_leaves_a_trace_that_can_be_read(tmp_path):
    path = tmp_path / "trace.jsonl"
    for append in (False, True):
        sink = JsonLinesSink(path, resume_at=5 if append else None)
        for record in (header(), *map(reading, (10, 15) if append else (0,))):
            sink.write(record)
        sink.close()
        if not append:
            with path.open("a") as file:
                file.write('{"kind": "reading", "step": 5, "al')  # killed here
    assert [r.step for r in load_trace(path).readings] == [0, 10, 15]


def test_what_a_killed_run_wrote_behind_its_checkpoint_is_dropped(tmp_path):
    path = tmp_path / "trace.jsonl"
    for resume_at, records in ((None, [*map(reading, (0, 5, 10)), alert(5), alert(10)]), (5, [reading(20)])):
        sink = JsonLinesSink(path, resume_at=resume_at)
        for record in (header(), *records):  # once resumed, it may not come by step 10 again
            sink.write(record)
        sink.close()
    assert [r.step for r in load_trace(path).readings] == [0, 5, 20]
    assert load_trace(path).alerts == [alert(5)]


@pytest.mark.parametrize("text", ['{"kind": "hea', "something else\n", dump_record(reading(0)) + "\n"])
def test_resuming_on_what_is_no_trace_begins_one(tmp_path, text):
    path = tmp_path / "trace.jsonl"
    path.write_text(text)
    sink = JsonLinesSink(path, resume_at=5)
    for record in (header(), reading(10)):
        sink.write(record)
    sink.close()
    assert [r.step for r in load_trace(path).readings] == [10]


@pytest.mark.parametrize("below", ["file", "file/deeper"])
def test_a_folder_that_cannot_be_written_is_named(tmp_path, below):
    (tmp_path / "file").touch()  # a file where a folder is needed: this stops root, too
    path = tmp_path / below / "trace.jsonl"
    with pytest.raises(ValueError, match=re.escape(f"output_dir: cannot write {path} (") + r"\w.*\); give a folder"):
        JsonLinesSink(path)
    JsonLinesSink(tmp_path / "other" / "trace.jsonl").close()


# --- several as one


class Broken(MemorySink):
    def write(self, record):
        super().write(record)
        raise OSError("no space left")


class BrokenAtTheEnd(MemorySink):
    def close(self):
        raise RuntimeError("tracker is down")


def test_a_sink_that_throws_is_dropped_with_one_warning_and_the_others_go_on():
    before, broken, after = MemorySink(), Broken(), MemorySink()
    fanout = Fanout([before, broken, after])
    with pytest.warns(UserWarning) as caught:
        for record in (header(), reading(0), reading(5)):
            fanout.write(record)
        fanout.close()
    assert [str(w.message) for w in caught] == ["spinal: Broken failed and is dropped: OSError('no space left')"]
    assert len(before.records) == len(after.records) == 3
    assert len(broken.records) == 1
    assert fanout.sinks == [before, after]


def test_a_sink_that_throws_at_the_end_does_not_keep_others_from_closing(tmp_path):
    file = JsonLinesSink(tmp_path / "trace.jsonl")
    with pytest.warns(UserWarning, match="BrokenAtTheEnd failed and is dropped.*tracker is down") as caught:
        Fanout([BrokenAtTheEnd(), BrokenAtTheEnd(), file]).close()
    assert len(caught) == 2
    with pytest.raises(ValueError, match="closed file"):
        file.write(reading(0))


def test_sinks_that_work_are_kept_in_silence():
    sinks = [MemorySink(), MemorySink()]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Fanout(iter(sinks)).write(header())
    assert [len(s.records) for s in sinks] == [1, 1]


def test_an_interrupt_is_not_swallowed():
    class Interrupted(MemorySink):
        def write(self, record):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Fanout([Interrupted()]).write(header())


# --- scalars

HEADLINES = {"late_alpha", "late_transport", "displacement", "localization", "score", "overhead"}


def test_scalars_of_a_reading():
    whole = reading(alpha=[0.5, 0.6, 0.7, 0.8])
    row = scalars(whole)
    layers = {f"spinal/alpha/layer_{i}" for i in (1, 2, 3, 4)} | {f"spinal/transport/layer_{i}" for i in (2, 3, 4)}
    assert set(row) == {f"spinal/{name}" for name in HEADLINES} | layers
    assert row["spinal/alpha/layer_1"] == 0.5 and row["spinal/alpha/layer_4"] == 0.8
    assert row["spinal/transport/layer_2"] == whole.transport[0]  # named after the layer where the step ends
    assert row["spinal/late_alpha"] == 0.85 and row["spinal/late_transport"] == 1.35
    assert [row[f"spinal/{name}"] for name in ("displacement", "localization", "score", "overhead")] == [
        whole.displacement, whole.localization, whole.score, whole.overhead
    ]  # fmt: skip


def test_scalars_name_what_is_not_to_be_had_too():
    row = scalars(reading(score=math.nan))  # so that W&B hears of every name with the first row
    assert set(row) == set(scalars(reading(alpha=[0.1] * 4)))
    assert [name for name, value in row.items() if math.isnan(value)] == ["spinal/score", "spinal/alpha/layer_1"]


# --- W&B


def inspect(folder):
    """Records of the one offline run in `folder`, as W&B's own reader prints them."""
    (run,) = folder.glob("wandb/offline-run-*")
    command = [Path(sys.executable).parent / "wandb", "leet", "inspect", "--json", run]
    told = subprocess.run(command, check=True, timeout=60, capture_output=True, text=True).stdout
    records = [json.loads(line) for line in told.splitlines() if line.strip()]
    assert records[-1]["type"] == "exit"  # otherwise the file is not written to its end
    return records


def run_with(folder, *records):
    """A run in which the Trainer logs a row of its own, and the sink gets `records`."""
    wandb = pytest.importorskip("wandb")
    with wandb.init(project="test", dir=folder, mode="offline") as run:
        run.log({"train/loss": 0.5, STEP: 5})
        sink = WandbSink()
        for record in records:
            sink.write(record)
        sink.close()
    wandb.teardown()
    return inspect(folder)


@pytest.fixture(scope="module")
def wandb_run(tmp_path_factory):
    quiet = [math.nan] * 4
    first = reading(5, layers=4, alpha=quiet, localization=math.nan, score=math.nan)  # as at step 0 of a run
    whole = [reading(step, alpha=[0.5, 0.6, 0.7, 0.8]) for step in (5, 10)]
    folder = tmp_path_factory.mktemp("wandb")
    return {
        "whole": run_with(folder / "whole", header(), whole[0], alert(5), alert(5, rule="other"), whole[1]),
        "holed": run_with(folder / "holed", header(), first, whole[1]),
        "alert first": run_with(folder / "alert", header(), alert(0, rule="probe_failed"), whole[1], alert(10)),
    }


def history(records):
    return [r["history"]["item"] for r in records if r["type"] == "history"]


def metrics(records):
    return {r["metric"]["name"]: r["metric"] for r in records if r["type"] == "metric" and "name" in r["metric"]}


def test_wandb_rows_carry_the_trainers_step(wandb_run):
    rows = history(wandb_run["whole"])
    assert [row[STEP] for row in rows] == [5, 5, 5, 5, 10]
    assert [row["_step"] for row in rows] == [0, 1, 2, 3, 4]  # rows of one step are kept apart: none is dropped
    named = [{k: v for k, v in row.items() if k.startswith("spinal/")} for row in rows]
    assert named[0] == {} and rows[0]["train/loss"] == 0.5
    assert named[1] == {"spinal/alerts": 0, **scalars(reading(5, alpha=[0.5, 0.6, 0.7, 0.8]))}
    assert named[2:4] == [{"spinal/alerts": 1}, {"spinal/alerts": 2}]
    assert named[4] == {**named[1], "spinal/alerts": 2}


def test_wandb_is_given_no_nan(wandb_run):
    holed = next(row for row in history(wandb_run["holed"]) if "spinal/alerts" in row)
    assert "spinal/late_alpha" in holed
    assert not {"spinal/score", "spinal/localization", "spinal/alpha/layer_1"} & set(holed)


def test_wandb_hides_the_layers_and_shows_the_headlines(wandb_run):
    defined = metrics(wandb_run["whole"])
    for name in scalars(reading(alpha=[0.5, 0.6, 0.7, 0.8])):
        metric = defined[name]
        assert metric["step_metric"] == STEP
        assert metric["options"].get("hidden", False) == ("/layer_" in name)
        assert metric.get("summary", {}).get("none", False) == ("/layer_" in name)


@pytest.mark.parametrize("name", ["whole", "holed", "alert first"])
def test_wandb_defines_every_name_that_is_logged(wandb_run, name):
    logged = {k for row in history(wandb_run[name]) for k in row if k.startswith("spinal/")}
    assert logged >= {"spinal/score", "spinal/alerts", "spinal/alpha/layer_1"}
    assert logged == {k for k in metrics(wandb_run[name]) if k.startswith("spinal/")}


def test_wandb_sends_alerts_of_its_own_and_holds_back_what_repeats(tmp_path):
    told = (alert(5), alert(6), alert(6, rule="other"), alert(7, level="warn"), alert(8))
    sent = [r["alert"] for r in run_with(tmp_path, header(), *told) if r["type"] == "alert"]
    assert [(a["title"], a["level"]) for a in sent] == [
        ("spinal: nonfinite", "ERROR"),
        ("spinal: other", "ERROR"),
        ("spinal: nonfinite", "WARN"),
    ]
    assert sent[0]["text"] == "7 are NaN. Try: stop."


def test_wandb_is_told_again_after_the_pause(tmp_path, monkeypatch):
    monkeypatch.setattr(sinks, "PAUSE", 0.0)
    sent = [r for r in run_with(tmp_path, header(), alert(5), alert(6)) if r["type"] == "alert"]
    assert len(sent) == 2


def test_a_healthy_run_sends_wandb_no_alert(wandb_run):
    assert [r for r in wandb_run["holed"] if r["type"] == "alert"] == []


def test_wandb_is_told_the_settings_once(wandb_run):
    updates = [r["run"]["config"]["update"] for r in wandb_run["whole"] if "config" in r.get("run", {})]
    updates += [r["config"]["update"] for r in wandb_run["whole"] if r["type"] == "config"]
    (told,) = [u["spinal"] for u in updates if "spinal" in u]
    assert told["probe"] == header().probe and told["num_prompts"] == 64


def test_no_run_nothing_happens(tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb")
    monkeypatch.chdir(tmp_path)
    sink = WandbSink()
    for record in (header(), reading(0), alert(0)):
        sink.write(record)
    sink.close()
    assert wandb.run is None
    assert list(tmp_path.iterdir()) == []


def test_wandb_asked_for_but_not_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)  # what Python itself takes for "cannot be imported"
    with pytest.raises(ImportError, match='sinks asks for "wandb", which is not installed: pip install wandb'):
        WandbSink()


def test_records_are_left_as_they_are():
    record = reading(0)
    before = dataclasses.asdict(record)
    scalars(record)
    assert repr(dataclasses.asdict(record)) == repr(before)
