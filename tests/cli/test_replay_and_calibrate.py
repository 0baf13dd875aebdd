"""`spinal replay` and `spinal calibrate`: the alert rules over saved traces, and their limits."""

import gzip
import json

import made_up
import pytest
from builders import alert, header, reading, write

from spinal_callback.cli.main import main
from spinal_callback.records import dump_record


def run_folder(tmp_path, *records):
    write(tmp_path, *records, name="_spinal/trace.jsonl")
    return str(tmp_path)


HOT = (header(), *made_up.run(5, transport=lambda step: 0.004 * step))


def test_replay_judges_a_saved_trace(tmp_path, capsys):
    folder = run_folder(tmp_path, *HOT)
    assert main(["replay", folder]) == 1
    out, err = capsys.readouterr()
    assert "WARN transport_rise: late transport rises" in out and err == ""
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
    runs, rules = made_up.healthy_runs(tmp_path, every=5, transport=lambda step: 0.004 * step), tmp_path / "rules.json"
    assert main(["replay", runs[0]]) == 1
    assert main(["calibrate", *runs, "-o", str(rules)]) == 0
    out = capsys.readouterr().out
    assert "transport_rise" in out and f'SpinalCallback(rules="{rules}")' in out
    assert main(["replay", runs[0], "--rules", str(rules)]) == 0


def test_a_limit_that_has_become_much_looser_is_said(tmp_path, capsys):
    hot = made_up.healthy_runs(tmp_path / "hot", transport=lambda step: 0.02 * min(step, 20))
    assert main(["calibrate", *hot, "-o", str(tmp_path / "hot.json")]) == 0
    printed = capsys.readouterr().out
    assert "late_speed now warns at 5.5 times its default limit, since your runs reach that" in printed
    assert "never an error  of its start in 100 steps" in printed
    calm = made_up.healthy_runs(tmp_path / "calm")
    assert main(["calibrate", *calm, "-o", str(tmp_path / "calm.json")]) == 0
    assert "times its default" not in capsys.readouterr().out


def test_runs_with_alerts_and_too_few_runs_are_not_calibrated_with(tmp_path, capsys):
    runs, rules = made_up.healthy_runs(tmp_path), tmp_path / "rules.json"
    assert main(["calibrate", *runs[:4], "-o", str(rules)]) == 2
    assert "give at least 5 traces" in capsys.readouterr().err
    with open(f"{runs[1]}/_spinal/trace.jsonl", "a") as trace:
        trace.write(dump_record(alert(100)) + "\n")
    assert main(["calibrate", *runs, "-o", str(rules)]) == 2
    assert f"spinal calibrate: {runs[1]} has 1 alerts, the first nonfinite at step 100" in capsys.readouterr().err
    assert not rules.exists()
    assert main(["calibrate", *runs, "-o", str(rules), "--alerts-were-false"]) == 0
    assert rules.exists()


WRONG = {
    "no start": ((header(), *made_up.run()[1:]), "the trace begins at step 5: the rules need the reading of step 0"),
    "empty": ((header(),), "has no readings yet"),
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
    others = made_up.healthy_runs(tmp_path) if command == "calibrate" else []
    assert main([command, *others, str(path)]) == 2
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
