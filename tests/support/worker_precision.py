"""Twins under `accelerate launch`: `accelerate launch ... worker_precision.py FOLDER`; see `test_precision.py`."""

import json
import sys
from pathlib import Path

import torch
import twins
from precision import Forwards

from spinal_callback import MemorySink


def pair(folder, prepare=lambda trainer: None, **arguments):
    """The same run without the callback and with it, and in what precision each pass of the second ran."""
    outcomes, looks, memory = [], Forwards(), MemorySink()
    for name, callbacks in (("without", []), ("with", [twins.watcher(memory), looks])):
        torch.manual_seed(0)
        trainer = twins.dpo(folder / name, *callbacks, **arguments)
        prepare(trainer)
        outcomes.append(twins.outcome(trainer))
    return {
        "without": outcomes[0],
        "with": outcomes[1],
        "forwards": looks.seen,
        "steps": [r.step for r in memory.readings],
    }


if __name__ == "__main__":
    torch.set_num_threads(1)
    place = Path(sys.argv[1])
    (place / "result.json").write_text(json.dumps(pair(place)))
