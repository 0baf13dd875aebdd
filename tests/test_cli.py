"""cli.py: `spinal show`, its exit codes and what it prints where."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
from test_records import alert, header, reading, write

from spinal_callback import __version__
from spinal_callback.cli import main

CALM = (header(), reading(0), reading(10, score=math.nan))


def run_folder(tmp_path, *records):
    write(tmp_path, *records, name="_spinal/trace.jsonl")
    return str(tmp_path)


def test_show_prints_readings_table_and_picture(tmp_path, capsys):
    assert main(["show", run_folder(tmp_path, *CALM)]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert out.count("spinal  step ") == 2
    assert "late mean" in out and "contraction alpha" in out
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


def test_json_is_one_object_without_nan(tmp_path, capsys):
    assert main(["show", run_folder(tmp_path, *CALM), "--json"]) == 0
    out = capsys.readouterr().out
    data = json.loads(out, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert set(data) == {"header", "readings", "alerts"}
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


def test_no_trace_there(tmp_path, capsys):
    assert main(["show", str(tmp_path / "nowhere")]) == 2
    assert "nowhere" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [[], ["show"], ["dance"], ["show", "a", "b"], ["show", "a", "--yaml"]])
def test_wrong_use_makes_the_exit_code_2(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert "usage: spinal" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["--help"], ["show", "--help"], ["--version"]])
def test_asking_is_no_wrong_use(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 0
    out = capsys.readouterr().out
    assert "trace" in out or out.strip() == __version__


def test_the_installed_command_gives_the_same_exit_code(tmp_path):
    spinal = Path(sys.executable).parent / "spinal"
    folder = run_folder(tmp_path, *CALM, alert(10))
    done = subprocess.run([spinal, "show", folder, "--json"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 1, done.stderr
    assert len(json.loads(done.stdout)["alerts"]) == 1
