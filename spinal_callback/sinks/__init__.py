"""Where a run's records go. `Sink` is the base class of a tracker of your own."""

from .base import MemorySink, Sink

__all__ = ["MemorySink", "Sink"]
