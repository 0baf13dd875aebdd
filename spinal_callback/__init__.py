"""SPINAL for DPO: how alignment reshapes a policy, layer by layer (arXiv 2601.06238). The public names, no more."""

__version__ = "0.1.0"  # before the imports: the callback writes it into the trace

from typing import TYPE_CHECKING, Any

from .config import SpinalConfig
from .records import Alert, Reading, load_trace
from .sinks import MemorySink

if TYPE_CHECKING:
    from .callback import SpinalCallback
    from .reporters import attach

__all__ = ["Alert", "MemorySink", "Reading", "SpinalCallback", "SpinalConfig", "attach", "load_trace"]


def __getattr__(name: str) -> Any:
    """The callback stands on torch and transformers, which take seconds to import: reading a trace needs neither."""
    if name == "SpinalCallback":
        from .callback import SpinalCallback

        return SpinalCallback
    if name == "attach":
        from .reporters import attach

        return attach
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
