"""comparing.py and `spinal compare`: two checkpoints, two traces; exit codes 0 the same, 1 different, 2 wrong use."""

import json
import math

import pytest
import saved
from builders import header, reading, write

from spinal_callback import compare, load_trace
from spinal_callback.cli.main import main

NAN = math.nan
MOVED = {"alpha": [NAN, 0.7, 0.8, 2.9], "late": {"alpha": 1.85, "transport": 1.35}}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    saved.policy(folder / "base")
    saved.policy(folder / "new", saved.aligned())
    saved.prompts_file(folder / "prompts.jsonl")
    return folder


def test_two_checkpoints(place):
    found = compare(place / "base", place / "new", place / "prompts.jsonl")
    assert (found.a, found.b, found.different) == ("base", "new", True)
    assert found.changes.paired and set(found.changes.layers) <= {7, 8, 9} and found.displacement > 0
    assert len(found.to_pandas()) == 9 and str(found).startswith("before: base\nafter:  new\n")
    back = compare(place / "new", place / "base", place / "prompts.jsonl")
    assert [c.change for c in back.changes.alpha] == [-c.change for c in found.changes.alpha]


def test_the_command_on_checkpoints(place, capsys):
    arguments = ["--prompts", str(place / "prompts.jsonl")]
    assert main(["compare", str(place / "base"), str(place / "new"), *arguments]) == 1
    out = capsys.readouterr().out
    assert "different: significant change in" in out and "moved by" in out and " *" in out
    assert main(["compare", str(place / "base"), str(place / "base"), *arguments, "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["different"] is False and data["displacement"] == 0 and data["changes"]["layers"] == []
    assert data["changes"]["transport"][0]["p"] is None  # no step ends at layer 1


# --- traces


def trace(folder, name, *records, **fields):
    return str(write(folder, header(**fields), reading(0), *records, name=name))


def test_two_traces(tmp_path, capsys):
    a, b = trace(tmp_path, "a.jsonl", reading(10)), trace(tmp_path, "b.jsonl", reading(10, **MOVED))
    assert main(["compare", a, b]) == 1
    assert "by the errors that traces have" in capsys.readouterr().out
    assert main(["compare", a, a, "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["different"] is False and data["changes"]["paired"] is False and data["displacement"] is None
    found = compare(load_trace(a), load_trace(b))
    assert found.changes.layers == [4] and (found.a, found.b) == ("made-up", "made-up")


def test_a_runs_folder_without_a_model_is_its_trace(tmp_path):
    write(tmp_path, header(), reading(0), reading(10), name="run/_spinal/trace.jsonl")
    b = trace(tmp_path, "b.jsonl", reading(10, **MOVED))
    assert compare(tmp_path / "run", b).different


OTHER = {
    "depth": ({"layers": 5}, "b.jsonl has 5 layers", "only one depth can be compared"),
    "prompts": ({"probe": "cd" * 32}, "were read with different prompts", "compare the checkpoints themselves"),
    "window": ({"window": (2, 4)}, "have the late windows (3, 4) and (2, 4)", "they must be the same"),
    "position": (
        {"config": header().config | {"position": "response"}},
        "differ in position ('last' and",
        "'response'",
    ),
}


@pytest.mark.parametrize("name", OTHER)
def test_traces_that_cannot_be_compared(tmp_path, capsys, name):
    fields, *words = OTHER[name]
    layers = fields.get("layers", 4)
    a = trace(tmp_path, "a.jsonl", reading(10))
    b = str(write(tmp_path, header(**fields), reading(0, layers=layers), name="b.jsonl"))
    assert main(["compare", a, b]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("spinal compare: ") and err.count("\n") == 1
    assert all(word in err for word in words) or (name == "depth" and "b.jsonl 5: only one depth" in err)


BROKEN = {
    "missing": (None, "no trace at"),
    "empty": ("", "a trace begins with its header"),
    "foreign": ('{"kind": "cake"}\n', "not a record of a trace"),
    "torn": ('{"kind": "hea', "line 1: "),
    "no readings": (header(), "has no readings yet"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_trace_is_one_line(tmp_path, capsys, name):
    text, words = BROKEN[name]
    a, b = trace(tmp_path, "a.jsonl", reading(10)), tmp_path / "b.jsonl"
    if text is not None:
        write(tmp_path, text, name="b.jsonl") if text else b.write_text("")
    assert main(["compare", a, str(b)]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("spinal compare: ") and words in err and err.count("\n") == 1


def test_a_trace_and_a_checkpoint(tmp_path, place, capsys):
    a = trace(tmp_path, "a.jsonl", reading(10))
    assert main(["compare", a, str(place / "base")]) == 2
    assert "a.jsonl is a saved trace and the other is not: compare two checkpoints, or two" in capsys.readouterr().err


def test_checkpoints_that_are_none(tmp_path, place, capsys):
    assert main(["compare", str(place / "base"), str(tmp_path)]) == 2
    err = [line for line in capsys.readouterr().err.splitlines() if line.startswith("spinal")]
    assert len(err) == 1 and "is a folder without a model" in err[0]
