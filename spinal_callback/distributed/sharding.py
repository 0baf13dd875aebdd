"""How a model's weights lie on the ranks: one class for each backend. Nothing else knows FSDP and DeepSpeed.

A new backend is one class here, and its place in `BACKENDS`.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from accelerate.utils import align_module_device
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

from .collectives import sum_over_ranks, together, world_size


class Backend:
    """How a model's weights are kept, as far as the probe has to know. The defaults are right for whole weights.

    Attributes:
        shards_weights: each rank holds a part. A forward pass is then a collective: all ranks must run as many.
        root_only: decoder layers run only inside a call of the whole model.
        reads_after_training: a forward pass is safe once the training loop has ended.
    """

    shards_weights = False
    root_only = False
    reads_after_training = True

    @staticmethod
    def keeps(model: nn.Module) -> bool:
        """Whether this backend keeps the weights of `model`."""
        return True

    def root(self, model: Any) -> Callable[..., Any]:
        """What to call for the model's own logits."""
        return model

    def settle(self, model: nn.Module) -> None:
        """Leaves the weights as training expects them, after a forward pass."""

    @contextlib.contextmanager
    def whole(self, *modules: nn.Module) -> Iterator[None]:
        """Inside, the parameters of `modules` are whole on every rank, and what runs there may fail on one of them.

        With sharded weights entering and leaving are collectives, and nothing else is. Call the modules' `forward`
        there, not the modules: FSDP2's hooks would shard them again. Around a decoder layer, enter it inside the
        layer's call: FSDP2 has gathered the layer by then, and ZeRO-3 would otherwise gather one part after another,
        so that a rank that fails in between would leave the others waiting.
        """
        parts = [part for module in modules for part in module.modules()]
        with contextlib.ExitStack() as stack:
            for part in parts:
                stack.enter_context(align_module_device(part))  # weights that accelerate keeps in CPU memory or on disk
            stack.enter_context(self._gathered(parts))
            yield

    def squared_gradients(self, layers: Iterable[nn.Module], device: torch.device) -> Tensor:
        """Squared norm of each layer's gradients as they are now, over all shards: `[L]`, float64, on every rank.

        0 for a layer that is not trained. NaN for a layer without gradients, and so for all under DeepSpeed, which
        keeps the gradients to itself. A collective; raises on all ranks as `together` does.
        """

        def own() -> Tensor:
            return torch.stack([self._own_square_of(layer) for layer in layers])

        norms = together(own, device)
        return sum_over_ranks(norms.to(device)).cpu() if world_size() > 1 else norms

    def _own_square_of(self, layer: nn.Module) -> Tensor:
        squares = [self._own_square(p.grad.detach()) for p in layer.parameters() if p.grad is not None]
        if squares:
            return torch.stack(squares).sum()
        trained = any(p.requires_grad for p in layer.parameters())
        return torch.tensor(math.nan if trained else 0.0, dtype=torch.float64)

    def _own_square(self, gradient: Tensor) -> Tensor:
        """This rank's share of a gradient's squared norm: the sum over ranks counts every element once."""
        return _squared_norm(gradient) / world_size()

    def _gathered(self, parts: list[nn.Module]) -> contextlib.AbstractContextManager[None]:
        """Inside, the parameters that `parts` hold themselves are whole on every rank."""
        return contextlib.nullcontext()


class Replicated(Backend):
    """Every rank has all weights: one process, DDP, ZeRO-1 and ZeRO-2."""


class FSDP2(Backend):
    """`fully_shard`: parameters are DTensors, which hooks of the modules gather for a forward pass."""

    shards_weights = True
    root_only = True  # a layer called before the root's first pass would break every later one
    reads_after_training = False

    @staticmethod
    def keeps(model: nn.Module) -> bool:
        return any(isinstance(module, FSDPModule) for module in model.modules())

    @contextlib.contextmanager
    def _gathered(self, parts: list[nn.Module]) -> Iterator[None]:
        every: list[tuple[Any, str, Any]] = [(m, name, p) for m in parts for name, p in m._parameters.items()]
        sharded = [(part, name, p) for part, name, p in every if isinstance(p, DTensor)]
        whole: dict[int, nn.Parameter] = {}  # a tied weight is gathered once
        for part, name, p in sharded:
            if id(p) not in whole:
                whole[id(p)] = nn.Parameter(p.full_tensor(), requires_grad=False)
            part._parameters[name] = whole[id(p)]
        try:
            yield
        finally:
            for part, name, p in sharded:
                part._parameters[name] = p

    def settle(self, model: nn.Module) -> None:
        """Shards the weights again.

        Otherwise FSDP2 would go on with the copies that the probe's pass gathered, without a warning: a change of the
        weights between the probe and the next step would be missing from that step's forward pass.
        """
        for module in model.modules():
            if isinstance(module, FSDPModule):
                module.reshard()

    def _own_square(self, gradient: Tensor) -> Tensor:
        if not isinstance(gradient, DTensor):
            return super()._own_square(gradient)
        mesh, placements = gradient.device_mesh, gradient.placements
        shards = math.prod(mesh.size(i) for i, placement in enumerate(placements) if not placement.is_replicate())
        return _squared_norm(gradient.to_local()) / (world_size() // shards)


class ZeRO3(Backend):
    """DeepSpeed ZeRO-3: parameters are empty outside their module's forward pass."""

    shards_weights = True

    @staticmethod
    def keeps(model: nn.Module) -> bool:
        return any(hasattr(p, "ds_id") for p in model.parameters())

    def root(self, model: Any) -> Callable[..., Any]:
        """`forward` instead of the model: the model's hooks would take the probe's pass for a training step.

        The first training step would then fail where its order of modules differs from the probe's.
        """
        return model.forward

    @contextlib.contextmanager
    def _gathered(self, parts: list[nn.Module]) -> Iterator[None]:
        import deepspeed  # type: ignore[import-not-found, unused-ignore]

        sharded = [p for part in parts for p in part._parameters.values() if hasattr(p, "ds_id")]
        with deepspeed.zero.GatheredParameters(sharded, modifier_rank=None), _without_deepspeed_hooks(parts):
            yield


BACKENDS: tuple[type[Backend], ...] = (FSDP2, ZeRO3, Replicated)


def backend_of(model: nn.Module) -> Backend:
    """The backend that keeps the weights of `model`: by what its modules and parameters are, not by any setting."""
    return next(backend for backend in BACKENDS if backend.keeps(model))()


def engine_autocast(args: Any) -> torch.dtype | None:
    """The dtype that DeepSpeed's engine autocasts to around the model's forward pass; None without such a setting.

    All other autocast is inside the model's own forward pass, where the lens check sees it.
    """
    if getattr(args, "deepspeed_plugin", None) is None:
        return None
    from deepspeed.runtime import config as deepspeed  # type: ignore[import-not-found, unused-ignore]

    own = args.deepspeed_plugin.deepspeed_config
    if not deepspeed.get_torch_autocast_enabled(own):
        return None
    return deepspeed.get_torch_autocast_dtype(own) or torch.get_autocast_dtype(args.device.type)


@contextlib.contextmanager
def _without_deepspeed_hooks(parts: list[nn.Module]) -> Iterator[None]:
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


def _squared_norm(x: Tensor) -> Tensor:
    """`[]`, float64, on the CPU. Summed up in float32 at least: the squares of half-precision numbers overflow."""
    return torch.linalg.vector_norm(x, dtype=torch.promote_types(x.dtype, torch.float32)).double().square().cpu()
