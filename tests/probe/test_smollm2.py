"""The probe on SmolLM2-135M-Instruct against the float64 reference. Fetches the model once; `./scripts/test --slow`."""

import json
import sys

import numpy as np
import pytest
import reference
import torch
from paths import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
PARTS = (lambda m: m.model.layers, lambda m: m.model.norm, lambda m: m.lm_head)


@pytest.fixture(scope="module")
def smollm2():
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from spinal_callback.probe.prompt_files import SHIPPED
    from spinal_callback.probe.prompts import collect

    sys.path.insert(0, str(ROOT / "recipes"))
    from smollm2 import smollm2 as fetch

    path = fetch()
    rows = [json.loads(line) for line in SHIPPED.read_text().splitlines()]
    tokenizer = AutoTokenizer.from_pretrained(path)
    prompts = collect(rows, tokenizer, count=64, longest=256, with_answers=False, seed=0)
    return AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32), prompts.ids


def reading(model, prompts):
    from spinal_callback import SpinalConfig
    from spinal_callback.probe import Probe
    from spinal_callback.probe.prompts import PromptSet

    return Probe(model, PromptSet(prompts, [0] * len(prompts)), SpinalConfig(num_prompts=len(prompts))).read(step=0)


def exponents(h, eps):
    return np.array([reference.tail_exponent(layer, eps=eps)[0] for layer in h])


def test_float32_against_float64(smollm2):
    """A float32 pass rounds: layer 1's exponent is off by about 1e-6, more or less as prompts are batched.

    Where that passes the limit, ours may be little further off than states of one prompt at a time, read exactly.
    """
    torch.set_num_threads(2)
    model, prompts = smollm2
    told, read = reference.reference_trace(model, prompts, *PARTS), reading(model, prompts)
    alpha = exponents(told["h"], 1.2e-7)
    transport = np.concatenate([reference.transport(told["z"][i : i + 2]).mean(1) for i in range(len(alpha) - 1)])
    errors = np.abs(np.array(read.alpha) / alpha - 1)
    naive = np.abs(exponents(one_at_a_time(model, prompts)[0], 1.2e-7) / alpha - 1)
    further = np.abs(np.array(read.transport) - transport).max()
    print(f"\nSmolLM2, float32, alpha: within {errors.max():.1e} of float64, relative, mean {errors.mean():.1e};")
    print(f"states of one prompt at a time {naive.max():.1e}, {naive.mean():.1e}; transport within {further:.1e} rad")
    assert errors.max() < max(1e-6, 1.25 * naive.max()) and errors.mean() < min(1e-6, 1.05 * naive.mean())
    assert further < 1e-4


def test_bfloat16_errs_no_more_than_the_naive_method(smollm2):
    """Truth: the bfloat16 weights run in float64. Naive: bfloat16 all the way, log-softmax and arccos included."""
    import copy

    torch.set_num_threads(2)
    model, prompts = copy.deepcopy(smollm2[0]).to(torch.bfloat16), smollm2[1]
    told, read = reference.reference_trace(model, prompts, *PARTS), reading(model, prompts)
    truth = exponents(told["h"], 1.2e-7), reference.transport(told["z"]).mean(1)
    hidden, transport = one_at_a_time(model, prompts)
    naive = exponents(hidden, 7.8e-3), transport
    names, mine = ("alpha", "transport"), (read.alpha, read.transport)
    for name, true, ours, theirs in zip(names, truth, mine, naive, strict=True):
        assert (np.isfinite(ours) == np.isfinite(theirs)).all()  # some have no tail above bfloat16's own rounding
        errors = [float(np.nanmean(np.abs(np.array(x) - true))) for x in (ours, theirs)]
        print(f"\nSmolLM2, bfloat16, {name}: mean error {errors[0]:.2e}, naive {errors[1]:.2e}")
        assert errors[0] <= errors[1] * 1.05


@torch.no_grad()
def one_at_a_time(model, prompts):
    """Hidden states `[L, N, d]` as they come from the model, and transport `[L - 1]` in its own precision."""
    states, steps = [], []
    for ids in prompts:
        kept: list[torch.Tensor] = []
        hooks = [
            x.register_forward_hook(lambda m, a, out, kept=kept: kept.append(out[0, -1])) for x in model.model.layers
        ]
        model(input_ids=torch.tensor([ids]))
        for hook in hooks:
            hook.remove()
        h = torch.stack(kept)
        p = model.lm_head(model.model.norm(h)).softmax(-1)
        steps.append(2 * (p[1:].sqrt() * p[:-1].sqrt()).sum(-1).clamp(max=1).arccos())
        states.append(h)
    hidden = torch.stack(states, 1)
    return hidden.float().numpy().astype(np.float64), torch.stack(steps, 1).float().numpy().mean(1)
