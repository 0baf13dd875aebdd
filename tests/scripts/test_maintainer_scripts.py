"""What the small scripts find: faults in the shipped data, and the turns of an HH conversation."""

import json
import sys

import pytest
from paths import ROOT

for folder in ("recipes", "scripts"):
    sys.path.insert(0, str(ROOT / folder))

import check_data  # noqa: E402
import reproduce_paper  # noqa: E402


def pair(prompt="How do I boil an egg?", chosen="For eight minutes.", rejected="No idea.", topic="food"):
    said = {"prompt": ("user", prompt), "chosen": ("assistant", chosen), "rejected": ("assistant", rejected)}
    return {"topic": topic, **{key: [{"role": role, "content": text}] for key, (role, text) in said.items()}}


@pytest.fixture
def shipped(tmp_path, monkeypatch):
    """Replaces the shipped files by rows of the test's own; returns what writes them."""
    monkeypatch.setattr(check_data, "ROOT", tmp_path)
    monkeypatch.setattr(check_data, "LEAST", {check_data.PAIRS: 2, check_data.PROBES: 1})

    def write(pairs, probes):
        for name, rows in ((check_data.PAIRS, pairs), (check_data.PROBES, probes)):
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows))

    return write


PROBE = {"topic": "sky", "prompt": [{"role": "user", "content": "Why is the sky blue at noon?"}]}
GOOD = [pair(), pair("Which tree grows fastest here?", "A poplar.", "Trees do not grow.")]


def test_good_data_have_no_faults(shipped, capsys):
    shipped(GOOD, [PROBE])
    assert check_data.main() == 0 and capsys.readouterr().out.endswith("no faults\n")


@pytest.mark.parametrize(
    ("pairs", "words"),
    [
        (GOOD[:1], "1 rows, at least 2 are wanted"),
        ([GOOD[0], {**GOOD[1], "topic": ""}], ":2: no topic or an empty text"),
        ([GOOD[0], pair("Which tree grows fastest here?", " ")], ":2: no topic or an empty text"),
        ([GOOD[0], pair("Which tree grows fastest here?", "A poplar, you Idiot!")], ":2: idiot"),
        ([GOOD[0], pair("How do I boil an egg now?", "Hot.", "Cold.")], "alike: 'How do I boil an egg now?'"),
        ([GOOD[0], pair("Which tree grows fastest here?", rejected="Some.")], "chosen twice: 'For eight minutes.'"),
    ],
)
def test_a_fault_is_found_and_named(shipped, capsys, pairs, words):
    shipped(pairs, [PROBE])
    assert check_data.main() == 1 and words in capsys.readouterr().out


def test_an_hh_conversation_becomes_messages_without_its_last_answer():
    text = "\n\nHuman: Hi: all well?\n\nAssistant: Yes.\n\nHuman: Good.\nVery.\n\nAssistant: The answer"
    assert reproduce_paper.messages(text) == [
        {"role": "user", "content": "Hi: all well?"},
        {"role": "assistant", "content": "Yes."},
        {"role": "user", "content": "Good.\nVery."},
    ]


def test_the_projects_own_prompts_are_taken_where_none_are_given():
    rows = reproduce_paper.prompts_of(None, 70)
    assert len(rows) == 70 and all(row[-1]["role"] == "user" for row in rows)
