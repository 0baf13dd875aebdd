"""Offline W&B runs, read back with W&B's own reader."""

import json
import subprocess
import sys
from pathlib import Path


def run_folder(folder):
    (run,) = folder.glob("wandb/offline-run-*")
    return run


def inspect(folder):
    """Records of the one offline run in `folder`, as W&B's own reader prints them."""
    command = [Path(sys.executable).parent / "wandb", "leet", "inspect", "--json", run_folder(folder)]
    printed = subprocess.run(command, check=True, timeout=60, capture_output=True, text=True).stdout
    records = [json.loads(line) for line in printed.splitlines() if line.strip()]
    assert records[-1]["type"] == "exit"  # otherwise the file is not written to its end
    return records


MEDIA = {"spinal/heatmaps", "spinal/depth_trace", "spinal/layers"}


def history(records, media=False):
    """The rows, without pictures and tables; or those that have any. Their items are named `spinal/heatmaps.path`."""
    rows = [r["history"]["item"] for r in records if r["type"] == "history"]
    if media:
        return [row for row in rows if any(_is_media(key) for key in row)]
    return [{key: value for key, value in row.items() if not _is_media(key)} for row in rows]


def _is_media(key):
    return key.split(".")[0] in MEDIA


def metrics(records):
    return {r["metric"]["name"]: r["metric"] for r in records if r["type"] == "metric" and "name" in r["metric"]}


def summaries(records, name):
    """Every value that the run's summary was given for a name, in order."""
    updates = [r["summary"]["update"] for r in records if r["type"] == "summary"]
    return [update[name] for update in updates if name in update]
