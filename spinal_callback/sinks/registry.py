"""The trackers that can be named in `SpinalCallback(sinks=[...])`. A new one is a module and a row here."""

from __future__ import annotations

from .trackio import TrackioSink
from .wandb import WandbSink

TRACKERS: dict[str, type[WandbSink] | type[TrackioSink]] = {"wandb": WandbSink, "trackio": TrackioSink}
