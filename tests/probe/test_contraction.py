"""Contraction against the float64 loops of reference.py, against closed forms, and at the edges of its domain."""

import math

import numpy as np
import pytest
import reference
import torch

from spinal_callback.probe import contraction, measures

SHAPES = [(24, 40), (40, 24), (48, 200), (33, 33)]
DTYPES = [torch.float32, torch.float64]


def draw(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def eps(h):
    return torch.finfo(h.dtype).eps


def ranks(n, d, tail=(0.1, 0.9)):
    return reference.rank_window(min(n - 1, d), tail)


def exponent(h, tail=(0.1, 0.9)):
    return [float(x) for x in contraction.tail_exponent(contraction.spectrum(h), ranks(*h.shape, tail))]


def with_spectrum(sigma, n, d, seed=0):
    """H [n, d] with these singular values whose columns have mean 0, so that centring leaves it as it is."""
    r = len(sigma)
    rng = np.random.default_rng(seed)
    u = np.linalg.qr(np.concatenate([np.ones((n, 1)), rng.normal(size=(n, r))], axis=1))[0][:, 1:]
    v = np.linalg.qr(rng.normal(size=(d, r)))[0]
    return torch.tensor(u * sigma @ v.T)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_spectrum_and_what_is_read_from_it_match_the_reference(shape, dtype):
    h = draw(*shape, dtype=dtype) * torch.linspace(0.1, 3, shape[1], dtype=dtype) + 5
    x = h.double().numpy()
    np.testing.assert_allclose(contraction.spectrum(h), reference.singular_values(x, eps(h)), rtol=1e-10)
    assert float(contraction.rounding_floor(h)) == pytest.approx(reference.rounding_floor(x, eps(h)), rel=1e-12)
    assert exponent(h) == pytest.approx(reference.tail_exponent(x, eps=eps(h)), rel=1e-9)
    assert exponent(h, (0.3, 0.8)) == pytest.approx(reference.tail_exponent(x, (0.3, 0.8), eps(h)), rel=1e-9)
    assert float(contraction.effective_rank(contraction.spectrum(h))) == pytest.approx(
        reference.effective_rank(x, eps(h))
    )


@pytest.mark.parametrize("shape", SHAPES)
def test_deleted_exponents_match_deleting_rows_by_hand(shape):
    h, h0 = draw(2, *shape), draw(2, *shape, seed=1)
    groups = torch.arange(shape[0]) % 8
    windows = [ranks(int((groups != g).sum()), shape[1]) for g in range(8)]
    for layer in h:
        truth = [reference.tail_exponent(layer[groups != g].numpy())[0] for g in range(8)]
        np.testing.assert_allclose(contraction.deleted_exponents(layer, groups, windows), truth, rtol=1e-6)
    left_out = torch.stack(
        [contraction.deleted_exponents(a, groups, windows) - contraction.deleted_exponents(b, groups, windows)
         for a, b in zip(h, h0, strict=True)]
    ).mean(0)  # fmt: skip
    truth = reference.jackknife_late_alpha_change(h.numpy(), h0.numpy(), 1, 2)
    assert float(measures.jackknife_error(left_out)) == pytest.approx(truth, rel=1e-5)


@pytest.mark.parametrize("shape", [(24, 40), (90, 24), (24, 24)])
@pytest.mark.parametrize("last", [1e-1, 1e-4, 1e-7])
def test_the_tail_is_as_precise_as_its_head(shape, last, monkeypatch):
    """Singular values that fall by up to seven orders of magnitude, tall ones summed up a few rows at a time."""
    monkeypatch.setattr(contraction, "ROWS", 10)
    sigma = np.geomspace(1, last, min(shape[0] - 1, shape[1]))
    h = with_spectrum(sigma, *shape)
    got = contraction.spectrum(torch.stack([h, 3 * h]))
    np.testing.assert_allclose(got, [sigma, 3 * sigma], rtol=1e-8)
    np.testing.assert_allclose(got[0], reference.singular_values(h.numpy()), rtol=1e-8)
    if last == 1e-7:  # twin: squared, the last of them would be lost
        squared = np.linalg.eigvalsh(contraction.gram(h))[-len(sigma) :][::-1]
        assert abs(squared[-1] / sigma[-1] ** 2 - 1) > 1e-6


def test_a_stack_of_layers_is_decomposed_one_by_one():
    h = draw(4, 24, 40)
    h[1, 3, 3], h[2] = math.nan, draw(24, 3) @ draw(3, 40)  # one is broken, one has no tail: the others do not see it
    together, windows = contraction.spectrum(h), [ranks(21, 40)] * 8
    deleted = contraction.deleted_exponents(h, torch.arange(24) % 8, windows)
    for i, layer in enumerate(h):
        torch.testing.assert_close(together[i], contraction.spectrum(layer), equal_nan=True)
        alone = contraction.deleted_exponents(layer, torch.arange(24) % 8, windows)
        torch.testing.assert_close(deleted[:, i], alone, equal_nan=True)
    assert together[1].isnan().all() and (together[2] > 0).sum() == 3


def test_deleted_exponents_of_nan_are_nan_for_every_group():
    h = draw(24, 40)
    h[3, 3] = math.nan
    assert contraction.deleted_exponents(h, torch.arange(24) % 8, [ranks(21, 40)] * 8).isnan().all()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("a", [0.0, 0.5, 1.3])
def test_exact_power_law_gives_its_exponent(shape, a):
    r = min(shape[0] - 1, shape[1])
    alpha, se, r2 = exponent(with_spectrum(np.arange(1, r + 1) ** -a, *shape))
    assert alpha == pytest.approx(a, abs=1e-9)
    assert se < 1e-9
    assert a == 0 or r2 == pytest.approx(1, abs=1e-9)


def test_other_decays_are_told_apart_from_a_power_law():
    k = np.arange(1, 24)
    alpha, se, r2 = exponent(with_spectrum(np.exp(-0.2 * k), 24, 40))
    assert alpha > 1.3 and se > 0.01 and r2 < 0.999


def test_exponent_is_of_the_tail_not_of_the_head():
    sigma = np.arange(1, 48) ** -0.7
    bent = sigma.copy()
    bent[:4] *= 1000  # ranks 1-4: below ceil(0.1 * 47)
    assert exponent(with_spectrum(bent, 48, 60))[0] == pytest.approx(0.7, abs=1e-9)
    bent = sigma.copy()
    bent[:5] *= 1000
    assert exponent(with_spectrum(bent, 48, 60))[0] > 1


def test_two_ranks_fit_a_line_but_give_no_error():
    alpha, se, _ = contraction.tail_exponent(torch.tensor([4.0, 2.0, 1.0]), (1, 2))
    assert float(alpha) == pytest.approx(1)
    assert not float(se) < math.inf


RANKLESS = {
    "identical rows": (torch.ones(24, 1) * draw(1, 40, dtype=torch.float32), 0),
    "identical rows, N = 37": (torch.ones(37, 1) * draw(1, 40, dtype=torch.float32), 0),
    "identical rows, N = 49, bfloat16": ((torch.ones(49, 1) * draw(1, 40)).bfloat16(), 0),
    "identical rows, N = 63, float64": (torch.ones(63, 1, dtype=torch.float64) * draw(1, 80), 0),
    "rank 3, float32": ((draw(24, 3) @ draw(3, 40)).float(), 3),
    "rank 3, far from 0": ((draw(24, 3) @ draw(3, 40) + 100).float(), 3),
    "rank 3, bfloat16": ((draw(24, 3) @ draw(3, 40)).bfloat16(), 3),
    "rank 40 of 63, float64": (draw(64, 40) @ draw(40, 90), 40),
}


@pytest.mark.parametrize("name", RANKLESS)
def test_no_tail_gives_nan_and_full_rank_does_not(name):
    h, rank = RANKLESS[name]
    assert all(map(math.isnan, exponent(h)))
    effective = float(contraction.effective_rank(contraction.spectrum(h)))
    assert math.isnan(effective) if rank == 0 else 1 < effective < rank * 1.01
    full = (h + draw(*h.shape, seed=9) * h.abs().max()).to(h.dtype)
    assert all(map(math.isfinite, exponent(full)))


def test_identical_rows_have_an_exactly_empty_spectrum():
    assert contraction.spectrum(torch.full((37, 40), 0.1)).count_nonzero() == 0
    assert contraction.spectrum(torch.full((37, 40), 0.1) + draw(37, 40).float() * 1e-5).count_nonzero() == 36


def test_a_tail_that_ends_above_the_noise_is_no_lack_of_rank():
    h = draw(64, 40) @ draw(40, 90)
    assert math.isfinite(exponent(h, (0.1, 0.6))[0])  # ranks 7-37 of a matrix of rank 40


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("dtype", [*DTYPES, torch.bfloat16])
def test_nonfinite_states_give_nan_and_never_raise(bad, dtype):
    h = draw(24, 40, dtype=dtype)
    assert all(map(math.isfinite, exponent(h)))
    h[5, 7] = bad
    assert contraction.spectrum(h).isnan().all()
    assert all(map(math.isnan, exponent(h)))
    assert contraction.effective_rank(contraction.spectrum(h)).isnan()


def test_spectrum_does_not_see_a_shift_of_all_prompts_but_sees_one_of_some():
    h, shift = draw(24, 40), draw(1, 40, seed=3) * 10
    torch.testing.assert_close(contraction.spectrum(h + shift), contraction.spectrum(h), rtol=1e-10, atol=0)
    moved = h.clone()
    moved[:12] += shift
    assert not torch.allclose(contraction.spectrum(moved), contraction.spectrum(h), rtol=1e-2)


def test_a_stack_of_spectra_is_fitted_one_by_one():
    sigma = torch.stack([contraction.spectrum(draw(24, 40, seed=s)) for s in range(3)])
    sigma[1, -3:] = 0  # one without a tail leaves the others alone
    alpha, *_ = contraction.tail_exponent(sigma, (3, 21))
    alone = torch.stack([contraction.tail_exponent(s, (3, 21))[0] for s in sigma])
    torch.testing.assert_close(alpha, alone, equal_nan=True)
    assert alpha.isnan().tolist() == [False, True, False]
