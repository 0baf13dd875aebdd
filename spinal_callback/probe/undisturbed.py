"""Leave training as it was: the one context manager that everything which touches a live model runs inside."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator

import numpy as np
import torch
from torch import nn

from ..distributed.sharding import Backend, backend_of
from .kept_state import module_state_kept


@contextlib.contextmanager
def undisturbed(model: nn.Module, backend: Backend | None = None) -> Iterator[None]:
    """Evaluation mode and no gradients inside; afterwards every submodule's mode and every random state is as before.

    Restores: train or eval mode per submodule, buffers and other state of modules (`kept_state`), the random states of
    Python, NumPy, torch and every CUDA device, the autocast cache, and the sharding of weights. Gradient checkpointing
    needs no touching: it is off in evaluation mode. Modules of bitsandbytes are put in training mode: in evaluation
    mode they repack their 4-bit weights for good.

    Args:
        model: the live model.
        backend: what keeps its weights; None: asked of the model.

    Raises:
        ValueError: afterwards, if the body has changed state that is too large to be copied; names it.
    """
    backend = backend or backend_of(model)
    modes = [(module, module.training) for module in model.modules()]
    try:
        for module, _ in modes:
            module.training = type(module).__module__.startswith("bitsandbytes")
        with torch.no_grad(), random_states_kept(), module_state_kept(model):
            yield
    finally:
        backend.settle(model)
        for module, training in modes:
            module.training = training
        torch.clear_autocast_cache()  # casts made without gradients must not serve the next training step


@contextlib.contextmanager
def random_states_kept() -> Iterator[None]:
    """Afterwards the random states of Python, NumPy, torch and every CUDA device are as before."""
    python, numpy, cpu = random.getstate(), np.random.get_state(), torch.get_rng_state()
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        torch.set_rng_state(cpu)
        if cuda:
            torch.cuda.set_rng_state_all(cuda)
