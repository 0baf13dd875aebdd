"""The checkpoints of a run, read again: the same numbers as the run's own trace, its start, its alerts."""

import json

import pytest
import saved
import tiny
import torch
from transformers import AutoModelForCausalLM
from trl import DPOConfig, DPOTrainer

from spinal_callback import SpinalCallback, audit, load_trace


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return saved.models(tmp_path_factory.mktemp("models"))


def train(folder, place, adapters, callbacks=(), rate=1e-3):
    args = tiny.DPO_SETTINGS | {"save_strategy": "steps", "save_steps": 2, "learning_rate": rate}
    torch.manual_seed(0)
    trainer = DPOTrainer(
        AutoModelForCausalLM.from_pretrained(place / "base"),
        args=DPOConfig(output_dir=str(folder), **args),
        train_dataset=tiny.preferences(),
        processing_class=tiny.tokenizer(),
        peft_config=tiny.lora() if adapters else None,
        callbacks=list(callbacks),
    )
    trainer.train()
    return folder


@pytest.fixture(scope="module")
def run(place, tmp_path_factory):
    watcher = SpinalCallback(every=2, prompts=load(place), sinks=[])
    return train(tmp_path_factory.mktemp("runs") / "full", place, adapters=False, callbacks=[watcher])


def load(place):
    rows = (place / "prompts.jsonl").read_text().splitlines()
    return [json.loads(row)["prompt"] for row in rows]


def test_a_runs_checkpoints_read_as_its_own_trace(place, run):
    found = audit(run, prompts=place / "prompts.jsonl")
    watched = load_trace(run)
    assert [r.step for r in found.readings] == [r.step for r in watched.readings] == [0, 2, 4, 6]
    assert found.trace.header.probe == watched.header.probe
    for ours, theirs in zip(found.readings, watched.readings, strict=True):
        assert ours.alpha == pytest.approx(theirs.alpha, rel=1e-6) and ours.delta == pytest.approx(
            theirs.delta, abs=1e-6
        )
        assert ours.displacement == pytest.approx(theirs.displacement, abs=1e-6)
    assert [(a.step, a.rule) for a in found.alerts] == [(a.step, a.rule) for a in watched.alerts]
    assert found.names[0] == "base" and found.names[-1].endswith("/checkpoint-6")


def test_without_its_trace_the_first_checkpoint_is_the_start(place, run, tmp_path, capsys):
    (tmp_path / "run").mkdir()
    for checkpoint in run.glob("checkpoint-*"):
        (tmp_path / "run" / checkpoint.name).symlink_to(checkpoint)
    found = audit(tmp_path / "run", prompts=place / "prompts.jsonl")
    assert [r.step for r in found.readings] == [2, 4, 6]
    assert "does not say which model it began with: its first checkpoint is the start" in capsys.readouterr().err
    assert audit(tmp_path / "run", place / "base", place / "prompts.jsonl").readings[0].step == 0


def test_a_run_with_adapters_begins_without_them(place, tmp_path):
    run = train(tmp_path / "lora", place, adapters=True, rate=1e-2)
    (run / "checkpoint-4" / "adapter_config.json").unlink()  # not saved whole
    found = audit(run, prompts=place / "prompts.jsonl")
    assert [r.step for r in found.readings] == [0, 2, 6]
    assert found.readings[0].alpha == saved.read(place, "base").readings[0].alpha
    assert 0 < found.readings[1].displacement < found.readings[2].displacement


def test_a_run_without_a_complete_checkpoint(tmp_path):
    (tmp_path / "run" / "checkpoint-3").mkdir(parents=True)
    with pytest.raises(ValueError, match="run has no complete checkpoint: there is nothing to read"):
        audit(tmp_path / "run")
