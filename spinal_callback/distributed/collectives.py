"""What several processes agree on, and how sharded weights are made whole. The only place that knows torch.distributed,
FSDP and DeepSpeed; a single process passes through untouched."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from accelerate.state import PartialState
from accelerate.utils import align_module_device
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

T = TypeVar("T")
FAILED, NO_MEMORY, FINE = 0, 1, 2  # how a rank's work went; the least over ranks decides for all
NO_MEMORY_WORDS = ("out of memory", "can't allocate memory", "alloc_failed")
WORDS = 512  # bytes of a failure that its rank tells the others


# --- agreeing --------------------------------------------------------------------------------------------------------


def join() -> torch.device | None:
    """Enters the group of processes that torchrun or `accelerate launch` has started; this rank's device.

    None for a process that was started alone. Trainers do this by themselves.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return None
    return torch.device(PartialState(cpu=not torch.accelerator.is_available()).device)


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


def from_zero(values: list[float], device: torch.device) -> list[float]:
    """Rank zero's `values`, on every rank: what differs between ranks, like time, but has to be the same on all."""
    if world() == 1:
        return values
    box = torch.tensor(values, dtype=torch.float64, device=device)
    dist.broadcast(box, src=0)
    return [float(x) for x in box.tolist()]


def pooled(fill: Callable[[], dict[str, Tensor]], device: torch.device) -> dict[str, Tensor]:
    """`total` of every tensor that `fill` makes, on any device; raises as `together` does, and then on all ranks."""
    own = together(fill, device)
    return {name: total(x.to(device)) for name, x in own.items()} if world() > 1 else own


def together(work: Callable[[], T], device: torch.device) -> T:
    """Runs `work` on every rank and raises on all of them if it failed on any: no rank goes on to a collective alone.

    What `work` does after its own last collective, or between two of them, must not be a collective's partner: a rank
    that fails there meets the others only here. `work` may call `together` itself.

    Raises:
        torch.OutOfMemoryError: some rank ran out of memory, none failed otherwise.
        Exception: the rank's own, or RuntimeError where only another rank failed; it names that rank and its error.
    """
    error: Exception | None = None
    try:
        result = work()
    except Exception as caught:
        error = _by_its_name(caught)
    outcome = FINE if error is None else NO_MEMORY if isinstance(error, torch.OutOfMemoryError) else FAILED
    worst = least(outcome, device)
    if worst == FINE:
        return result
    try:
        first = least(rank() if outcome == worst else world(), device)
        words = _told(repr(error), first, device)
        if error is not None and outcome == worst:
            raise error
        raise (RuntimeError if worst == FAILED else torch.OutOfMemoryError)(f"rank {first}: {words}")
    finally:
        del error  # it holds this frame, and with it the tensors of the pass that failed


def give_back() -> None:
    """Gives back to the device what this process's allocator keeps for later: the next try, or training, wants it."""
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def _by_its_name(error: Exception) -> Exception:
    """torch.OutOfMemoryError for what is one: on a CPU, and where a library runs out, torch raises a RuntimeError."""
    full = isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and any(words in str(error).lower() for words in NO_MEMORY_WORDS)
    )
    return torch.OutOfMemoryError(str(error)) if full and not isinstance(error, torch.OutOfMemoryError) else error


def _told(words: str, speaker: int, device: torch.device) -> str:
    """The speaking rank's words, on every rank."""
    if world() == 1:
        return words
    box = torch.zeros(WORDS, dtype=torch.uint8, device=device)
    if rank() == speaker:
        spoken = torch.tensor(list(words.encode()[:WORDS]), dtype=torch.uint8)
        box[: len(spoken)] = spoken.to(device)
    dist.broadcast(box, src=speaker)
    return bytes(box.tolist()).rstrip(b"\0").decode(errors="ignore")


def alike(hexadecimal: str, device: torch.device) -> bool:
    """True if every rank has the same hash (its first 60 bits are compared)."""
    number = int(hexadecimal[:15], 16)
    return least(number, device) == -least(-number, device)


# --- sharded weights -------------------------------------------------------------------------------------------------


def is_fsdp(model: nn.Module) -> bool:
    """True under FSDP2 (`fully_shard`): the root must be called, and only where training calls it too."""
    return any(isinstance(module, FSDPModule) for module in model.modules())


def is_zero3(model: nn.Module) -> bool:
    """True under DeepSpeed ZeRO-3: parameters are empty outside their module's forward."""
    return any(hasattr(p, "ds_id") for p in model.parameters())


def root(model: Any) -> Any:
    """What to call for the model's own logits.

    Under ZeRO-3 not the model: its hooks would take the probe's pass for a training step, and the first step after it
    would fail where it goes another way than that pass.
    """
    return model.forward if is_zero3(model) else model


def settle(model: nn.Module) -> None:
    """Shards again what a forward pass has gathered.

    Left whole, FSDP2 would train on them without a word, stale or not: whatever changed the weights between the probe
    and the next step would be lost on its forward pass.
    """
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


@contextlib.contextmanager
def whole(*modules: nn.Module) -> Iterator[None]:
    """Inside, the parameters of `modules` are whole on every rank, and what runs there may fail on one of them.

    A collective where they are sharded, and only on the way in and out. Call the modules' `forward` there, not the
    modules: FSDP2's hooks would shard them again. Around a layer, this belongs inside its call: FSDP2 has gathered it
    by then, but ZeRO-3 would gather part after part, and a rank that failed in between would leave the others waiting.
    """
    parts = [part for module in modules for part in module.modules()]
    with contextlib.ExitStack() as back:
        for part in parts:
            back.enter_context(align_module_device(part))  # accelerate has sent it to the CPU's memory or the disk
        yield from _whole(parts)


def _whole(parts: list[nn.Module]) -> Iterator[None]:
    zero3 = [p for part in parts for p in part._parameters.values() if hasattr(p, "ds_id")]
    if zero3:
        import deepspeed  # type: ignore[import-not-found, unused-ignore]

        with deepspeed.zero.GatheredParameters(zero3, modifier_rank=None), _unhooked(parts):
            yield
        return
    every: list[tuple[Any, str, Any]] = [(m, name, p) for m in parts for name, p in m._parameters.items()]
    sharded = [(part, name, p) for part, name, p in every if isinstance(p, DTensor)]
    gathered: dict[int, nn.Parameter] = {}  # a tied weight is gathered once
    for part, name, p in sharded:
        if id(p) not in gathered:
            gathered[id(p)] = nn.Parameter(p.full_tensor(), requires_grad=False)
        part._parameters[name] = gathered[id(p)]
    try:
        yield
    finally:
        for part, name, p in sharded:
            part._parameters[name] = p


@contextlib.contextmanager
def _unhooked(parts: list[nn.Module]) -> Iterator[None]:
    """Inside, calls of `parts` run no hooks of DeepSpeed: they shard again, and note an order to compare over ranks."""
    hooks = [(part, name, part.__dict__[name]) for part in parts for name in ("_forward_pre_hooks", "_forward_hooks")]
    try:
        for part, name, own in hooks:
            setattr(part, name, type(own)((k, hook) for k, hook in own.items() if not _of_deepspeed(hook)))
        yield
    finally:
        for part, name, own in hooks:
            setattr(part, name, own)


def _of_deepspeed(hook: Any) -> bool:
    return getattr(hook, "__module__", "").startswith("deepspeed.")


def engine_autocast(args: Any) -> torch.dtype | None:
    """The dtype that DeepSpeed's engine autocasts to around the model's forward pass; None without such a setting.

    All other autocast is inside the model's own forward, where `lens_check.observe` sees it.
    """
    if getattr(args, "deepspeed_plugin", None) is None:
        return None
    from deepspeed.runtime import config as deepspeed  # type: ignore[import-not-found, unused-ignore]

    own = args.deepspeed_plugin.deepspeed_config
    if not deepspeed.get_torch_autocast_enabled(own):
        return None
    return deepspeed.get_torch_autocast_dtype(own) or torch.get_autocast_dtype(args.device.type)


def squared_gradients(layers: Iterable[nn.Module], device: torch.device) -> Tensor:
    """Squared gradient norm of each layer's parameters as they are now, over all shards: `[L]`, float64.

    0 for a layer that is not trained; NaN for one whose gradients are not there, which is every layer under DeepSpeed:
    it keeps them to itself.
    """

    def own() -> Tensor:
        norms = []
        for layer in layers:
            parts = [_square(p.grad.detach()) for p in layer.parameters() if p.grad is not None]
            none = math.nan if any(p.requires_grad for p in layer.parameters()) else 0.0
            norms.append(torch.stack(parts).sum() if parts else torch.tensor(none, dtype=torch.float64))
        return torch.stack(norms)

    norms = together(own, device)
    return total(norms.to(device)).cpu() if world() > 1 else norms


def _square(gradient: Tensor) -> Tensor:
    """This rank's share of a squared norm: the sum over ranks counts every element once."""
    copies = world()
    if isinstance(gradient, DTensor):
        mesh, placements = gradient.device_mesh, gradient.placements
        shards = math.prod(mesh.size(i) for i, placement in enumerate(placements) if not placement.is_replicate())
        copies, gradient = copies // shards, gradient.to_local()
    return torch.linalg.vector_norm(gradient, dtype=torch.float32).double().square().cpu() / copies
