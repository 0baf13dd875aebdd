"""In what precision a forward pass runs, and by how much rounding may change its numbers."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable

import torch

# The difference, as a share of the number, that two right ways to compute the same logits or states may show.
ROUNDING = {torch.float64: 1e-6, torch.float32: 1e-4, torch.bfloat16: 5e-2, torch.float16: 1e-2}


def rounding(dtypes: Iterable[torch.dtype | None]) -> float:
    """`ROUNDING` of the roughest of `dtypes`; None, as of a pass without autocast, does not count."""
    return max(ROUNDING.get(dtype, 0.0) for dtype in dtypes if dtype is not None)


def autocast_to(dtype: torch.dtype | None, device: torch.device) -> contextlib.AbstractContextManager[None]:
    """Autocast to `dtype` inside; nothing changes where it is None."""
    return contextlib.nullcontext() if dtype is None else torch.autocast(device.type, dtype)
