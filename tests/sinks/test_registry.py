"""registry.py: sinks by name, and what is refused before training."""

import sys

import pytest

from spinal_callback import MemorySink, SpinalCallback
from spinal_callback.sinks.registry import NAMED, TRACKERS, make_sinks
from spinal_callback.sinks.terminal import TerminalSink


@pytest.mark.parametrize("name", TRACKERS)
def test_a_tracker_asked_for_but_not_installed(monkeypatch, name):
    monkeypatch.setitem(sys.modules, name, None)  # what Python itself takes for "cannot be imported"
    with pytest.raises(ImportError, match=f'sinks asks for "{name}", which is not installed: pip install {name}'):
        TRACKERS[name]()
    assert not any(isinstance(sink, TRACKERS[name]) for sink in SpinalCallback()._recorder.asked)


def test_names_stand_for_sinks_in_their_order():
    pytest.importorskip("trackio")
    own = MemorySink()
    made = make_sinks(iter(["terminal", own, "trackio"]))
    assert [type(sink) for sink in made] == [TerminalSink, MemorySink, TRACKERS["trackio"]] and made[1] is own
    assert make_sinks([]) == []


def test_nothing_asked_for_is_everything_that_is_installed():
    for name in TRACKERS:
        pytest.importorskip(name)
    assert [type(sink) for sink in make_sinks(None)] == list(NAMED.values())


@pytest.mark.parametrize(("wrong", "words"), [("mlflow", "'mlflow'"), (3, "3"), (None, "None")])
def test_what_is_no_sink_is_refused(wrong, words):
    with pytest.raises(
        ValueError, match=f'^sinks must be Sink objects or names among "wandb", "trackio", "terminal", got {words}$'
    ):
        SpinalCallback(sinks=[wrong])


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ([MemorySink], r"sinks must be Sink objects, got the class MemorySink: write MemorySink\(\)"),
        (MemorySink(), r"sinks must be a list, got <.*MemorySink object at .*>: put it in brackets, sinks=\[\.\.\.\]"),
        (MemorySink, r"sinks must be a list, got <class .*MemorySink'>: put it in brackets, .*"),
        (42, r"sinks must be a list, got 42: put it in brackets, .*"),
    ],
)
def test_a_class_or_a_sink_outside_a_list_is_refused(wrong, words):
    with pytest.raises(ValueError, match=f"^{words}$"):
        SpinalCallback(sinks=wrong)


def test_an_object_that_can_write_is_a_sink():
    class Own:
        def write(self, record):
            """Of a user who knows nothing of ours."""

    own = Own()
    assert make_sinks([own]) == [own]


def test_a_name_outside_a_list_is_refused():
    with pytest.raises(ValueError, match=r'^sinks must be a list, got "terminal": write sinks=\["terminal"\]$'):
        SpinalCallback(sinks="terminal")
