"""The trackers of the Trainer's `report_to` that have no sink of their own: TensorBoard, MLflow and others."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path

from transformers import Trainer, TrainerCallback

from ..records import Alert, Reading, Record
from .base import Sink
from .logged_values import headlines


class ReporterSink(Sink):
    """Gives headline scalars to one of the Trainer's own tracker callbacks, as if the Trainer had logged them.

    Only that callback is called, not `trainer.log`: this would change `log_history`, reset TRL's averages and prevent
    the step's own row.
    """

    def __init__(self, trainer: Trainer, reporter: TrainerCallback) -> None:
        self._trainer, self._reporter, self._alerts = trainer, reporter, 0
        self.name = type(reporter).__name__

    def begin(self, trace: Path, report: Path) -> None:
        self._alerts = 0

    def resume(self, earlier: Sequence[Record]) -> None:
        self._alerts = sum(isinstance(record, Alert) for record in earlier)

    def write(self, record: Record) -> None:
        if not isinstance(record, Reading | Alert):
            return
        self._alerts += isinstance(record, Alert)
        trainer, row = self._trainer, headlines(record, self._alerts)
        control = copy.copy(trainer.control)  # a tracker may change it, and must not steer training
        self._reporter.on_log(trainer.args, trainer.state, control, logs=row, model=trainer.model)
