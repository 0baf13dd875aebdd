"""rules.py: each measure against numbers worked out by hand, and 0 for what is healthy or noise."""

import math

import made_up
import pytest

from spinal_callback.alerts import rules
from spinal_callback.alerts.trajectory import Trajectory

NAN = math.nan


def value(measure, readings):
    """A measure at the last of some readings."""
    path = Trajectory((3, 4))
    for r in readings:
        path.add(r)
    return measure(path)


def course(*values):
    """A course that takes these values at steps 0, 5, 10, ..."""
    return lambda step: values[step // 5]


def at(measure, steps, **courses):
    return value(measure, made_up.run(5, steps, noise=0.0, **courses))


def test_a_rule_is_called_as_its_measure_and_has_two_limits():
    for name, rule in rules.RULES.items():
        assert rule.measure.__name__ == name
        assert rule.at_once or 0 < rule.limit.warn <= rule.limit.error


def test_late_speed_is_the_longest_way_within_20_steps():
    out = course(0.0, 0.1, 0.1, 0.1, 0.1, 0.1)
    assert at(rules.late_speed, 5, transport=out) == pytest.approx(0.1)
    assert at(rules.late_speed, 20, transport=out) == pytest.approx(0.1)
    assert at(rules.late_speed, 25, transport=out) == 0  # the way lies behind the horizon
    assert at(rules.late_speed, 10, transport=course(0, -0.1, 0.05)) == pytest.approx(0.15)  # from the farthest point
    both = at(rules.late_speed, 5, transport=course(0, 0.03), alpha=course(0, 0.04))
    assert both == pytest.approx(0.05)


def test_late_speed_over_a_long_interval_is_scaled_to_20_steps():
    readings = made_up.run(every=100, steps=100, noise=0.0, transport=lambda step: step / 1000)
    assert value(rules.late_speed, readings) == pytest.approx(0.1 / 5)


def test_displacement_speed_is_the_gain_within_20_steps():
    assert at(rules.displacement_speed, 10, displacement=course(0, 0.3, 0.7)) == pytest.approx(0.7)
    assert at(rules.displacement_speed, 25, displacement=course(0, 0.3, 0.3, 0.3, 0.3, 0.3)) == 0
    assert at(rules.displacement_speed, 10, displacement=course(0, 0.5, 0.2)) == pytest.approx(0.2)  # not the way back
    assert at(rules.displacement_speed, 10, displacement=course(0, 0.5, NAN)) == 0


def lost(*nats, beta=0.1, reference=-50.0):
    """What a Trainer logs when chosen answers have lost so many nats; nothing before the first step."""

    def log(step):
        gone = nats[step // 5]
        return {"rewards/chosen": -gone * beta, "logps/chosen": reference - gone, "beta": beta} if step else {}

    return log


def test_likelihood_drop_is_the_share_lost_within_20_steps():
    assert at(rules.likelihood_drop, 10, trainer=lost(0, -1, 6)) == pytest.approx(7 / 50)
    assert at(rules.likelihood_drop, 5, trainer=lost(0, 6)) == pytest.approx(6 / 50)  # from the start, where it is 0
    assert at(rules.likelihood_drop, 10, trainer=lost(0, 6, 1)) == pytest.approx(1 / 50)
    assert at(rules.likelihood_drop, 10, trainer=lost(0, 6, 6, beta=0.5, reference=-600)) == pytest.approx(0.01)


@pytest.mark.parametrize("log", [{}, {"rewards/chosen": -3.0}, {"rewards/chosen": -3.0, "logps/chosen": -60.0}])
def test_likelihood_drop_is_nothing_where_the_trainer_does_not_tell(log):
    assert at(rules.likelihood_drop, 5, trainer=lambda step: log) == 0


def test_likelihood_drop_is_nothing_where_rewards_know_no_reference():
    """As in SimPO, whose reward is beta times the log-likelihood itself."""
    assert at(rules.likelihood_drop, 5, trainer=lost(0, 60, reference=0.0)) == 0


def test_transport_rise():
    assert at(rules.transport_rise, 10, transport=course(0, -0.1, 0.07)) == pytest.approx(0.07)  # from the start
    assert at(rules.transport_rise, 10, transport=course(0, 0.1, -0.07)) == 0


def test_contraction_drop():
    assert at(rules.contraction_drop, 10, alpha=course(0, 0.2, 0.05)) == pytest.approx(0.15)  # from the best
    assert at(rules.contraction_drop, 5, alpha=course(0, -0.1)) == pytest.approx(0.1)  # which is the start's at least
    assert at(rules.contraction_drop, 10, alpha=course(0, 0.1, 0.2)) == 0


def test_reversal_is_the_lesser_of_out_and_back():
    assert at(rules.reversal, 10, transport=course(0, -0.2, 0.1)) == pytest.approx(0.2)
    assert at(rules.reversal, 10, transport=course(0, -0.2, -0.15)) == pytest.approx(0.05)
    assert at(rules.reversal, 10, alpha=course(0, 0.04, -0.1)) == pytest.approx(0.04)
    assert at(rules.reversal, 10, transport=course(0, 0.1, 0.2)) == 0


def test_collapse_is_the_greatest_of_three_shares():
    assert at(rules.collapse, 5, alpha=course(0, 0.15)) == pytest.approx(0.5)
    assert at(rules.collapse, 5, entropy=course(3.0, 2.0)) == pytest.approx(1 / 0.9)
    half = [NAN, 12.5, 6.25, 6.25]
    assert at(rules.collapse, 5, effective_rank=course([NAN, 12.5, 12.5, 12.5], half)) == pytest.approx(
        math.log(2) / math.log(1.5)
    )
    assert at(rules.collapse, 5, alpha=course(0, -0.2), entropy=course(2.0, 3.0)) == 0


def test_roughening():
    moved = {"transport": course(0, 0.1)}
    assert at(rules.roughening, 5, coherence=course(0.8, 0.7), **moved) == pytest.approx(0.1)
    assert at(rules.roughening, 5, coherence=course(0.8, 0.9), **moved) == 0
    assert at(rules.roughening, 5, coherence=course(0.8, 0.7), transport=course(0, 0.04)) == 0  # has hardly moved
    assert at(rules.roughening, 5, coherence=course(NAN, NAN), **moved) == 0  # too shallow for a curvature


def test_delocalized():
    spread = {"localization": course(NAN, 0.5)}
    assert at(rules.delocalized, 5, transport=course(0, 0.1), **spread) == pytest.approx(1.0)
    assert at(rules.delocalized, 5, transport=course(0, 0.1), localization=course(NAN, 0.9)) == pytest.approx(1 / 9)
    assert at(rules.delocalized, 5, transport=course(0, 0.01), **spread) == 0  # has hardly moved at all


def test_nonfinite():
    assert at(rules.nonfinite, 5, nonfinite=course(0, 7)) == 7


@pytest.mark.parametrize("name", rules.RULES)
def test_changes_within_the_noise_are_nothing(name):
    """Twice the standard error, any direction: no rule that has one counts it."""
    swings = {"alpha": course(0, 0.02, -0.02, 0.02), "transport": course(0, -0.02, 0.02, -0.02)}
    readings = made_up.run(5, 15, noise=0.02, **swings)
    assert value(rules.RULES[name].measure, readings) == pytest.approx(0, abs=1e-12)
