"""rows.py: a row of text gives the token ids that TRL's own trainers train on, in each of TRL's formats."""

import json

import pytest
import tiny
from datasets import Dataset, IterableDataset
from transformers import ProcessorMixin
from trl import DPOConfig, DPOTrainer

from spinal_callback.probe.rows import Row, read_row

TOKENIZER = tiny.tokenizer()
SYSTEM = {"role": "system", "content": "w20 w21"}
ASK, AGAIN = {"role": "user", "content": "w1 w2"}, {"role": "user", "content": "w3"}
GOOD, BAD = {"role": "assistant", "content": "w7 w8"}, {"role": "assistant", "content": "w7 w9 w9"}
TOOL = {"type": "function", "function": {"name": "w50", "description": "w51", "parameters": {"type": "object"}}}
WITH_TOOLS = "{% if tools %}<system> {% for t in tools %}{{ t['function']['name'] }} {% endfor %}<end> {% endif %}"
WITH_OPTION = "{% if short %}w60 {% endif %}"
# A prompt that is rendered differently once an answer follows: Gemma 4's ends with an empty thought.
THINKING = tiny.CHAT_TEMPLATE.replace("<assistant> {% endif %}", "<assistant> w70 {% endif %}")

PARTS = ("prompt", "chosen", "rejected")
PREFERENCES = {
    "conversation": {"prompt": [ASK], "chosen": [GOOD], "rejected": [BAD]},
    "conversation, several turns": {"prompt": [SYSTEM, ASK, GOOD, AGAIN], "chosen": [GOOD], "rejected": [BAD]},
    "conversation, implicit prompt": {"chosen": [ASK, GOOD], "rejected": [ASK, BAD]},
    "conversation, implicit prompt of several turns": {
        "chosen": [ASK, BAD, AGAIN, GOOD],
        "rejected": [ASK, BAD, AGAIN, BAD],
    },
    "text": {"prompt": "w1 w2", "chosen": " w7 w8", "rejected": " w9"},
    "text, a token across the border": {"prompt": "w1 w2", "chosen": "1 w8", "rejected": "2"},
    "text that ends": {"prompt": "w1", "chosen": " w7 <eos>", "rejected": " w9 <eos>"},
    "text, implicit prompt": {"chosen": "w1 w2 w7 w8", "rejected": "w1 w2 w9"},
    "tools": {"prompt": [ASK], "chosen": [GOOD], "rejected": [BAD], "tools": json.dumps([TOOL])},
    "options of the template": {
        "prompt": [ASK],
        "chosen": [GOOD],
        "rejected": [BAD],
        "chat_template_kwargs": {"short": True},
    },
}


def tokenizer(template=tiny.CHAT_TEMPLATE):
    made = tiny.tokenizer()
    made.chat_template = WITH_TOOLS + WITH_OPTION + template
    return made


def by_trl(row, folder, tokenizer, stream=False):
    """What DPOTrainer makes of two rows of the kind."""
    data = Dataset.from_list([row, row])
    data = IterableDataset.from_generator(lambda: iter([row, row])) if stream else data
    args = DPOConfig(output_dir=str(folder), **tiny.DPO_SETTINGS)
    trainer = DPOTrainer(
        tiny.llama(2), ref_model=tiny.llama(2), args=args, train_dataset=data, processing_class=tokenizer
    )
    return next(iter(trainer.train_dataset))


@pytest.mark.parametrize("template", [tiny.CHAT_TEMPLATE, THINKING], ids=["", "a thinking template"])
@pytest.mark.parametrize("name", PREFERENCES)
def test_a_preference_gives_the_ids_that_trl_trains_on(name, template, tmp_path):
    row = PREFERENCES[name]
    told = by_trl(row, tmp_path, tokenizer(template))
    expected = Row(*(tiny.ids_of(told, part) for part in PARTS))
    assert read_row(told, None) == expected  # its tokenized row, which also holds the text
    if tiny.OLD_TRL:
        pytest.skip("TRL before 0.29 tokenizes rows of text otherwise; they are read as TRL 1 does")
    assert read_row(row, tokenizer(template)) == expected
    assert expected.prompt and expected.chosen != expected.rejected


@pytest.mark.skipif(tiny.OLD_TRL, reason="TRL before 0.29 tokenizes rows of text otherwise")
def test_a_stream_of_text_gives_the_ids_that_trl_trains_on(tmp_path):
    row = PREFERENCES["conversation, implicit prompt"]
    told = by_trl(row, tmp_path, tokenizer(), stream=True)
    assert read_row(row, tokenizer()) == Row(*(tiny.ids_of(told, part) for part in PARTS))


def test_tools_and_options_reach_the_template():
    plain = read_row(PREFERENCES["conversation"], tokenizer()).prompt
    assert read_row(PREFERENCES["tools"], tokenizer()).prompt == [6, 58, 7, *plain]
    assert read_row({**PREFERENCES["tools"], "tools": [TOOL]}, tokenizer()).prompt == [6, 58, 7, *plain]
    assert read_row(PREFERENCES["options of the template"], tokenizer()).prompt == [68, *plain]


def test_a_prompt_beside_whole_conversations_is_read_from_them():
    """As many data sets on the hub have it: the prompt's text once more, beside both conversations."""
    whole = PREFERENCES["conversation, implicit prompt"]
    assert read_row({"prompt": "w1 w2", **whole}, TOKENIZER) == read_row(whole, TOKENIZER)


def test_an_answer_in_plain_text_to_a_conversation_is_the_assistants():
    mixed = {"prompt": [ASK], "chosen": "w7 w8", "rejected": "w7 w9 w9"}
    assert read_row(mixed, TOKENIZER) == read_row(PREFERENCES["conversation"], TOKENIZER)


def test_columns_without_a_value_are_not_there():
    """A data set of mixed rows has every column in each of them."""
    row = {"prompt": None, "messages": [ASK, GOOD], "chosen": None, "rejected": None, "tools": None}
    assert read_row(row, TOKENIZER) == Row([4, 9, 10, 7, 5], [15, 16, 7])


# --- as other frameworks tokenize them


def pair(prompt, chosen, rejected):
    row = {}
    for name, answer in (("chosen", chosen), ("rejected", rejected)):
        row[f"{name}_input_ids"] = prompt + answer
        row[f"{name}_attention_mask"] = [1] * len(prompt + answer)
        row[f"{name}_labels"] = [-100] * len(prompt) + answer
    return row


def test_labels_tell_the_prompt_from_the_answers():
    row = pair([3, 4], [5, 6], [7])
    assert read_row({**row, "images": None, "videos": None}, None) == Row([3, 4], [5, 6], [7])


def test_a_pair_without_a_rejected_answer_is_read():
    row = {name: value for name, value in pair([3], [5], [7]).items() if "chosen" in name}
    assert read_row(row, None) == Row([3], [5], [])


def test_a_later_turn_that_is_not_trained_on_stays_in_the_answer():
    """Labels of several turns: the prompt ends where the first trained token is."""
    row = {"chosen_input_ids": [3, 5, 4, 6], "chosen_labels": [-100, 5, -100, 6]}
    assert read_row(row, None) == Row([3], [5, 4, 6])


# --- images


class Processor(ProcessorMixin):
    """A tokenizer and a template that takes content as parts, as a vision model's processor has them."""

    attributes = ("tokenizer",)
    tokenizer_class = "AutoTokenizer"
    chat_template = (
        "{% for m in messages %}<{{ m['role'] }}> {% for p in m['content'] %}"
        "{% if p['type'] == 'image' %}w40 {% else %}{{ p['text'] }} {% endif %}{% endfor %}<end> {% endfor %}"
        "{% if add_generation_prompt %}<assistant> {% endif %}"
    )

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer


def parts(*texts, image=False):
    return [{"type": "image"}] * image + [{"type": "text", "text": text} for text in texts]


@pytest.mark.parametrize("content", ["w1 w2", parts("w1 w2", image=True), parts("w1", "w2", image=True)])
def test_the_text_of_a_row_with_images_is_read(content):
    row = {"images": [object()], "prompt": [{"role": "user", "content": content}]}
    row |= {"chosen": [{"role": "assistant", "content": parts("w7 w8")}], "rejected": [BAD]}
    expected = Row([4, 9, 10, 7, 5], [15, 16, 7], [15, 17, 17, 7])
    assert read_row(row, Processor(tiny.tokenizer(chat=False))) == expected


def test_text_parts_are_joined_for_a_tokenizer():
    row = {"prompt": [{"role": "user", "content": parts("w1 ", "w2", image=True)}]}
    assert read_row(row, TOKENIZER) == Row([4, 9, 10, 7, 5])


def test_a_data_set_fills_what_parts_lack_with_none():
    data = Dataset.from_list([{"prompt": [{"role": "user", "content": parts("w1 w2", image=True)}]}])
    assert read_row(data[0], Processor(tiny.tokenizer(chat=False))) == Row([4, 9, 10, 7, 5])


# --- what is refused


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (
            {"chosen": {"role": "user"}, "rejected": "w1"},
            "has chosen of type dict: it must be a string or chat messages",
        ),
        ({"prompt": "w1", "chosen": "w1", "rejected": 3}, "has rejected of type int: it must be a string or chat"),
        ({"prompt": {"role": "user"}}, "has prompt of type dict: it must be a string or chat messages"),
        ({"chosen": [GOOD], "rejected": [BAD]}, "is empty: every prompt needs at least one token"),
        ({"messages": []}, "is empty: every prompt needs at least one token"),
        ({"chosen_input_ids": [], "chosen_labels": []}, "is empty: every prompt needs at least one token"),
        ({"chosen_input_ids": [1]}, "has the columns 'chosen_input_ids'; one of chosen_input_ids and chosen_labels, "),
        ([5], "must be a string, chat messages or a row, got list"),
    ],
)
def test_what_is_no_row_is_refused(row, words):
    with pytest.raises(ValueError, match="^" + words):
        read_row(row, TOKENIZER)


def test_messages_that_the_template_does_not_take_are_refused():
    strict = tiny.tokenizer()
    strict.chat_template = "{{ raise_exception('roles must alternate') }}"
    with pytest.raises(ValueError, match=r"^is not what the chat template takes: roles must alternate"):
        read_row([ASK, ASK], strict)
