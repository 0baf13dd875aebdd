"""Hidden states are those of each prompt run alone, in any batches, with the shared prefix run once."""

import pytest
import tiny
import torch
from architectures import ARCHITECTURES
from peft import get_peft_model
from reads import checked

from spinal_callback.distributed.sharding import Replicated
from spinal_callback.probe import prefix
from spinal_callback.probe.batching import BATCH_COST
from spinal_callback.probe.forward import Forward
from spinal_callback.probe.prompts import PromptSet
from spinal_callback.probe.undisturbed import undisturbed

HEAD = [11, 42, 7, 90, 3, 55, 21, 8, 33, 61, 12]  # longer than the sliding windows here
TAILS = tiny.prompts(6, longest=14)
PROMPTS = [HEAD + tail for tail in TAILS] + [TAILS[0] + HEAD]  # the last one begins otherwise
CPU = torch.device("cpu")
# Those that keep something else than keys and values of every layer: their prompts are run whole.
WHOLE = {"recurrent-gemma", "qwen3-next", "mamba2", "mamba", "falcon-h1"}


def forward_of(model, prompts=PROMPTS, answers=None):
    return Forward(checked(model), PromptSet(prompts, answers or [0] * len(prompts)), Replicated(), CPU)


def states(model, run, budget=4096, share=True):
    with undisturbed(model):
        if share:
            run.share_prefix()
        return run.states(run.shares(), budget), run.shares()[0]


def in_order(rows, order):
    return rows[:, torch.tensor(order).argsort()]


def alone(model, prompts=PROMPTS):
    return torch.cat([states(model, forward_of(model, [p]), share=False)[0] for p in prompts], dim=1)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_prompt_has_the_states_it_has_alone(name):
    """In float64; a few compute attention in float32 even then. A token seen wrongly changes far more than that."""
    model = ARCHITECTURES[name].build().double()
    run = forward_of(model)
    got = in_order(*states(model, run))
    assert run.shared_prefix == ([] if name in WHOLE else HEAD)
    torch.testing.assert_close(got, alone(model), rtol=1e-4, atol=2e-6)


def counted(model, monkeypatch):
    """Tokens of each forward pass from now on."""
    sizes, real = [], model.model.forward

    def forward(input_ids, **fields):
        sizes.append(input_ids.numel())
        return real(input_ids=input_ids, **fields)

    monkeypatch.setattr(model.model, "forward", forward)
    return sizes


def test_the_prefix_is_run_once_and_padding_is_worth_its_batches(monkeypatch):
    model = tiny.llama()
    run = forward_of(model)
    states(model, run)
    sizes = counted(model, monkeypatch)
    again, _ = states(model, run)
    real = len(HEAD) + sum(map(len, TAILS)) + len(PROMPTS[-1])
    each_alone = real + BATCH_COST * (1 + len(PROMPTS))
    assert sizes[0] == len(HEAD) and real <= sum(sizes) <= each_alone - BATCH_COST * len(sizes)
    torch.testing.assert_close(states(model, run)[0], again, rtol=0, atol=0)


@pytest.mark.parametrize("adapted", [False, True])
def test_new_weights_are_read_with_a_new_prefix(adapted):
    model = tiny.llama().double()
    if adapted:
        model = get_peft_model(model, tiny.lora()).eval().double()
    run = forward_of(model)
    before = in_order(*states(model, run))
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(1.1)
    after = in_order(*states(model, run))
    assert run.shared_prefix == HEAD and not torch.allclose(before, after)
    torch.testing.assert_close(after, alone(model), rtol=1e-9, atol=1e-9)


def test_answers_are_never_part_of_the_prefix():
    prompts, answers = [[*HEAD, i, i + 1, i + 2] for i in range(20, 26)], [12] * 6  # some of the head is answer
    model = tiny.llama().double()
    run = forward_of(model, prompts, answers)
    got, order = states(model, run)
    assert run.shared_prefix == HEAD[:1]
    plain, order_plain = states(model, forward_of(model, prompts, answers), share=False)
    assert order == order_plain
    torch.testing.assert_close(got, plain, rtol=1e-9, atol=1e-9)


class Forgets(prefix.SharedLayer):
    """Keys and values without those of the first token."""

    def __init__(self, layer):
        super().__init__(layer)
        self.keys, self.values = self.keys.clone(), self.values.clone()
        self.values[..., 0, :] = 0


class Breaks(prefix.SharedLayer):
    def update(self, *args, **kwargs):
        raise KeyError("no cache here")


@pytest.mark.parametrize("kind", [Forgets, Breaks])
def test_a_prefix_that_changes_the_states_is_not_used(kind, monkeypatch):
    monkeypatch.setattr(prefix, "SharedLayer", kind)
    model = tiny.llama()
    run = forward_of(model)
    got = in_order(*states(model, run))
    assert run.shared_prefix == []
    torch.testing.assert_close(got, alone(model), rtol=1e-4, atol=1e-5)


def test_virtual_tokens_have_no_shared_prefix():
    from peft import PromptTuningConfig

    model = get_peft_model(tiny.llama(), PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)).eval()
    run = forward_of(model)
    states(model, run)
    assert run.shared_prefix == []
