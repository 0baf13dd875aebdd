"""A real offline W&B run of a real DPOTrainer, read back from its file."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import tiny
from paths import PYTHONPATH
from wandb_runs import inspect, metrics, summaries

pytest.importorskip("wandb")

RUN = """
import sys, tiny, wandb
from pathlib import Path
from training import trainer
from transformers import TrainerCallback
from spinal_callback import SpinalCallback

class Mine(TrainerCallback):
    def on_log(self, args, state, control, **kwargs):
        if state.global_step and "train_runtime" not in kwargs["logs"]:
            wandb.log({"mine": state.global_step}, step=state.global_step)

folder, watched = Path(sys.argv[1]), sys.argv[2] == "watched"
callbacks = [SpinalCallback(every=2, num_prompts=20)] if watched else []
trainer(folder, *callbacks, Mine(), max_steps=5, logging_steps=1, learning_rate=1e-4, report_to=["wandb"]).train()
wandb.finish()
wandb.teardown()
"""


def train(folder, kind):
    """Trains in a process of its own; the records of its offline run."""
    env = {**os.environ, "WANDB_DIR": str(folder), "WANDB_MODE": "offline", "PYTHONPATH": PYTHONPATH}
    command = [sys.executable, "-c", RUN, str(folder), kind]
    subprocess.run(command, env=env, cwd=folder, check=True, timeout=240, capture_output=True)
    return inspect(folder)


def history(records):
    """Every row, of numbers and of media, without what W&B adds of its own."""
    return [{k: v for k, v in r["history"]["item"].items() if not k.startswith("_")} for r in records if "history" in r]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return {kind: tmp_path_factory.mktemp(kind) for kind in ("plain", "watched")}


@pytest.fixture(scope="module")
def plain_and_watched(folders):
    return [train(folder, kind) for kind, folder in folders.items()]


def others(records, name):
    """The rows that have a name, without what is ours and what differs from run to run."""
    clock = ("train/total_flos", "train/train_runtime")
    rows = [row for row in history(records) if name in row]
    return [{k: v for k, v in row.items() if k not in clock and not k.startswith("spinal")} for row in rows]


@pytest.mark.parametrize(("name", "count"), [("train/loss", 5), ("mine", 5)])
def test_every_row_of_the_trainer_and_of_the_user_is_there_and_unchanged(plain_and_watched, name, count):
    """The user's rows are logged with `step=state.global_step`, at each step, where a count too far would lose them."""
    plain, watched = (others(records, name) for records in plain_and_watched)
    assert len(plain) == count and plain == watched


def test_readings_have_an_axis_of_their_own(plain_and_watched):
    mine = [row for row in history(plain_and_watched[1]) if "spinal/late_alpha" in row]
    assert [row["spinal/step"] for row in mine] == [0, 2, 4, 5]
    assert "spinal/score" not in mine[0] and "spinal/score" in mine[1]  # no gradients before the first step
    changes = ("delta_alpha", "delta_alpha_se", "delta_transport", "delta_transport_se", "delta_align", "coherence")
    for row in mine:
        assert {f"spinal/{name}" for name in changes} < row.keys()
        assert {f"spinal_layers/alpha_{i:02d}" for i in range(1, 10)} < row.keys()
        assert {f"spinal_layers/transport_{i:02d}" for i in range(2, 10)} < row.keys()
        assert row["spinal/alerts"] == 0
    assert not any(key.startswith("spinal") for row in history(plain_and_watched[0]) for key in row)


def test_metrics_are_defined_by_exact_names_layers_hidden(plain_and_watched):
    defined = metrics(plain_and_watched[1])
    for name in ("late_alpha", "late_transport", "delta_alpha", "delta_transport", "score", "alerts", "overhead"):
        assert defined[f"spinal/{name}"]["step_metric"] == "spinal/step"
        assert "hidden" not in defined[f"spinal/{name}"]["options"]
    assert defined["spinal_layers/alpha_09"]["options"]["hidden"]
    assert defined["spinal_layers/alpha_09"]["summary"]["none"]


def test_the_run_knows_the_settings(plain_and_watched):
    updates = [r["config"]["update"] for r in plain_and_watched[1] if "config" in r]
    (settings,) = (u["spinal"] for u in updates if "spinal" in u)
    assert settings["every"] == 2 and settings["version"] and len(settings["probe"]) == 64
    assert (settings["layers"], settings["late_window"]) == (9, [7, 9])


def test_the_summary_has_the_verdict_of_the_report(plain_and_watched):
    assert summaries(plain_and_watched[1], "spinal/verdict") == ["Too early", "Healthy"]
    assert summaries(plain_and_watched[1], "spinal/worst_alert") == ["none", "none"]


def test_the_end_brings_pictures_the_table_and_the_report(plain_and_watched):
    rows = history(plain_and_watched[1])
    drawn = [row["spinal/step"] for row in rows if "spinal/heatmaps.path" in row]
    assert {0, 5} <= set(drawn) <= {0, 2, 4, 5} and drawn == sorted(set(drawn))  # between them: every half minute
    (table,) = (row for row in rows if "spinal/layers.path" in row)
    assert table["spinal/layers.nrows"] == 4 * 9 and table["spinal/step"] == 5
    artifacts = [r["artifact"] for r in plain_and_watched[1] if "artifact" in r]
    (report,) = (a for a in artifacts if a["type"] == "spinal-report")
    assert set(report["aliases"]) == {"latest", "step-5"}
    page = Path(report["manifest"]["contents"][0]["local_path"]).read_text()
    assert page.startswith("<!doctype html>") and "● Healthy" in page.replace('<span aria-hidden="true">●</span>', "●")
    assert not any("artifact" in r for r in plain_and_watched[0])


def test_no_prompt_leaves(plain_and_watched, folders):
    """Every file of the run, the report among them: what the policy is asked is in none."""
    prompts = [row["prompt"][0]["content"].encode() for row in tiny.preferences()]
    written = {path: path.read_bytes() for path in folders["watched"].rglob("*") if path.is_file()}
    settings = next(r["config"]["update"]["spinal"] for r in plain_and_watched[1] if "spinal" in str(r.get("config")))
    for suffix in (".wandb", ".html", ".jsonl"):  # that they can be read at all
        assert any(path.suffix == suffix and settings["probe"].encode() in text for path, text in written.items())
    for path, text in written.items():
        assert not any(prompt in text for prompt in prompts), path
