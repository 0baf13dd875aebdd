"""SPINAL for DPO: how alignment reshapes a policy, layer by layer (arXiv 2601.06238). The public names, no more."""

import importlib
from typing import TYPE_CHECKING, Any

from .config import SpinalConfig
from .records import Alert, Notice, Reading
from .sinks import MemorySink
from .traces import load_trace
from .version import __version__ as __version__

if TYPE_CHECKING:
    from .auditing.audit import audit
    from .auditing.compare import compare
    from .trainer.attach import attach
    from .trainer.callback import SpinalCallback

LATER = {
    "SpinalCallback": ".trainer.callback",
    "attach": ".trainer.attach",
    "audit": ".auditing.audit",
    "compare": ".auditing.compare",
}
__all__ = [
    "Alert",
    "MemorySink",
    "Notice",
    "Reading",
    "SpinalCallback",
    "SpinalConfig",
    "attach",
    "audit",
    "compare",
    "load_trace",
]


def __dir__() -> list[str]:
    return sorted({*globals(), *LATER})


def __getattr__(name: str) -> Any:
    """What stands on torch and transformers, which take seconds to import: reading a trace needs neither."""
    if name in LATER:
        return getattr(importlib.import_module(LATER[name], __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
