"""Exponents fitted in groups of prompts, against the float64 loops of reference.py."""

import math

import numpy as np
import pytest
import reference
import tiny
import torch
from architectures import ARCHITECTURES, deep, perturbed

from spinal_callback.config import SpinalConfig
from spinal_callback.probe import Probe, measures
from spinal_callback.probe.grouped_fit import GroupedFit
from spinal_callback.probe.prompts import PromptSet

WIDTH = 40


def states(prompts, layers=2, seed=0):
    """Hidden states `[layers, prompts, WIDTH]` whose directions have different sizes."""
    draw = torch.Generator().manual_seed(seed)
    sizes = torch.arange(1, WIDTH + 1, dtype=torch.float64).pow(-0.8)
    return torch.randn(layers, prompts, WIDTH, generator=draw, dtype=torch.float64) * sizes


def fitted(h, group, counts=None, **fields):
    config = SpinalConfig(num_prompts=max(h.shape[1], 64), group=group, **fields)
    counts = torch.ones(h.shape[1], dtype=torch.long) if counts is None else counts
    fit = GroupedFit(counts, config, h.shape[-1])
    return fit, fit.read(h)


@pytest.mark.parametrize("prompts", [80, 85])
def test_from_four_fits_on_the_error_is_the_spread_of_their_mean(prompts):
    h = states(prompts)
    fit, read = fitted(h, 20)
    want = [reference.grouped_exponent(layer.numpy(), 20) for layer in h]
    np.testing.assert_allclose(read["alpha"], [alpha for alpha, _ in want], rtol=1e-9)
    np.testing.assert_allclose(read["alpha_se"], [error for _, error in want], rtol=1e-9)
    np.testing.assert_allclose(measures.jackknife_error(read["deleted"].T), [error for _, error in want], rtol=1e-9)
    groups = reference.fit_groups(prompts, 20)
    ranks = [[reference.effective_rank(layer[rows].numpy()) for rows in groups] for layer in h]
    np.testing.assert_allclose(read["effective_rank"], np.mean(ranks, axis=1), rtol=1e-9)
    assert read["deleted"].shape == (4, 2) and fit.left_out.tolist() == [i % 4 for i in range(prompts)]


@pytest.mark.parametrize("prompts", [40, 47, 60])
def test_of_fewer_fits_the_error_is_that_of_leaving_prompts_out_of_every_fit(prompts):
    h = states(prompts)
    fit, read = fitted(h, 20)
    groups = reference.fit_groups(prompts, 20)
    assert read["deleted"].shape == (8, 2)
    for left_out in range(8):
        kept = [[i for i in rows if int(fit.left_out[i]) != left_out] for rows in groups]
        assert all(len(rows) in (17, 18) for rows in kept)
        truth = [np.mean([reference.tail_exponent(layer[rows].numpy())[0] for rows in kept]) for layer in h]
        np.testing.assert_allclose(read["deleted"][left_out], truth, rtol=1e-9)
    fits = [[reference.tail_exponent(layer[rows].numpy())[:2] for rows in groups] for layer in h]
    np.testing.assert_allclose(read["alpha"], np.mean(fits, axis=1)[:, 0], rtol=1e-9)
    error = np.sqrt((np.array(fits)[..., 1] ** 2).sum(1)) / len(groups)
    np.testing.assert_allclose(read["alpha_se"], error, rtol=1e-9)


@pytest.mark.parametrize("group", [None, 40, 64])
def test_one_fit_is_the_fit_to_all_prompts(group):
    h = states(40)
    _, read = fitted(h, group)
    want = [reference.tail_exponent(layer.numpy()) for layer in h]
    np.testing.assert_allclose([read["alpha"], read["alpha_se"], read["alpha_r2"]], np.transpose(want), rtol=1e-9)


def test_more_prompts_change_the_error_and_not_the_level():
    """The one fit to all prompts is the twin: its level rises with N."""
    levels = {group: {} for group in (64, None)}
    for prompts in (64, 256, 1024):
        for group, found in levels.items():
            _, read = fitted(states(prompts, layers=6, seed=prompts), group)
            found[prompts] = float(read["alpha"].mean()), float(measures.jackknife_error(read["deleted"].T).mean())
    (small, error), (middle, _), (large, less) = levels[64].values()
    assert abs(large - small) < 2 * error and abs(middle - small) < 2 * error and less < error / 2
    assert abs(levels[None][1024][0] - levels[None][64][0]) > 5 * error


def test_the_rows_of_a_prompt_stay_in_one_fit():
    counts = torch.tensor([1, 3, 2, 2] * 10)
    h = states(int(counts.sum()))
    _, read = fitted(h, 20, counts, position="response")
    starts = (counts.cumsum(0) - counts).tolist()
    groups = reference.fit_groups(40, 20)
    rows = [[starts[i] + j for i in group for j in range(int(counts[i]))] for group in groups]
    truth = [np.mean([reference.tail_exponent(layer[r].numpy())[0] for r in rows]) for layer in h]
    np.testing.assert_allclose(read["alpha"], truth, rtol=1e-9)


def test_a_layer_without_a_tail_in_one_fit_has_no_exponent():
    h = states(80)
    h[0, 4] = math.nan
    _, read = fitted(h, 20)
    assert math.isnan(read["alpha"][0]) and read["deleted"][:, 0].isnan().all() and read["alpha"][1].isfinite()


def test_a_group_that_is_too_small_for_the_tail():
    words = "the 8 ranks that group=9 gives, but a fit needs at least 8: use group >= 10 or a wider tail"
    with pytest.raises(ValueError, match=words):
        SpinalConfig(group=9)


def test_a_reading_in_groups_equals_the_reference():
    arch, prompts = ARCHITECTURES["llama"], tiny.prompts(48)
    model = deep()
    probe = Probe(model, PromptSet(prompts, [0] * 48), SpinalConfig(num_prompts=48, group=12))
    traces = []
    for step in (0, 1):
        reading = probe.read(step)
        traces.append(reference.reference_trace(model, prompts, arch.layers_of, arch.norm_of, arch.head_of)["h"])
        perturbed(model)
    want = [[reference.grouped_exponent(layer, 12)[0] for layer in h] for h in traces]
    np.testing.assert_allclose(reading.alpha, want[1], rtol=1e-6)
    fits = reference.fit_groups(48, 12)
    each = [[[reference.tail_exponent(layer[rows])[0] for rows in fits] for layer in h] for h in traces]
    moved = np.array(each[1]) - np.array(each[0])  # [L, K]
    np.testing.assert_allclose(reading.alpha_change_se, [reference.paired_se(m) for m in moved], rtol=1e-5)
    assert reading.delta["alpha_se"] == pytest.approx(reference.paired_se(moved[6:].mean(0)), rel=1e-5)
