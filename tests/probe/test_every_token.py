"""position="prompt": transport and entropy over every token of a prompt, against the naive loop; memory stays flat."""

import numpy as np
import pytest
import reference
import tiny
import torch
from architectures import ARCHITECTURES, deep, perturbed

from spinal_callback.config import SpinalConfig
from spinal_callback.probe import Probe, sampler
from spinal_callback.probe.batching import cut_by
from spinal_callback.probe.forward import Forward
from spinal_callback.probe.prompts import PromptSet

PROMPTS = tiny.prompts(16)
CONFIG = SpinalConfig(num_prompts=16, position="prompt")


def probe_of(model, prompts=PROMPTS):
    return Probe(model, PromptSet(prompts, [0] * len(prompts)), CONFIG)


def naive(model):
    """Of each prompt: h [L, d] at its last token, mean transport [L - 1], mean entropy, z [V] of the final one."""
    arch = ARCHITECTURES["llama"]
    found = reference.reference_positions(model, PROMPTS, arch.layers_of, arch.norm_of, arch.head_of)
    return (
        np.array([h[:, -1] for h, _ in found]).swapaxes(0, 1),
        np.array([reference.transport(z).mean(1) for _, z in found]).T,
        np.array([reference.entropy(z[-1]).mean() for _, z in found]),
        np.array([z[-1, -1] for _, z in found]),
    )


@pytest.mark.parametrize("rows", [10**9, 40, 1])
def test_a_reading_is_the_naive_loops_before_and_after_a_change(monkeypatch, rows):
    """Whole, in pieces of 40 tokens, and prompt by prompt."""
    model = deep()
    monkeypatch.setattr(sampler, "PIECE_LIMIT", rows * 9 * 32 * 8)
    probe = probe_of(model)
    _, moves0, _, z0 = naive(model)
    probe.read(0)
    h, moves, entropy, z = naive(perturbed(model))
    reading = probe.read(1)
    np.testing.assert_allclose(reading.alpha, [reference.tail_exponent(x)[0] for x in h], rtol=1e-6)
    np.testing.assert_allclose(reading.transport, moves.mean(1), atol=1e-6)
    np.testing.assert_allclose(reading.transport_se, [reference.paired_se(x) for x in moves], rtol=1e-5)
    np.testing.assert_allclose(reading.transport_change_se, [reference.paired_se(x) for x in moves - moves0], rtol=1e-5)
    assert reading.entropy == pytest.approx(entropy.mean(), rel=1e-6)
    assert reading.displacement == pytest.approx(reference.displacement(z, z0).mean(), abs=1e-6)  # at the last token
    last = Probe(model, PromptSet(PROMPTS, [0] * 16), SpinalConfig(num_prompts=16)).read(0)
    assert last.alpha == pytest.approx(reading.alpha, rel=1e-9)
    assert np.abs(np.array(last.transport) - reading.transport).max() > 0.01


def held(monkeypatch, count):
    """The most hidden states that are held at a time, in rows of all layers, for so many prompts."""
    rows, states = [], Forward.states

    def noted(self, *args):
        found = states(self, *args)
        rows.append(found.shape[1])
        return found

    with monkeypatch.context() as patch:
        patch.setattr(Forward, "states", noted)
        patch.setattr(sampler, "PIECE_LIMIT", 50 * 9 * 32 * 4)
        probe_of(deep(dtype=torch.float32), tiny.prompts(count)).read(0)
    return max(rows), sum(rows)


def test_memory_does_not_grow_with_the_number_of_prompts(monkeypatch):
    few, many = held(monkeypatch, 16), held(monkeypatch, 128)
    assert few[0] <= 50 and many[0] <= 50
    assert many[1] == sum(map(len, tiny.prompts(128))) > 5 * few[1]


def test_a_share_in_pieces():
    assert cut_by([3, 1, 2], [0, 4, 5, 6], 10) == [[3, 1], [2]]
    assert cut_by([3, 1, 2], [0, 4, 5, 6], 1) == [[3], [1], [2]]
    assert cut_by([], [1], 1) == [[]]
