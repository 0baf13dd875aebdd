"""`spinal audit`: what it prints and writes, its exit codes, wrong use."""

import inspect
import json
import re

import pytest
import saved

from spinal_callback import audit, load_trace
from spinal_callback.alerts.calibration import dump_rules
from spinal_callback.alerts.rules import RULES, Limit
from spinal_callback.auditing.settings import USED
from spinal_callback.cli.main import main
from spinal_callback.report.page import verdict
from spinal_callback.report.text import alert_line


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return saved.models(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def pair(place):
    return saved.read(place, "new", "base")


def test_the_command_prints_a_table_and_writes_a_trace(place, pair, tmp_path, capsys):
    output = tmp_path / "audit.jsonl"
    arguments = ["audit", str(place / "new"), "--base", str(place / "base"), "--prompts", str(place / "prompts.jsonl")]
    assert main([*arguments, "-o", str(output)]) == 1
    out = capsys.readouterr().out
    assert str(pair) in out and f"next     spinal report {output}" in out
    assert "SPINAL score" in out and "delta_align" in out and "coherence" in out and "significant change in" in out
    trace = load_trace(output)
    assert trace.header.checkpoints == ["base", "new"] and trace.header.probe == pair.trace.header.probe
    assert [r.alpha for r in trace.readings] == [r.alpha for r in pair.readings]
    assert main(["report", str(output), "-o", str(tmp_path / "r.html")]) == 0
    assert verdict(trace.to_json()) == ("early", "Audit", "What was read, in order: base, new.")
    assert "What was read, in order: base, new." in (tmp_path / "r.html").read_text()
    kept = output.read_text()
    assert main([*arguments, "-o", str(output)]) == 2
    assert "already exists; choose another -o or use --force" in capsys.readouterr().err
    assert output.read_text() == kept
    assert "verdict: changed: " in out
    much = "contraction=9,transport=9,displacement=3"
    assert main([*arguments, "-o", str(output), "--force", "--json", "--at-least", much]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["verdict"] == data["effects"][0]["verdict"] == "negligible"
    assert data["names"] == ["base", "new"] and data["changes"][0]["layers"] == pair.changes[0].layers


def broken_run(folder):
    """Checkpoints that are healthy, then broken, then back: made, not trained."""
    for step, size in ((10, 0.002), (20, 0.15), (30, 0.3), (40, 0.001)):
        saved.policy(folder / f"checkpoint-{step}", saved.aligned(size=size))
    return folder


def test_a_run_that_breaks_has_alerts_and_a_turning_point(place, tmp_path, capsys):
    run = broken_run(tmp_path / "broken")
    output = tmp_path / "out.jsonl"
    arguments = ["audit", str(run), "--base", str(place / "base"), "--prompts", str(place / "prompts.jsonl")]
    assert main([*arguments, "-o", str(output)]) == 1
    out = capsys.readouterr().out
    trace = load_trace(output)
    assert [r.step for r in trace.readings] == [0, 10, 20, 30, 40] and trace.alerts
    assert all(alert_line(alert) in out for alert in trace.alerts)
    assert trace.alerts[0].last_good == "checkpoint-10" and "go back to checkpoint-10" in trace.alerts[0].action
    (turn, *_) = re.findall(r"late_\w+ turned at step (\d+) \(between (\d+) and (\d+)\)", out)
    assert turn == ("30", "20", "40")
    assert main(["report", str(output), "-o", str(tmp_path / "r.html")]) == 0
    rules = tmp_path / "rules.json"
    rules.write_text(dump_rules({name: Limit(1e6, 2e6) for name, rule in RULES.items() if not rule.at_once}))
    assert main([*arguments, "-o", str(tmp_path / "calm.jsonl"), "--rules", str(rules)]) == 0
    assert load_trace(tmp_path / "calm.jsonl").alerts == []


# --- flags

FLAGS = {  # a flag, its text, and what `audit` gets
    "prompts": ("p.jsonl", "p.jsonl"),
    "base": ("other", "other"),
    "adapter": ("lora", "lora"),
    "at_least": ("contraction=0.1, displacement=2", {"contraction": 0.1, "displacement": 2.0}),
    "device_map": ("cpu", "cpu"),
    "pairs": ("pairs.jsonl", "pairs.jsonl"),
    "num_pairs": ("8", 8),
    "beta": ("0.05", 0.05),
    "preset": ("paper", "paper"),
    "num_prompts": ("128", 128),
    "max_prompt_tokens": ("32", 32),
    "position": ("response", "response"),
    "window": ("21-30", (21, 30)),
    "tail": ("0.2,0.8", (0.2, 0.8)),
    "group": ("32", 32),
    "layer_entropy": (None, True),
    "top_k": ("50", 50),
    "rules": ("rules.json", "rules.json"),
    "seed": ("7", 7),
}


def called(monkeypatch, *arguments):
    """What `spinal audit MODEL` with these arguments calls `audit` with."""
    calls = []

    def stop(model, base=None, **fields):
        calls.append({"base": base, **fields})
        raise ValueError("far enough")

    monkeypatch.setattr("spinal_callback.auditing.audit.audit", stop)
    assert main(["audit", "model", *arguments]) == 2
    return calls[0]


@pytest.mark.parametrize("name", FLAGS)
def test_a_flag_reaches_the_function(monkeypatch, tmp_path, name):
    monkeypatch.chdir(tmp_path)
    text, value = FLAGS[name]
    assert called(monkeypatch, f"--{name.replace('_', '-')}", *filter(None, [text]))[name] == value


def test_a_flag_that_is_not_given_leaves_the_functions_default(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert not {*USED, "preset"} & set(called(monkeypatch))
    assert called(monkeypatch, "--group", "all")["group"] is None
    assert called(monkeypatch, "--no-layer-entropy")["layer_entropy"] is False
    assert called(monkeypatch, "--window", "1/4")["window"] == called(monkeypatch, "--window", "0.25")["window"] == 0.25


def test_every_argument_of_the_function_has_a_flag():
    arguments = set(inspect.signature(audit).parameters) - {"model", "config", "fields"} | set(USED)
    assert arguments == set(FLAGS)


@pytest.mark.parametrize("text", ["late", "21-", "1/0", "21-x"])
def test_a_window_that_is_none(text, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["audit", "model", "--window", text])
    assert stopped.value.code == 2 and "argument --window: invalid window value" in capsys.readouterr().err


# --- wrong use

WRONG = {
    "nothere": (["nothere"], "nothere: no such folder, and not found on the hub (offline: HF_HUB_OFFLINE is set)"),
    "nowhere": (["nowhere/at/all"], "there is no nowhere/at/all: give a model's folder, a hub id or a GGUF file"),
    "run": (["."], ". holds no model: no config.json, no adapter_config.json, no checkpoint-N"),
    "prompts": (["{place}/base", "--prompts", "p.jsonl"], "p.jsonl, line 1 has neither `prompt` nor `messages`, nor"),
    "adapter": (["{place}/base", "--adapter", "."], ". is not an adapter: it has no adapter_config.json"),
    "few": (["{place}/base", "--num-prompts", "4"], "num_prompts=4 gives, but a fit needs at least 8"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_use_is_one_line_and_nothing_is_written(place, tmp_path, monkeypatch, capsys, name):
    arguments, words = WRONG[name]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "p.jsonl").write_text('{"chosen": "w1"}\n')
    assert main(["audit", *(a.format(place=place) for a in arguments)]) == 2
    out, err = capsys.readouterr()
    said = [line for line in err.splitlines() if line.startswith("spinal")]
    assert out == "" and len(said) == 1 and said[0].startswith("spinal audit: ") and words in said[0]
    assert not (tmp_path / "audit.jsonl").exists()
