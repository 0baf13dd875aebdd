"""SPINAL for DPO: how alignment reshapes a policy, layer by layer (arXiv 2601.06238). The public names, no more."""

__version__ = "0.1.0"  # before the imports: the callback writes it into the trace

import importlib
from typing import TYPE_CHECKING, Any

from .config import SpinalConfig
from .records import Alert, Reading, load_trace
from .sinks import MemorySink

if TYPE_CHECKING:
    from .auditing import audit
    from .callback import SpinalCallback
    from .comparing import compare
    from .reporters import attach

LATER = {
    "SpinalCallback": ".callback",
    "attach": ".reporters",
    "audit": ".auditing",
    "compare": ".comparing",
}
__all__ = [
    "Alert",
    "MemorySink",
    "Reading",
    "SpinalCallback",
    "SpinalConfig",
    "attach",
    "audit",
    "compare",
    "load_trace",
]


def __getattr__(name: str) -> Any:
    """What stands on torch and transformers, which take seconds to import: reading a trace needs neither."""
    if name in LATER:
        return getattr(importlib.import_module(LATER[name], __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
