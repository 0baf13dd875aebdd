"""answers.py: the log-likelihood of held-out answers against a float64 loop, however it is read."""

import copy
import math

import numpy as np
import pytest
import reference
import tiny
import torch
from architectures import ARCHITECTURES

from spinal_callback.config import SpinalConfig
from spinal_callback.probe import answers
from spinal_callback.probe.probe import Probe
from spinal_callback.probe.prompts import PromptSet, collect

PROMPTS = tiny.prompts(20)
NAMES = ["llama", "gpt2", "gemma2", "cohere", "mamba"]


def pairs(count=5, start=(), longest=12):
    """Pairs of different lengths, prompts beginning with `start`."""
    texts = tiny.prompts(3 * count, seed=3, longest=longest)
    return [([*start, *texts[3 * i]], texts[3 * i + 1], texts[3 * i + 2]) for i in range(count)]


def prompt_set(*args, **kwargs):
    return PromptSet(PROMPTS, [0] * len(PROMPTS), pairs(*args, **kwargs))


def truth(model, of):
    """`[2, M]`: each text alone through the whole model, log-softmax and sum in float64."""
    model = copy.deepcopy(model).double()
    found = np.zeros((2, len(of)))
    for i, (prompt, *both) in enumerate(of):
        for side, answer in enumerate(both):
            answer = answer[: answers.ANSWER_TOKENS]
            ids = torch.tensor([[*prompt, *answer]])
            with torch.no_grad():
                logits = model(input_ids=ids, use_cache=False).logits[0].numpy()
            log_p = reference.log_softmax(logits)
            found[side, i] = sum(log_p[len(prompt) - 1 + j, token] for j, token in enumerate(answer))
    return found


def read(model, prompts, **fields):
    probe = Probe(model, prompts, SpinalConfig(num_prompts=len(PROMPTS), **fields))
    return probe, probe.read(0)


@pytest.mark.parametrize("name", NAMES)
def test_it_is_the_sum_over_the_answers_tokens(name):
    model = ARCHITECTURES[name].build().double()
    probe, _ = read(model, prompt_set())
    assert probe.now.answers.numpy() == pytest.approx(truth(model, pairs()), rel=1e-5)


def test_a_long_answer_is_cut():
    long = [([5, 6, 7], [8] * 100, [9] * 3)]
    model = tiny.llama()
    probe, _ = read(model, PromptSet(PROMPTS, [0] * len(PROMPTS), long))
    assert probe.now.answer_tokens.tolist() == [[answers.ANSWER_TOKENS], [3]]
    assert probe.now.answers.numpy() == pytest.approx(truth(model, long), rel=1e-5)


def test_a_shared_prefix_changes_nothing():
    start = list(range(10, 40))
    model = tiny.llama()
    probe, _ = read(model, prompt_set(start=start))
    assert probe.sampler.answers.forward.shared_prefix[: len(start)] == start, "otherwise this shows nothing"
    assert probe.now.answers.numpy() == pytest.approx(truth(model, pairs(start=start)), rel=1e-5)


def test_little_memory_changes_nothing():
    model = tiny.llama()
    probe, _ = read(model, prompt_set())
    whole = probe.now.answers
    probe.sampler.remember({"tokens": 7, "logits": 50})
    probe.read(1)
    assert probe.now.answers.numpy() == pytest.approx(whole.numpy(), rel=1e-6)


def test_the_reading_of_a_changed_policy():
    before, after = tiny.llama(), tiny.llama(seed=1)
    probe, first = read(before, prompt_set())
    with torch.no_grad():
        for p, q in zip(before.parameters(), after.parameters(), strict=True):
            p.copy_(q)
    reading = probe.read(1)
    now, then = truth(after, pairs()), truth(tiny.llama(), pairs())
    tokens = np.array([len(chosen) for _, chosen, _ in pairs()])
    risen, margin = -(now[0] - then[0]) / tokens, (now - then)[0] - (now - then)[1]
    assert first.chosen_nll == pytest.approx((-then[0] / tokens).mean(), rel=1e-5)
    assert reading.chosen_nll == pytest.approx((-now[0] / tokens).mean(), rel=1e-5)
    assert reading.delta["chosen_nll"] == pytest.approx(risen.mean(), rel=1e-4)
    assert reading.delta["chosen_nll_se"] == pytest.approx(reference.paired_se(risen), rel=1e-4)
    assert reading.margin == pytest.approx(margin.mean(), rel=1e-4)
    assert reading.delta["margin_se"] == pytest.approx(reference.paired_se(margin), rel=1e-4)
    assert reading.accuracy == pytest.approx((margin > 0).mean()) and 0 < reading.accuracy < 1
    assert (first.margin, first.accuracy) == (0, 0.5)


def test_without_pairs_there_is_nothing():
    _, reading = read(tiny.llama(), PromptSet(PROMPTS, [0] * len(PROMPTS)))
    assert all(math.isnan(x) for x in (reading.chosen_nll, reading.margin, reading.accuracy))
    assert set(reading.delta) == {"alpha", "alpha_se", "transport", "transport_se"}


def test_a_reference_read_with_other_pairs_is_not_compared_with(tmp_path):
    probe, _ = read(tiny.llama(), prompt_set(count=4))
    probe.save_reference(tmp_path / "start.safetensors")
    other = Probe(tiny.llama(seed=1), prompt_set(count=5), SpinalConfig(num_prompts=len(PROMPTS)))
    assert other.load_reference(tmp_path / "start.safetensors", probe.fingerprint)
    reading = other.read(3)
    assert reading.delta["chosen_nll"] == 0 and reading.accuracy == 0.5 and reading.displacement > 0


def test_the_reference_keeps_its_answers(tmp_path):
    probe, _ = read(tiny.llama(), prompt_set())
    probe.save_reference(tmp_path / "start.safetensors")
    other = Probe(tiny.llama(seed=1), prompt_set(), SpinalConfig(num_prompts=len(PROMPTS)))
    assert other.load_reference(tmp_path / "start.safetensors", probe.fingerprint)
    assert other.read(3).delta["chosen_nll"] != 0


# --- the formulas


@pytest.mark.parametrize("piece", [1, 3, 7, 50])
def test_the_log_probability_in_any_pieces_of_the_vocabulary(piece):
    generator = torch.Generator().manual_seed(0)
    z, tokens = 30 * torch.randn(6, 50, generator=generator), torch.tensor([0, 49, 7, 6, 21, 3])
    stream = answers.LogLikelihood(tokens)
    for first in range(0, 50, piece):
        stream.update(z[:, first : first + piece], first)
    expected = reference.log_softmax(z.double().numpy())[range(6), tokens]
    assert stream.log_probability().numpy() == pytest.approx(expected, rel=1e-12)


def test_accuracy_counts_ties_half_and_knows_no_nan():
    assert answers.accuracy(torch.tensor([1.0, -1.0, 0.0, 2.0])) == pytest.approx(2.5 / 4)
    assert math.isnan(answers.accuracy(torch.tensor([1.0, math.nan]))) and math.isnan(answers.accuracy(torch.zeros(0)))


# --- which pairs


def test_pairs_are_the_first_rows_that_have_both_answers():
    rows = [
        {"prompt_ids": [1, 2], "chosen_ids": [3], "rejected_ids": [4, 5]},
        {"prompt_ids": [6, 7], "chosen_ids": [8]},
        {"prompt_ids": [9], "chosen_ids": [10], "rejected_ids": [11]},
        {"prompt_ids": [12], "chosen_ids": [13], "rejected_ids": [14]},
    ]
    settings = {"count": 10, "longest": 1, "with_answers": False, "seed": 0}
    assert collect(rows, None, **settings, pairs=2).pairs == [([2], [3], [4, 5]), ([9], [10], [11])]
    assert collect(rows, None, **settings).pairs == []
    assert collect(rows, None, **settings, pairs=2).hash == collect(rows, None, **settings).hash
