"""base.py: a sink of one's own, and the one that keeps records in memory."""

from builders import alert, header, notice, reading

from spinal_callback import MemorySink
from spinal_callback.sinks import Sink


def test_memory_keeps_what_it_is_given():
    sink = MemorySink()
    for record in (header(), reading(0), alert(5), notice(5), reading(10)):
        sink.write(record)
    sink.close()
    assert [r.kind for r in sink.records] == ["header", "reading", "alert", "notice", "reading"]
    assert [r.step for r in sink.readings] == [0, 10]
    assert sink.alerts == [alert(5)]
    assert sink.notices == [notice(5)]


def test_every_hook_of_the_base_class_does_nothing(tmp_path):
    sink = Sink()
    sink.begin(tmp_path / "trace.jsonl", tmp_path / "report.html")
    sink.resume([header()])
    sink.write(reading(0))
    sink.complete()
    sink.close()
    assert vars(sink) == {} and list(tmp_path.iterdir()) == []
