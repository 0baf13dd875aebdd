"""throttle.py: what is held back, on a clock of the test's own."""

import pytest
from builders import alert

from spinal_callback.sinks import throttle
from spinal_callback.sinks.throttle import AlertThrottle, ImageThrottle


@pytest.fixture
def clock(monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(throttle.time, "monotonic", lambda: now[0])
    return now


def test_an_alert_is_let_through_once_a_minute(clock):
    throttle = AlertThrottle()
    assert throttle.allows(alert(0))
    clock[0] += 59.9
    assert not throttle.allows(alert(5))  # held back, so it does not start another minute
    clock[0] += 0.2
    assert throttle.allows(alert(10))
    assert not throttle.allows(alert(15))


def test_another_rule_or_level_is_not_held_back(clock):
    throttle = AlertThrottle()
    different = [alert(0), alert(0, rule="other"), alert(0, level="warn"), alert(0, rule="other", level="warn")]
    assert all(map(throttle.allows, different))
    assert not any(map(throttle.allows, different))


def test_an_image_is_drawn_every_half_minute(clock):
    throttle = ImageThrottle()
    assert throttle.allows(1)
    clock[0] += 29.9
    assert not throttle.allows(2)
    clock[0] += 0.2
    assert throttle.allows(3)


def test_nothing_new_is_not_drawn_again(clock):
    throttle = ImageThrottle()
    assert throttle.allows(1)
    clock[0] += 3600
    assert not throttle.allows(1) and not throttle.allows(1, at_the_end=True)
    assert not ImageThrottle().allows(0, at_the_end=True)


def test_at_the_end_what_is_new_is_drawn_at_once(clock):
    throttle = ImageThrottle()
    assert throttle.allows(1) and not throttle.allows(2)
    assert throttle.allows(2, at_the_end=True)
