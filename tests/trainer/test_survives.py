"""Nothing of the callback raises once training runs, whatever its surroundings do; each run keeps its own records."""

import os
import re
import subprocess
import sys
import time
import warnings

import pytest
import tiny
import torch
import twins
from builders import header, reading
from stepwise import Run
from transformers import EarlyStoppingCallback, PrinterCallback, TrainerCallback
from transformers.trainer_utils import HPSearchBackend

from spinal_callback import MemorySink, SpinalCallback, load_trace
from spinal_callback.failures import described, placed, warn
from spinal_callback.probe import Probe
from spinal_callback.run_folder import REFERENCE_FILE, pushed_reference_path, trace_path
from spinal_callback.sinks import pace
from spinal_callback.sinks.pace import Pace
from spinal_callback.sinks.recorder import Recorder


class WordlessError(Exception):
    """An error that cannot even be shown."""

    def __repr__(self):
        raise RuntimeError("no words")

    __str__ = __repr__


class Throws(MemorySink):
    """Fails with such an error, and cannot be compared or named."""

    def write(self, record):
        raise WordlessError

    def __eq__(self, other):
        raise WordlessError

    __hash__ = None

    @property
    def name(self):
        raise WordlessError


class Closed:
    """Standard output whose reader has gone."""

    encoding = "utf-8"

    def write(self, text):
        raise BrokenPipeError(32, "Broken pipe")

    flush = isatty = fileno = lambda self: self.write("")


# --- failures of our own


def test_whatever_fails_the_weights_are_those_of_a_run_without(tmp_path, monkeypatch):
    """At once: warnings are errors, standard output is closed, a sink and a probe fail with an error without words."""
    without = twins.outcome(twins.dpo(tmp_path / "without", max_steps=4))
    read, memory = Probe.read, MemorySink()

    def fails(self, step, *args):
        if step == 2:
            raise WordlessError
        return read(self, step, *args)

    monkeypatch.setattr(Probe, "read", fails)
    sinks = ["terminal", Throws(), memory]
    trainer = twins.dpo(tmp_path / "with", twins.Watched(sinks=sinks, every=1, num_prompts=16), max_steps=4)
    trainer.remove_callback(PrinterCallback)  # the Trainer's own, which standard output would end
    torch.manual_seed(0)
    with warnings.catch_warnings(), monkeypatch.context() as patch:
        warnings.simplefilter("error", UserWarning)
        patch.setattr(sys, "stdout", Closed())
        trainer.train()
    assert tiny.digest(trainer.model.state_dict()) == without[0]
    assert [r.step for r in memory.readings] == [0, 1, 3, 4]
    assert sorted((n.step, n.event) for n in memory.notices) == [
        (0, "sink_failed"),
        (0, "sink_failed"),
        (2, "probe_failed"),
    ]


def test_the_line_of_a_stop_is_not_what_ends_the_run(tmp_path, monkeypatch):
    from spinal_callback.alerts.rules import Limit

    run = Run(tmp_path, limits={"late_speed": Limit(1e-6, 1e9)}, every=1, stop_on="warn")
    run.to(2)
    run.grow(3.0)
    monkeypatch.setattr(sys, "stdout", Closed())
    run.to(3)
    assert run.control.should_training_stop


def test_a_warning_that_would_be_an_error_is_printed(capsys):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn("no luck")
    assert capsys.readouterr().err == "spinal: no luck\n"
    with pytest.warns(UserWarning, match="^spinal: no luck$"):
        warn("no luck")


def raised(error):
    try:
        raise error
    except Exception as caught:
        return caught


def test_errors_in_words():
    assert described(WordlessError()) == "WordlessError, whose message cannot be shown"
    assert described(ValueError("x" * 1000)).endswith("...") and len(described(ValueError("x" * 1000))) == 200
    assert re.fullmatch(r"ValueError in test_survives.py, line \d+", placed(raised(ValueError("secret prompt"))))
    assert placed(raised(OSError(28, "No space left"))) == "OSError(28, 'No space left')"
    assert placed(WordlessError()) == "WordlessError"


def test_an_error_that_quotes_a_prompt_stays_out_of_the_records(tmp_path, monkeypatch):
    """A model's error may quote its input; the message is shown in the console alone, unless prompts may be logged."""
    texts = []
    for allowed in (False, True):
        run = Run(tmp_path / str(allowed), log_prompts=allowed)
        monkeypatch.setattr(
            Run, "quoting", lambda *a: (_ for _ in ()).throw(KeyError("my secret prompt")), raising=False
        )
        hook = run.model.model.layers[1].register_forward_hook(run.quoting)
        with pytest.warns(UserWarning, match="my secret prompt"):
            run.to(2)
        hook.remove()
        texts.append(trace_path(tmp_path / str(allowed)).read_text())
    assert "KeyError in test_survives.py, line" in texts[0]
    assert ["my secret prompt" in text for text in texts] == [False, True]


# --- slow sinks


def test_a_slow_sink_gets_fewer_readings():
    now = [0.0]
    slow, quick = Pace(lambda: now[0]), Pace(lambda: now[0])
    got = {"slow": [], "quick": []}
    for step in range(100):
        now[0] += 10
        for name, own, seconds in (("slow", slow, 5.0), ("quick", quick, 0.5)):
            if own.allows(reading(step)):
                now[0] += seconds
                own.took(seconds)
                got[name].append(step)
    assert len(got["quick"]) == 100
    assert 8 <= len(got["slow"]) <= 12 and slow.held.step == 99
    assert 5.0 * len(got["slow"]) <= 0.06 * now[0]


def test_a_slow_sink_is_named_once_counts_as_overhead_and_gets_the_last_reading(tmp_path, monkeypatch):
    monkeypatch.setattr(pace, "SLOW", 0.05)

    class Slow(MemorySink):
        def write(self, record):
            super().write(record)
            time.sleep(0.1 if record.kind == "reading" else 0)

    slow = Slow()
    run = Run(tmp_path, sinks=[slow], every=1)
    run.to(6)
    run.state.global_step, run.control.should_training_stop = 7, True
    run.monitor.step_ended(run.state, run.control)
    assert [r.step for r in slow.readings] == [0, 7] and run.steps == list(range(8))
    (notice,) = run.memory.notices
    assert re.fullmatch(r"Slow took 0\.\d s for a reading: it gets fewer, 5% of the time", notice.message)
    assert notice.event == "sink_slow" and "probe less often" in notice.action
    assert run.monitor._clock.spent >= 0.2


# --- several runs, one folder


HOLDS = """
import fcntl, sys, time
file = open(sys.argv[1], "a")
fcntl.flock(file, fcntl.LOCK_EX)
print("held", flush=True)
time.sleep(100)
"""


def test_a_second_run_in_a_folder_gets_a_trace_of_its_own_until_the_first_is_dead(tmp_path):
    path = trace_path(tmp_path)
    path.parent.mkdir()
    path.write_text("of another process\n")
    other = subprocess.Popen([sys.executable, "-c", HOLDS, str(path)], stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout.readline() == "held\n"
        with pytest.warns(UserWarning, match=r"another run is writing .*trace.jsonl: this one writes trace_2.jsonl"):
            run = Run(tmp_path)
        run.to(2)
        run.end()
    finally:
        other.kill()
        other.wait()
    assert path.read_text() == "of another process\n"
    assert [r.step for r in load_trace(path.with_name("trace_2.jsonl")).readings] == [0, 2]
    assert path.with_name("report_2.html").exists()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Run(tmp_path).to(2)
    assert [r.step for r in load_trace(path).readings] == [0, 2]


def test_an_interrupted_run_of_the_same_process_is_no_other_run(tmp_path):
    first = Run(tmp_path)
    first.to(2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        second = Run(tmp_path)
    second.to(4)
    assert second.monitor._recorder.number == 1
    assert [r.step for r in load_trace(tmp_path).readings] == [0, 2, 4]


def test_two_callbacks_in_one_list_are_refused(tmp_path):
    trainer = twins.dpo(tmp_path, SpinalCallback(sinks=[], num_prompts=16), SpinalCallback(sinks=[], num_prompts=16))
    with pytest.raises(ValueError, match="callbacks has two SpinalCallbacks: remove one of them"):
        trainer.train()


def test_one_run_after_another_is_not_two_in_one_list(tmp_path):
    class Interrupts(TrainerCallback):
        def on_step_end(self, *args, **kwargs):
            raise KeyboardInterrupt

    callbacks = [SpinalCallback(sinks=[], num_prompts=16, every=1) for _ in range(2)]
    with pytest.raises(KeyboardInterrupt):
        twins.plain(tmp_path, callbacks[0], Interrupts(), max_steps=2).train()
    twins.plain(tmp_path, callbacks[1], max_steps=2).train()
    assert [r.step for r in load_trace(tmp_path).readings] == [0, 1, 2]


class Trial(dict):
    """A trial as optuna numbers it."""

    def __init__(self, number):
        self.number, self.params = number, {}


def test_each_trial_of_a_search_has_a_trace_and_its_reference(tmp_path):
    callback = SpinalCallback(sinks=[], num_prompts=16, every=2)
    trainer = twins.plain(tmp_path, callback, max_steps=2, save_strategy="steps", save_steps=2)
    trainer.hp_search_backend, trainer.hp_name = HPSearchBackend.OPTUNA, None
    trainer.hp_space, trainer.model_init = (lambda trial: {}), (lambda trial: twins.policy())
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for number in (0, 1, 5):  # the study goes on from an earlier one
            trainer._hp_search_setup(Trial(number))
            trainer.train(trial=Trial(number))
    assert [str(w.message) for w in caught if "spinal" in str(w.message)] == []
    for number in (0, 1, 2):
        assert [r.step for r in load_trace(tmp_path / f"run-{number}").readings] == [0, 2]
    for number in (0, 1, 5):
        assert (tmp_path / f"run-{number}" / "checkpoint-2" / REFERENCE_FILE).exists()


# --- the end and the start of a run


class Worsens(TrainerCallback):
    """Makes each evaluation worse than the one before."""

    def on_evaluate(self, args, state, control, metrics, **kwargs):
        metrics["eval_loss"] = 1.0 + state.global_step


@pytest.mark.parametrize("unit", ["steps", "epoch"])
def test_the_end_is_probed_where_an_evaluation_stops_the_run_and_the_best_model_is_loaded(tmp_path, unit):
    memory = MemorySink()
    trainer = twins.dpo(
        tmp_path,
        twins.watcher(memory, every=100, prompts=[{"prompt_ids": ids} for ids in tiny.prompts(16)]),
        Worsens(),
        EarlyStoppingCallback(1),
        max_steps=40,
        **{f"{what}_strategy": unit for what in ("eval", "save")},
        **{f"{what}_steps": 2 for what in ("eval", "save")},
        load_best_model_at_end=True,
        data=tiny.preferences(4),
        trainer={"ref_model": twins.reference_model(), "eval_dataset": tiny.preferences(4, 5)},
    )
    trainer.train()
    assert trainer.state.global_step == 4
    assert [r.step for r in memory.readings] == [0, 4] and memory.readings[1].displacement > 0


@pytest.mark.parametrize("loaded", [False, True])
def test_weights_that_were_loaded_after_the_last_step_are_not_its_own(tmp_path, loaded):
    """Some versions of transformers load the best model before they log the last row, some after."""
    run = Run(tmp_path, every=4)
    run.to(5)
    run.monitor.epoch_ended(run.state, run.control)
    if loaded:
        run.model.load_state_dict({name: p + 1 for name, p in run.model.state_dict().items()})
    run.monitor.take_last(run.state, run.control, unless_loaded=True)
    assert run.steps == ([0, 4] if loaded else [0, 4, 5])


class RunsOut(TrainerCallback):
    """Memory runs out once, at the end of step 3."""

    done = False

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == 3 and not self.done:
            self.done = True
            raise RuntimeError("CUDA out of memory. Tried to allocate 2 GiB")


def test_after_a_restart_with_a_smaller_batch_the_start_is_the_first_one(tmp_path, capsys):
    memory = MemorySink()
    trainer = twins.plain(
        tmp_path, twins.watcher(memory), RunsOut(), max_steps=4, auto_find_batch_size=True, learning_rate=1e-2
    )
    trainer.train()
    first = memory.readings[0]
    assert [r.step for r in memory.readings] == [0, 1, 2, 3, 1, 2, 3, 4]
    trace = load_trace(tmp_path)
    assert [r.step for r in trace.readings] == [0, 1, 2, 3, 4] and trace.readings[0].late == first.late
    again = memory.readings[4]
    assert again.displacement > memory.readings[1].displacement
    assert again.delta["alpha"] == pytest.approx(again.late["alpha"] - first.late["alpha"], abs=1e-6)
    assert capsys.readouterr().out.count("changes are still measured from its first start") == 1


def test_the_reference_of_checkpoints_that_are_pushed_is_not_among_them(tmp_path):
    from transformers import TrainerState
    from trl import DPOConfig

    state, settings = TrainerState(global_step=2), {"output_dir": str(tmp_path), **tiny.DPO_SETTINGS}
    for strategy, apart in (("every_save", False), ("checkpoint", True), ("all_checkpoints", True)):
        args = DPOConfig(push_to_hub=True, hub_strategy=strategy, **settings)
        place = SpinalCallback._place_of_reference(args, state, tmp_path)
        assert place == (pushed_reference_path(tmp_path) if apart else tmp_path / "checkpoint-2" / REFERENCE_FILE)
    run = Run(tmp_path)
    run.to(2)
    run.monitor.saved(run.state, place)
    assert place.is_file() and not place.with_suffix(".part").exists()
    run.monitor._recorder.close()
    again = Run(tmp_path, step=2, saved=next(iter(run.state.stateful_callbacks.values())))
    assert again.steps == [], "the reference was found: step 2 need not be read again"


def test_no_file_is_left_open(tmp_path):
    """Also of a run that is interrupted: its trace is closed when the next begins, or with the callback."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ResourceWarning)
        twins.plain(tmp_path, twins.watcher(), max_steps=2, save_strategy="steps", save_steps=2).train()
        Recorder([]).open(header(), tmp_path / "other", 0, None)
    assert [str(w.message) for w in caught if os.fspath(tmp_path) in str(w.message)] == []
