"""The callback in a real DPOTrainer."""

import gc
import math
import re
import sys
import weakref
from pathlib import Path

import pytest
import reference
import tiny
import torch
import twins
from training import trainer
from transformers import TrainerCallback

from spinal_callback import MemorySink, Reading, SpinalCallback, SpinalConfig, load_trace
from spinal_callback.probe.sampler import Sampler

SMALL = {"num_prompts": 20}


def steps(readings):
    return [reading.step for reading in readings]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """One run of seven steps, a probe every three: its trainer, records and trace."""
    folder, memory = tmp_path_factory.mktemp("run"), MemorySink()
    t = trainer(folder, twins.Watched(every=3, sinks=[memory], **SMALL), max_steps=7)
    t.train()
    return t, memory, load_trace(folder)


def test_probes_at_the_start_every_n_steps_and_at_the_end(run):
    _, memory, trace = run
    assert steps(memory.readings) == steps(trace.readings) == [0, 3, 6, 7]


def test_the_trace_says_what_was_read(run):
    t, _, trace = run
    assert trace.header.layers == 9
    assert trace.header.window == (7, 9)
    assert trace.header.prompts == 20
    assert SpinalConfig(**trace.header.config) == SpinalConfig(every=3, **SMALL)
    assert (Path(t.args.output_dir) / "_spinal" / "trace.jsonl").exists()


def test_step_zero_is_the_reference(run):
    first, *later = run[1].readings
    assert first.displacement == 0
    assert first.delta["alpha"] == 0
    assert first.delta["transport"] == 0
    assert math.isnan(first.score)
    assert math.isnan(first.localization)  # no gradients and no change yet
    for reading in later:
        assert reading.displacement > 0
        assert 0 < reading.localization < 1
        assert math.isfinite(reading.score)


def test_the_last_reading_is_that_of_the_trained_weights(run):
    """Read again from the prompts of the training data, by the reference."""
    t, memory, _ = run
    last = memory.readings[-1]
    probe = twins.probe_of(t)
    trained = tiny.llama()  # a fresh one: accelerate has bound the trained one's forward to itself
    trained.load_state_dict(t.model.state_dict())
    told = reference.reference_trace(
        trained, probe.prompts.ids, lambda m: m.model.layers, lambda m: m.model.norm, lambda m: m.lm_head
    )
    alpha = [reference.tail_exponent(h, eps=1.2e-7)[0] for h in told["h"]]
    assert last.alpha == pytest.approx(alpha, rel=1e-6)
    assert last.transport == pytest.approx(reference.transport(told["z"]).mean(axis=1), abs=1e-5)


def test_prompts_come_from_the_tokenized_training_data(run):
    t, _, _ = run
    probe = twins.probe_of(t)
    known = {tuple(tiny.ids_of(row, "prompt")) for row in t.train_dataset}
    assert len(probe.prompts.ids) == 20
    assert all(tuple(ids) in known for ids in probe.prompts.ids)


def test_gradient_concentration_is_that_of_the_gradients_before_the_step(tmp_path):
    """Against norms taken by a callback of our own, summed in float64."""

    class Norms(TrainerCallback):
        def __init__(self):
            self.seen = []

        def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
            layers = model.model.layers
            self.seen.append([sum(float(p.grad.double().pow(2).sum()) for p in x.parameters()) for x in layers])

    norms, memory = Norms(), MemorySink()
    trainer(tmp_path, norms, SpinalCallback(every=2, sinks=[memory], **SMALL)).train()
    for reading in memory.readings[1:]:
        expected = reference.gradient_concentration(norms.seen[reading.step - 1], 7, 9)
        assert reading.gradient_concentration == pytest.approx(expected, rel=1e-6)


def test_gradients_can_be_left_out(tmp_path):
    memory = MemorySink()
    trainer(tmp_path, SpinalCallback(every=2, gradients=False, sinks=[memory], **SMALL)).train()
    assert all(math.isnan(r.gradient_concentration) for r in memory.readings)


# --- training is left as it was


def twin(folder, *callbacks, **arguments):
    torch.manual_seed(0)
    t = trainer(
        folder,
        *callbacks,
        model=tiny.llama(attention_dropout=0.2),
        gradient_accumulation_steps=2,
        max_steps=6,
        **arguments,
    )
    t.train()
    logs = [
        {k: v for k, v in row.items() if "runtime" not in k and "per_second" not in k} for row in t.state.log_history
    ]
    return tiny.digest(t.model.state_dict()), logs


def test_weights_and_logs_are_those_without_the_callback(tmp_path):
    plain = twin(tmp_path / "plain")
    watched = twin(tmp_path / "watched", SpinalCallback(every=1, sinks=[], **SMALL))
    assert plain == watched


def test_the_twins_would_tell_a_disturbance(tmp_path):
    """The same comparison sees a callback that draws one random number a step."""

    class Draws(TrainerCallback):
        def on_step_end(self, *args, **kwargs):
            torch.rand(1)

    assert twin(tmp_path / "plain")[0] != twin(tmp_path / "drawn", Draws())[0]


# --- when something goes wrong


def test_a_failing_probe_is_recorded_and_training_goes_on(tmp_path, monkeypatch):
    memory, real = MemorySink(), Sampler.sample

    def sample(self, reference=None):
        if reference is not None and not memory.notices:
            raise RuntimeError("no luck")
        return real(self, reference)

    monkeypatch.setattr(Sampler, "sample", sample)
    t = trainer(tmp_path, SpinalCallback(every=2, sinks=[memory], **SMALL))
    with pytest.warns(UserWarning, match="no reading at step 2: RuntimeError"):
        t.train()
    assert t.state.global_step == 4
    assert steps(memory.readings) == [0, 4]
    assert steps(memory.notices) == [2]
    (notice,) = load_trace(tmp_path).notices
    assert notice.event == "probe_failed"
    assert "RuntimeError in test_callback.py" in notice.message  # its message may quote a prompt
    assert notice.action == "if this keeps happening, open an issue (training continues)"
    assert memory.alerts == []


def test_nan_is_recorded_as_null_and_stops_when_asked(tmp_path):
    """The loss is made NaN by a weight set to NaN after step 2."""

    class Break(TrainerCallback):
        def on_step_end(self, args, state, control, model=None, **kwargs):
            if state.global_step == 2:
                model.model.layers[4].mlp.up_proj.weight.data.fill_(math.nan)

    memory = MemorySink()
    t = trainer(
        tmp_path, Break(), SpinalCallback(every=1, stop_on="error", save_on_alert=True, sinks=[memory], **SMALL)
    )
    t.train()
    assert t.state.global_step == 2
    last = load_trace(tmp_path).readings[-1]
    assert last.nonfinite > 0
    assert not math.isnan(last.alpha[3])
    assert math.isnan(last.alpha[4])
    assert '"score": null' in (tmp_path / "_spinal" / "trace.jsonl").read_text()
    assert [(a.rule, a.level, a.step) for a in memory.alerts] == [("nonfinite", "error", 2)]
    assert (tmp_path / "checkpoint-2").exists()


def test_a_healthy_run_neither_alerts_nor_stops_nor_saves(tmp_path):
    memory = MemorySink()
    watching = SpinalCallback(every=1, stop_on="warn", save_on_alert=True, sinks=[memory], **SMALL)
    t = trainer(tmp_path, watching, learning_rate=1e-4)
    t.train()
    assert t.state.global_step == 4
    assert memory.alerts == []
    assert not list(tmp_path.glob("checkpoint-*"))


def test_a_sink_that_throws_is_dropped_and_the_others_go_on(tmp_path):
    class Throws(MemorySink):
        def write(self, record):
            super().write(record)
            if isinstance(record, Reading):
                raise OSError("tracker is down")

    bad, good = Throws(), MemorySink()
    t = trainer(tmp_path, SpinalCallback(every=2, sinks=[bad, good], **SMALL))
    with pytest.warns(UserWarning, match="Throws failed and is dropped"):
        t.train()
    assert steps(bad.readings) == [0]
    assert steps(good.readings) == [0, 2, 4]


def test_fewer_prompts_than_asked_are_recorded(tmp_path):
    memory = MemorySink()
    trainer(tmp_path, SpinalCallback(every=4, num_prompts=500, sinks=[memory])).train()
    assert memory.readings[0].prompts == 48


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"prompts": []}, "prompts is empty"),
        ({"prompts": ["w1 w2", ""]}, r"prompts\[1\] is empty"),
        ({"prompts": tiny.preferences(20).select([])}, "prompts is empty"),
        ({"prompts": [f"w{i}" for i in range(5)]}, "prompts has only 5 different prompts: give at least 10"),
        ({"window": (8, 12), **SMALL}, r"window must lie in layers 1..9 of this model, got \(8, 12\)"),
    ],
)
def test_bad_input_is_refused_before_training(tmp_path, arguments, words):
    t = trainer(tmp_path, SpinalCallback(**arguments))
    with pytest.raises(ValueError, match=words):
        t.train()
    assert t.state.global_step == 0


def test_chat_messages_need_a_chat_template(tmp_path):
    chats = [[{"role": "user", "content": f"w{i} w{i + 1}"}] for i in range(20)]
    t = trainer(tmp_path, SpinalCallback(prompts=chats, sinks=[]))
    t.callback_handler.processing_class = tiny.tokenizer(chat=False)
    with pytest.raises(ValueError, match="the tokenizer has no chat template"):
        t.train()


def test_an_unwritable_output_folder_is_refused(tmp_path):
    (tmp_path / "_spinal").write_text("a file where the folder should be")
    with pytest.raises(ValueError, match=r"output_dir: cannot write .*trace\.jsonl"):
        trainer(tmp_path, SpinalCallback(**SMALL)).train()


def test_wandb_asked_for_but_not_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)  # what Python itself takes for "cannot be imported"
    with pytest.raises(ImportError, match="pip install wandb"):
        SpinalCallback(sinks=["wandb"])
    SpinalCallback()  # not asked for: no tracker is fine


def test_unknown_sinks_and_both_kinds_of_settings_are_refused():
    with pytest.raises(ValueError, match='"trackio", "terminal", got \'tensorbord\''):
        SpinalCallback(sinks=["tensorbord"])
    with pytest.raises(ValueError, match="give config or its fields, not both: config and every"):
        SpinalCallback(SpinalConfig(), every=3)


@pytest.mark.parametrize(("given", "right"), [("evry", "every"), ("prompt", "prompts"), ("sink", "sinks")])
def test_an_unknown_setting_is_answered_with_the_nearest_name(given, right):
    with pytest.raises(ValueError, match=rf"^there is no setting {given} \(got {given}=5\): did you mean {right}\?$"):
        SpinalCallback(**{given: 5})


@pytest.mark.parametrize("given", [25, {"every": 5}, {}])
def test_what_is_no_configuration_is_refused(given):
    with pytest.raises(ValueError, match=f"^config must be a SpinalConfig or None, got {re.escape(repr(given))}: give"):
        SpinalCallback(given)


def test_a_callback_lets_go_of_the_run_that_has_ended(tmp_path):
    """The probe holds the model and the reference's logits: after training nobody needs them."""
    kept = []

    class Weakly(SpinalCallback):
        def _build_probe(self, *args):
            probe = super()._build_probe(*args)
            kept.append(weakref.ref(probe))
            return probe

    t = trainer(tmp_path, Weakly(every=2, sinks=[], **SMALL), max_steps=2)
    t.train()
    gc.collect()
    assert len(kept) == 1
    assert kept[0]() is None


@pytest.mark.parametrize(("window", "said"), [(1 / 3, 1), ((3, 5), 0)])
def test_what_cannot_be_measured_is_said_once_before_training(tmp_path, capsys, window, said):
    memory = MemorySink()
    twins.dpo(tmp_path, twins.watcher(memory, window=window), max_steps=2).train()
    lines = [line for line in capsys.readouterr().out.splitlines() if "the late window is layers 4 to 5" in line]
    assert len(lines) == said
    assert [math.isnan(r.coherence) for r in memory.readings] == [bool(said)] * 3
