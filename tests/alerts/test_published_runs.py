"""Published runs of good models, replayed: no stop, and at most one warning in ten."""

import sys

import pytest
from paths import ROOT

sys.path.insert(0, str(ROOT / "scripts" / "stability"))

import published

from spinal_callback.alerts.rules import RULES, Limit

SEEDS = range(4)


@pytest.fixture(scope="module")
def found():
    """run -> the alerts of each simulation."""
    return {run.name: [published.alerts(run, seed) for seed in SEEDS] for run in published.PUBLISHED}


def test_no_published_run_is_stopped(found):
    assert not [alert for runs in found.values() for alerts in runs for alert in alerts if alert.level == "error"]


def test_at_most_one_in_ten_is_warned_of(found):
    warned = sum(bool(alerts) for runs in found.values() for alerts in runs)
    assert warned <= len(published.PUBLISHED) * len(SEEDS) / 10


def test_the_same_run_gone_wrong_is_stopped():
    """Twin: the same reward lost within 30 steps in the middle of the run."""
    run = published.PUBLISHED[3]
    steps = ((100, -0.5418), (200, -0.7), (230, -2.9), (478, -3.0))
    broken = published.dataclasses.replace(run, chosen=steps)
    assert "error" in {alert.level for alert in published.alerts(broken, 0)}


def test_the_simulation_passes_through_the_figures_of_the_card():
    for run in published.PUBLISHED:
        for step, reward in run.chosen:
            assert run.beta * published.chosen_at(run, step) == pytest.approx(reward)
        nll = {reading.step: reading.chosen_nll for reading in published.readings(run, seed=0)}
        share = -run.chosen[-1][1] / run.beta / abs(run.reference)
        assert nll[run.steps] / published.NLL - 1 == pytest.approx(share, rel=0.5)
        assert set(nll) == {*range(0, run.steps + 1, published.EVERY), run.steps}


def test_learning_rates_sum_as_their_schedules_do():
    for cosine, whole in ((True, 0.5), (False, 0.5)):
        run = published.Published("made up", 1000, 16, 0.1, -100.0, ((1000, -1.0),), 1.0, cosine=cosine)
        rates = [published.progress(run, s + 1) - published.progress(run, s) for s in range(1000)]
        assert max(rates) == pytest.approx(1, abs=0.01) and rates[0] < 0.01 and rates[-1] < 0.01
        assert rates.index(max(rates)) == pytest.approx(100, abs=1)
        assert sum(rates) == pytest.approx(100 * 0.5 + 900 * whole)


def test_a_limit_as_low_as_the_published_pace_would_be_seen(monkeypatch):
    monkeypatch.setitem(
        RULES, "likelihood_drop", published.dataclasses.replace(RULES["likelihood_drop"], limit=Limit(0.02, 0.03))
    )
    assert published.alerts(published.PUBLISHED[3], 0)
