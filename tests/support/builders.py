"""Made-up records: a header, a reading, an alert, a notice; and a trace file of them."""

import json
import math

from spinal_callback import Alert, Notice, Reading, SpinalConfig
from spinal_callback.records import Header, dump_record

NAN = math.nan
SETTINGS = json.loads(json.dumps(SpinalConfig().to_json()))


def header(layers=4, window=(3, 4), **fields):
    settings = {"version": "0.1.0", "model": "made-up", "probe": "ab" * 32, "prompts": 24}
    return Header(**{**settings, "layers": layers, "window": window, "config": SETTINGS, **fields})


def reading(step=0, layers=4, **fields):
    """A made-up reading; layer 1 has no tail, as the first layer of a real model often has none."""
    settings = {
        "alpha": [NAN, *(0.5 + 0.1 * i for i in range(2, layers + 1))],
        "alpha_se": [NAN] + [0.01] * (layers - 1),
        "alpha_r2": [NAN] + [0.99] * (layers - 1),
        "effective_rank": [NAN] + [12.5] * (layers - 1),
        "transport": [1.0 + 0.1 * i for i in range(2, layers + 1)],
        "transport_se": [0.02] * (layers - 1),
        "late": {"alpha": 0.85, "transport": 1.35},
        "delta": {"alpha": 0.001, "alpha_se": 0.004, "transport": -0.002, "transport_se": 0.003},
        "displacement": 0.125,
        "entropy": 2.5,
        "localization": 0.4,
        "coherence": 0.75,
        "gradient_concentration": 0.5,
        "delta_align": 0.003,
        "score": 1.253,
        "chosen_nll": 1.2,
        "margin": 0.8,
        "accuracy": 0.875,
        "length": {"late": 2.7, "whole": 3.9},
        "greatest": {"alpha": 4.0, "transport": 3.0},
        "nonfinite": 0,
        "prompts": 24,
    }
    return Reading(step=step, **{**settings, "seconds": 0.5, "overhead": 0.01, **fields})


def alert(step=10, **fields):
    settings = {"rule": "nonfinite", "level": "error", "layers": [3, 4], "value": 7.0, "threshold": 0.0}
    return Alert(step=step, **{**settings, "message": "7 are NaN", "action": "stop", **fields})


def notice(step=10, **fields):
    settings = {"event": "probe_memory", "message": "out of memory at step 10: half as many at a time"}
    return Notice(step=step, **{**settings, "action": "training continues", **fields})


def write(tmp_path, *lines, name="trace.jsonl"):
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{x if isinstance(x, str) else dump_record(x)}\n" for x in lines))
    return path
