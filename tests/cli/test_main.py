"""cli.py: `spinal show`, its exit codes and what it prints where."""

import gzip
import json
import math
import subprocess
import sys
from pathlib import Path

import made_up
import pytest
from builders import alert, header, reading, write

from spinal_callback import __version__
from spinal_callback.cli.main import main

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


# --- replay and calibrate

HOT = (header(), *made_up.run(5, transport=lambda step: 0.002 * step))


def test_replay_judges_a_saved_trace(tmp_path, capsys):
    folder = run_folder(tmp_path, *HOT)
    assert main(["replay", folder]) == 1
    out, err = capsys.readouterr()
    assert "WARN transport_rise: late transport has risen" in out and err == ""
    assert out.splitlines()[-1] == f"{len(out.splitlines()) - 1} alerts in 21 readings, steps 0 to 100"
    assert main(["replay", folder, "--json"]) == 1
    rows = json.loads(capsys.readouterr().out)
    assert {row["rule"] for row in rows} >= {"transport_rise"} and all(row["kind"] == "alert" for row in rows)


def test_replay_of_a_calm_run_is_silent(tmp_path, capsys):
    assert main(["replay", run_folder(tmp_path, header(), *made_up.run())]) == 0
    assert capsys.readouterr().out == "0 alerts in 21 readings, steps 0 to 100\n"
    assert main(["replay", str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == []


def test_replay_takes_a_packed_trace(tmp_path, capsys):
    path = write(tmp_path, *HOT)
    packed = tmp_path / "trace.jsonl.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    assert main(["replay", str(packed)]) == main(["replay", str(path)]) == 1


def test_calibrated_limits_silence_the_runs_they_were_fitted_to(tmp_path, capsys):
    folder, rules = run_folder(tmp_path, *HOT), str(tmp_path / "rules.json")
    assert main(["calibrate", folder, "-o", rules]) == 0
    out = capsys.readouterr().out
    assert "transport_rise" in out and f'SpinalCallback(rules="{rules}")' in out
    assert main(["replay", folder, "--rules", rules]) == 0


def test_calibrate_keeps_a_file_that_is_there(tmp_path, capsys):
    folder, rules = run_folder(tmp_path, *HOT), tmp_path / "rules.json"
    rules.write_text("mine")
    assert main(["calibrate", folder, "-o", str(rules)]) == 2
    assert "is there already: give another -o, or --force to replace it" in capsys.readouterr().err
    assert rules.read_text() == "mine"
    assert main(["calibrate", folder, "-o", str(rules), "--force"]) == 0
    assert rules.read_text() != "mine"


WRONG = {
    "no start": ((header(), *made_up.run()[1:]), "the trace begins at step 5: the rules need the reading of step 0"),
    "empty": ((header(),), "the trace has no readings"),
    "out of order": ((header(), reading(0), reading(10), reading(5)), "line 4: step 5 comes after step 10"),
    "mixed": ((header(), reading(0), header(model="other"), reading(5)), "line 3: a second header: two traces in one"),
    "torn": ((header(), '{"kind": "rea', reading(0)), "line 2: "),
}


@pytest.mark.parametrize("command", ["replay", "calibrate"])
@pytest.mark.parametrize("name", WRONG)
def test_a_trace_that_cannot_be_judged_is_one_line_and_exit_code_2(tmp_path, capsys, monkeypatch, name, command):
    records, words = WRONG[name]
    monkeypatch.chdir(tmp_path)
    path = write(tmp_path, *records)
    assert main([command, str(path)]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1
    assert err.startswith(f"spinal {command}: {path}") and words in err
    assert not (tmp_path / "rules.json").exists()


def test_a_packed_trace_that_was_cut_off(tmp_path, capsys):
    packed = tmp_path / "trace.jsonl.gz"
    packed.write_bytes(gzip.compress(b"x" * 1000)[:-9])
    assert main(["replay", str(packed)]) == 2
    assert f"{packed}: the packed file is cut off" in capsys.readouterr().err


def test_a_bad_rules_file_is_refused(tmp_path, capsys):
    (tmp_path / "rules.json").write_text('{"rules": {"speed": {}}}')
    assert main(["replay", run_folder(tmp_path, *HOT), "--rules", str(tmp_path / "rules.json")]) == 2
    assert "unknown rule 'speed'" in capsys.readouterr().err
