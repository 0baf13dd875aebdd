"""The measures over depth against the float64 loops of reference.py, against closed forms, and at their edges."""

import math

import numpy as np
import pytest
import reference
import torch

from spinal_callback.probe import measures


def draw(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


# --- the late window and the score


DEPTHS = [(9, (7, 9)), (30, (21, 30)), (12, (1, 5)), (12, (4, 8)), (6, (1, 6))]


@pytest.mark.parametrize(("depth", "window"), DEPTHS)
def test_depth_measures_match_the_reference(depth, window):
    alpha, transport = draw(depth), draw(depth - 1, seed=1).abs()
    a, t = alpha.tolist(), transport.tolist()
    assert measures.late(alpha, window, depth).tolist() == reference.layers_in(a, *window)
    assert measures.late(transport, window, depth).tolist() == reference.steps_in(t, *window)
    assert measures.coherence(alpha, transport, window) == pytest.approx(reference.coherence(a, t, *window))
    assert measures.localization(alpha, transport, window) == pytest.approx(reference.localization(a, t, *window))
    assert tuple(measures.path_length(transport, window).values()) == pytest.approx(reference.path_length(t, *window))
    assert measures.greatest_change(alpha, depth) == reference.greatest_change(a, 1)
    assert measures.greatest_change(transport, depth) == reference.greatest_change(t, 2)
    share = measures.gradient_concentration(alpha.square(), window)
    assert share == pytest.approx(reference.gradient_concentration(alpha.square().tolist(), *window))


def test_where_nothing_changed_there_is_no_greatest_change():
    assert math.isnan(measures.greatest_change(torch.zeros(8), 9))
    assert math.isnan(measures.greatest_change(torch.full((9,), math.nan), 9))
    assert measures.greatest_change(torch.tensor([math.nan, 0.1, -0.5, 0.2]), 4) == 3
    assert measures.greatest_change(torch.tensor([0.1, -0.5, 0.2]), 4) == 3  # the second step ends at layer 3


def test_late_keeps_the_dimensions_before_depth():
    transport = draw(5, 8)  # per prompt
    assert measures.late(transport, (7, 9), 9).equal(transport[:, 5:])


def test_delta_align_and_score_match_the_reference():
    assert measures.delta_align(0.8, 0.7, 1.1, 1.4) == reference.delta_align(0.8, 0.7, 1.1, 1.4) == pytest.approx(0.4)
    assert measures.score(0.4, 0.9, 0.5) == reference.score(0.4, 0.9, 0.5) == pytest.approx(1.8)
    assert measures.score(0.4, 0.9, 0.5, (1, 0, 2)) == pytest.approx(reference.score(0.4, 0.9, 0.5, (1, 0, 2)))
    assert math.isnan(measures.score(0.4, 0.9, math.nan))
    with pytest.raises(ValueError, match="argument"):
        measures.score(0.4, 0.9, 0.5, (1, 1))


def test_coherence_is_one_on_a_straight_path_and_falls_with_curvature():
    straight, zigzag = torch.linspace(0, 1, 12), torch.tensor([0.0, 1.0] * 6)
    assert measures.coherence(straight, straight[:-1], (7, 12)) == pytest.approx(1, abs=1e-6)
    assert measures.coherence(straight * 100, straight[:-1] - 7, (7, 12)) == pytest.approx(1, abs=1e-5)
    half = measures.coherence(zigzag, straight[:-1], (7, 12))
    both = measures.coherence(zigzag, zigzag[:-1], (7, 12))
    assert both == pytest.approx(1 / 3) and half == pytest.approx(1 / 2)
    early = torch.cat([zigzag[:6], torch.zeros(6)])  # bends outside W do not count
    assert measures.coherence(early, straight[:-1], (8, 12)) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("depth", [2, 3, 4, 6])
def test_coherence_is_nan_exactly_where_the_window_has_no_curvature(depth):
    alpha, transport = draw(depth), draw(depth - 1, seed=1)
    for first in range(1, depth + 1):
        for last in range(first, depth + 1):
            known = not math.isnan(measures.coherence(alpha, transport, (first, last)))
            assert known == measures.has_curvature((first, last), depth), (first, last)


def test_coherence_at_the_edges():
    curve, flat = draw(12), torch.ones(12)
    assert math.isnan(measures.coherence(curve, curve[:-1], (11, 12)))  # two layers have no curvature
    assert not math.isnan(measures.coherence(curve, curve[:-1], (10, 12)))
    assert measures.coherence(flat, flat[:-1], (7, 12)) == 1  # no range, but no bend either
    holed = curve.clone()
    holed[0] = math.nan  # outside W: the other layers still have a range
    assert measures.coherence(holed, curve[:-1], (7, 12)) == pytest.approx(
        reference.coherence(holed.tolist(), curve[:-1].tolist(), 7, 12)
    )
    holed[9] = math.nan
    assert math.isnan(measures.coherence(holed, curve[:-1], (7, 12)))
    assert math.isnan(measures.coherence(torch.full((12,), math.nan), curve[:-1], (7, 12)))


def test_localization_at_the_edges():
    none, late = torch.zeros(12), torch.zeros(12)
    late[8:] = torch.tensor([1.0, -2.0, 3.0, -4.0])
    assert measures.localization(late, late[1:], (9, 12)) == 1
    assert measures.localization(late, late[1:], (1, 6)) == 0
    assert math.isnan(measures.localization(none, none[1:], (9, 12)))  # nothing has changed
    assert math.isnan(measures.localization(late, none[1:], (9, 12)))
    assert math.isnan(measures.localization(late.where(late != 3, math.nan), late[1:], (9, 12)))


def test_gradient_concentration_at_the_edges():
    assert measures.gradient_concentration(torch.tensor([1.0, 1.0, 6.0]), (3, 3)) == 0.75
    assert math.isnan(measures.gradient_concentration(torch.zeros(3), (3, 3)))
    assert math.isnan(measures.gradient_concentration(torch.full((3,), math.nan), (3, 3)))


# --- noise over prompts


@pytest.mark.parametrize("n", [2, 8, 48])
def test_standard_errors_match_the_reference(n):
    x = draw(3, n)
    np.testing.assert_allclose(measures.standard_error(x), [reference.paired_se(row.tolist()) for row in x])
    np.testing.assert_allclose(measures.jackknife_error(x), [reference.jackknife_se(row.tolist()) for row in x])
    assert measures.standard_error(torch.ones(n)) == 0 == measures.jackknife_error(torch.ones(n))


def test_jackknife_of_the_mean_is_its_standard_error():
    x = draw(48)
    left_out = (x.sum() - x) / 47
    torch.testing.assert_close(measures.jackknife_error(left_out), measures.standard_error(x))
    assert not torch.allclose(measures.jackknife_error(x), measures.standard_error(x))
