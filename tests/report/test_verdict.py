"""verdict.py: what a run's alerts amount to."""

import dataclasses
import math

import made_up
import pytest
from builders import alert, header, notice, reading

from spinal_callback.alerts.detector import replay
from spinal_callback.report.verdict import movement, verdict
from spinal_callback.traces import Trace

CALM = Trace(header(), [reading(0), reading(10)])


def with_alerts(*alerts, **config):
    return dataclasses.replace(CALM, header=header(config=config), alerts=list(alerts)).to_json()


def test_no_alert_is_healthy():
    assert verdict(CALM.to_json()) == ("healthy", "Healthy", "No alert in 2 readings, steps 0 to 10.")


def test_a_notice_leaves_the_verdict_healthy():
    run = dataclasses.replace(CALM, notices=[notice(10)]).to_json()
    assert verdict(run) == verdict(CALM.to_json()) and movement(run) == ""


def test_one_reading_is_too_early_to_judge():
    level, _, says = verdict(Trace(header(), [reading(0)]).to_json())
    assert level == "early" and "no change to judge yet" in says


def test_an_audit_says_what_was_read():
    run = dataclasses.replace(CALM, header=header(checkpoints=["base", "checkpoint-20"])).to_json()
    assert verdict(run) == ("early", "Audit", "What was read, in order: base, checkpoint-20.")


def test_the_worst_level_gives_the_verdict_and_the_first_of_each_is_named():
    run = with_alerts(alert(10, level="warn", rule="reversal"), alert(20), alert(30, rule="collapse"))
    level, word, says = verdict(run)
    assert (level, word) == ("error", "Unstable: stop")
    assert says.startswith("1 warning, first reversal at step 10; 2 errors, first nonfinite at step 20. 2 readings")


def test_a_warning_alone_asks_for_a_look():
    assert verdict(with_alerts(alert(10, level="warn")))[:2] == ("warn", "Warned: look")


def test_a_long_run_says_how_many_readings_are_drawn():
    assert verdict({**CALM.to_json(), "seen": 900})[2] == "No alert in 900 readings (2 of them drawn), steps 0 to 10."
    assert "drawn" not in verdict({**CALM.to_json(), "seen": 2})[2]


@pytest.mark.parametrize(
    ("stop_on", "level", "step"),
    [("warn", "error", 10), ("error", "error", 20), ("error", "warn", None), (None, "error", None)],
)
def test_a_run_that_was_stopped_says_so(stop_on, level, step):
    run = with_alerts(alert(10, level="warn"), alert(20, level=level, rule="collapse"), stop_on=stop_on)
    _, word, says = verdict(run)
    assert (word == "Stopped") == (step is not None)
    assert (f"The callback stopped training at step {step} (stop_on={stop_on})." in says) == (step is not None)


# --- what moved


def moved(*alerts, alpha=0.02, transport=-0.03):
    delta = {"alpha": alpha, "alpha_se": 0.004, "transport": transport, "transport_se": 0.003}
    return movement(Trace(header(), [reading(0), reading(10, delta=delta), reading(20)], list(alerts)).to_json())


def test_what_moved_by_the_first_alert_is_said_and_that_speed_counts_in_the_healthy_direction_too():
    assert moved(alert(20, level="warn"), alert(10, level="warn", rule="late_speed")) == (
        "What had moved at the first alert (late_speed, step 10): late contraction by +0.020 ± 0.004 and late transport"
        " by -0.030 ± 0.003 rad since the start. Moving too fast counts in either direction, also where contraction"
        " rises and transport falls."
    )


def test_the_movement_is_that_of_the_last_reading_before_the_alert():
    assert "by +0.020 ± 0.004" in moved(alert(15)) and "by +0.001 ± 0.004" in moved(alert(25))


def test_what_could_not_be_measured_is_left_out():
    assert "late transport by -0.030 ± 0.003 rad since" in moved(alert(10), alpha=math.nan)
    assert "contraction by" not in moved(alert(10), alpha=math.nan)
    assert "no change that could be measured." in moved(alert(10), alpha=math.nan, transport=math.nan)


def test_what_the_rules_raise_over_a_made_up_run_is_told():
    run = made_up.trace(5, transport=lambda step: -0.02 * step)
    run.alerts.extend(replay(run))
    level, _, says = verdict(run.to_json())
    assert level == "error" and "first late_speed at step" in says
    still = made_up.trace(5)
    assert replay(still) == [] and verdict(still.to_json())[0] == "healthy"
