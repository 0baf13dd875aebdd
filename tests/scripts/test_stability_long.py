"""The long tiers of the stability suite: onset, harm, tiny models, and what a run leaves."""

import dataclasses
import gzip
import json
import math
import re
import sys
from types import SimpleNamespace

import pytest
import torch
from builders import reading
from paths import ROOT

from spinal_callback.records import Header
from spinal_callback.traces import load_trace

SUITE = ROOT / "scripts" / "stability"
sys.path.insert(0, str(SUITE))

import arms  # noqa: E402
import harm  # noqa: E402
import heldout  # noqa: E402
import language  # noqa: E402
import pairs  # noqa: E402
import run  # noqa: E402
import small  # noqa: E402
import suite  # noqa: E402
import watched  # noqa: E402

NAN = math.nan
LONG = {arm.name: arm for arm in arms.LONG}
TIERS = [name for name, tier in arms.TIERS.items() if tier.long]
MIDDLE = [arm for arm in arms.LONG if not arm.healthy and not arm.early]


# --- arms, halves, onset


@pytest.mark.parametrize(
    ("tier", "sound", "upset"), [("small-long", 24, 36), ("second-long", 10, 15), ("real-long", 8, 8)]
)
def test_a_long_tier_has_as_many_runs_as_it_must(tier, sound, upset):
    jobs = arms.jobs(tier)
    assert sum(job.arm.healthy for job in jobs) >= sound
    assert sum(not job.arm.healthy and not job.arm.early for job in jobs) >= upset
    assert len({job.name for job in jobs}) == len(jobs) and all(job.arm in arms.LONG for job in jobs)


def test_healthy_arms_vary_what_users_vary():
    sound = [arm for arm in arms.LONG if arm.healthy and arm.small_long]
    assert {arm.lora for arm in sound} == {True, False}
    assert {arm.schedule for arm in sound} == {"linear", "cosine"}
    assert min(arm.beta for arm in sound) == 0.01 and max(arm.beta for arm in sound) == 0.5
    assert len({arm.rate for arm in sound}) >= 3
    for arm in sound:  # nothing else sets them apart
        same = {"name": "", "kind": "", "lora": False, "rate": 1.0, "beta": 0.1, "schedule": "constant", "warmup": 5}
        counts = {"small_long": 0, "second_long": 0, "real_long": 0}
        assert dataclasses.replace(arm, **same, **counts) == arms.Arm("", "")


def test_every_kind_of_destabilizer_sets_in_in_the_middle():
    assert {arm.kind for arm in MIDDLE} == {"rate", "runaway", "beta", "flip", "corrupt", "spike", "noise", "alike"}
    early = {arm.kind for arm in arms.LONG if arm.early}
    assert "nowarmup" in early and "rate" in early


@pytest.mark.parametrize("tier", TIERS)
def test_the_onset_varies_by_seed_after_a_hundred_healthy_steps(tier):
    tier = arms.TIERS[tier]
    for arm in MIDDLE:
        onsets = {seed: arm.onset(tier, seed) for seed in range(1, 20)}
        assert min(onsets.values()) >= 100 and len(set(onsets.values())) >= 8
        assert max(onsets.values()) <= 0.66 * tier.steps
        assert onsets == {seed: arm.onset(tier, seed) for seed in onsets}
    assert all(arm.onset(tier, 3) == 0 for arm in arms.LONG if arm.early)
    assert arms.ARMS[0].onset(arms.TIERS["small"], 7) == 15


@pytest.mark.parametrize("tier", TIERS)
def test_the_split_of_the_long_tiers(tier):
    jobs = arms.jobs(tier)
    for job in jobs:
        assert job.half == ("test" if job.arm.kind in arms.UNSEEN or job.seed % 2 == 0 else "fit")
    groups = {(job.half, job.arm.healthy) for job in jobs}
    assert len(groups) == 4
    share = sum(job.arm.healthy for job in jobs) / len(jobs)
    for count in range(4, len(jobs)):
        assert abs(sum(job.arm.healthy for job in jobs[:count]) - share * count) < 1.5


# --- what runs read


def rows(count=60):
    return [pairs._row(f"question {i}", f"good answer {i} of many words", f"bad answer {i}") for i in range(count)]


@pytest.mark.parametrize("kind", ["flip", "corrupt", "alike"])
def test_rows_change_from_the_seeds_onset_on_and_not_before(kind):
    tier = arms.TIERS["small-long"]
    arm = next(arm for arm in MIDDLE if arm.kind == kind)
    for seed in (1, 2):
        plain = pairs.script(rows(), arms.Arm("", "healthy"), tier, seed)
        told = pairs.script(rows(), arm, tier, seed)
        first = arm.onset(tier, seed) * tier.batch
        assert len(told) == len(plain) == tier.steps * tier.batch
        assert told[:first] == plain[:first]
        changed = [a != b for a, b in zip(told[first:], plain[first:], strict=True)]
        assert sum(changed) > 0.9 * len(changed)
        assert told == pairs.script(rows(), arm, tier, seed)


def test_answers_are_of_pairs_that_nothing_else_has():
    training, held = pairs.own()
    training, kept = pairs.evaluated(training)
    told = [{row["prompt"][0]["content"] for row in part} for part in (training, held, kept)]
    assert len(kept) == pairs.ANSWERS
    assert not (told[0] & told[1] or told[0] & told[2] or told[1] & told[2])
    read = set(small.recipe("small-long").texts)
    assert not any(row["chosen"][0]["content"] in text for row in (*held, *kept) for text in read)


def test_fresh_stories_are_read_by_no_model():
    fresh = language.stories(100, language.FRESH)
    assert len(set(fresh)) == 100 and fresh == language.stories(100, language.FRESH)
    for tier in ("small-long", "second-long"):
        assert not set(fresh) & set(small.recipe(tier).texts)
    assert re.search(r"to (the \w+)\..* At \1 ", fresh[0])  # a story keeps to its place


# --- what breaks a run


class Layered(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = torch.nn.ModuleList(torch.nn.Linear(4, 4) for _ in range(6))

    def get_decoder(self):
        return self


def rates(arm, tier, seed):
    """The rate of every step, where the scheduler would have it at 1."""
    optimizer, model = SimpleNamespace(param_groups=[{"lr": 1.0}]), Layered()
    breaker, found = watched.Destabilizer(arm, tier, seed), []
    for step in range(tier.steps):
        optimizer.param_groups[0]["lr"] = 1.0
        breaker.on_step_begin(None, SimpleNamespace(global_step=step), None, optimizer=optimizer, model=model)
        found.append(optimizer.param_groups[0]["lr"])
    return found


@pytest.mark.parametrize("arm", MIDDLE, ids=lambda arm: arm.name)
def test_the_rate_is_the_schedules_until_the_onset(arm):
    tier = arms.TIERS["small-long"]
    for seed in (1, 2):
        found, onset = rates(arm, tier, seed), arm.onset(tier, seed)
        assert set(found[:onset]) == {1.0}
        assert found[onset] == arm.surge * arm.spike and set(found[onset + arm.lasts :]) == {arm.surge}


@pytest.mark.parametrize("tier", ["small", "small-long"])
def test_noise_comes_at_the_onset_and_in_long_runs_from_then_on(tier):
    arm, tier = dataclasses.replace(LONG["upset-noise-full"], early=False), arms.TIERS[tier]
    breaker, changed, onset = watched.Destabilizer(arm, tier, 1), [], arm.onset(tier, 1)
    for step in range(onset - 2, onset + 3):
        model = Layered()
        old = [layer.weight.clone() for layer in model.layers]
        breaker.on_step_begin(None, SimpleNamespace(global_step=step), None, model=model, optimizer=None)
        changed.append([bool((a != b.weight).any()) for a, b in zip(old, model.layers, strict=True)])
    still, shaken = [False] * 6, [False] * 4 + [True] * 2
    assert changed == [still, still, shaken, *([shaken, shaken] if tier.long else [still, still])]


def test_short_runs_are_broken_as_before():
    spike = next(arm for arm in arms.ARMS if arm.name == "spike-full")
    assert rates(spike, arms.TIERS["small"], 0) == [1.0] * 15 + [60.0] * 3 + [1.0] * 32


# --- harm


def measures(**columns):
    """Nine evaluations of a long run in which nothing happens, but for the columns given."""
    still = {"step": list(range(0, 45, 5)), "neutral": [0.3] * 9, "chosen": [4.0] * 9, "repetition": [0.1] * 9}
    return {**still, "accuracy": [0.5] + [0.8] * 8, "margin": [0.0] + [2.0] * 8, "lost": [0.0] * 9, **columns}


def late(start, value, at=4):
    return [start] * at + [value] * (9 - at)


@pytest.mark.parametrize(
    ("columns", "at"),
    [
        ({}, None),
        ({"neutral": late(0.3, 0.51)}, 20),
        ({"neutral": late(0.3, 0.49)}, None),
        ({"repetition": late(0.1, 0.31)}, 20),
        ({"repetition": late(0.1, 0.29)}, None),
        ({"accuracy": [0.5, *late(0.9, 0.69)[1:]]}, 20),
        ({"accuracy": [0.5, *late(0.9, 0.71)[1:]]}, None),
        ({"accuracy": [0.5, 0.7, 0.95, 0.7, 0.72, 0.72, 0.72, 0.72, 0.72]}, None),  # the best, but only once
        ({"chosen": late(4.0, 5.0), "lost": late(0.0, 40.0), "margin": late(2.0, 7.0)}, 20),  # for nothing
        ({"chosen": late(4.0, 5.0), "lost": late(0.0, 40.0), "margin": late(2.0, 9.0)}, None),
        ({"chosen": late(4.0, 4.2), "lost": late(0.0, 8.0), "margin": late(2.0, 0.0)}, None),  # too little to matter
        ({"chosen": late(4.0, 12.1), "lost": late(0.0, 300.0), "margin": late(2.0, 900.0)}, 20),
        ({"margin": late(2.0, NAN)}, 20),
        ({"neutral": late(0.3, NAN)}, 20),
        ({"accuracy": [0.5, *late(0.9, NAN)[1:]]}, 20),
    ],
)
def test_harm_of_a_long_run(columns, at):
    assert harm.harm_step(measures(**columns), long=True) == at


PUBLISHED = {  # chosen log-probability at first, nats; beta; chosen reward and margin at the end (public model cards)
    "zephyr-style QLoRA A": (-264.6, 0.01, -2.6215, 1.297),
    "zephyr-style QLoRA B": (-271.7, 0.01, -2.4549, 1.02),
    "Llama-3-8B QLoRA": (-276.4, 0.01, -2.3087, 1.201),
    "zephyr-style full A": (-262.6, 0.01, -1.0875, 0.981),
    "zephyr-style full B": (-265.3, 0.01, -0.5814, 0.807),
    "zephyr-7b-beta": (-254.2, 0.1, -4.5221, 3.796),
    "zephyr-style full, 3 epochs, A": (-273.8, 0.1, -4.7566, 3.86),
    "zephyr-style full, 3 epochs, B": (-283.0, 0.083, -5.0359, 3.805),
    "mamba-2.8b-zephyr": (-354.6, 0.1, -0.4598, 1.144),
    "notux-8x7b": (-394.6, 0.1, -0.2273, 2.087),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_run_is_not_harmed(name):
    """On its way from nothing to its end in even steps; an answer of 250 tokens, nothing else lost."""
    start, beta, reward, margin = PUBLISHED[name]
    way = [i / 8 for i in range(9)]
    told = {
        "chosen": [(-start - reward / beta * x) / 250 for x in way],
        "lost": [-reward / beta * x for x in way],
        "margin": [margin / beta * x for x in way],
        "neutral": [2.5 + 0.1 * x for x in way],
        "accuracy": [0.5, 0.65, 0.7, 0.74, 0.76, 0.75, 0.77, 0.76, 0.77],
    }
    assert harm.harm_step(measures(**told), long=True) is None
    for_nothing = harm.harm_step(measures(**told | {"margin": [0.0] * 9}), long=True)
    assert (for_nothing is not None) == (-reward / beta / 250 > harm.CHOSEN)


# --- models and files


@pytest.mark.parametrize("tier", ["small-long", "second-long"])
def test_the_tiny_models_are_read_by_the_callback(tier, tmp_path, monkeypatch):
    """Each as it comes from its recipe, a step of pretraining old; a run of five steps leaves all three files."""
    monkeypatch.setattr(small, "LONG_STEPS", 1)
    monkeypatch.setattr(run, "TRACES", tmp_path)
    run.quiet()
    where = run.setting(tier, tmp_path, None)
    where = dataclasses.replace(where, tier=dataclasses.replace(where.tier, texts=2, prompts=2, pairs=2, answer=4))
    arm = LONG["upset-flip-full"]
    told = run.run(where, arm, seed=1, steps=5)
    job = arms.Job(tier, arm, 1)
    run.write(job, told)
    trace = load_trace(tmp_path / tier / f"{job.name}.jsonl.gz")
    assert [r.step for r in trace.readings] == [0, 5]
    assert trace.header.layers == (8 if tier == "small-long" else 16)
    assert math.isfinite(trace.readings[1].late["alpha"]) and trace.readings[1].displacement > 0
    truth = json.loads((tmp_path / tier / f"{job.name}.truth.json").read_text())
    assert truth["onset"] == arm.onset(arms.TIERS[tier], 1) and truth["log"]["step"] == [1, 2, 3, 4, 5]
    assert {"margin", "lost", "rejected"} < set(truth["heldout"]) and truth["heldout"]["margin"][0] == 0
    check_answers(json.loads(gzip.decompress((tmp_path / tier / f"{job.name}.answers.json.gz").read_bytes())))


def check_answers(told):
    assert told["step"] == [0, 5]
    for name in ("chosen", "rejected"):
        assert len(told["tokens"][name]) == pairs.ANSWERS and 1 <= max(told["tokens"][name]) <= heldout.CAP
        assert [len(row) for row in told[name]] == [pairs.ANSWERS] * 2
        assert all(value < 0 for row in told[name] for value in row) and told[name][0] != told[name][1]


def test_the_second_model_is_another_architecture():
    one, other = small._llama(FakeTokenizer), small._neox(FakeTokenizer)
    assert other.config.num_hidden_layers == 16 and other.config.hidden_size != one.config.hidden_size
    assert other.get_output_embeddings().weight is not other.get_input_embeddings().weight
    assert one.get_output_embeddings().weight is one.get_input_embeddings().weight
    assert any(isinstance(m, torch.nn.LayerNorm) for m in other.modules())
    assert not any(isinstance(m, torch.nn.LayerNorm) for m in one.modules())


class FakeTokenizer:
    pad_token_id, eos_token_id = 0, 3


def test_the_short_tiers_model_is_the_old_one():
    """Its folder's name is a hash of all it is made of: the committed traces are of this one."""
    assert small.recipe("small").folder == "small-f067b7bde574"


def test_a_long_run_is_done_when_its_truth_is_there(tmp_path, monkeypatch):
    monkeypatch.setattr(suite, "TRACES", tmp_path)
    monkeypatch.setattr(run, "TRACES", tmp_path)
    first, second = arms.jobs("small-long")[:2]
    records = [Header("0", "m", 4, (3, 4), "", 8, {}), reading(0, entropy=1 / 3), reading(5)]
    run.write(first, run.Told(records, {"heldout": {}}, {"step": [0], "chosen": [[-1 / 3]]}))
    assert next(job.name for job in suite.missing("small-long", "*", hh=True)) == second.name
    answers = json.loads(gzip.decompress((tmp_path / "small-long" / f"{first.name}.answers.json.gz").read_bytes()))
    assert answers == {"step": [0], "chosen": [[-0.333333]]}
    assert load_trace(tmp_path / "small-long" / f"{first.name}.jsonl.gz").readings[0].entropy == 0.33333
