"""What several processes agree on. The only user of torch.distributed; a single process passes through untouched."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import Tensor, nn


def world() -> int:
    """How many processes train together; 1 without torch.distributed."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """This process's number, 0..world() - 1."""
    return dist.get_rank() if world() > 1 else 0


def total(x: Tensor) -> Tensor:
    """Sum of `x` over ranks, elementwise, on every rank. Shapes must be equal: fill a buffer of zeros."""
    if world() > 1:
        dist.all_reduce(x)
    return x


def least(value: int, device: torch.device) -> int:
    """The least `value` over ranks. A collective: every rank must come here, also the one on which something failed."""
    if world() == 1:
        return value
    vote = torch.tensor(value, device=device)
    dist.all_reduce(vote, op=dist.ReduceOp.MIN)
    return int(vote)


def from_zero(value: int, device: torch.device) -> int:
    """Rank zero's `value`, on every rank."""
    if world() == 1:
        return value
    box = torch.tensor(value, device=device)
    dist.broadcast(box, src=0)
    return int(box)


def squared_gradients(layers: Iterable[nn.Module]) -> Tensor:
    """Squared gradient norm of each layer's parameters as they are now: `[L]`, float64. NaN for a layer without."""
    norms = []
    for layer in layers:
        grads = [p.grad.detach() for p in layer.parameters() if p.grad is not None]
        parts = [torch.linalg.vector_norm(g, dtype=torch.float32).double().square().cpu() for g in grads]
        norms.append(torch.stack(parts).sum() if parts else torch.tensor(math.nan, dtype=torch.float64))
    return torch.stack(norms)
