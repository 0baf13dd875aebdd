"""recorder.py: all sinks of a run as one: the order of the hooks, and what happens when a sink fails."""

import warnings

import pytest
from builders import alert, header, notice, reading

from spinal_callback import MemorySink, load_trace
from spinal_callback.sinks.recorder import Recorder
from spinal_callback.sinks.trace_file import TraceFile

KEEPS_HAPPENING = "if this keeps happening, open an issue (training continues)"


class Hooks(MemorySink):
    """Keeps the names of the hooks that were called, and what they were given."""

    def __init__(self, fails_in=""):
        super().__init__()
        self.called, self._fails_in = [], fails_in

    def _call(self, hook, *given):
        self.called.append((hook, *given))
        if hook == self._fails_in:
            raise OSError("no space left")

    def begin(self, trace, report):
        self._call("begin", trace, report)

    def resume(self, earlier):
        self._call("resume", earlier)

    def write(self, record):
        super().write(record)
        self._call("write", record)

    def complete(self):
        self._call("complete")

    def close(self):
        self._call("close")


def opened(folder, *sinks, step=0, home=None):
    recorder = Recorder(sinks)
    recorder.open(header(), folder, step, home)
    return recorder


def test_hooks_are_called_in_order(tmp_path):
    sink = Hooks()
    recorder = opened(tmp_path, sink)
    for record in (reading(0), alert(5)):
        recorder.write(record)
    recorder.complete()
    recorder.close()
    home = tmp_path / "_spinal"
    begin = ("begin", home / "trace.jsonl", home / "report.html")
    written = [("write", record) for record in (header(), reading(0), alert(5))]
    assert repr(sink.called) == repr([begin, *written, ("complete",), ("close",)])  # repr: NaN differs from itself


def test_a_resumed_run_gives_the_earlier_records_before_the_header(tmp_path):
    first = opened(tmp_path, Hooks())
    for record in (reading(0), alert(0), reading(5)):
        first.write(record)
    first.close()
    sink = Hooks()
    opened(tmp_path, sink, step=3, home=tmp_path).close()
    assert [call[0] for call in sink.called] == ["begin", "resume", "write", "close"]
    assert repr(sink.called[1][1]) == repr([header(), reading(0), alert(0)])


def test_the_report_is_there_when_a_sink_is_closed(tmp_path):
    class Looks(MemorySink):
        def begin(self, trace, report):
            self.report = report

        def close(self):
            self.there = self.report.read_text().startswith("<!doctype html>")

    sink = Looks()
    recorder = opened(tmp_path, sink)
    recorder.write(reading(0))
    recorder.close()
    assert sink.there


def test_a_sink_with_write_alone_will_do(tmp_path):
    class Own:
        def __init__(self):
            self.kinds = []

        def write(self, record):
            self.kinds.append(record.kind)

    sink = Own()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        recorder = opened(tmp_path, sink)
        recorder.write(reading(0))
        recorder.complete()
        recorder.close()
    assert sink.kinds == ["header", "reading"]


# --- a sink that fails


def test_a_failing_sink_is_dropped_with_one_warning_and_the_others_go_on(tmp_path):
    before, broken, after = Hooks(), Hooks(fails_in="write"), Hooks()
    words = "Hooks failed and is dropped: OSError('no space left')"
    with pytest.warns(UserWarning) as caught:
        recorder = opened(tmp_path, before, broken, after)
        for record in (reading(0), reading(5)):
            recorder.write(record)
        recorder.close()
    assert [str(w.message) for w in caught] == [f"spinal: {words}"]
    assert [call[0] for call in broken.called] == ["begin", "write"]
    assert recorder.sinks[2:] == [before, after]
    for sink in (before, after):
        assert [r.kind for r in sink.records] == ["header", "notice", "reading", "reading"]
    for notices in (before.notices, after.notices, load_trace(tmp_path).notices):
        assert [(n.step, n.event, n.message, n.action) for n in notices] == [(0, "sink_failed", words, KEEPS_HAPPENING)]


@pytest.mark.parametrize(("hook", "step"), [("begin", 7), ("resume", 7), ("write", 7), ("complete", 12)])
def test_whichever_hook_fails_the_trace_has_a_notice_of_it(tmp_path, hook, step):
    first = opened(tmp_path)
    first.write(reading(0))
    first.close()
    with pytest.warns(UserWarning, match="Hooks failed and is dropped"):
        recorder = opened(tmp_path, Hooks(fails_in=hook), step=7, home=tmp_path)
        recorder.write(reading(12))
        recorder.complete()
        recorder.close()
    assert [(n.step, n.event) for n in load_trace(tmp_path).notices] == [(step, "sink_failed")]


def test_two_sinks_that_fail_at_once_give_two_notices(tmp_path):
    class Other(Hooks):
        name = "another"

    with pytest.warns(UserWarning):
        opened(tmp_path, Hooks(fails_in="write"), Other(fails_in="write")).close()
    words = [n.message.split(" failed")[0] for n in load_trace(tmp_path).notices]
    assert words == ["Hooks", "another"]


def test_a_sink_that_fails_at_the_end_does_not_keep_others_from_closing(tmp_path):
    file = TraceFile(tmp_path / "other" / "trace.jsonl")
    with pytest.warns(UserWarning, match="Hooks failed and is dropped.*no space left") as caught:
        opened(tmp_path, Hooks(fails_in="close"), Hooks(fails_in="close"), file).close()
    assert len(caught) == 2
    with pytest.raises(ValueError, match="closed file"):
        file.write(reading(0))


def test_sinks_that_work_are_kept_in_silence(tmp_path):
    both = [MemorySink(), MemorySink()]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        opened(tmp_path, *both).close()
    assert [len(s.records) for s in both] == [1, 1]


def test_an_interrupt_is_not_swallowed(tmp_path):
    class Interrupted(MemorySink):
        def write(self, record):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        opened(tmp_path, Interrupted())


# --- notices, opening, closing


def test_a_notice_says_what_happened_and_what_to_do(tmp_path):
    sink = MemorySink()
    recorder = opened(tmp_path, sink)
    recorder.notice("probe_failed", 5, "no reading at step 5: RuntimeError('no luck')")
    assert sink.notices == [notice(5, event="probe_failed", message="no reading at step 5: RuntimeError('no luck')",
                                   action=KEEPS_HAPPENING)]  # fmt: skip
    assert sink.alerts == []


def test_before_it_is_opened_nothing_is_written():
    """Only rank zero opens its recorder."""
    sink = Hooks()
    recorder = Recorder([sink])
    recorder.write(reading(0))
    recorder.notice("probe_failed", 0, "no reading")
    recorder.complete()
    recorder.close()
    assert sink.called == []


def test_a_new_run_in_the_same_folder_replaces_the_trace(tmp_path):
    for model in ("first", "second"):
        recorder = Recorder([])
        recorder.open(header(model=model), tmp_path, 0, None)
        recorder.close()
    assert load_trace(tmp_path).header.model == "second"
    assert [path.name for path in (tmp_path / "_spinal").iterdir()] == ["trace.jsonl"]


@pytest.mark.parametrize("step", [1, 4])
def test_a_trace_of_another_reference_is_kept_beside_the_new_one(tmp_path, step):
    first = opened(tmp_path)
    first.write(reading(0))
    first.close()
    opened(tmp_path, step=step).close()
    kept = load_trace(tmp_path / "_spinal" / f"trace_before_{step}.jsonl")
    assert [r.step for r in kept.readings] == [0] and load_trace(tmp_path).readings == []


def test_a_run_resumed_in_another_folder_takes_its_trace_along(tmp_path):
    first = opened(tmp_path / "first")
    first.write(reading(0))
    first.close()
    second = opened(tmp_path / "second", step=4, home=tmp_path / "first")
    second.write(reading(8))
    second.close()
    assert [r.step for r in load_trace(tmp_path / "second").readings] == [0, 8]
    assert [r.step for r in load_trace(tmp_path / "first").readings] == [0]


def test_closing_twice_is_closing_once(tmp_path):
    sink = Hooks()
    recorder = opened(tmp_path, sink)
    recorder.close()
    recorder.close()
    assert [call[0] for call in sink.called].count("close") == 1
