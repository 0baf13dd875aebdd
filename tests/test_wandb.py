"""A real offline W&B run of a real DPOTrainer, read back from its file."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("wandb")

RUN = """
import sys, tiny, wandb
from pathlib import Path
from test_callback import trainer
from spinal_callback import SpinalCallback
folder, watched = Path(sys.argv[1]), sys.argv[2] == "watched"
callbacks = [SpinalCallback(every=2, num_prompts=20)] if watched else []
trainer(folder, *callbacks, max_steps=5, logging_steps=2, report_to=["wandb"]).train()
wandb.finish()
wandb.teardown()
"""


def rows(folder, kind):
    """History rows and metric definitions of the run, as `wandb leet inspect` prints them."""
    here = Path(__file__).parent
    env = {**os.environ, "WANDB_DIR": str(folder), "WANDB_MODE": "offline", "PYTHONPATH": str(here)}
    command = [sys.executable, "-c", RUN, str(folder), kind]
    subprocess.run(command, env=env, cwd=folder, check=True, timeout=240, capture_output=True)
    (run,) = folder.glob("wandb/offline-run-*")
    wandb = Path(sys.executable).parent / "wandb"
    told = subprocess.run(
        [wandb, "leet", "inspect", "--json", run], check=True, timeout=60, capture_output=True, text=True
    ).stdout
    return [json.loads(line) for line in told.splitlines() if line.strip()]


def history(records):
    return [{k: v for k, v in r["history"]["item"].items() if not k.startswith("_")} for r in records if "history" in r]


@pytest.fixture(scope="module")
def plain_and_watched(tmp_path_factory):
    return [rows(tmp_path_factory.mktemp(kind), kind) for kind in ("plain", "watched")]


def test_every_row_of_the_trainer_is_there_and_unchanged(plain_and_watched):
    clock = ("train/total_flos", "train/train_runtime")  # differ from run to run
    plain, watched = (
        [{k: v for k, v in row.items() if k not in clock} for row in history(records) if "train/epoch" in row]
        for records in plain_and_watched
    )
    assert len(plain) >= 3 and plain == watched


def test_readings_are_rows_of_their_own_on_the_trainers_axis(plain_and_watched):
    mine = [row for row in history(plain_and_watched[1]) if "spinal/late_alpha" in row]
    assert [row["train/global_step"] for row in mine] == [0, 2, 4, 5]
    assert "spinal/score" not in mine[0] and "spinal/score" in mine[1]  # no gradients before the first step
    for row in mine:
        assert {f"spinal/alpha/layer_{i}" for i in range(1, 10)} < row.keys()
        assert {f"spinal/transport/layer_{i}" for i in range(2, 10)} < row.keys()
        assert row["spinal/alerts"] == 0 and not any(
            key.startswith("train/") for key in row.keys() - {"train/global_step"}
        )
    assert not any(key.startswith("spinal/") for row in history(plain_and_watched[0]) for key in row)


def test_metrics_are_defined_by_exact_names_layers_hidden(plain_and_watched):
    defined = {r["metric"]["name"]: r["metric"] for r in plain_and_watched[1] if "name" in r.get("metric", {})}
    headline = {"late_alpha", "late_transport", "displacement", "localization", "score", "alerts", "overhead"}
    for name in headline:
        assert defined[f"spinal/{name}"]["step_metric"] == "train/global_step"
        assert "hidden" not in defined[f"spinal/{name}"]["options"]
    assert defined["spinal/alpha/layer_9"]["options"]["hidden"] and defined["spinal/alpha/layer_9"]["summary"]["none"]


def test_the_run_knows_the_settings(plain_and_watched):
    updates = [r["config"]["update"] for r in plain_and_watched[1] if "config" in r]
    (settings,) = (u["spinal"] for u in updates if "spinal" in u)
    assert settings["every"] == 2 and settings["version"] and len(settings["probe"]) == 64
