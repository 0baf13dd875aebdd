"""The trackers of the Trainer's `report_to` that have no sink of their own: TensorBoard, MLflow and others."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path

from transformers import Trainer, TrainerCallback

from ..records import Alert, Header, Record
from .logged_values import headlines


class ReporterSink:
    """Hands headline scalars to one of the Trainer's own tracker callbacks, as if the Trainer had logged them.

    That callback alone is called: not `trainer.log`, which would change `log_history`, drain TRL's averages and keep
    the step's own row from being logged.
    """

    def __init__(self, trainer: Trainer, reporter: TrainerCallback) -> None:
        self._trainer, self._reporter, self._alerts = trainer, reporter, 0
        self.name = type(reporter).__name__

    def follow(self, earlier: Sequence[Record], report: Path) -> None:
        """Told before the header: what a resumed run's trace has."""
        self._alerts = sum(isinstance(record, Alert) for record in earlier)

    def write(self, record: Record) -> None:
        if isinstance(record, Header):
            return
        self._alerts += isinstance(record, Alert)
        trainer, row = self._trainer, headlines(record, self._alerts)
        control = copy.copy(trainer.control)  # a tracker's word on it is not for the training
        self._reporter.on_log(trainer.args, trainer.state, control, logs=row, model=trainer.model)

    def close(self) -> None:
        pass
