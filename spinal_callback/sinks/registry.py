"""The sinks that `SpinalCallback(sinks=[...])` knows by name. A new tracker is a file in this folder and a row here."""

from __future__ import annotations

from collections.abc import Iterable

from .base import Sink, installed
from .terminal import TerminalSink
from .trackio import TrackioSink
from .wandb import WandbSink

TRACKERS: dict[str, type[Sink]] = {"wandb": WandbSink, "trackio": TrackioSink}
NAMED: dict[str, type[Sink]] = {**TRACKERS, "terminal": TerminalSink}


def make_sinks(sinks: Iterable[Sink | str] | None) -> list[Sink]:
    """The sinks that were asked for, names replaced by sinks. None: the terminal and every installed tracker.

    Raises:
        ValueError: not a list, an unknown name, a class, or an object without `write`.
        ImportError: a tracker that is not installed.
    """
    if sinks is None:
        sinks = [*filter(installed, TRACKERS), "terminal"]
    names = ", ".join(f'"{name}"' for name in NAMED)
    if isinstance(sinks, str):
        raise ValueError(f'sinks must be a list, got "{sinks}": write sinks=["{sinks}"]')
    if not isinstance(sinks, Iterable):
        raise ValueError(f"sinks must be a list, got {sinks!r}: put it in brackets, sinks=[...]")
    sinks = list(sinks)
    for sink in sinks:
        if isinstance(sink, type):
            raise ValueError(f"sinks must be Sink objects, got the class {sink.__name__}: write {sink.__name__}()")
        known = sink in NAMED if isinstance(sink, str) else callable(getattr(sink, "write", None))
        if not known:
            raise ValueError(f"sinks must be Sink objects or names among {names}, got {sink!r}")
    return [NAMED[sink]() if isinstance(sink, str) else sink for sink in sinks]
