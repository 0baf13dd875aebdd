"""The logit lens: next-token logits from any layer's hidden states, in pieces of the vocabulary."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from .model_parts import ReadableModel

NARROWEST = 256  # tokens of the vocabulary that a matrix product should have to be fast


def row_blocks(model: ReadableModel, states: Tensor, block: int) -> list[slice]:
    """Splits the rows of `[L, R, d]` states for `lens_chunks`: one pass over the unembedding each.

    As many rows as leave room in `block` logits for `NARROWEST` tokens, or for all where the head is called whole.
    """
    layers, rows, _ = states.shape
    step = max(block // (layers * (NARROWEST if _is_plain(model.head) else model.vocabulary)), 1)
    return [slice(start, min(start + step, rows)) for start in range(0, max(rows, 1), max(step, 1))]


def lens_chunks(model: ReadableModel, states: Tensor, block: int) -> Iterator[tuple[slice, Tensor]]:
    """The logit lens `finish(unembed(final_norm(h)))` in float32; all layers share each chunk of the unembedding.

    Args:
        states: `[L, R, d]` in the model's dtype.
        block: logits held at a time, at most.

    Yields:
        slice of the vocabulary, logits `[L, R, c]`.
    """
    # `forward`, not a call: FSDP2's hooks would shard again the weights that `Backend.whole` has gathered
    x = model.norm.forward(states.to(_device(model.norm, states.device)))
    if not _is_plain(model.head):  # with LoRA or quantization around it, its `.weight` gives other logits
        z = model.finish(model.head.forward(x.to(_device(model.head, x.device))).float())
        yield slice(0, z.shape[-1]), z
        return
    weight, bias = model.head.weight, model.head.bias
    x = x.to(weight.device)
    mixed = x.dtype == weight.dtype and _multiplies_mixed(weight.dtype, weight.device)
    x = x if mixed else x.float()
    chunk = max(block // max(x.shape[0] * x.shape[1], 1), 1)
    chunk -= chunk % NARROWEST if chunk > NARROWEST else 0  # uneven widths are a fifth slower
    for start in range(0, weight.shape[0], chunk):
        part = slice(start, min(start + chunk, weight.shape[0]))
        if mixed:
            z = torch.mm(x.flatten(0, 1), weight[part].T, out_dtype=torch.float32).unflatten(0, x.shape[:2])
        else:
            z = nn.functional.linear(x, weight[part].float())
        yield part, model.finish(z if bias is None else z + bias[part].float())


@functools.cache
def _multiplies_mixed(dtype: torch.dtype, device: torch.device) -> bool:
    """Whether this device multiplies matrices of `dtype` into a float32 result, with no float32 copy of the inputs.

    CUDA does for bfloat16 and float16. Found by trying: which others do differs from version to version.
    """
    one = torch.ones(16, 16, dtype=dtype, device=device)
    try:
        return torch.mm(one, one, out_dtype=torch.float32).dtype == torch.float32 != dtype
    except (RuntimeError, TypeError):
        return False


def _is_plain(head: nn.Module) -> bool:
    return type(head) is nn.Linear


def _device(module: nn.Module, otherwise: torch.device) -> torch.device:
    # OLMo's norm has no weights; weights that accelerate loads for each call are on "meta" until then
    return next((p.device for p in module.parameters() if p.device.type != "meta"), otherwise)
