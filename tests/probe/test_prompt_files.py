"""Prompts from files and data sets, and the sentence that says what is wrong with one."""

import gzip
import json
import re
import sys

import pytest
import tiny
from datasets import Dataset, DatasetDict

from spinal_callback.probe.prompt_files import SHIPPED, load_prompts, shipped
from spinal_callback.probe.prompts import collect

CHAT = [{"role": "user", "content": "w1 w2"}]


def test_the_package_has_prompts_of_its_own():
    chats = shipped(tiny.tokenizer())
    assert len(chats) == 64 and all(chat[-1]["role"] == "user" for chat in chats)
    assert shipped(tiny.tokenizer(chat=False)) == [chat[-1]["content"] for chat in chats]
    assert len({json.dumps(chat) for chat in chats}) == 64 and SHIPPED.parent.name == "probe"


FILES = {
    "a.jsonl": ('{"prompt": "w1"}\n{"messages": [{"role": "user", "content": "w2"}]}\n"w3"\n', 3),
    "a.json": (json.dumps([{"prompt": "w1"}, CHAT, "w3"]), 3),
    "a.txt": ("w1 w2\n\nw3\n", 2),
}


@pytest.mark.parametrize("name", FILES)
def test_files(tmp_path, name):
    text, count = FILES[name]
    (tmp_path / name).write_text(text)
    rows = load_prompts(tmp_path / name)
    found = collect(rows, tiny.tokenizer(), count=64, longest=20, with_answers=False, seed=0)
    assert len(rows) == len(found.ids) == count


def test_packed_files_and_rows_of_pairs(tmp_path):
    pair = {"chosen": "w1 w2 w3", "rejected": "w1 w2 w4"}
    path = tmp_path / "pairs.jsonl.gz"
    path.write_bytes(gzip.compress(f"{json.dumps(pair)}\n".encode()))
    (ids,) = collect(load_prompts(path), tiny.tokenizer(), count=64, longest=20, with_answers=False, seed=0).ids
    assert tiny.tokenizer().decode(ids) == "w1 w2"
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ValueError, match=r"pairs.jsonl.gz is cut off or damaged: it cannot be unpacked"):
        load_prompts(path)
    path.write_bytes(b"{}")
    with pytest.raises(ValueError, match="cannot be unpacked"):
        load_prompts(path)


def test_data_sets(tmp_path):
    rows = [{"prompt": f"w{i}"} for i in range(5)]
    Dataset.from_list(rows).save_to_disk(tmp_path / "one")
    assert list(load_prompts(tmp_path / "one")) == rows
    splits = DatasetDict(train=Dataset.from_list(rows[:2]), test=Dataset.from_list(rows))
    splits.save_to_disk(tmp_path / "several")
    assert list(load_prompts(tmp_path / "several")) == rows


BROKEN = {
    "a.jsonl": ('{"prompt": "w1"}\n{"prompt"\n', "a.jsonl, line 2: not JSON (Expecting ':' delimiter)"),
    "b.jsonl": (
        '{"prompt": "w1"}\n{"chosen": "w1", "n": 1}\n',
        "b.jsonl, line 2 has neither `prompt` nor `messages`, nor `chosen` with `rejected`; its",
    ),
    "c.jsonl": ("", "c.jsonl is empty"),
    "a.json": ("[1,", "a.json, line 1: not JSON (Expecting value)"),
    "b.json": ('{"prompt": "w1"}', "b.json must be a list of prompts, got dict"),
    "c.json": ('[{"chosen": 1}]', "c.json, prompt 1 has neither `prompt` nor `messages`, nor `chosen` with"),
    "a.csv": ("prompt\nw1\n", "a.csv must be a .jsonl, .json or .txt file (or one packed as .gz), or a data"),
    "a.txt": ("\n\n", "a.txt is empty"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_is_named(tmp_path, name):
    text, words = BROKEN[name]
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=re.escape(words)):
        load_prompts(tmp_path / name)


def test_a_data_set_needs_datasets_and_a_file_does_not(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    (tmp_path / "prompts.txt").write_text("w1 w2\n")
    assert load_prompts(tmp_path / "prompts.txt") == ["w1 w2"]
    words = "^prompts: .* is no file of prompts, and a data set needs datasets: pip install datasets$"
    with pytest.raises(ImportError, match=words):
        load_prompts(tmp_path)


def test_what_is_not_there(tmp_path):
    with pytest.raises(ValueError, match=r"prompts: the file .*nowhere.jsonl does not exist"):
        load_prompts(tmp_path / "nowhere.jsonl")
    with pytest.raises(ValueError, match="prompts: nobody/nothing is neither a file nor a data set that can be read: "):
        load_prompts("nobody/nothing")
    (tmp_path / "a.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match=r"a.txt is not text in UTF-8"):
        load_prompts(tmp_path / "a.txt")
    Dataset.from_list([{"chosen": "w1"}]).save_to_disk(tmp_path / "set")
    with pytest.raises(
        ValueError, match="set has neither `prompt` nor `messages`, nor `chosen` with `rejected`; its columns are 'c"
    ):
        load_prompts(tmp_path / "set")
