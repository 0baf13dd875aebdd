"""auditing.py, walk.py: a checkpoint and its base, a run's checkpoints, `spinal audit`; numbers by the reference."""

import json
import math
import re

import numpy as np
import pytest
import reference
import saved
import tiny
import torch
from launch import launch
from transformers import AutoModelForCausalLM
from trl import DPOConfig, DPOTrainer

from spinal_callback import SpinalCallback, audit, load_trace
from spinal_callback.cli.main import main
from spinal_callback.probe.prompts import PromptSet
from spinal_callback.report.page import verdict

LATE = (7, 9)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with `base`, `new` (other late layers), `adapter`, and `prompts.jsonl`."""
    folder = tmp_path_factory.mktemp("models")
    saved.policy(folder / "base")
    saved.policy(folder / "new", saved.aligned())
    saved.adapter(folder / "adapter", folder / "base")
    saved.prompts_file(folder / "prompts.jsonl")
    return folder


def of(place, model, base=None, **fields):
    return audit(place / model, place / base if base else None, place / "prompts.jsonl", **fields)


def told(model, ids):
    """The naive reference's alphas `[L]` and transports `[L - 1, N]`."""
    seen = reference.reference_trace(model, ids, *saved.PARTS)
    return [reference.tail_exponent(h, eps=1.2e-7)[0] for h in seen["h"]], reference.transport(seen["z"]), seen["z"]


# --- a checkpoint and its base


@pytest.fixture(scope="module")
def pair(place):
    return of(place, "new", "base")


def test_the_numbers_are_the_references(place, pair):
    ids = saved.token_ids(place / "prompts.jsonl")
    (alpha0, moves0, z0), (alpha, moves, z) = told(tiny.llama(), ids), told(saved.aligned(), ids)
    before, after = pair.readings
    assert (before.step, after.step) == (0, 1)
    assert before.alpha == pytest.approx(alpha0, rel=1e-4) and after.alpha == pytest.approx(alpha, rel=1e-4)
    assert after.transport == pytest.approx(moves.mean(1), abs=1e-5)
    assert after.displacement == pytest.approx(reference.displacement(z[-1], z0[-1]).mean(), abs=1e-5)
    late, late0 = (reference.late_means(a, m.mean(1), *LATE) for a, m in ((alpha, moves), (alpha0, moves0)))
    align = reference.delta_align(late[0], late0[0], late[1], late0[1])
    assert after.delta_align == pytest.approx(align, abs=1e-4)
    assert pair.score == pytest.approx(align + reference.coherence(alpha, moves.mean(1), *LATE), abs=1e-4)
    assert math.isnan(after.score) and math.isnan(after.gradient_concentration)


def test_change_is_found_where_it_was_made(pair):
    (changes,) = pair.changes
    assert set(changes.layers) <= {7, 8, 9} and changes.layers
    assert all(c.change == 0 for c in changes.alpha[:6])
    assert 7 <= changes.first.low <= changes.first.layer <= changes.last.layer <= changes.last.high <= 9


def test_it_is_a_trace_that_says_what_it_is(pair, tmp_path):
    header = pair.trace.header
    assert (header.model, header.checkpoints, header.prompts) == ("new", ["base", "new"], 40)
    assert len(pair.to_pandas()) == 2 and "late_alpha" in pair.to_pandas()
    layers = pair.changes[0].to_pandas()
    assert layers.index.tolist() == list(range(1, 10)) and layers.index.name == "layer"
    assert layers["alpha_significant"].sum() + layers["transport_significant"].sum() > 0
    assert "<iframe" in pair._repr_html_() and "new against base" in str(pair)
    assert json.loads(json.dumps(pair.to_json(), allow_nan=False))["changes"][0]["layers"] == pair.changes[0].layers


def test_a_checkpoint_alone_has_no_change_and_no_score(place):
    found = of(place, "base")
    assert [r.step for r in found.readings] == [0] and found.changes == [] and math.isnan(found.score)
    assert "no base, no score" in str(found)


def test_the_projects_own_prompts(place):
    """Words that the tokenizer does not know make few different prompts: enough are asked for."""
    with pytest.raises(ValueError, match="num_prompts >= 10"):
        audit(place / "base")
    found = audit(place / "base", prompts=[f"w{i} w{i + 1}" for i in range(20)])
    assert found.readings[0].prompts == 20


def test_the_chat_template_is_that_of_the_model(place):
    ids = saved.token_ids(place / "prompts.jsonl")
    assert of(place, "base").trace.header.probe == PromptSet(ids, [0] * len(ids)).hash


def test_settings(place):
    found = of(place, "base", num_prompts=24, window=(2, 4))
    assert found.readings[0].prompts == 24 and found.trace.header.window == (2, 4)
    with pytest.raises(ValueError, match="give config or its fields, not both: config and num_prompts"):
        of(place, "base", config=object(), num_prompts=24)


# --- adapters


def test_an_adapter_is_held_against_the_policy_without_it(place):
    found = of(place, "adapter")
    assert found.readings[0].alpha == of(place, "base").readings[0].alpha
    assert found.names == [f"{place / 'base'} (without the adapter)", "adapter"]
    assert found.readings[1].displacement > 0.05
    assert [c.change for c in found.changes[0].alpha] == [
        pytest.approx(b - a) for a, b in zip(found.readings[0].alpha, found.readings[1].alpha, strict=True)
    ]


def test_an_adapter_given_beside_its_model(place):
    one = audit(place / "base", prompts=place / "prompts.jsonl", adapter=place / "adapter")
    assert [r.alpha for r in one.readings] == [r.alpha for r in of(place, "adapter").readings]


def test_an_adapter_against_another_base(place):
    found = of(place, "adapter", "new")
    assert found.names == ["new", "adapter"]
    assert found.readings[0].alpha == of(place, "new").readings[0].alpha


def test_a_users_own_adapter_is_held_against_where_it_began(place, tmp_path):
    saved.adapter(tmp_path / "adapter", place / "base")
    saved.adapter(tmp_path / "adapter" / "ref", place / "base", seed=1)
    saved.adapter(tmp_path / "began", place / "base", seed=1)
    began = audit(tmp_path / "began", prompts=place / "prompts.jsonl").readings[1]
    assert audit(tmp_path / "adapter", prompts=place / "prompts.jsonl").readings[0].alpha == began.alpha


# --- what cannot be compared


def test_other_depths(place, tmp_path):
    saved.policy(tmp_path / "deep", tiny.llama(layers=12))
    with pytest.raises(ValueError, match="deep has 12 layers and base 9: only one depth can be compared"):
        audit(tmp_path / "deep", place / "base", place / "prompts.jsonl")


def test_other_tokenizers(place, tmp_path):
    saved.policy(tmp_path / "other")
    words = (
        (tmp_path / "other" / "tokenizer.json")
        .read_text()
        .replace('"w1": 9', '"w1": 10')
        .replace('"w2": 10', '"w2": 9')
    )
    (tmp_path / "other" / "tokenizer.json").write_text(words)
    with pytest.raises(ValueError, match="other and base have different tokenizers: their layers cannot be compared"):
        audit(tmp_path / "other", place / "base", place / "prompts.jsonl")


def test_no_tokenizer_anywhere(tmp_path, place):
    saved.policy(tmp_path / "bare", tokenizer=False)
    with pytest.raises(ValueError, match="bare has no tokenizer, nor has what it is held against: save one in its"):
        audit(tmp_path / "bare", prompts=["w1"])
    found = audit(tmp_path / "bare", place / "base", place / "prompts.jsonl")  # the base's
    assert found.changes[0].layers == []


def test_a_vocabulary_that_has_grown(place, tmp_path):
    """Tokens that the base lacks count as never said there: the distance is that of the padded distributions."""
    torch.manual_seed(0)
    grown = saved.aligned()
    grown.resize_token_embeddings(104, mean_resizing=False)
    saved.policy(tmp_path / "grown", grown)
    found = audit(tmp_path / "grown", place / "base", place / "prompts.jsonl")
    ids = saved.token_ids(place / "prompts.jsonl")
    z, z0 = told(grown, ids)[2][-1], told(tiny.llama(), ids)[2][-1]
    wide = np.concatenate([z0, np.full((len(ids), 4), -np.inf)], axis=1)
    assert found.readings[1].displacement == pytest.approx(reference.displacement(z, wide).mean(), abs=1e-5)
    back = audit(place / "base", tmp_path / "grown", place / "prompts.jsonl")
    assert back.readings[1].displacement == pytest.approx(reference.displacement(z0, z[:, :100]).mean(), abs=1e-5)


def test_a_base_without_the_chat_templates_tokens(place, tmp_path):
    small = tiny.llama()
    small.resize_token_embeddings(8)
    saved.policy(tmp_path / "small", small, tokenizer=False)
    words = "small has 8 embeddings and the prompts use token 9., which the other's chat template brings: give prompts"
    with pytest.raises(ValueError, match=words):
        audit(place / "base", tmp_path / "small", place / "prompts.jsonl")


# --- a run


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
    assert "does not tell which model it began with: its first checkpoint is the start" in capsys.readouterr().err
    assert audit(tmp_path / "run", place / "base", place / "prompts.jsonl").readings[0].step == 0


def test_a_run_with_adapters_begins_without_them(place, tmp_path):
    run = train(tmp_path / "lora", place, adapters=True, rate=1e-2)
    (run / "checkpoint-4" / "adapter_config.json").unlink()  # not saved whole
    found = audit(run, prompts=place / "prompts.jsonl")
    assert [r.step for r in found.readings] == [0, 2, 6]
    assert found.readings[0].alpha == of(place, "base").readings[0].alpha
    assert 0 < found.readings[1].displacement < found.readings[2].displacement


def broken_run(folder, place):
    """Checkpoints that are healthy, then broken, then back: made, not trained."""
    for step, size in ((10, 0.002), (20, 0.15), (30, 0.3), (40, 0.001)):
        saved.policy(folder / f"checkpoint-{step}", saved.aligned(size=size))
    return folder


def test_a_run_that_breaks_has_alerts_and_a_turning_point(place, tmp_path, capsys):
    run = broken_run(tmp_path / "broken", place)
    output = tmp_path / "out.jsonl"
    arguments = ["audit", str(run), "--base", str(place / "base"), "--prompts", str(place / "prompts.jsonl")]
    assert main([*arguments, "-o", str(output)]) == 1
    out = capsys.readouterr().out
    assert "spinal  WARN" in out or "spinal  ERROR" in out
    trace = load_trace(output)
    assert [r.step for r in trace.readings] == [0, 10, 20, 30, 40] and trace.alerts
    assert trace.alerts[0].last_good == "checkpoint-10" and "go back to checkpoint-10" in trace.alerts[0].action
    (turn, *_) = re.findall(r"late_\w+ turned at step (\d+) \(between (\d+) and (\d+)\)", out)
    assert turn in (("30", "20", "40"), ("20", "10", "30"))
    assert main(["report", str(output), "-o", str(tmp_path / "r.html")]) == 0


def test_a_run_without_a_whole_checkpoint(tmp_path):
    (tmp_path / "run" / "checkpoint-3").mkdir(parents=True)
    with pytest.raises(ValueError, match="run has no checkpoint that is whole: there is nothing to read"):
        audit(tmp_path / "run")


# --- the command


def test_the_command_prints_a_table_and_writes_a_trace(place, pair, tmp_path, capsys):
    output = tmp_path / "audit.jsonl"
    arguments = ["audit", str(place / "new"), "--base", str(place / "base"), "--prompts", str(place / "prompts.jsonl")]
    assert main([*arguments, "-o", str(output)]) == 0
    out = capsys.readouterr().out
    assert str(pair) in out and f"next     spinal report {output}" in out
    assert "SPINAL score" in out and "delta_align" in out and "coherence" in out and "significant change in" in out
    trace = load_trace(output)
    assert trace.header.checkpoints == ["base", "new"] and trace.header.probe == pair.trace.header.probe
    assert [r.alpha for r in trace.readings] == [r.alpha for r in pair.readings]
    assert main(["report", str(output), "-o", str(tmp_path / "r.html")]) == 0
    assert verdict(trace.to_json()) == ("early", "Audit", "What was read, in order: base, new.")
    assert "What was read, in order: base, new." in (tmp_path / "r.html").read_text()
    kept = output.read_text()
    assert main([*arguments, "-o", str(output)]) == 2
    assert "is there already: give another -o, or --force to replace it" in capsys.readouterr().err
    assert output.read_text() == kept
    assert main([*arguments, "-o", str(output), "--force", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["names"] == ["base", "new"] and data["changes"][0]["layers"] == pair.changes[0].layers


WRONG = {
    "nowhere": (["nowhere/at/all"], "there is no nowhere/at/all: give a model's folder, a hub id or a GGUF file"),
    "run": (["."], "is a folder without a model: no config.json or adapter_config.json, and no checkpoint-N in it"),
    "prompts": (["{place}/base", "--prompts", "p.jsonl"], "p.jsonl, line 1 has neither `prompt` nor `messages`"),
    "adapter": (["{place}/base", "--adapter", "."], ". is no adapter: there is no adapter_config.json"),
    "few": (["{place}/base", "--num-prompts", "4"], "num_prompts=4 gives, a fit takes at least 8"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_use_is_one_line_and_nothing_is_written(place, tmp_path, monkeypatch, capsys, name):
    arguments, words = WRONG[name]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "p.jsonl").write_text('{"chosen": "w1"}\n')
    assert main(["audit", *(a.format(place=place) for a in arguments)]) == 2
    out, err = capsys.readouterr()
    said = [line for line in err.splitlines() if line.startswith("spinal")]
    assert out == "" and len(said) == 1 and said[0].startswith("spinal audit: ") and words in said[0]
    assert not (tmp_path / "audit.jsonl").exists()


# --- two ranks


@pytest.mark.slow
def test_two_ranks_share_the_prompts_and_find_the_same(place, pair, tmp_path):
    (zero, one) = launch(tmp_path, "audits", worker="worker_audit.py", extra={"PLACE": str(place)}, limit=280)["audits"]
    assert zero["found"] == one["found"]
    alone = pair.to_json()
    for told, here in zip(zero["found"]["readings"], alone["readings"], strict=True):
        assert told["alpha"] == pytest.approx(here["alpha"], rel=1e-6)
        assert told["transport"] == pytest.approx(here["transport"], abs=1e-5)
        assert told["displacement"] == pytest.approx(here["displacement"], abs=1e-5)
    assert zero["found"]["changes"][0]["layers"] == alone["changes"][0]["layers"]
    assert 0 < zero["rows"] < 80 and zero["rows"] + one["rows"] == 80  # two readings of 40 prompts, shared out
    assert zero["printed"] and not one["printed"] and zero["codes"] == one["codes"] == [0, 2]
    assert zero["error"].count("spinal audit: there is no") == 1 and one["error"] == ""
