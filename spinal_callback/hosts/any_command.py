"""Any command that trains with a transformers Trainer: `spinal run every=25 -- trl dpo --config dpo.yaml`.

The command runs unchanged. `startup/sitecustomize.py` is run first by each Python process below it, `trl`'s and
accelerate's children and the ranks of torchrun included, and has every Trainer passed to `watch`.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..alerts.calibration import load_rules
from ..config import SpinalConfig

SETTINGS = "SPINAL_RUN"  # environment variable: the settings as JSON, for the processes below
STARTUP = Path(__file__).parent / "startup"


def run(command: Sequence[str], config: SpinalConfig) -> None:
    """Replaces this process with the command, so that exit code and signals are the command's own. Never returns.

    Raises:
        ValueError: no command, or one that is not found.
    """
    if not command:
        raise ValueError("no command to run: spinal run every=25 -- trl dpo --config dpo.yaml")
    words = [sys.executable, *command] if command[0].endswith(".py") else list(command)
    around = environment(config, os.environ)
    try:
        os.execvpe(words[0], words, around)
    except FileNotFoundError:
        raise ValueError(
            f"there is no command {words[0]}: what comes after -- is run as it would be without spinal"
        ) from None


def environment(config: SpinalConfig, around: Mapping[str, str]) -> dict[str, str]:
    """The environment `around`, for a command that is to be watched."""
    values = config.to_json()
    if config.rules is not None:
        load_rules(config.rules)  # a file that cannot be used is refused here
        values["rules"] = os.path.abspath(config.rules)  # the command may change its folder
    path = os.pathsep.join(filter(None, [str(STARTUP), around.get("PYTHONPATH")]))
    return {**around, SETTINGS: json.dumps(values), "PYTHONPATH": path}


def watch(trainer: Any) -> None:
    """Attaches a callback to a Trainer that has just been made, unless it has one."""
    from ..trainer.attach import attach  # imports torch, which `spinal run` itself does without
    from ..trainer.callback import SpinalCallback

    if not any(isinstance(callback, SpinalCallback) for callback in trainer.callback_handler.callbacks):
        attach(trainer, SpinalConfig(**json.loads(os.environ[SETTINGS])))
