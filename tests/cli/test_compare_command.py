"""`spinal compare`: two checkpoints or two traces; exit codes 0 negligible, 1 changed, 2 wrong use, 3 cannot say."""

import json
import math
import re
import subprocess
import sys

import pytest
import saved
from builders import header, reading, write

from spinal_callback.cli.main import main

NAN = math.nan
MOVED = {"alpha": [NAN, 0.7, 0.8, 2.9], "late": {"alpha": 1.85, "transport": 1.35}}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return saved.models(tmp_path_factory.mktemp("models"))


def test_two_checkpoints(place, capsys):
    arguments = ["--prompts", str(place / "prompts.jsonl")]
    assert main(["compare", str(place / "base"), str(place / "new"), *arguments]) == 1
    out = capsys.readouterr().out
    assert "significant change in" in out and " *" in out
    assert "verdict: changed: " in out and re.search(r"displacement \(rad\) +\+0\.\d+ .* changed$", out, re.MULTILINE)
    assert main(["compare", str(place / "base"), str(place / "base"), *arguments, "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["different"] is False and data["displacement"] == 0 and data["changes"]["layers"] == []
    assert data["verdict"] == "negligible" and {e["verdict"] for e in data["effects"]} == {"negligible"}
    assert [e["name"] for e in data["effects"]] == ["contraction", "transport", "displacement"]
    assert data["changes"]["transport"][0]["p"] is None  # no step ends at layer 1


def test_what_matters_decides_the_verdict_and_the_exit_code(place, capsys):
    """The same two checkpoints: changed, negligible, and so near the bound that these prompts cannot say."""
    arguments = [
        "compare",
        str(place / "base"),
        str(place / "new"),
        "--prompts",
        str(place / "prompts.jsonl"),
        "--json",
    ]
    main(arguments)
    found = {e["name"]: e for e in json.loads(capsys.readouterr().out)["effects"]}
    huge = "contraction=9,transport=9"
    just = found["displacement"]["change"] + 0.5 * found["displacement"]["se"]
    for bound, code, verdict in ((3, 0, "negligible"), (just, 3, "insufficient evidence"), (0.01, 1, "changed")):
        assert main([*arguments, "--at-least", f"{huge},displacement={bound}"]) == code
        data = json.loads(capsys.readouterr().out)
        assert data["verdict"] == verdict and data["effects"][2]["at_least"] == bound
        assert (data["prompts_needed"] or 0) % 40 == 0 and bool(data["prompts_needed"]) == (code == 3)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("entropy=1", "at_least: there is no 'entropy', the changes are contraction, transport, displacement"),
        ("transport=-1", "at_least: transport must be a number > 0, got -1.0"),
    ],
)
def test_a_bound_that_is_none_is_one_line(tmp_path, capsys, text, words):
    assert main(["compare", "a.jsonl", "b.jsonl", "--at-least", text]) == 2
    assert capsys.readouterr().err == f"spinal compare: {words}\n"


def test_a_bound_that_is_no_number(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["compare", "a", "b", "--at-least", "0.1"])
    assert stopped.value.code == 2 and "argument --at-least: invalid at_least value: '0.1'" in capsys.readouterr().err


# --- traces


def trace(folder, name, *records, **fields):
    return str(write(folder, header(**fields), reading(0), *records, name=name))


def test_two_traces(tmp_path, capsys):
    a, b = trace(tmp_path, "a.jsonl", reading(10)), trace(tmp_path, "b.jsonl", reading(10, **MOVED))
    assert main(["compare", a, b]) == 1
    assert "with the errors that traces hold" in capsys.readouterr().out
    assert main(["compare", a, a, "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["different"] is False and data["changes"]["paired"] is False and data["displacement"] is None
    assert [e["name"] for e in data["effects"]] == ["contraction", "transport"] and data["verdict"] == "negligible"


def test_two_traces_of_other_starts_have_no_verdict(tmp_path, capsys):
    a = trace(tmp_path, "a.jsonl", reading(10))
    b = str(write(tmp_path, header(), reading(0, alpha=[NAN, 1, 1, 1]), reading(10), name="b.jsonl"))
    assert main(["compare", a, b]) == 3
    assert "there is no error of the change; compare the checkpoints instead" in capsys.readouterr().out


def test_two_traces_are_compared_without_torch(tmp_path):
    a, b = trace(tmp_path, "a.jsonl", reading(10)), trace(tmp_path, "b.jsonl", reading(10, **MOVED))
    code = f"""
import sys
from spinal_callback.cli.main import main
assert main(["compare", {a!r}, {b!r}]) == 1
print(sorted({{"torch", "transformers", "scipy"}} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "['scipy']"


def settings(**fields):
    return {"config": header().config | fields}


OTHER = {
    "depth": ({"layers": 5}, "a.jsonl has 4 layers and", "b.jsonl has 5: only equal depths can be compared"),
    "prompts": (
        {"probe": "cd" * 32},
        "differ in prompts (hash) ('abababababab' and 'cdcdcdcdcdcd')",
        "compare the checkpoints instead",
    ),
    "number": ({"prompts": 48, "probe": "cd" * 32}, "differ in num_prompts (24 and 48): compare the checkpoints"),
    "group": (settings(group=12), "differ in group (24 and 12): compare the checkpoints instead"),
    "window": ({"window": (2, 4)}, "have the late windows (3, 4) and (2, 4)", "they must be equal"),
    "position": (settings(position="response"), "differ in position ('last' and 'response')"),
    "tail": (settings(tail=[0.2, 0.9]), "differ in tail ((0.1, 0.9) and (0.2, 0.9))"),
    "top_k": (settings(top_k=10), "differ in top_k (None and 10)"),
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
    assert all(word in err for word in words)


def test_a_group_as_large_as_the_prompts_are_many_is_the_one_fit_of_earlier_traces(tmp_path):
    a = trace(tmp_path, "a.jsonl", reading(10))
    b = trace(tmp_path, "b.jsonl", reading(10), **settings(group=64))
    assert main(["compare", a, b]) == 0


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
    assert "a.jsonl is a saved trace, the other is not: give two checkpoints or two traces" in capsys.readouterr().err


def test_checkpoints_that_are_none(tmp_path, place, capsys):
    assert main(["compare", str(place / "base"), str(tmp_path)]) == 2
    err = [line for line in capsys.readouterr().err.splitlines() if line.startswith("spinal")]
    assert len(err) == 1 and "holds no model" in err[0]
