"""A run that was killed and resumed is the run that was not: trace, weights, interval, memory."""

import shutil
import signal

import pytest
import twins
from resuming import KINDS, killed, part, told, weights

from spinal_callback import MemorySink, load_trace
from spinal_callback.probe import Probe, sampler
from spinal_callback.run_folder import trace_path
from spinal_callback.trainer.schedule import Schedule


@pytest.mark.parametrize("kind", ["full", pytest.param("lora", marks=pytest.mark.slow)])
def test_killed_and_resumed_is_uninterrupted(tmp_path, kind):
    """SIGKILL after step 5's reading is written; the last checkpoint is step 4's."""
    whole, torn = tmp_path / "whole", tmp_path / "torn"
    assert killed(torn, kind, at=5) == -signal.SIGKILL
    assert sorted(p.name for p in torn.glob("checkpoint-*")) == ["checkpoint-2", "checkpoint-4"]
    assert [r["step"] for r in told(torn)["readings"]] == [0, 1, 2, 3, 4, 5]
    with trace_path(torn).open("a") as trace:
        trace.write('{"kind": "reading", "step": 6, "alp')  # torn by the kill
    part(torn, twins.watcher(), until=8, resume=True, trainer=KINDS[kind]())
    part(whole, twins.watcher(), until=8, trainer=KINDS[kind]())
    assert told(torn) == told(whole)
    assert weights(torn) == weights(whole)
    assert [r["step"] for r in told(torn)["readings"]] == list(range(9))


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


def test_weights_are_those_of_a_run_that_never_had_it(tmp_path, whole):
    part(tmp_path, until=4)
    part(tmp_path, until=8, resume=True)
    assert (tmp_path / "checkpoint-8" / "model.safetensors").read_bytes() == weights(whole)["model.safetensors"]


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
    assert second.probe.sampler.at_a_time == {"tokens": 512, "logits": sampler.LOGITS_BLOCK}


def test_a_new_interval_in_the_configuration_counts(tmp_path):
    part(tmp_path, twins.watcher(every=3), until=4)
    part(tmp_path, twins.watcher(every=2), until=8, resume=True)
    assert [r["step"] for r in told(tmp_path)["readings"]] == [0, 3, 6, 8]


def test_one_callback_may_see_two_runs(tmp_path):
    """From the start each: nothing of the first run is left in the second."""
    callback = twins.watcher()
    for name in ("a", "b"):
        part(tmp_path / name, callback, until=8)
    assert told(tmp_path / "a") == told(tmp_path / "b")
