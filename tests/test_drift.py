"""drift.py: a rule fires at the exact step, and its healthy twin stays silent."""

import math

import pytest
from test_records import reading

from spinal_callback.drift import Detector, NonFinite

NAN = math.nan


def fired(counts, rule=NonFinite):
    """Steps at which a stream of non-finite counts, one every 10 steps, raises alerts."""
    watching = rule()
    return [a.step for i, n in enumerate(counts) for a in watching.update(reading(10 * i, nonfinite=n))]


@pytest.mark.parametrize("rule", [NonFinite, Detector])
@pytest.mark.parametrize("at", [0, 1, 7, 29])
def test_nonfinite_fires_once_at_the_exact_step(rule, at):
    assert fired([0] * at + [1] * (30 - at), rule) == [10 * at]


@pytest.mark.parametrize("rule", [NonFinite, Detector])
def test_a_finite_run_is_silent(rule):
    assert fired([0] * 200, rule) == []


def test_a_layer_without_a_tail_is_no_fault():
    assert NonFinite().update(reading(0, alpha=[NAN] * 4, localization=NAN, score=NAN)) == []


def test_nonfinite_is_armed_again_once_the_count_has_been_zero():
    assert fired([0, 5, 5, 0, 0, 3, 4, 0, 1]) == [10, 50, 80]
    assert fired([5, 5, 5, 5]) == [0]


def test_what_the_alert_says():
    (alert,) = NonFinite().update(reading(30, nonfinite=7, alpha=[0.5, NAN, 0.6, NAN]))
    assert (alert.step, alert.rule, alert.level) == (30, "nonfinite", "error")
    assert alert.layers == [2, 4]
    assert (alert.value, alert.threshold) == (7.0, 0.0)
    assert "7 activations or logits" in alert.message and "step 30" in alert.message
    assert "lower the learning rate" in alert.action


def test_two_detectors_share_nothing():
    first, second = Detector(), Detector()
    assert len(first.update(reading(0, nonfinite=1))) == 1
    assert len(second.update(reading(0, nonfinite=1))) == 1
