"""`spinal report`: the page it writes, and what it says of a trace or an output that it cannot use."""

import gzip
import json
import re

import pytest
from builders import alert, header, reading, write

from spinal_callback import load_trace
from spinal_callback.cli.main import main
from spinal_callback.report.page import page


def names_of_runs(path):
    (data,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', path.read_text(), re.DOTALL)
    return [run["name"] for run in json.loads(data)["runs"]]


def run_report(capsys, *arguments):
    code = main(["report", *map(str, arguments)])
    return code, *capsys.readouterr()


def test_the_command_writes_the_page(tmp_path, capsys):
    write(tmp_path, header(), reading(0), reading(5), alert(5), name="mine/_spinal/trace.jsonl")
    code, out, err = run_report(capsys, tmp_path / "mine", "-o", tmp_path / "report.html")
    assert (code, err) == (0, "")  # the page is there: that it tells of an alert is no failure
    assert re.fullmatch(rf"written to {tmp_path}/report.html \(\d+ kB\): open it in a browser\n", out)
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert text == page({"mine": load_trace(tmp_path / "mine").to_json()})
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["report.html"]


def test_several_traces_are_laid_over_one_another(tmp_path, capsys):
    a, b = (write(tmp_path, header(), reading(0), name=f"{name}.jsonl") for name in "ab")
    packed = tmp_path / "c.jsonl.gz"
    packed.write_bytes(gzip.compress(a.read_bytes()))
    assert run_report(capsys, a, b, packed, "-o", tmp_path / "r.html")[0] == 0
    assert names_of_runs(tmp_path / "r.html") == ["a", "b", "c"]


def test_a_torn_last_line_is_left_out_and_said(tmp_path, capsys):
    path = write(tmp_path, header(), reading(0), '{"kind": "rea')
    code, _, err = run_report(capsys, path, "-o", tmp_path / "r.html")
    assert code == 0 and err == f"spinal report: {path}: skipped the torn last line 3\n"


LINES = {
    "empty": ([], "a trace begins with its header"),
    "no readings": ([header()], "has no readings yet: wait for the run's first probe"),
    "torn": ([header(), '{"kind": "rea', reading(0)], "line 2: "),
    "foreign": (['{"loss": 0.5}'], "line 1: not a record of a trace"),
    "short": ([header(), reading(0), reading(5, layers=3)], "line 3: alpha must have 4 values for 4 layers, got 3"),
    "words": ([header(), reading(0, alpha=["a"] * 4)], "line 2: alpha[0] must be a number up to 1e+100 or null"),
    "word": ([header(), reading(0, score="high")], "line 2: score must be a number up to 1e+100 or null"),
    "no list": ([header(), reading(0, transport=3.0)], "line 2: transport must be a list, got 3.0"),
    "odd": ([header(), reading(0, late=[1, 2])], "line 2: late must be an object, got a list"),
}


@pytest.mark.parametrize("name", LINES)
def test_a_trace_that_cannot_be_drawn_is_one_line_and_leaves_nothing(tmp_path, capsys, name):
    lines, words = LINES[name]
    path = write(tmp_path, *lines)
    code, out, err = run_report(capsys, path, "-o", tmp_path / "r.html")
    assert (code, out) == (2, "") and err.count("\n") == 1
    assert err.startswith(f"spinal report: {path}") and words in err
    assert list(tmp_path.iterdir()) == [path]


def test_no_trace_there(tmp_path, capsys):
    for path in (tmp_path, tmp_path / "nothing.jsonl"):
        code, out, err = run_report(capsys, path, "-o", tmp_path / "r.html")
        assert (code, out) == (2, "") and err.count("\n") == 1
        assert f"no trace at {path}" in err and "give a trace.jsonl or the output folder of a run" in err


@pytest.mark.parametrize("damage", [lambda b: b[:-9], lambda b: b[:30] + b"\0\0\0\0" + b[34:], lambda b: b"not gzip"])
def test_a_packed_trace_that_is_damaged(tmp_path, capsys, damage):
    path = tmp_path / "x.jsonl.gz"
    path.write_bytes(damage(gzip.compress(write(tmp_path, header(), reading(0)).read_bytes())))
    code, _, err = run_report(capsys, path, "-o", tmp_path / "r.html")
    assert code == 2 and err.count("\n") == 1 and str(path) in err


def test_two_depths_are_refused(tmp_path, capsys):
    a = write(tmp_path, header(), reading(0), name="a.jsonl")
    b = write(tmp_path, header(5), reading(0, layers=5), name="b.jsonl")
    code, _, err = run_report(capsys, a, b, "-o", tmp_path / "r.html")
    assert code == 2 and not (tmp_path / "r.html").exists()
    assert err.startswith("spinal report: b has 5 layers and a 4: ") and err.count("\n") == 1
