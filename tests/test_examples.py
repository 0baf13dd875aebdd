"""The READMEs' Python examples that are marked `<!-- tested -->`, run as they stand, where what they name is tiny."""

import functools
import json
import re

import pytest
import saved
import tiny
import training
import trl
from builders import header, reading, write
from paths import ROOT

from spinal_callback import load_trace
from spinal_callback.alerts.detector import replay
from spinal_callback.alerts.rules import RULES
from spinal_callback.cli import main as cli
from spinal_callback.config import SpinalConfig
from spinal_callback.probe.probe import MEASURES, Probe, View
from spinal_callback.probe.prompts import PromptSet
from spinal_callback.traces import Trace

README = (ROOT / "README.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"<!-- tested -->\n+```python\n(.*?)```", README, re.DOTALL)
TRAIN, AUDIT, MEASURE, RULE, TRACKER = EXAMPLES  # in the README's order


def run(example, **names):
    exec(compile(example, "an example of the README", "exec"), names)
    return names


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder in which the README's names are there: a model, pairs, a run of two checkpoints with its trace."""
    saved.policy(tmp_path / "Qwen" / "Qwen3-0.6B")
    pairs = tmp_path / "trl-lib" / "ultrafeedback_binarized"
    pairs.mkdir(parents=True)
    (pairs / "train.jsonl").write_text("\n".join(json.dumps(row) for row in tiny.preferences()))
    for step, size in ((2, 0.02), (6, 0.1)):
        saved.policy(tmp_path / "runs" / "mine" / f"checkpoint-{step}", saved.aligned(size=size))
    write(tmp_path, header(), reading(0), reading(6), name="runs/mine/_spinal/trace.jsonl")
    saved.prompts_file(tmp_path / "prompts.jsonl")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_ten_lines_of_training(place, monkeypatch):
    small = {**tiny.SETTINGS, "max_steps": 2}
    del small["report_to"]  # the example's own
    monkeypatch.setattr(trl, "DPOConfig", functools.partial(trl.DPOConfig, **small))
    pytest.importorskip("wandb").teardown()  # it keeps the folder of the first run in a process
    run(TRAIN)
    trace = load_trace(place / "runs" / "mine")
    assert [r.step for r in trace.readings] == [0, 2] and trace.header.config["stop_on"] == "error"
    assert list(place.glob("wandb/offline-run-*/run-*.wandb"))


def test_audit_and_compare(place):
    names = run(AUDIT)
    assert [r.step for r in names["found"].readings] == [0, 2, 6]
    assert names["found"].changes[-1].first.layer >= 7 and names["verdict"] == "changed"


def test_a_measure_of_ones_own():
    run(MEASURE)
    measure = MEASURES.pop("late_rank")
    ids = tiny.prompts()
    probe = Probe(tiny.llama(), PromptSet(ids, [0] * len(ids)), SpinalConfig(num_prompts=len(ids)))
    late = probe.read(0).effective_rank[-3:]
    first = probe.reference
    assert measure(View(first, first, probe.window, first.alpha)) == pytest.approx(sum(late) / 3)


@pytest.mark.parametrize(("entropy", "rules"), [(2.0, ["entropy_rise"]), (0.2, [])])
def test_a_rule_of_ones_own(entropy, rules):
    try:
        run(RULE)
        steps = [reading(step, entropy=2.5 + entropy * (step > 0)) for step in (0, 5, 10, 15)]
        assert sorted({alert.rule for alert in replay(Trace(header(), steps, []))}) == rules
    finally:
        RULES.pop("entropy_rise")


def test_a_tracker_of_ones_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    callback = run(TRACKER)["callback"]
    training.trainer(tmp_path / "run", callback, max_steps=2).train()
    rows = [line.split(",") for line in (tmp_path / "spinal.csv").read_text().splitlines()]
    readings = load_trace(tmp_path / "run").readings
    assert rows == [[str(r.step), str(r.late["alpha"]), str(r.late["transport"])] for r in readings]


def test_the_alert_that_is_shown_is_what_the_command_prints(capsys, monkeypatch):
    command, shown = re.search(r"^```\n\$ spinal (.*?)\n(.*?)^```", README, re.DOTALL | re.MULTILINE).groups()
    monkeypatch.chdir(ROOT)
    assert cli.main(command.split()) == 1
    assert " ".join(capsys.readouterr().out.split()).startswith(" ".join(shown.split()))
