"""rules.py: each measure against numbers worked out by hand, and 0 for what is healthy or noise."""

import dataclasses
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
    out = course(0.0, *[0.1] * 6)
    assert at(rules.late_speed, 5, transport=out) == pytest.approx(0.1)
    assert at(rules.late_speed, 20, transport=out) == pytest.approx(0.1)
    assert at(rules.late_speed, 25, transport=out) == pytest.approx(0.1 * 20 / 25)  # it may have come at step 5
    assert at(rules.late_speed, 30, transport=out) == 0  # the way lies behind the horizon
    assert at(rules.late_speed, 10, transport=course(0, -0.1, 0.05)) == pytest.approx(0.15)  # from the farthest point
    both = at(rules.late_speed, 5, transport=course(0, 0.03), alpha=course(0, 0.04))
    assert both == pytest.approx(0.05)


def test_displacement_speed_is_the_gain_within_20_steps():
    assert at(rules.displacement_speed, 10, displacement=course(0, 0.3, 0.7)) == pytest.approx(0.7)
    assert at(rules.displacement_speed, 30, displacement=course(0, *[0.3] * 6)) == 0
    assert at(rules.displacement_speed, 10, displacement=course(0, 0.5, 0.2)) == pytest.approx(0.2)  # not the way back
    assert at(rules.displacement_speed, 10, displacement=course(0, 0.5, NAN)) == 0


def test_likelihood_drop_is_the_share_lost_within_20_steps():
    assert at(rules.likelihood_drop, 10, chosen_nll=course(2.0, 1.8, 2.2)) == pytest.approx(0.4 / 2)
    assert at(rules.likelihood_drop, 10, chosen_nll=course(2.0, 2.4, 2.1)) == pytest.approx(0.1 / 2)  # not the way back
    assert at(rules.likelihood_drop, 30, chosen_nll=course(2.0, *[2.4] * 6)) == 0


def test_likelihood_drop_counts_what_lies_beyond_two_standard_errors():
    readings = made_up.run(5, 10, noise=0.0, chosen_nll=course(2.0, 2.0, 2.2))
    noisy = [dataclasses.replace(r, delta=r.delta | {"chosen_nll_se": 0.04}) for r in readings]
    assert value(rules.likelihood_drop, noisy) == pytest.approx((0.2 - 2 * 0.04) / 2)


def test_likelihood_drop_is_nothing_where_no_answers_are_read():
    assert at(rules.likelihood_drop, 10, chosen_nll=lambda step: NAN) == 0


def test_margin_drop_is_the_share_of_the_best_that_is_lost_again():
    assert at(rules.margin_drop, 15, margin=course(0, 4.0, 10.0, 7.0)) == pytest.approx(0.3)
    assert at(rules.margin_drop, 15, margin=course(0, 4.0, 10.0, -5.0)) == pytest.approx(1.5)
    assert at(rules.margin_drop, 15, margin=course(0, 4.0, 7.0, 10.0)) == 0
    assert at(rules.margin_drop, 20, margin=course(0, 4.0, 10.0, NAN, 7.0)) == pytest.approx(0.3)
    assert at(rules.margin_drop, 15, margin=course(0, 0.4, 1.9, 0.0)) == 0, "nothing has been learnt yet"
    assert at(rules.margin_drop, 15, margin=lambda step: NAN) == 0, "the probe reads no answers"


# --- probes far apart


def far_apart(*values, every=200):
    """The displacement of a run whose probes are far apart."""
    readings = made_up.run(every, every * (len(values) - 1), noise=0.0, displacement=lambda s: values[s // every])
    return value(rules.displacement_speed, readings)


def test_a_change_between_distant_probes_is_even_as_long_as_no_pace_is_known():
    assert far_apart(0.0, 0.2) == pytest.approx(0.2 / 10)


@pytest.mark.parametrize("every", [50, 100, 200, 500])
def test_a_jump_between_distant_probes_counts_in_full_but_for_the_usual_pace(every):
    """From .2 to 2.9 rad where .02 rad in 20 steps is usual: an error, however seldom the run is probed."""
    steps = range(0, 4 * every, every)
    readings = made_up.run(every, 3 * every, noise=0.0, displacement=lambda s: 0.001 * s if s < 3 * every else 2.9)
    usual = 2 * 0.02 * (every - 20) / 20
    jumped = 2.9 - 0.001 * steps[2]
    assert value(rules.displacement_speed, readings) == pytest.approx(max(jumped - usual, jumped * 20 / every))
    assert jumped - usual > rules.RULES["displacement_speed"].limit.error


@pytest.mark.parametrize("every", [50, 100, 200, 500])
def test_the_usual_pace_between_distant_probes_is_nothing(every):
    steady = made_up.run(every, 10 * every, noise=0.0, displacement=lambda s: min(0.001 * s, 2.5))
    limit = rules.RULES["displacement_speed"].limit.warn
    path = Trajectory((3, 4))
    for r in steady:
        path.add(r)
        assert rules.displacement_speed(path) < limit / 4


def test_transport_rise():
    assert at(rules.transport_rise, 10, transport=course(0, -0.1, 0.07)) == pytest.approx(0.17)  # from the lowest
    assert at(rules.transport_rise, 10, transport=course(0, 0.1, -0.07)) == 0
    assert at(rules.transport_rise, 400, transport=lambda step: step / 1000) == pytest.approx(0.1), "100 steps of it"


@pytest.mark.parametrize("every", [100, 200, 400])
def test_what_has_risen_between_distant_probes_is_taken_as_even(every):
    risen = made_up.run(every, 400, noise=0.0, transport=lambda step: step / 1000)
    assert value(rules.transport_rise, risen) == pytest.approx(0.1)


def test_contraction_drop():
    assert at(rules.contraction_drop, 10, alpha=course(0, 0.2, 0.05)) == pytest.approx(0.15)  # from the best
    assert at(rules.contraction_drop, 5, alpha=course(0, -0.1)) == pytest.approx(0.1)
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


SLOW = {  # as far as BROKEN goes in 100 steps, in 10,000
    "reversal": {"transport": lambda s: -0.1 * min(s / 4000, 1) + 0.1 * max((s - 4000) / 4000, 0)},
    "collapse": {"alpha": lambda s: 0.4 * s / 10_000, "entropy": lambda s: 3.0 - 1.5 * s / 10_000},
    "roughening": {"transport": lambda s: -0.2 * s / 10_000, "coherence": lambda s: 0.9 - 0.2 * s / 10_000},
}


@pytest.mark.parametrize("name", SLOW)
@pytest.mark.parametrize("every", [5, 100, 500])
def test_the_shape_of_the_path_is_judged_over_100_steps_so_that_a_long_run_reaches_no_limit(name, every):
    path, highest = Trajectory((3, 4)), 0.0
    for r in made_up.run(every, 10_000, noise=0.0, **SLOW[name]):
        path.add(r)
        highest = max(highest, rules.RULES[name].measure(path))
    assert highest < rules.RULES[name].limit.warn / 2


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
