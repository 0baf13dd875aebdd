"""detector.py: how a measure over its limit becomes an alarm: two readings in a row, or one far over it."""

import math

import made_up
import pytest
from builders import reading

from spinal_callback.alerts.detector import AT_ONCE, COOLDOWN, Alarm, Detector
from spinal_callback.alerts.rules import RULES
from spinal_callback.alerts.trajectory import Trajectory

NAN = math.nan
WINDOW = (3, 4)


def alarm_steps(ratios, every=5):
    alarm, path, steps = Alarm(), Trajectory(WINDOW), []
    for i, ratio in enumerate(ratios):
        path.add(reading(every * i))
        if alarm.update(ratio, path):
            steps.append(every * i)
    return steps, alarm


@pytest.mark.parametrize("every", [1, 5, 20, 500])
def test_one_stray_reading_raises_nothing_at_any_interval(every):
    assert alarm_steps([0, 0, 1.4, 0, 1.4, 0.5], every)[0] == []
    assert alarm_steps([0, 0, 1.4, 1.1, 0.5], every)[0] == [3 * every]


def test_one_reading_far_over_the_limit_is_enough():
    assert AT_ONCE == 1.5
    assert alarm_steps([0, 1.5])[0] == [5] and alarm_steps([0, 1.49])[0] == []
    assert alarm_steps([0, math.inf])[0] == [5]


def test_at_the_limit_it_never_comes():
    assert alarm_steps([1.0] * 100)[0] == []
    assert alarm_steps([NAN] * 100)[0] == []


def test_it_is_raised_once_and_armed_again_when_calm():
    assert alarm_steps([0, *[1.4] * 20])[0] == [10]
    assert alarm_steps([0, 2, 0, 0, 0, 0, 2])[0] == [5, 30]


def test_two_alerts_keep_their_distance():
    assert COOLDOWN == 20
    assert alarm_steps([0, 2, 0, 2, 0, 2, 0])[0] == [5, 25]


def test_since_is_the_first_reading_over_the_limit():
    steps, alarm = alarm_steps([0, 0.5, 1.1, 1.2, 1.2, 1.2])
    assert (steps, alarm.calm, alarm.since) == ([15], 5, 10)


def test_the_first_reading_over_a_limit_asks_for_another_probe():
    """Until that one has confirmed the warning, or has not."""
    limit = RULES["transport_rise"].limit.warn
    for second, raised in ((1.4, 1), (0.9, 0)):
        detector, asked = Detector(WINDOW), []
        course = {0: 0.0, 5: 0.0, 10: 1.4, 15: second, 20: second}
        slow = made_up.run(5, 20, noise=0.0, transport=lambda step, c=course: c[step] * limit)
        found = [alert for r in slow for alert in (detector.update(r), asked.append(detector.unconfirmed))[0]]
        assert asked == [False, False, True, False, False]
        assert sum(alert.rule == "transport_rise" for alert in found) == raised
