"""Gradient concentration from preference pairs, against a naive float64 loop; the weights stay as they are."""

import json
import math
import random
import re

import pytest
import reference
import saved
import tiny
import torch
import training
from peft import get_peft_model

from spinal_callback import MemorySink, SpinalCallback, audit
from spinal_callback.auditing import gradients
from spinal_callback.auditing.gradients import GradientReader, answers_of
from spinal_callback.config import SpinalConfig
from spinal_callback.probe import Probe
from spinal_callback.probe.prompts import PromptSet
from spinal_callback.probe.rows import read_row

COUNT, BETA, LATE = 6, 0.3, (7, 9)
CPU = torch.device("cpu")


def rows(count=COUNT, seed=0):
    draw = random.Random(seed)
    text = lambda least, most: " ".join(draw.choice(tiny.WORDS) for _ in range(draw.randrange(least, most)))  # noqa: E731
    return [{"prompt": text(2, 9), "chosen": " " + text(1, 8), "rejected": " " + text(1, 8)} for _ in range(count)]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = saved.models(tmp_path_factory.mktemp("models"))
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows()))
    return folder


def parts_of(model):
    prompts = tiny.prompts(24)
    return Probe(model, PromptSet(prompts, [0] * 24), SpinalConfig(num_prompts=24)).sampler.parts


def read(reader, model):
    return reader.read(model, parts_of(model), CPU)


def naive(model, before=None):
    """Squared gradient norms of the layers, as `reference.dpo_gradients` has them."""
    pairs = [(r.prompt, r.chosen, r.rejected) for r in (read_row(row, tiny.tokenizer()) for row in rows())]
    return reference.dpo_gradients(model, before or model, pairs, BETA, lambda m: m.model.layers)


@pytest.fixture
def answers():
    return answers_of(rows(), tiny.tokenizer(), COUNT, 256, 0)


@pytest.mark.parametrize("limit", [2 << 30, 60_000, 1])
def test_the_gradients_are_the_naive_loops(monkeypatch, answers, limit):
    """All layers at once, some at a time, one at a time; in batches of 24 tokens."""
    monkeypatch.setattr(gradients, "GRADIENT_LIMIT", limit)
    monkeypatch.setattr(gradients, "BATCH_TOKENS", 24)
    before, after = tiny.llama().double(), saved.aligned().double()
    reader = GradientReader(answers, BETA)
    assert read(reader, before).tolist() == pytest.approx(naive(before), rel=1e-5)
    want = naive(after, before)
    assert read(reader, after).tolist() == pytest.approx(want, rel=1e-5)
    assert GradientReader(answers, BETA).read(after, parts_of(after), CPU).tolist() != pytest.approx(want, rel=0.01)


def test_nothing_of_the_model_is_changed(answers):
    model = tiny.llama()
    model.model.embed_tokens.weight.requires_grad_(False)
    before, flags = tiny.digest(model.state_dict()), [p.requires_grad for p in model.parameters()]
    read(GradientReader(answers, BETA), model)
    assert tiny.digest(model.state_dict()) == before and [p.requires_grad for p in model.parameters()] == flags
    assert all(p.grad is None for p in model.parameters())
    assert not any(module._forward_hooks for module in model.modules())


def test_gradients_that_are_held_at_a_time_fit_into_the_limit(monkeypatch, answers):
    sizes, squares = [], GradientReader._squares

    def noted(self, parts, block, *args):
        sizes.append(4 * sum(p.numel() for layer in block for p in layer))
        return squares(self, parts, block, *args)

    monkeypatch.setattr(GradientReader, "_squares", noted)
    monkeypatch.setattr(gradients, "GRADIENT_LIMIT", 100_000)
    model = tiny.llama()
    read(GradientReader(answers, BETA), model)
    assert len(sizes) > 2 and max(sizes) <= 100_000
    assert sum(sizes) == 4 * sum(p.numel() for p in model.model.layers.parameters())


def test_of_an_adapter_the_layers_own_weights_are_read(answers):
    torch.manual_seed(0)
    model = get_peft_model(tiny.llama().double(), tiny.lora(init_lora_weights=False)).eval()
    reader = GradientReader(answers, BETA)
    with model.disable_adapter():
        bare = read(reader, model)
    assert bare.tolist() == pytest.approx(naive(tiny.llama().double()), rel=1e-5)
    adapted = read(reader, model)
    merged = get_peft_model(tiny.llama().double(), tiny.lora(init_lora_weights=False))
    merged.load_state_dict(model.state_dict())
    assert adapted.tolist() == pytest.approx(naive(merged.merge_and_unload(), tiny.llama().double()), rel=1e-5)


# --- in an audit


@pytest.fixture(scope="module")
def pair(place):
    return saved.read(place, "new", "base", pairs=place / "pairs.jsonl", beta=BETA)


def test_the_score_of_a_checkpoint_has_three_terms(pair):
    before, after = pair.readings
    naive0, naive1 = naive(tiny.llama().double()), naive(saved.aligned().double(), tiny.llama().double())
    want = [reference.gradient_concentration(squares, *LATE) for squares in (naive0, naive1)]
    assert [before.gradient_concentration, after.gradient_concentration] == pytest.approx(want, rel=1e-4)
    assert pair.score == after.score == pytest.approx(after.delta_align + after.coherence + want[1], rel=1e-4)
    assert pair.trace.header.pairs == COUNT
    assert f"+ gradient concentration {want[1]:.3f}" in str(pair) and "needs preference pairs" not in str(pair)


def test_without_pairs_the_third_term_is_missing_and_said_to_be(place):
    found = saved.read(place, "new", "base")
    assert math.isnan(found.readings[1].score) and found.trace.header.pairs == 0
    assert found.score == found.readings[1].delta_align + found.readings[1].coherence
    assert "(gradient concentration, the third term, needs preference pairs: --pairs)" in str(found)


def test_an_adapter_and_a_checkpoint_alone(place):
    adapter = saved.read(place, "adapter", pairs=place / "pairs.jsonl", beta=BETA)
    assert all(0 < r.gradient_concentration < 1 for r in adapter.readings)
    alone = saved.read(place, "base", pairs=rows(), beta=BETA)
    assert alone.readings[0].gradient_concentration == adapter.readings[0].gradient_concentration
    assert "+ gradient concentration" in str(alone)


def test_as_many_pairs_as_are_asked_for(place):
    found = saved.read(place, "base", pairs=rows(), num_pairs=2, beta=BETA)
    assert found.trace.header.pairs == 2
    few = saved.read(place, "base", pairs=rows()[:2], beta=BETA)
    assert few.readings[0].gradient_concentration == found.readings[0].gradient_concentration


@pytest.mark.skipif(tiny.OLD_TRL, reason="TRL before 0.29 tokenizes rows of text otherwise")
def test_it_is_what_a_dpo_run_reads_at_its_first_step(tmp_path):
    """A real DPOTrainer whose first batch is all of the pairs."""
    data, memory = tiny.preferences(8), MemorySink()
    saved.policy(tmp_path / "base")
    watch = SpinalCallback(every=1, num_prompts=24, prompts=[f"w{i} w{i + 2}" for i in range(24)], sinks=[memory])
    once = {"per_device_train_batch_size": 8, "max_steps": 1, "beta": BETA}
    training.trainer(tmp_path / "run", watch, data=data, **once).train()
    found = audit(tmp_path / "base", prompts=[f"w{i} w{i + 1}" for i in range(20)], pairs=list(data), beta=BETA)
    trained = memory.readings[-1].gradient_concentration
    assert found.readings[0].gradient_concentration == pytest.approx(trained, rel=1e-4)


WRONG = {
    "no rejected": (
        {"pairs": [*rows(1), {"prompt": "w1", "chosen": " w2"}]},
        "pairs[1] has not both a chosen and a re",
    ),
    "none": ({"pairs": []}, "pairs is empty: give at least one row with a chosen and a rejected answer"),
    "no rows": ({"pairs": 5}, "pairs must be a list or a data set, got int"),
    "a broken row": ({"pairs": [{"chosen": 1, "rejected": "w1"}]}, "pairs[0] has chosen of type int"),
    "number": ({"pairs": rows(), "num_pairs": 0}, "num_pairs must be a whole number >= 1, got 0"),
    "beta": ({"pairs": rows(), "beta": -1.0}, "beta must be a number > 0, got -1.0"),
}


@pytest.mark.parametrize("name", WRONG)
def test_pairs_that_are_none(place, name):
    fields, words = WRONG[name]
    with pytest.raises(ValueError, match=re.escape(words)):
        audit(place / "base", prompts=place / "prompts.jsonl", **fields)


def test_weights_without_gradients_are_refused(answers):
    reader = GradientReader(answers, BETA)
    model = tiny.llama()
    parts = parts_of(model)
    layer = model.model.layers[3].mlp.up_proj
    layer.weight = torch.nn.Parameter(layer.weight.detach().to(torch.int8), requires_grad=False)
    with pytest.raises(ValueError, match="the weights of layer 4 are quantized and have no gradients; pairs need the"):
        reader.read(model, parts, CPU)
    layer.weight = torch.nn.Parameter(torch.empty(64, 32, device="meta"))
    with pytest.raises(ValueError, match="layer 4 is kept in CPU memory or on disk and has no gradients; pairs need"):
        reader.read(model, parts, CPU)
