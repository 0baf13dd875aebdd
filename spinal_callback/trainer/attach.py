"""`attach(trainer)`: adds the callback to a trainer, and its headline scalars to every tracker of `report_to`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from transformers import Trainer, TrainerCallback
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

from ..config import SpinalConfig
from ..sinks import Sink
from ..sinks.registry import TRACKERS, make_sinks
from ..sinks.trainer_trackers import ReporterSink
from .callback import SpinalCallback

COUNTS_ROWS = INTEGRATION_TO_CALLBACK["dvclive"]  # takes the number of rows for the step: more rows would shift it
REPORTERS: tuple[type[TrainerCallback], ...] = tuple(INTEGRATION_TO_CALLBACK.values())


def attach(
    trainer: Trainer, config: SpinalConfig | None = None, *, sinks: Iterable[Sink | str] | None = None, **settings: Any
) -> SpinalCallback:
    """Adds a `SpinalCallback` to a trainer. Call it before `trainer.train()`.

    Unlike with `callbacks=[SpinalCallback()]`, the headline scalars also go to each tracker of `report_to` that has no
    sink: TensorBoard, MLflow and others, under the names that they give to what the Trainer logs
    (`train/spinal/late_alpha` in TensorBoard, `spinal/late_alpha` in MLflow). The Trainer's own rows, `log_history` and
    printed log stay as they are. The last reading is taken before the trackers close their runs. DVCLive is left out:
    it counts rows where others use the step.

    Args:
        trainer: a transformers or TRL trainer.
        config, sinks, settings: as `SpinalCallback` takes them.

    Returns:
        The callback.

    Raises:
        TypeError: `trainer` is not a transformers Trainer.
        ValueError: the trainer already has a SpinalCallback, or as `SpinalCallback`.
        ImportError: as `SpinalCallback`.
        RuntimeError: the trainer is already training.
    """
    if not isinstance(trainer, Trainer):
        raise TypeError(f"attach takes a transformers Trainer, got {type(trainer).__name__}")
    if trainer.is_in_train:
        raise RuntimeError("call attach(trainer) before trainer.train(): this trainer is already training")
    callbacks = trainer.callback_handler.callbacks
    if any(isinstance(callback, SpinalCallback) for callback in callbacks):
        raise ValueError("the trainer already has a SpinalCallback: use it, or remove it before attach(trainer)")
    asked = make_sinks(sinks)
    served = [INTEGRATION_TO_CALLBACK[name] for name, sink in TRACKERS.items() if _has(asked, sink)]
    reporters = [c for c in callbacks if isinstance(c, REPORTERS) and not isinstance(c, (*served, COUNTS_ROWS))]
    callback = SpinalCallback(config, sinks=[*asked, *(ReporterSink(trainer, r) for r in reporters)], **settings)
    trainer.add_callback(callback)
    callbacks.insert(0, BeforeTheOthers(callback))  # the Trainer calls its trackers before callbacks added later
    return callback


def _has(sinks: list[Any], kind: type) -> bool:
    return any(isinstance(sink, kind) for sink in sinks)


class BeforeTheOthers(TrainerCallback):
    """Ends the monitoring before the trackers' own callbacks close their runs."""

    def __init__(self, callback: SpinalCallback) -> None:
        self._callback = callback

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._callback.on_train_end(args, state, control, **kwargs)
