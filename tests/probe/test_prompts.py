"""prompts.py: every kind of source gives the same token ids, every wrong one an error that says what is wrong."""

import random
import re

import numpy as np
import pytest
import tiny
import torch
from datasets import Dataset, DatasetDict
from tokenizers.processors import TemplateProcessing

from spinal_callback.probe.prompts import PromptSet, collect

TOKENIZER = tiny.tokenizer()
USER = [{"role": "user", "content": "w1 w2"}]
REPLY = [{"role": "assistant", "content": "w7 w8"}]
# What a person would write down for them: words start at id 8, <user> 4, <assistant> 5, <end> 7.
PLAIN, CHAT, ANSWER = [9, 10], [4, 9, 10, 7, 5], [15, 16]
REPLIED, ENDED = [*ANSWER, 7], [*ANSWER, 2]  # the template's <end>, the tokenizer's <eos>


def get(source, tokenizer=TOKENIZER, **options):
    return collect(source, tokenizer, **{"count": 64, "longest": 64, "with_answers": False, "seed": 0, **options})


def rows(count, column="prompt_ids"):
    """A data set of `count` tokenized prompts, each of them its own number."""
    return Dataset.from_list([{column: [i, 1]} for i in range(count)])


def numbers(prompts):
    return [ids[0] for ids in prompts.ids]


# --- what prompts may come as: (row, prompt, answer)

ROWS = {
    "string": ("w1 w2", PLAIN, None),
    "chat": (USER, CHAT, None),
    "TRL, tokenized": ({"prompt_ids": [3, 4], "chosen_ids": [5, 6], "rejected_ids": [7]}, [3, 4], [5, 6]),
    "TRL, tokenized, older": ({"prompt_input_ids": [3, 4], "chosen_input_ids": [5]}, [3, 4], [5]),
    "TRL, tokenized beside text": ({"prompt": "w9", "prompt_ids": [3, 4], "chosen_ids": [5]}, [3, 4], [5]),
    "KTO of TRL before 0.29": ({"prompt_input_ids": [3, 4], "answer_input_ids": [5]}, [3, 4], [5]),
    "tokenized, completion": ({"prompt_ids": [3, 4], "completion_ids": [5]}, [3, 4], [5]),
    "tokenized whole, labels": ({"chosen_input_ids": [3, 4, 5], "chosen_labels": [-100, -100, 5]}, [3, 4], [5]),
    "conversational preference": ({"prompt": USER, "chosen": REPLY, "rejected": REPLY}, CHAT, REPLIED),
    "plain preference": ({"prompt": "w1 w2", "chosen": " w7 w8", "rejected": " w3"}, PLAIN, ENDED),
    "prompt and completion": ({"prompt": "w1 w2", "completion": " w7 w8"}, PLAIN, ENDED),
    "prompt alone": ({"prompt": USER}, CHAT, None),
    "messages with a reply": ({"messages": USER + REPLY}, CHAT, REPLIED),
    "messages without": ({"messages": USER}, CHAT, None),
    "text": ({"text": "w1 w2"}, PLAIN, None),
    "ids alone": ({"input_ids": [3, 4, 5, 6]}, [3, 4, 5, 6], None),
    "ids, labels": ({"input_ids": [3, 4, 5, 6], "labels": [-100, -100, 5, 6]}, [3, 4], [5, 6]),
    "ids, labels throughout": ({"input_ids": [3, 4], "labels": [3, 4]}, [3, 4], None),
    "ids, no label": ({"input_ids": [3, 4], "labels": [-100, -100]}, [3, 4], None),
    "ids, completion mask": ({"input_ids": [3, 4, 5], "completion_mask": [0, 1, 1]}, [3], [4, 5]),
    "ids, assistant mask": ({"input_ids": [3, 4, 5], "assistant_masks": [0, 0, 1]}, [3, 4], [5]),
}


@pytest.mark.parametrize("name", ROWS)
def test_every_kind_of_row(name):
    row, prompt, answer = ROWS[name]
    assert get([row]) == PromptSet([prompt], [0])
    if isinstance(row, dict):
        assert get(Dataset.from_list([row])) == PromptSet([prompt], [0])
    if answer is None:
        with pytest.raises(ValueError, match=r'position="response" needs chosen answers: row 0 has none; use'):
            get([row], with_answers=True)
    else:
        assert get([row], with_answers=True) == PromptSet([prompt + answer], [len(answer)])


@pytest.mark.parametrize("name", ["TRL, tokenized", "ids, labels", "ids, completion mask"])
def test_tokenized_rows_need_no_tokenizer(name):
    assert get([ROWS[name][0]], tokenizer=None).ids == [ROWS[name][1]]


@pytest.mark.parametrize("form", ["numpy", "torch"])
@pytest.mark.parametrize("name", ["TRL, tokenized", "ids, labels", "ids, completion mask"])
def test_a_data_set_that_gives_tensors_is_read_alike(name, form):
    row, prompt, _ = ROWS[name]
    got = get(Dataset.from_list([row, row]).with_format(form))
    assert got.ids == [prompt]
    assert got.hash == get([row]).hash


def test_a_text_begins_with_the_special_tokens_that_the_tokenizer_adds():
    begins = tiny.tokenizer()
    begins.backend_tokenizer.post_processor = TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 1)])
    plain = {"prompt": "w1 w2", "chosen": " w7 w8"}
    assert get([plain], begins, with_answers=True) == PromptSet([[1, *PLAIN, *ENDED]], [3])


def test_answers_are_told_from_prompts_of_the_same_tokens():
    halves = [{"input_ids": [3, 4, 5, 6], "labels": [-100] * n + [1] * (4 - n)} for n in (1, 2)]
    assert get(halves[:1], with_answers=True).hash != get(halves[1:], with_answers=True).hash


# --- which of them


def test_a_list_is_taken_in_order_and_a_data_set_is_sampled():
    assert get(["w3", "w1", "w2"], count=2).ids == [[11], [9]]
    drawn = numbers(get(rows(500), count=20))
    assert len(set(drawn)) == 20
    assert drawn != sorted(drawn) and max(drawn) > 100  # not the first ones


def test_the_sample_is_fixed_by_the_seed():
    assert get(rows(500), count=20, seed=3) == get(rows(500), count=20, seed=3)
    assert get(rows(500), count=20, seed=3) != get(rows(500), count=20, seed=4)
    assert get(["w1", "w2"], seed=3) == get(["w1", "w2"], seed=4)


def test_the_sample_does_not_depend_on_how_many_are_drawn():
    assert numbers(get(rows(500), count=5)) == numbers(get(rows(500), count=20))[:5]


def test_the_global_random_states_are_neither_used_nor_moved():
    random.seed(1)
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
    first = get(rows(500), count=20)
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before[:2]
    assert torch.get_rng_state().equal(before[2])
    random.random()
    assert random.getstate() != before[0]
    assert get(rows(500), count=20) == first


@pytest.mark.parametrize("make", [lambda d: d.to_iterable_dataset(), lambda d: (row for row in d)])
def test_an_iterable_gives_its_first_rows(make):
    assert numbers(get(make(rows(500)), count=5)) == [0, 1, 2, 3, 4]


def test_an_endless_iterable_of_one_row_ends():
    assert get(({"prompt_ids": [1]} for _ in iter(int, 1)), count=2).ids == [[1]]


def test_no_more_rows_are_read_than_are_needed():
    def draw():
        yield from ({"prompt_ids": [i]} for i in range(3))
        pytest.fail("read on")

    assert len(get(draw(), count=3).ids) == 3


def test_duplicates_are_dropped():
    assert get(["w1", "w2", "w1", "w3"], count=3).ids == [[9], [10], [11]]
    assert len(get(Dataset.from_list([{"prompt_ids": [i % 7]} for i in range(70)])).ids) == 7
    same_prompt = [{"prompt": "w1", "chosen": c} for c in (" w2", " w3")]
    assert len(get(same_prompt).ids) == 1
    assert len(get(same_prompt, with_answers=True).ids) == 2


def test_fewer_than_asked_for_are_all_taken():
    assert sorted(numbers(get(rows(12), count=64))) == list(range(12))


def test_a_long_prompt_keeps_its_end_and_all_of_its_answer():
    row = {"prompt_ids": list(range(50)), "chosen_ids": list(range(100, 140))}
    assert get([row], longest=3).ids == [[47, 48, 49]]
    assert get([row], longest=50).ids == [list(range(50))]
    assert get([row], longest=3, with_answers=True) == PromptSet([[47, 48, 49, *range(100, 140)]], [40])
    twins = [{"prompt_ids": [i, 7, 8]} for i in range(5)]  # the same, once cut
    assert get(twins, longest=2).ids == [[7, 8]]
    assert len(get(twins, longest=3).ids) == 5


def test_the_hash_is_of_the_content():
    one = get(["w1 w2", "w3"])
    assert re.fullmatch("[0-9a-f]{64}", one.hash)
    assert one.hash == get([{"prompt": "w1 w2"}, {"prompt_ids": [11]}]).hash
    others = [["w1 w2"], ["w1", "w2 w3"], ["w3", "w1 w2"], ["w1 w2", "w4"]]
    assert len({one.hash, *(get(other).hash for other in others)}) == 5


# --- what they may not come as

UNKNOWN = "one of .*chosen_input_ids and chosen_labels, prompt_ids, .*prompt, messages, text, input_ids is needed"
WRONG = {
    "one string": ("Hello there", "prompts must be a list of prompts, got a single string: write prompts="),
    "a number": (5, "prompts must be a list or a data set, got int"),
    "nothing": ([], "prompts is empty: give at least one prompt, or a data set with rows"),
    "no rows": (Dataset.from_list([]), "prompts is empty"),
    "no rows, iterable": (iter([]), "prompts is empty"),
    "an empty string": (["w1", ""], r"prompts\[1\] is empty: every prompt needs at least one token"),
    "an empty prompt": ([{"prompt": ""}], r"prompts\[0\] is empty"),
    "no ids": ([{"prompt_ids": []}], r"prompts\[0\] is empty"),
    "no input ids": ([{"input_ids": []}], r"prompts\[0\] is empty"),
    "an empty chat": ([[]], r"prompts\[0\] must be a string, chat messages or a row, got list"),
    "a list of ids": ([[1, 2]], r"prompts\[0\] must be a string, chat messages or a row, got list"),
    "numbers": (["w1", 5], r"prompts\[1\] must be a string, chat messages or a row, got int"),
    "other columns": ([{"question": 1, "reply": 2}], rf"prompts\[0\] has the columns 'question', 'reply'; {UNKNOWN}"),
    "one chat": (USER, rf"prompts\[0\] has the columns 'role', 'content'; {UNKNOWN}"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_no_prompt_is_refused(name):
    source, words = WRONG[name]
    with pytest.raises(ValueError, match="^" + words):
        get(source)


@pytest.mark.parametrize("row", ["w1", USER, {"prompt": USER}, {"text": "w1"}])
def test_text_without_a_tokenizer_is_refused(row):
    with pytest.raises(ValueError, match=r"prompts\[0\] is text, but the trainer has no processing_class"):
        get([row], tokenizer=None)


@pytest.mark.parametrize("row", [USER, {"prompt": USER}, {"messages": USER + REPLY}])
def test_chat_without_a_template_is_refused(row):
    bare = tiny.tokenizer(chat=False)
    with pytest.raises(ValueError, match=r"prompts\[0\] is a list of chat messages, .* no chat template:.* plain str"):
        get([row], tokenizer=bare)
    assert get(["w1 w2"], tokenizer=bare).ids == [PLAIN]


def test_a_data_set_of_splits_is_refused_by_naming_them():
    with pytest.raises((ValueError, KeyError), match="train"):
        get(DatasetDict(train=rows(5)))
