"""A small model read by the package (its parts, checked, its hidden states, its lens) and by the reference."""

import reference
import torch
from architectures import ARCHITECTURES

from spinal_callback.distributed.sharding import Replicated
from spinal_callback.probe.hooks import kept_states, stack_states
from spinal_callback.probe.lens_check import check_lens
from spinal_callback.probe.logit_lens import lens_chunks
from spinal_callback.probe.model_parts import locate
from spinal_callback.probe.undisturbed import undisturbed

LLAMA = ARCHITECTURES["llama"]
PROMPTS = [[11, 42, 7], [90, 3, 55, 21, 8, 33, 61, 12, 29, 40, 77], [64], [5, 9, 30, 17, 8, 44, 2, 71]]


def checked(model):
    return check_lens(model, locate(model), PROMPTS[1][:6], Replicated(), torch.device("cpu"))


def states(model, found, prompts=PROMPTS, pad=0, more=0):
    """`[L, N, d]` at the last tokens, from one right-padded batch."""
    longest = max(map(len, prompts)) + more
    ids = torch.tensor([p + [pad] * (longest - len(p)) for p in prompts])
    mask = torch.tensor([[1] * len(p) + [0] * (longest - len(p)) for p in prompts])
    where = torch.arange(len(prompts)), torch.tensor([len(p) - 1 for p in prompts])
    with undisturbed(model), kept_states(found.layers, where, longest) as kept:
        found.forward(input_ids=ids, attention_mask=mask, use_cache=False)
    return stack_states(kept)


def lens(model, found, h, block=100):
    with undisturbed(model):
        return torch.cat([z for _, z in lens_chunks(found, h, block)], -1)


def truth(model, arch=LLAMA, prompts=PROMPTS):
    trace = reference.reference_trace(model, prompts, arch.layers_of, arch.norm_of, arch.head_of, arch.finish)
    return torch.tensor(trace["h"]), torch.tensor(trace["z"])


def assert_near(got, want, tolerance=2e-5):
    """The largest error, as a share of the largest value."""
    assert got.shape == want.shape
    assert (got.double() - want.double()).abs().max() <= tolerance * want.abs().max()
