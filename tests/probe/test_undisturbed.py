"""Whatever happens inside `undisturbed`, training finds modes, random states, gradients and weights as they were."""

import random

import numpy as np
import pytest
import tiny
import torch

from spinal_callback.config import SpinalConfig
from spinal_callback.probe import Probe
from spinal_callback.probe.prompts import PromptSet
from spinal_callback.probe.undisturbed import undisturbed


def dropping_out():
    """A model in train mode whose every training forward draws random numbers; some submodules stay in eval mode."""
    model = tiny.llama(attention_dropout=0.5).train()
    model.model.layers[2].eval()
    model.lm_head.eval()
    return model


def draw_everywhere():
    return random.random(), float(np.random.rand()), float(torch.rand(()))


def random_states():
    return random.getstate(), [str(x) for x in np.random.get_state()], torch.get_rng_state().tolist()


def modes(model):
    return {name: module.training for name, module in model.named_modules()}


def forward(model, ids=(11, 42, 7, 19)):
    return model(input_ids=torch.tensor([list(ids)]), use_cache=False).logits


def test_modes_are_restored_per_submodule():
    model = dropping_out()
    before = modes(model)
    assert set(before.values()) == {True, False}
    with undisturbed(model):
        assert not any(modes(model).values())
        model.model.layers[0].train()
    assert modes(model) == before


def test_random_states_are_restored_though_the_body_draws():
    model = dropping_out()
    before = random_states()
    with undisturbed(model):
        inside = draw_everywhere()
        assert random_states()[0] != before[0] and random_states()[1:] != before[1:]
    assert random_states() == before
    assert draw_everywhere() == inside, "the next draws are those that would have come without the body"


def test_everything_is_restored_though_the_body_raises():
    model = dropping_out()
    before = modes(model), random_states()
    with pytest.raises(KeyError, match="inside"), undisturbed(model):
        draw_everywhere()
        raise KeyError("inside")
    assert (modes(model), random_states()) == before
    assert torch.is_grad_enabled()


def test_no_graph_is_built_inside_and_training_goes_on_after():
    model = dropping_out()
    with undisturbed(model):
        assert not forward(model).requires_grad
    forward(model).sum().backward()
    assert all(p.grad is not None for p in model.parameters())


def test_gradients_are_left_alone():
    model = dropping_out()
    forward(model).sum().backward()
    before = {name: p.grad.clone() for name, p in model.named_parameters()}
    with undisturbed(model):
        forward(model)
    after = {name: p.grad for name, p in model.named_parameters()}
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)


def test_the_autocast_cache_holds_nothing_cast_inside():
    """Older torch caches a cast made without gradients, and cuts the weight out of the next training step's graph."""
    model = tiny.llama().train()
    with torch.autocast("cpu", torch.bfloat16):
        with undisturbed(model):
            forward(model)
        forward(model).float().sum().backward()
    assert model.lm_head.weight.grad is not None


def test_the_twin_without_it_disturbs():
    """The negative of the tests above: the same forward, outside, draws random numbers and gives another result."""
    model = dropping_out()
    before = random_states()
    first = forward(model)
    assert random_states() != before
    assert not torch.equal(first, forward(model))


def test_a_probe_in_train_mode_reads_the_same_twice_and_leaves_no_mark():
    model = dropping_out()
    forward(model).sum().backward()
    weights = {name: p.detach().clone() for name, p in model.named_parameters()}
    grads = {name: p.grad.clone() for name, p in model.named_parameters()}
    before = modes(model), random_states()
    prompts = tiny.prompts()
    probe = Probe(model, PromptSet(prompts, [0] * len(prompts)), SpinalConfig(num_prompts=len(prompts)))
    first, second = probe.read(0), probe.read(1)
    assert first.alpha == second.alpha and first.transport == second.transport and first.entropy == second.entropy
    assert second.displacement == pytest.approx(0, abs=1e-6)
    assert (modes(model), random_states()) == before
    for name, p in model.named_parameters():
        assert torch.equal(p, weights[name]) and torch.equal(p.grad, grads[name]) and p.requires_grad
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_two_training_steps_are_bitwise_the_same_with_a_probe_between():
    def trained(probed, seed=5):
        torch.manual_seed(seed)  # of the dropout
        model, prompts = dropping_out(), tiny.prompts()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
        for _ in range(2):
            if probed:
                Probe(model, PromptSet(prompts, [0] * 24), SpinalConfig(num_prompts=24)).read(0)
            forward(model).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
        return torch.cat([p.detach().flatten() for p in model.parameters()])

    plain = trained(probed=False)
    assert torch.equal(trained(probed=True), plain)
    assert not torch.equal(trained(probed=False, seed=6), plain)
