"""Prompts that cannot be run are refused before training, in one line with the row; the rest are as in training."""

import math
import re

import numpy as np
import pandas
import pytest
import tiny
import torch
import twins
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import GPT2Config, GPT2LMHeadModel

from spinal_callback import MemorySink, SpinalConfig
from spinal_callback.probe import Probe, sources
from spinal_callback.probe.bounds import Bounds
from spinal_callback.probe.prompts import MOST_ROWS, PromptSet, collect
from spinal_callback.probe.sources import rows_of
from spinal_callback.sinks.registry import make_sinks

TOKENIZER = tiny.tokenizer()
BOUNDS = Bounds(vocabulary=100, positions=256)
WORDS = ["w1 w2", "w3"]


def get(source, **fields):
    settings = {"count": 64, "longest": 256, "with_answers": False, "seed": 0, "bounds": BOUNDS}
    return collect(source, TOKENIZER, **settings | fields)


def user(content):
    return [{"role": "user", "content": content}]


# --- what is refused

WRONG = {
    "none": (None, r"must be a string, chat messages or a row, got NoneType"),
    "a number": (3, r"must be a string, chat messages or a row, got int"),
    "bytes": (b"w1", r"must be a string, chat messages or a row, got bytes"),
    "prompt none": ({"prompt": None}, r"has the columns ; one of"),
    "prompt a number": ({"prompt": 5}, r"has prompt of type int: it must be a string or chat messages"),
    "messages a text": ({"messages": 5}, r"has messages of type int: it must be"),
    "nested ids": ({"prompt_ids": [[1, 2]]}, r"has token ids that are no list of whole numbers"),
    "ids as text": ({"prompt_ids": ["1", "2"]}, r"has token ids that are no list of whole numbers"),
    "ids as floats": ({"prompt_ids": [1.5]}, r"has token ids that are no list of whole numbers"),
    "ids a number": ({"prompt_ids": 5}, r"has token ids that are no list of whole numbers"),
    "id of nan": ({"input_ids": [math.nan]}, r"has token ids that are no list of whole numbers"),
    "an id too large": ({"prompt_ids": [5, 100]}, r"has the token id 100, but the model has .* the ids 0 to 99 alone"),
    "a negative id": (
        {"prompt_ids": [5, -1]},
        r"has the token id -1, but the model has embeddings for the ids 0 to 99",
    ),
    "surrogates": ("w1 \ud800", r"(is no valid Unicode text|cannot be tokenized)"),
    "an empty text": ("", r"is empty: every prompt needs at least one token"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_row_that_cannot_be_run_is_named(name):
    row, words = WRONG[name]
    with pytest.raises(ValueError, match=rf"^prompts\[2\] {words}"):
        get([*WORDS, row])


SOURCES = {
    "one text": ("a secret prompt", "prompts must be a list of prompts, got a single string: write prompts="),
    "a frame": (pandas.DataFrame({"prompt": WORDS}), "got a pandas DataFrame: write Dataset.from_pandas"),
    "a number": (5, "prompts must be a list or a data set, got int"),
    "a dictionary": ({"train": WORDS}, "got a dictionary of 'train'"),
}


@pytest.mark.parametrize("name", SOURCES)
def test_a_source_without_rows_is_refused_and_its_text_is_not_shown(name):
    source, words = SOURCES[name]
    with pytest.raises(ValueError, match=re.escape(words)) as caught:
        get(source)
    assert "secret" not in str(caught.value)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6) | st.binary(max_size=4)
    | st.sampled_from([*WORDS, user("w1"), torch.tensor([5, 6]), np.array([7, 8])]),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(
        st.sampled_from(["prompt", "chosen", "rejected", "messages", "text", "prompt_ids", "input_ids", "labels",
                         "role", "content", "type", "tools", "chat_template_kwargs", "completion_mask"]),
        inner,
        max_size=3,
    ),
    max_leaves=8,
)  # fmt: skip


@settings(max_examples=600, deadline=None)
@given(row=VALUES, answers=st.booleans())
def test_any_row_is_either_tokens_of_the_model_or_refused_by_its_place(row, answers):
    """600 rows of any shape."""
    try:
        found = get([*WORDS, row], with_answers=False) if not answers else get([row], with_answers=True)
    except ValueError as error:
        assert re.match(r"prompts\[[02]\] |position=", str(error)), error
    else:
        assert all(0 <= i < 100 for ids in found.ids for i in ids) and all(found.ids)


@settings(max_examples=300, deadline=None)
@given(
    sinks=st.lists(
        st.sampled_from(["terminal", MemorySink(), MemorySink, "nobody", 42, None, object()]), min_size=1, max_size=3
    )
)
def test_sinks_that_are_none_are_refused_and_an_iterator_is_not_used_up(sinks):
    """300 lists of sinks, of which some are none."""
    good = all(s == "terminal" or isinstance(s, MemorySink) for s in sinks)
    if not good:
        with pytest.raises(ValueError, match="sinks must be Sink objects"):
            make_sinks(iter(sinks))
    else:
        assert len(make_sinks(iter(sinks))) == len(sinks)


# --- what is read as training reads it


def test_content_in_parts():
    parts = [{"type": "text", "text": "w1 "}, {"type": "image"}, {"type": "text", "text": "w2"}]
    assert get([user(parts)]).ids == get([user("w1 w2")]).ids


def test_arguments_of_the_trainers_template_and_of_the_row():
    tokenizer = tiny.tokenizer()
    tokenizer.chat_template = "{{ mark or '' }}{% for m in messages %} {{ m['content'] }}{% endfor %}"
    settings = {"count": 9, "longest": 99, "with_answers": False, "seed": 0}
    rows = [{"prompt": user("w1")}, {"prompt": user("w1"), "chat_template_kwargs": {"mark": "w7"}}]
    ids = collect(rows, tokenizer, **settings, template={"mark": "w9"}).ids
    assert [tokenizer.decode(i) for i in ids] == ["w9 w1", "w7 w1"]
    assert collect(rows[:1], tokenizer, **settings).ids == [tokenizer("w1")["input_ids"]]


def test_a_tokenizer_that_ends_every_text_does_not_end_a_prompt():
    from tokenizers.processors import TemplateProcessing

    ending = tiny.tokenizer()
    ending._tokenizer.post_processor = TemplateProcessing(single="$A <eos>", special_tokens=[("<eos>", 2)])
    assert ending("w1")["input_ids"][-1] == 2
    row = {"prompt": "w1 w2 ", "chosen": "w3", "rejected": "w4"}
    for source in (["w1 w2"], [{"prompt": "w1 w2"}], [row]):
        assert collect(source, ending, count=9, longest=99, with_answers=False, seed=0).ids == get(["w1 w2"]).ids
    asked_for = collect(["w1 <eos>"], ending, count=9, longest=99, with_answers=False, seed=0).ids
    assert asked_for[0][-1] == 2


def test_rows_with_an_empty_prompt_are_passed_over_and_counted():
    rows = Dataset.from_list([{"prompt": "" if i % 3 == 0 else f"w{i}"} for i in range(30)])
    found = get(rows, skip_empty=True)
    assert len(found.ids) == 20 and found.skipped == 10
    with pytest.raises(ValueError, match=r"prompts is empty: those of all 3 rows that were looked at are"):
        get(Dataset.from_list([{"prompt": ""}] * 3), skip_empty=True)


def test_too_few_different_prompts_are_counted():
    with pytest.raises(ValueError, match=r"^prompts has only 6 different prompts: give at least 10$"):
        PromptSet.collect([f"w{i % 6}" for i in range(90)], TOKENIZER, SpinalConfig())


# --- large data sets


class Huge:
    """Rows made when they are asked for."""

    def __init__(self, size, different):
        self.size, self.different, self.read = size, different, 0

    def __len__(self):
        return self.size

    def __getitem__(self, i):
        self.read += 1
        return {"prompt_ids": [i % self.different % 100, i // 100 % self.different % 100]}


def test_few_rows_are_read_of_a_huge_data_set_and_not_all_of_one_with_few_prompts():
    huge = Huge(10**12, 10**9)
    assert len(get(huge).ids) == 64 and huge.read <= 70
    alike = Huge(10**6, 1)
    assert len(get(alike).ids) == 1 and alike.read <= MOST_ROWS


@pytest.mark.parametrize("listed", [200_000, 0])
@pytest.mark.parametrize("size", [1, 2, 10, 257])
def test_rows_are_drawn_without_repetition_and_evenly(monkeypatch, size, listed):
    monkeypatch.setattr(sources, "LISTED", listed)
    order = [place for place, _ in rows_of(Huge(size, 10), seed=3)]
    assert sorted(order) == list(range(size))
    firsts = [next(rows_of(Huge(4, 10), seed))[0] for seed in range(400)]
    assert all(70 <= firsts.count(i) <= 130 for i in range(4))


# --- the model's bounds


def gpt2(positions=32):
    config = GPT2Config(n_positions=positions, n_embd=24, n_layer=5, n_head=2, vocab_size=100)
    return tiny.randomize(GPT2LMHeadModel(config))


@pytest.mark.parametrize("position", ["last", "response"])
def test_prompts_and_answers_are_cut_to_learned_positions(position):
    model, config = gpt2(), SpinalConfig(num_prompts=12, position=position)
    rows = [{"prompt_ids": [i % 90 + 8] * 50, "chosen_ids": [9] * 50} for i in range(12)]
    rows += [{"prompt_ids": [i + 8] * 8, "chosen_ids": [9] * 50} for i in range(12)]
    prompts = PromptSet.collect(rows, None, config, model)
    assert max(map(len, prompts.ids)) == 32
    reading = Probe(model, prompts, config).read(0)
    assert reading.nonfinite == 0 and all(math.isfinite(t) for t in reading.transport)


def test_the_longest_prompt_is_run_before_training():
    prompts = PromptSet([*tiny.prompts(12), [9] * 40], [0] * 13)
    with pytest.raises(ValueError, match=r"GPT2LMHeadModel cannot run the longest prompt, which has 40 tokens \(Index.*"
                                         r"use a smaller max_prompt_tokens"):  # fmt: skip
        Probe(gpt2(), prompts, SpinalConfig(num_prompts=13))


def test_virtual_tokens_take_positions():
    from peft import PromptTuningConfig, get_peft_model

    model = get_peft_model(gpt2(), PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=5))
    assert Bounds.of(model) == Bounds(100, 27)


def test_dropout_that_is_never_turned_off_is_read_with_the_same_numbers_each_time():
    model = tiny.llama()
    real = model.model.layers[3].mlp.forward
    model.model.layers[3].mlp.forward = lambda h: torch.nn.functional.dropout(real(h), 0.2, training=True)
    prompts = PromptSet(tiny.prompts(), [0] * 24)
    probe = Probe(model, prompts, SpinalConfig(num_prompts=24))
    assert any("draws random numbers in evaluation mode" in note for note in probe.notes)
    before = torch.get_rng_state()
    first, second = probe.read(0), probe.read(1)
    assert first.alpha == second.alpha and second.displacement == pytest.approx(0, abs=1e-6)
    assert torch.equal(torch.get_rng_state(), before)
    assert not any("random" in note for note in Probe(tiny.llama(), prompts, SpinalConfig(num_prompts=24)).notes)


# --- in a trainer


def test_the_prompts_are_the_training_datas_whatever_was_called_before(tmp_path):
    probes = []
    for evaluated in (False, True):
        callback = twins.watcher()
        trainer = twins.plain(tmp_path / str(evaluated), callback, max_steps=1)
        trainer.eval_dataset = twins.language_rows(8, 9)
        if evaluated:
            trainer.evaluate()
        trainer.train()
        if evaluated:
            trainer.evaluate()
            trainer.train()
        probes.append(callback.probe.prompts.hash)
    assert probes[0] == probes[1]


def test_a_loader_without_a_data_set_asks_for_prompts(tmp_path):
    trainer = twins.plain(tmp_path, twins.watcher(), max_steps=1)
    rows = trainer.get_train_dataloader()
    trainer.get_train_dataloader = lambda: list(rows)
    with pytest.raises(ValueError, match=r"the trainer has no data set to take them from: give prompts="):
        trainer.train()


def test_prompts_from_an_iterator_serve_two_runs(tmp_path):
    callback = twins.watcher(prompts=iter([{"input_ids": ids} for ids in tiny.prompts(16)]))
    hashes = []
    for name in "ab":
        twins.plain(tmp_path / name, callback, max_steps=1).train()
        hashes.append(callback.probe.prompts.hash)
    assert hashes[0] == hashes[1]


def test_bad_ids_are_refused_before_the_first_step(tmp_path):
    trainer = twins.plain(tmp_path, twins.watcher(prompts=[{"input_ids": [5, 1000 + i]} for i in range(20)]))
    with pytest.raises(ValueError, match=r"prompts\[0\] has the token id 1000"):
        trainer.train()
    assert trainer.state.global_step == 0
