"""Errors of changes against the naive reference, p values against tables, coverage of intervals, turning points."""

import math
import subprocess
import sys

import numpy as np
import pytest
import reference
import tiny
import torch
from architectures import perturbed

import spinal_callback
from spinal_callback.auditing.p_values import holm, p_values
from spinal_callback.auditing.results import Change
from spinal_callback.auditing.significance import paired, turning_points
from spinal_callback.config import SpinalConfig
from spinal_callback.probe import contraction, measures
from spinal_callback.probe.sample import Sample

NAN = math.nan
PROMPTS = tiny.prompts(28)
PARTS = (lambda m: m.model.layers, lambda m: m.model.norm, lambda m: m.lm_head)


def sample(alpha, transport, deleted):
    """A made-up sample: alpha [L], deleted [G, L], transport [L - 1, N]."""
    n, empty = transport.shape[1], torch.zeros(0)
    scalars = {"displacement": torch.zeros(n), "entropy": torch.zeros(n), "nonfinite": torch.tensor(0)}
    return Sample(
        alpha=alpha,
        alpha_se=alpha,
        alpha_r2=alpha,
        effective_rank=alpha,
        deleted=deleted,
        transport=transport,
        logits=empty,
        groups=torch.arange(n) % len(deleted),
        **scalars,
    )


def drawn(alpha, transport, noise=0.01, prompts=64, seed=0):
    """A sample whose late means are as told (9 layers, late 7-9) with noise over prompts."""
    draw = torch.Generator().manual_seed(seed)
    return sample(
        torch.full((9,), alpha, dtype=torch.float64),
        transport + noise * torch.randn(8, prompts, generator=draw, dtype=torch.float64),
        alpha + noise / 20 * torch.randn(8, 9, generator=draw, dtype=torch.float64),
    )


# --- single pieces


def test_p_values_are_those_of_the_tables():
    error = np.ones(4)
    assert p_values(np.array([2.3646, 12.7062, 1.9600, 0.0]), error, np.array([7, 1, np.inf, 7])) == pytest.approx(
        [0.05, 0.05, 0.05, 1.0], abs=1e-5
    )
    told = p_values(np.array([0.0, 1.0, NAN, 1.0]), np.array([0.0, 0.0, 1.0, NAN]), np.full(4, 7))
    assert told[0] == 1 and told[1] == 0 and np.isnan(told[2:]).all()


def test_holm_by_hand():
    assert holm(np.array([0.01, 0.04, NAN, 0.03, 0.005])) == pytest.approx([0.03, 0.06, NAN, 0.06, 0.02], nan_ok=True)
    assert holm(np.array([[0.9, 0.8], [NAN, 0.01]])) == pytest.approx(np.array([[1, 1], [NAN, 0.01]]), nan_ok=True)


# --- two checkpoints


@pytest.fixture(scope="module")
def pair():
    from spinal_callback.probe import Probe
    from spinal_callback.probe.prompts import PromptSet

    samples, told = [], []
    for model in (tiny.llama(), perturbed(tiny.llama())):
        probe = Probe(model.double(), PromptSet(PROMPTS, [0] * 28), SpinalConfig(num_prompts=28))
        probe.read(0)
        samples.append(probe.now)
        told.append(reference.reference_trace(model, PROMPTS, *PARTS))
    return samples, told


def test_changes_and_errors_are_the_naive_references(pair):
    (before, after), (naive0, naive1) = pair
    found = paired(before, after, (7, 9))
    z0, z1 = (reference.transport(t["z"]) for t in (naive0, naive1))
    for layer in range(1, 10):
        change = found.alpha[layer - 1]
        h0, h1 = (t["h"][layer - 1 : layer] for t in (naive0, naive1))
        alphas = [reference.tail_exponent(h[0])[0] for h in (h0, h1)]
        assert [change.before, change.after] == pytest.approx(alphas, rel=1e-6)
        assert change.se == pytest.approx(reference.jackknife_late_alpha_change(h1, h0, 1, 1), rel=1e-6)
        if layer > 1:
            step = found.transport[layer - 1]
            assert step.change == pytest.approx((z1 - z0)[layer - 2].mean(), abs=1e-7)
            assert step.se == pytest.approx(reference.paired_se((z1 - z0)[layer - 2]), rel=1e-5)
            assert step.high - step.low == pytest.approx(2 * 2.05183 * step.se, rel=1e-5)  # t of 27 degrees
    assert math.isnan(found.transport[0].change)
    late = found.late["alpha"]
    assert late.se == pytest.approx(reference.jackknife_late_alpha_change(naive1["h"], naive0["h"], 7, 9), rel=1e-6)
    assert found.late["transport"].se == pytest.approx(reference.paired_se((z1 - z0)[5:].mean(0)), rel=1e-5)


def test_a_policy_does_not_differ_from_itself(pair):
    found = paired(pair[0][0], pair[0][0], (7, 9))
    assert found.layers == [] and found.first is found.last is None
    assert all(c.change == 0 and c.p == 1 for c in found.alpha)


def noisy(before, moved, by, noise, seed):
    """`before` with layers `moved` changed by `by` and independent noise of every prompt and group."""
    draw = torch.Generator().manual_seed(seed)
    deleted = before.deleted + noise / 30 * torch.randn(before.deleted.shape, generator=draw, dtype=torch.float64)
    transport = before.transport + noise * torch.randn(before.transport.shape, generator=draw, dtype=torch.float64)
    alpha = before.alpha + noise / 12 * torch.randn(before.alpha.shape, generator=draw, dtype=torch.float64)
    for layer in moved:
        transport[layer - 2] += by
    return sample(alpha, transport, deleted)


def test_where_the_change_is(pair):
    before = drawn(0.8, 1.2)
    found = paired(before, noisy(before, (6, 7, 8), -0.2, 0.05, seed=1), (7, 9))
    assert found.layers == [6, 7, 8]
    assert (found.first.layer, found.first.low, found.first.high) == (6, 6, 6)
    weak = paired(before, noisy(before, (5, 6, 7, 8), -0.028, 0.05, seed=2), (7, 9))
    assert weak.first.low <= weak.first.layer <= weak.first.high and weak.first.low < weak.first.high


def test_noise_alone_is_seldom_significant():
    before = drawn(0.8, 1.2)
    found = sum(bool(paired(before, noisy(before, (), 0.0, 0.05, seed), (7, 9)).layers) for seed in range(200))
    assert found <= 20  # 5 % of 200, and three standard deviations


def test_the_jackknife_interval_of_contraction_covers_its_mean_over_draws():
    """Two fixed linear maps, 100 draws of 64 prompts each: the interval must not be too short."""
    draw, config, width = torch.Generator().manual_seed(0), SpinalConfig(), 48
    decay = torch.arange(1, width + 1, dtype=torch.float64).pow(-0.7)
    maps = [torch.linalg.qr(torch.randn(width, width, generator=draw, dtype=torch.float64))[0] * decay]
    maps.append(maps[0] + 0.02 * torch.randn(width, width, generator=draw, dtype=torch.float64) @ maps[0])
    changes, errors = [], []
    for _ in range(100):
        x = torch.randn(64, width, generator=draw, dtype=torch.float64)
        alpha, left_out = [], []
        for m in maps:
            h = x @ m.T
            alpha.append(contraction.tail_exponent(contraction.spectrum(h), config.tail_ranks(64, width))[0])
            groups = torch.arange(64) % 8
            left_out.append(contraction.deleted_exponents(h, groups, [config.tail_ranks(56, width, least=2)] * 8))
        changes.append(float(alpha[1] - alpha[0]))
        errors.append(float(measures.jackknife_error(left_out[1] - left_out[0])))
    missed = np.abs(np.array(changes) - np.mean(changes)) / np.array(errors)
    assert (missed < 2.3646).mean() >= 0.90  # t of 7 degrees, 95 %
    assert np.std(changes) < np.mean(errors) < 2 * np.std(changes)


# --- turning points


def course(*late):
    return {10 * i: drawn(alpha, transport, seed=i) for i, (alpha, transport) in enumerate(late)}


def test_a_curve_that_comes_back_has_turned_at_its_extreme():
    found = turning_points(course((0.8, 1.2), (0.82, 1.1), (0.84, 0.9), (0.86, 1.0), (0.88, 1.3)), (7, 9))
    (turn,) = found
    assert (turn.curve, turn.step, turn.between) == ("late_transport", 20, (10, 30))
    assert turn.out.change == pytest.approx(-0.3, abs=0.01) and turn.back.change == pytest.approx(0.4, abs=0.01)
    assert str(turn).startswith("late_transport turned at step 20 (between 10 and 30): -0.299")


def test_a_curve_that_goes_one_way_has_not_turned():
    assert turning_points(course((0.8, 1.2), (0.82, 1.1), (0.84, 1.0), (0.86, 0.9)), (7, 9)) == []
    assert turning_points(course((0.8, 1.2), (0.8, 1.2), (0.8, 1.2), (0.8, 1.2)), (7, 9)) == []
    assert turning_points(course((0.8, 1.2), (0.9, 1.1)), (7, 9)) == []


def test_both_curves_may_turn():
    found = turning_points(course((0.8, 1.2), (0.9, 1.1), (0.7, 1.3)), (7, 9))
    assert {(t.curve, t.step) for t in found} == {("late_alpha", 10), ("late_transport", 10)}


def test_a_change_says_what_it_is():
    assert Change(1, 2, 1, 0.1, 0.8, 1.2, 0.049).significant and not Change(1, 2, 1, 0.1, 0.8, 1.2, NAN).significant


@pytest.mark.parametrize("function", [spinal_callback.audit, spinal_callback.compare])
def test_without_scipy_it_says_what_to_install_before_anything_is_loaded(monkeypatch, function):
    monkeypatch.setitem(sys.modules, "scipy", None)
    with pytest.raises(ImportError, match=r"audit and compare need scipy: pip install 'spinal_callback\[audit\]'"):
        function("nowhere", "nowhere")


def test_without_scipy_the_public_names_are_still_there():
    """In a process of its own: here scipy has been imported."""
    code = "import sys; sys.modules['scipy'] = None; from spinal_callback import *; print(audit, compare)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and "<function audit" in done.stdout, done.stderr
