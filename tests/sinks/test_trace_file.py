"""trace_file.py: the trace, also of a resumed run, and the page that is written beside it."""

import json
import re

import pytest
from builders import alert, header, notice, reading, write

from spinal_callback import MemorySink, load_trace
from spinal_callback.records import SCHEMA, dump_record
from spinal_callback.report.page import page
from spinal_callback.sinks import history, trace_file
from spinal_callback.sinks.recorder import Recorder
from spinal_callback.sinks.trace_file import TraceFile

# --- the trace


def test_every_line_is_whole_on_disk_at_once(tmp_path):
    path = tmp_path / "a" / "b" / "trace.jsonl"
    sink = TraceFile(path)
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
        sink = TraceFile(path, resume_at=5 if more else None)
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
    sink = TraceFile(path, resume_at=5)
    sink.write(header())
    sink.close()
    assert load_trace(path).header == header()


def test_a_run_resumed_after_a_torn_line_leaves_a_trace_that_can_be_read(tmp_path):
    path = tmp_path / "trace.jsonl"
    for append in (False, True):
        sink = TraceFile(path, resume_at=5 if append else None)
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
        sink = TraceFile(path, resume_at=resume_at)
        for record in (header(), *records):  # once resumed, it may not come by step 10 again
            sink.write(record)
        sink.close()
    assert [r.step for r in load_trace(path).readings] == [0, 5, 20]
    assert load_trace(path).alerts == [alert(5)]


@pytest.mark.parametrize("text", ['{"kind": "hea', "something else\n", dump_record(reading(0)) + "\n"])
def test_resuming_on_what_is_no_trace_begins_one(tmp_path, text):
    path = tmp_path / "trace.jsonl"
    path.write_text(text)
    sink = TraceFile(path, resume_at=5)
    for record in (header(), reading(10)):
        sink.write(record)
    sink.close()
    assert [r.step for r in load_trace(path).readings] == [10]


@pytest.mark.parametrize("below", ["file", "file/deeper"])
def test_a_folder_that_cannot_be_written_is_named(tmp_path, below):
    (tmp_path / "file").touch()  # a file where a folder is needed: this stops root, too
    path = tmp_path / below / "trace.jsonl"
    with pytest.raises(ValueError, match=re.escape(f"output_dir: cannot write {path} (") + r"\w.*\); give a folder"):
        TraceFile(path)
    TraceFile(tmp_path / "other" / "trace.jsonl").close()


def test_a_resumed_trace_of_schema_1_continues_in_the_current_schema(tmp_path):
    """Notices follow, which a reader of schema 1 does not know."""
    old = alert(5, rule="probe_failed", level="warn", message="no reading")
    path = write(tmp_path, header(schema=1), reading(0), old)
    sink = TraceFile(path, resume_at=5)
    sink.write(notice(10))
    sink.close()
    trace = load_trace(path)
    assert trace.header.schema == SCHEMA and trace.alerts == []
    assert [(n.step, n.event) for n in trace.notices] == [(5, "probe_failed"), (10, "probe_memory")]


# --- the page


def finished(folder, *records, resume_at=0):
    """The sinks of a run that ended, and the path of its page."""
    recorder = Recorder([])
    recorder.open(header(), folder, resume_at, folder if resume_at else None)
    for record in records:
        recorder.write(record)
    recorder.close()
    return recorder, folder / "_spinal" / "report.html"


def test_the_page_is_written_at_the_end_and_is_that_of_the_trace(tmp_path):
    run = tmp_path / "my-run"
    _, path = finished(run, reading(0), reading(5), alert(5, level="warn"))
    assert path.read_text() == page({"my-run": load_trace(run).to_json()})


def test_a_resumed_run_has_a_page_of_all_of_it(tmp_path):
    finished(tmp_path, reading(0), reading(5))
    _, path = finished(tmp_path, reading(10), resume_at=5)
    assert "3 readings, steps 0 to 10" in path.read_text()


def test_a_page_of_another_run_does_not_stay(tmp_path):
    _, path = finished(tmp_path, reading(0))
    Recorder([]).open(header(), tmp_path, 0, None)
    assert not path.exists() and not finished(tmp_path)[1].exists()  # nor is there one without a reading


def test_a_page_that_cannot_be_written_hurts_nothing(tmp_path, monkeypatch):
    def fails(runs):
        raise MemoryError("too large")

    monkeypatch.setattr(trace_file, "page", fails)
    memory = MemorySink()
    memory.close = lambda: memory.records.append("closed")
    recorder = Recorder([memory])
    recorder.open(header(), tmp_path, 0, None)
    recorder.write(reading(0))
    with pytest.warns(UserWarning, match=r"PageSink failed and is dropped: MemoryError\('too large'\)"):
        recorder.close()
    assert memory.records[-1] == "closed" and [r.step for r in load_trace(tmp_path).readings] == [0]


def test_a_page_of_a_long_run_shows_some_and_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(history, "CELLS", 4)
    monkeypatch.setattr(history, "FEWEST", 20)
    _, path = finished(tmp_path, *map(reading, range(50)))
    assert "No alert in 50 readings (14 of them drawn), steps 0 to 49." in path.read_text()
