"""SPINAL for DPO: how alignment reshapes a policy, layer by layer (arXiv 2601.06238). The public names, no more."""

__version__ = "0.1.0"  # before the imports: the callback writes it into the trace

from .callback import SpinalCallback
from .records import Alert, Reading, SpinalConfig, load_trace
from .sinks import MemorySink

__all__ = ["Alert", "MemorySink", "Reading", "SpinalCallback", "SpinalConfig", "load_trace"]
