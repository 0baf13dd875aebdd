"""`spinal show`: what it prints where, and its exit codes."""

import json
import math
import warnings

import pytest
from builders import alert, header, notice, reading, write

from spinal_callback.cli.main import main
from spinal_callback.report.text import lines

CALM = (header(), reading(0), reading(10, score=math.nan))


def run_folder(tmp_path, *records):
    write(tmp_path, *records, name="_spinal/trace.jsonl")
    return str(tmp_path)


def test_show_prints_readings_table_and_picture(tmp_path, capsys):
    assert main(["show", run_folder(tmp_path, *CALM)]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert out.startswith(lines(CALM[0], CALM[1:]))
    assert "late mean" in out and "Contraction (alpha)" in out
    assert "nan" not in out and "ERROR" not in out


def test_show_takes_the_file_itself(tmp_path, capsys):
    folder = run_folder(tmp_path, *CALM)
    main(["show", folder])
    want = capsys.readouterr().out
    assert main(["show", f"{folder}/_spinal/trace.jsonl"]) == 0
    assert capsys.readouterr().out == want


@pytest.mark.parametrize("form", [[], ["--json"]])
def test_alerts_are_shown_and_make_the_exit_code_1(tmp_path, capsys, form):
    assert main(["show", run_folder(tmp_path, *CALM, alert(10)), *form]) == 1
    out, err = capsys.readouterr()
    assert "7 are NaN" in out and err == ""


@pytest.mark.parametrize("form", [[], ["--json"]])
def test_notices_are_shown_and_leave_the_exit_code_0(tmp_path, capsys, form):
    assert main(["show", run_folder(tmp_path, *CALM, notice(10)), *form]) == 0
    out, err = capsys.readouterr()
    assert "out of memory at step 10" in out and err == ""


def test_json_is_one_object_without_nan(tmp_path, capsys):
    assert main(["show", run_folder(tmp_path, *CALM), "--json"]) == 0
    out = capsys.readouterr().out
    data = json.loads(out, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert set(data) == {"header", "readings", "alerts", "notices"}
    assert [r["step"] for r in data["readings"]] == [0, 10]
    assert data["readings"][1]["score"] is None and data["alerts"] == []
    assert data["header"]["model"] == "made-up"


BROKEN = {
    "no readings": ([header()], "has no readings yet"),
    "no header": ([reading(0)], "line 1: a trace begins with its header"),
    "torn": ([header(), '{"kind": "rea', reading(0)], "line 2: "),
}


@pytest.mark.parametrize("form", [[], ["--json"]])
@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_trace_is_named_and_makes_the_exit_code_2(tmp_path, capsys, name, form):
    records, words = BROKEN[name]
    folder = run_folder(tmp_path, *records)
    assert main(["show", folder, *form]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"spinal show: {folder}") and words in err
    assert err.count("\n") == 1  # a sentence, not a traceback


def test_no_trace_there_is_one_line(tmp_path, capsys):
    nowhere = tmp_path / "nowhere"
    assert main(["show", str(nowhere)]) == 2
    out, err = capsys.readouterr()
    words = f"no trace at {nowhere}: give a trace.jsonl or the output folder of a run"
    assert (out, err) == ("", f"spinal show: {words}\n")


def test_a_torn_last_line_is_a_line_on_stderr_whatever_warnings_are(tmp_path, capsys):
    folder = run_folder(tmp_path, *CALM, '{"kind": "rea')
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # as PYTHONWARNINGS=error does
        assert main(["show", folder]) == 0
    out, err = capsys.readouterr()
    assert out.startswith(lines(CALM[0], CALM[1:]))
    assert err == f"spinal show: {folder}/_spinal/trace.jsonl: skipped the torn last line 4\n"


def test_a_trace_cannot_steer_the_terminal(tmp_path, capsys):
    """Window title, clear screen, carriage return, the C1 form of escape, text from right to left."""
    attack = "\x1b]0;title\x07\x1b[2J\r\x9b2J\u202egnp.exe"
    hot = alert(10, message=attack, action="stop")
    assert main(["show", run_folder(tmp_path, *CALM, hot)]) == 1
    out = capsys.readouterr().out
    assert r"\x1b]0;title\x07\x1b[2J\r\x9b2J\u202egnp.exe" in out
    assert not set(out) & set("\x1b\x07\r\x9b\u202e")
