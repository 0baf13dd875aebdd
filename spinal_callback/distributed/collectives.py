"""What several processes agree on: sums, votes, failures. A single process passes through every function untouched.

Nothing outside this package uses torch.distributed. How weights are sharded is the other half: `sharding.py`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import TypeVar

import torch
import torch.distributed as dist
from accelerate.state import PartialState
from torch import Tensor

from ..failures import described, placed

T = TypeVar("T")
FAILED, NO_MEMORY, FINE = 0, 1, 2  # how a rank's work ended; the least over ranks decides for all
NO_MEMORY_WORDS = ("out of memory", "can't allocate memory", "alloc_failed")
MESSAGE_BYTES = 512  # of a failure's message that the failing rank sends to the others
MEETING_SECONDS = 120.0  # that ranks wait for each other when training begins


def join_ranks() -> torch.device | None:
    """Enters the group of processes that torchrun or `accelerate launch` has started; this rank's device.

    None for a process that was started alone. A Trainer does this by itself.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return None
    return torch.device(PartialState(cpu=not torch.accelerator.is_available()).device)


def world_size() -> int:
    """How many processes train together; 1 without torch.distributed."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """This process's number, 0..world_size() - 1."""
    return dist.get_rank() if world_size() > 1 else 0


# --- values ----------------------------------------------------------------------------------------------------------


def sum_over_ranks(x: Tensor) -> Tensor:
    """Elementwise sum of `x` over ranks, in place, on every rank. All ranks need the same shape."""
    if world_size() > 1:
        dist.all_reduce(x)
    return x


def least(value: int, device: torch.device) -> int:
    """The least `value` over ranks. A collective: every rank must call it, also one on which something failed."""
    if world_size() == 1:
        return value
    vote = torch.tensor(value, device=device)
    dist.all_reduce(vote, op=dist.ReduceOp.MIN)
    return int(vote)


def broadcast_from_zero(values: list[float], device: torch.device) -> list[float]:
    """Rank zero's `values`, on every rank: for what each rank measures differently, like time, but all must share."""
    if world_size() == 1:
        return values
    box = torch.tensor(values, dtype=torch.float64, device=device)
    dist.broadcast(box, src=0)
    return [float(x) for x in box.tolist()]


def same_on_all_ranks(hexadecimal: str, device: torch.device) -> bool:
    """True if every rank has the same hash. Compares its first 60 bits."""
    number = int(hexadecimal[:15], 16)
    return least(number, device) == -least(-number, device)


# --- failures --------------------------------------------------------------------------------------------------------


class _Meetings:
    """How often this process has called `meet`; the mark of the error that all ranks agreed on and are raising now."""

    count = 0
    agreed: object = None


def meet(who: str) -> None:
    """Waits until every rank is here, `MEETING_SECONDS` at most. No collective: a rank that is elsewhere hangs nobody.

    Args:
        who: what must be on every rank, for the message.

    Raises:
        ValueError: a rank did not come.
    """
    if world_size() == 1:
        return
    store = dist.distributed_c10d._get_default_store()
    _Meetings.count += 1
    key, deadline = f"spinal_callback/{_Meetings.count}", time.monotonic() + MEETING_SECONDS
    here = store.add(key, 1)
    while here < world_size():
        if time.monotonic() > deadline:
            raise ValueError(
                f"only {here} of {world_size()} ranks began training with {who} within {MEETING_SECONDS:.0f} s:"
                f" give {who} to the trainer on every rank, not on the main process alone"
            )
        time.sleep(0.02)
        here = store.add(key, 0)


def together(work: Callable[[], T], device: torch.device) -> T:
    """Runs `work` on every rank and raises on all of them if it failed on any: no rank goes on to a collective alone.

    `work` must not fail on one rank while others still enter another collective inside it than `together` itself.

    Raises:
        torch.OutOfMemoryError: some rank ran out of memory, none failed otherwise.
        Exception: the rank's own, or RuntimeError where only another rank failed; it names that rank and its error.
    """
    error: Exception | None = None
    _Meetings.agreed = None
    try:
        result = work()
    except Exception as caught:
        # A `together` inside has raised it on all ranks. On another rank that may have been this very call: another
        # vote would be one more than there are on that rank.
        if _Meetings.agreed is not None and getattr(caught, "agreed", None) is _Meetings.agreed:
            raise
        error = _uniform(caught)
    outcome = FINE if error is None else NO_MEMORY if isinstance(error, torch.OutOfMemoryError) else FAILED
    worst = least(outcome, device)
    if worst == FINE:
        return result
    try:
        first = least(rank() if outcome == worst else world_size(), device)
        message = _message_from(first, "" if error is None else f"{placed(error)}\n{described(error)}", device)
        if error is None or outcome != worst:
            place, _, whole = message.partition("\n")
            error = (RuntimeError if worst == FAILED else torch.OutOfMemoryError)(f"rank {first}: {whole}")
            error.place = f"rank {first}: {place}"  # type: ignore[attr-defined]
        error.agreed = _Meetings.agreed = object()  # type: ignore[attr-defined]
        raise error
    finally:
        del error  # it holds this frame, and with it the tensors of the pass that failed


def summed_together(fill: Callable[[], dict[str, Tensor]], device: torch.device) -> dict[str, Tensor]:
    """`sum_over_ranks` of every tensor that `fill` makes, on any device; raises on all ranks as `together` does."""
    own = together(fill, device)
    return {name: sum_over_ranks(x.to(device)) for name, x in own.items()} if world_size() > 1 else own


def release_memory() -> None:
    """Returns to the GPU the memory that torch keeps for later: the next try, or training, needs it."""
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def _uniform(error: Exception) -> Exception:
    """torch.OutOfMemoryError for whatever means that: on a CPU, and inside libraries, torch raises a RuntimeError."""
    full = isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and any(words in str(error).lower() for words in NO_MEMORY_WORDS)
    )
    return torch.OutOfMemoryError(str(error)) if full and not isinstance(error, torch.OutOfMemoryError) else error


def _message_from(source: int, own: str, device: torch.device) -> str:
    """The message of rank `source`, on every rank."""
    if world_size() == 1:
        return own
    box = torch.zeros(MESSAGE_BYTES, dtype=torch.uint8, device=device)
    if rank() == source:
        encoded = torch.tensor(list(own.encode()[:MESSAGE_BYTES]), dtype=torch.uint8)
        box[: len(encoded)] = encoded.to(device)
    dist.broadcast(box, src=source)
    return bytes(box.tolist()).rstrip(b"\0").decode(errors="ignore")
