"""attach(): real TensorBoard, trackio and MLflow, read back from their files, and the Trainer's own log beside them."""

import json
import os
import sqlite3
import subprocess
import sys

import pytest
import tiny
import twins
from paths import PYTHONPATH
from transformers import TrainerCallback
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

from spinal_callback import MemorySink, SpinalCallback, attach, load_trace
from spinal_callback.sinks.registry import TrackioSink
from spinal_callback.sinks.trainer_trackers import ReporterSink

LATE = {"late_alpha", "late_transport", "delta_alpha", "delta_alpha_se", "delta_transport", "delta_transport_se"}
TERMS = {"score", "delta_align", "coherence", "gradient_concentration"}
ANSWERS = {"chosen_nll", "margin", "accuracy"}
HEADLINES = {"alerts", "displacement", "localization", "overhead", "interval"} | LATE | TERMS | ANSWERS
RUN = """
import json, sys, twins
from spinal_callback import attach
folder, attached = sys.argv[1], sys.argv[2] == "attached"
arguments = dict(report_to=["tensorboard", "mlflow", "trackio"], project="p", run_name="r")
trainer = twins.dpo(folder, max_steps=4, logging_steps=2, **arguments)
if attached:
    attach(trainer, every=2, num_prompts=16, window=(3, 5), sinks=["trackio"])
trainer.train()
print("LOG " + json.dumps(trainer.state.log_history))
"""


def run(folder, kind):
    """Trains in a process of its own, since trackers keep global state; the trainer's log history."""
    for package in ("tensorboard", "mlflow", "trackio"):
        pytest.importorskip(package)
    env = {**os.environ, "PYTHONPATH": PYTHONPATH, "TRACKIO_DIR": str(folder / "trackio")}
    env |= {"MLFLOW_TRACKING_URI": f"file:{folder}/mlflow", "MLFLOW_ALLOW_FILE_STORE": "true"}
    env |= {"MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true"}
    command = [sys.executable, "-c", RUN, str(folder / "out"), kind]
    done = subprocess.run(command, env=env, cwd=folder, timeout=280, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    (line,) = (line for line in done.stdout.splitlines() if line.startswith("LOG "))
    return json.loads(line[4:])


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folders = {kind: tmp_path_factory.mktemp(kind) for kind in ("plain", "attached")}
    return {kind: (folder, run(folder, kind)) for kind, folder in folders.items()}


def tensorboard(folder):
    """Scalars by name, as (step, value), of every event file of the run."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (path,) = (folder / "out").rglob("events.out.tfevents.*")
    events = EventAccumulator(str(path))
    events.Reload()
    return {name: [(e.step, e.value) for e in events.Scalars(name)] for name in events.Tags()["scalars"]}


def mlflow(folder):
    """Metrics by name, as (step, value), of the one run in the file store."""
    (metrics,) = (folder / "mlflow").glob("*/*/metrics")
    lines = {path.relative_to(metrics): path.read_text().split("\n") for path in metrics.rglob("*") if path.is_file()}
    return {
        str(name): [(int(step), float(value)) for _, value, step in (line.split() for line in text if line)]
        for name, text in lines.items()
    }


def trackio(folder):
    """The rows of the one run in trackio's database, as (step, values)."""
    (path,) = (folder / "trackio").glob("*.db")
    with sqlite3.connect(path) as base:
        return [(s, json.loads(v)) for s, v in base.execute("select step, metrics from metrics order by id")]


def late_alpha(folder):
    return [(r.step, pytest.approx(r.late["alpha"], rel=1e-6)) for r in load_trace(folder / "out").readings]


def test_tensorboard_has_the_headlines_on_the_trainers_axis(runs):
    folder, _ = runs["attached"]
    scalars = tensorboard(folder)
    assert {name for name in scalars if "spinal" in name} == {f"train/spinal/{name}" for name in HEADLINES}
    assert scalars["train/spinal/late_alpha"] == late_alpha(folder)
    assert [step for step, _ in scalars["train/spinal/late_alpha"]] == [0, 2, 4]


def test_mlflow_has_the_headlines_on_the_trainers_axis(runs):
    folder, _ = runs["attached"]
    metrics = mlflow(folder)
    assert {name for name in metrics if "spinal" in name} == {f"spinal/{name}" for name in HEADLINES}
    assert metrics["spinal/late_alpha"] == late_alpha(folder)


def test_trackio_is_told_once_by_its_own_sink(runs):
    folder, _ = runs["attached"]
    rows = trackio(folder)
    names = {name for _, row in rows for name in row if "spinal" in name}
    assert names == {f"spinal/{name}" for name in HEADLINES} | {"spinal/heatmaps"}
    assert [(s, row["spinal/late_alpha"]) for s, row in rows if "spinal/late_alpha" in row] == late_alpha(folder)
    assert [s for s, row in rows if "spinal/heatmaps" in row] == [0, 4]


CLOCKS = (*twins.CLOCKS, "total_flos")


def test_the_trainers_own_rows_stay_as_they_are(runs):
    def own(row):
        return {k: v for k, v in row.items() if "spinal" not in k and not any(c in k for c in CLOCKS)}

    (plain, log), (attached, log_attached) = runs["plain"], runs["attached"]
    assert [own(row) for row in log] == [own(row) for row in log_attached]
    assert len(log) == 3
    assert not any("spinal" in name for row in log_attached for name in row)
    assert own(tensorboard(plain)) == own(tensorboard(attached))
    assert "train/loss" in own(tensorboard(plain))
    assert own(mlflow(plain)) == own(mlflow(attached))
    assert "loss" in own(mlflow(plain))
    rows = [[own(row) for _, row in trackio(folder) if "train/loss" in row] for folder in (plain, attached)]
    assert rows[0] == rows[1]
    assert len(rows[0]) == 2


# --- in this process


class Reporter(TrainerCallback):
    """A tracker's callback in whose place it stands, for what it is told and when."""

    def __init__(self):
        self.told = []

    def on_log(self, args, state, control, logs=None, **kwargs):
        self.told.append((state.global_step, dict(logs)))
        control.should_log = control.should_training_stop = True

    def on_train_end(self, *args, **kwargs):
        self.told.append("end")


class StopsLate(TrainerCallback):
    """After the callback has looked whether the training ends."""

    def on_step_end(self, args, state, control, **kwargs):
        control.should_training_stop = state.global_step == 3


def test_the_last_reading_comes_before_the_trackers_close(tmp_path, monkeypatch):
    reporter = Reporter()
    monkeypatch.setattr("spinal_callback.trainer.attach.REPORTERS", (Reporter,))
    trainer = twins.dpo(tmp_path, reporter, max_steps=6, logging_steps=50)
    memory = MemorySink()
    callback = attach(trainer, every=2, num_prompts=16, sinks=[memory])
    trainer.add_callback(StopsLate())
    trainer.train()
    assert isinstance(callback, SpinalCallback)
    assert [r.step for r in memory.readings] == [0, 2, 3]
    assert [t[0] for t in reporter.told if "spinal/late_alpha" in t[1]] == [0, 2, 3]
    assert reporter.told[-1] == "end"
    assert trainer.state.global_step == 3


def test_a_tracker_that_fails_is_dropped_by_its_name(tmp_path, monkeypatch):
    class Down(Reporter):
        def on_log(self, *args, logs=None, **kwargs):
            if "spinal/alerts" in logs:
                raise OSError("no connection")

    monkeypatch.setattr("spinal_callback.trainer.attach.REPORTERS", (Down,))
    trainer = twins.dpo(tmp_path, Down(), max_steps=2)
    attach(trainer, every=1, num_prompts=16, sinks=[])
    with pytest.warns(UserWarning, match=r"Down failed and is dropped: OSError\('no connection'\)"):
        trainer.train()
    assert [r.step for r in load_trace(tmp_path).readings] == [0, 1, 2]


@pytest.mark.parametrize("sinks", [["trackio"], []])
def test_a_tracker_with_a_sink_of_its_own_is_not_told_twice(tmp_path, sinks):
    pytest.importorskip("trackio")
    trainer = twins.dpo(tmp_path, report_to=["trackio"])
    asked = attach(trainer, sinks=sinks)._recorder.asked
    assert [type(sink) for sink in asked] == ([TrackioSink] if sinks else [ReporterSink])


def test_a_tracker_whose_axis_counts_rows_is_left_out(tmp_path):
    class Counting(INTEGRATION_TO_CALLBACK["dvclive"]):
        def __init__(self):
            """As the real one, without its package."""

    trainer = twins.dpo(tmp_path, Counting())
    assert attach(trainer, sinks=[])._recorder.asked == []


def test_what_is_no_trainer_is_refused():
    with pytest.raises(TypeError, match="attach takes a transformers Trainer, got LlamaForCausalLM"):
        attach(tiny.llama())


def test_a_trainer_is_attached_to_once(tmp_path):
    trainer = twins.dpo(tmp_path)
    attach(trainer, sinks=[])
    with pytest.raises(ValueError, match="the trainer already has a SpinalCallback: use it, or remove it"):
        attach(trainer)


def test_a_trainer_that_trains_is_refused(tmp_path):
    class Late(TrainerCallback):
        def on_step_end(self, *args, **kwargs):
            attach(trainer)

    trainer = twins.dpo(tmp_path, Late())
    with pytest.raises(RuntimeError, match=r"call attach\(trainer\) before trainer.train\(\): this trainer is"):
        trainer.train()
