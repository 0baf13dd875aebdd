"""detector.py: a rule fires at the exact step, its healthy twin stays silent, and the interval makes no difference."""

import json
import math
import random

import made_up
import pytest
from builders import header, reading

from spinal_callback.alerts.detector import CONFIRM_AFTER, Detector, peaks, replay
from spinal_callback.alerts.rules import RULES, Limit
from spinal_callback.traces import Trace

NAN = math.nan
WINDOW = (3, 4)


def alerts(readings, limits=None, detector=None):
    detector = detector or Detector(WINDOW, limits)
    return [alert for r in readings for alert in detector.update(r)]


def alerts_live(steps, every):
    """As a run is probed: every `every` steps, and again soon after the first reading over a limit."""
    detector, found, due = Detector(WINDOW), [], 0
    for r in steps:
        if r.step >= due or r.step % every == 0:
            found += detector.update(r)
            due = r.step + CONFIRM_AFTER if detector.unconfirmed else math.inf
    return found


def fired(readings, rule, **kwargs):
    """(step, level) of the alerts of one rule."""
    return [(a.step, a.level) for a in alerts(readings, **kwargs) if a.rule == rule]


def worst(found):
    """Rule -> the worst level that it reached."""
    return {a.rule: "error" if (a.rule, "error") in {(b.rule, b.level) for b in found} else "warn" for a in found}


def ramp(to, by, begin=0):
    """A straight way to `to` between steps `begin` and `by`, and on from there at the same pace."""
    return lambda step: to * max(step - begin, 0) / (by - begin)


def jump(to, at):
    return lambda step: to if step >= at else 0.0


def swing(out, at, back, then):
    return lambda step: back if step >= then else out if step >= at else 0.0


def unlikely(lost, by):
    """The negative log-likelihood of held-out answers that lose a share of their likelihood until a step."""
    return lambda step: 1.2 * (1 + lost * min(step / by, 1))


# For each rule a broken run and its healthy twin, which goes the right way, or as far but slowly.
BROKEN = {
    "late_speed": {"transport": ramp(-0.4, 20)},
    "displacement_speed": {"displacement": ramp(1.0, 20)},
    "transport_rise": {"transport": ramp(0.6, 100)},
    "contraction_drop": {"alpha": ramp(-0.3, 100)},
    "reversal": {"transport": swing(-0.15, 20, 0.02, 60)},
    "collapse": {"alpha": ramp(0.5, 100)},
    "roughening": {"coherence": lambda step: 0.9 - 0.003 * step, "transport": ramp(-0.1, 50)},
    "delocalized": {"transport": ramp(-0.06, 20), "localization": lambda step: 0.3},
    "likelihood_drop": {"chosen_nll": unlikely(lost=0.5, by=20)},
    "margin_drop": {"margin": lambda step: min(step, 40) / 4 - max(step - 60, 0) / 4},
    "nonfinite": {"nonfinite": lambda step: int(step >= 40)},
}
HEALTHY = {
    "late_speed": {"transport": ramp(-0.4, 400)},
    "displacement_speed": {"displacement": ramp(1.0, 100)},
    "transport_rise": {"transport": ramp(-0.1, 100)},
    "contraction_drop": {"alpha": ramp(0.1, 100)},
    "reversal": {"transport": ramp(-0.1, 100)},
    "collapse": {"alpha": ramp(0.1, 100)},
    "roughening": {"coherence": lambda step: 0.9 - 0.003 * step},  # in a trace that has not moved
    "delocalized": {"transport": ramp(-0.06, 100), "localization": lambda step: 0.7},
    "likelihood_drop": {"chosen_nll": unlikely(lost=0.5, by=200)},
    "margin_drop": {"margin": lambda step: min(step, 40) / 4},
    "nonfinite": {"nonfinite": lambda step: 0},
}


@pytest.mark.parametrize("every", [1, 5, 20])
@pytest.mark.parametrize("rule", RULES)
def test_a_broken_run_is_caught_and_its_healthy_twin_is_not(rule, every):
    assert fired(made_up.run(every, **BROKEN[rule]), rule)
    assert alerts(made_up.run(every, **HEALTHY[rule])) == []


@pytest.mark.parametrize("rule", RULES)
def test_the_verdict_does_not_hang_on_the_interval(rule):
    """The same rules, each as bad in the end, and the first of them within one interval."""
    seen = [alerts_live(made_up.run(1, **BROKEN[rule]), every) for every in (1, 5, 20)]
    assert len({str(dict(sorted(worst(found).items()))) for found in seen}) == 1
    steps = [found[0].step for found in seen]
    assert max(steps) - min(steps) <= 20 + CONFIRM_AFTER


def test_tension_is_how_near_a_rule_is_that_has_not_warned():
    detector = Detector(WINDOW, {name: Limit(1e9, 1e9) for name in RULES if name != "transport_rise"})
    assert detector.tension == 0
    limit, rise = RULES["transport_rise"].limit.warn, []
    for r in made_up.run(1, steps=100, transport=ramp(1.4 * limit, 100), noise=0.0):
        warned = any(alert.rule == "transport_rise" for alert in detector.update(r))
        rise.append(detector.tension)
        if warned:
            break
    assert rise[0] == 0 and rise[-1] < 1 == rise[-2], "once it has warned it is no longer about to"
    assert rise[:-1] == sorted(rise[:-1]) and any(0 < x < 1 for x in rise)


@pytest.mark.parametrize("every", [1, 5, 20])
def test_noise_alone_is_silent(every):
    """Runs of 400 steps that stand still, read with a fresh error each time as large as the one that is reported."""
    for seed in range(5 * every + 15):
        draw = random.Random(seed)
        wobble = {name: lambda step, d=draw: d.gauss(0, 0.01) if step else 0.0 for name in ("alpha", "transport")}
        assert alerts(made_up.run(every, steps=400, noise=0.01, **wobble)) == []


@pytest.mark.parametrize("rule", RULES)
def test_what_an_alert_says(rule):
    alert = next(a for a in alerts(made_up.run(5, **BROKEN[rule])) if a.rule == rule)
    assert RULES[rule].what in alert.message and f"at step {alert.step}" in alert.message
    assert f"first seen at step {alert.since}" in alert.message and 0 <= alert.since <= alert.step
    assert f"{alert.value:.3g} {RULES[rule].unit}" in alert.message
    assert alert.action == RULES[rule].action
    assert alert.value > alert.threshold


def test_the_layers_that_moved_first_are_named_and_stay_the_same():
    def transport(step):  # layer 3 first, then all
        return [1.2, 1.2 + 0.01 * step, 1.2] if step <= 20 else [2.0, 2.0, 2.0]

    (warning,) = [
        a
        for a in alerts(made_up.run(5, 40, transport=ramp(0.1, 20), fields={"transport": transport}))
        if a.level == "warn"
    ][:1]
    assert warning.layers == [3] and "first to move: layers 3" in warning.message


# --- levels


def test_nan_is_an_error_at_once():
    (alert,) = alerts([reading(0), reading(5), reading(6, nonfinite=7, alpha=[0.5, NAN, 0.6, NAN])])
    assert (alert.step, alert.rule, alert.level, alert.layers) == (6, "nonfinite", "error", [2, 4])
    assert (alert.value, alert.threshold) == (7.0, 0.0)
    assert "7 activations or logits" in alert.message and "lower the learning rate" in alert.action


@pytest.mark.parametrize("every", [10, 20])
def test_nan_is_told_once_until_it_has_gone(every):
    counts = [0, 5, 5, 0, 0, 3, 4, 0, 1]
    readings = [reading(every * i, nonfinite=n) for i, n in enumerate(counts)]
    assert [step for step, _ in fired(readings, "nonfinite")] == [every, 5 * every, 8 * every]


def test_a_layer_without_a_tail_is_no_fault():
    assert alerts([reading(s, alpha=[NAN] * 4, localization=NAN, score=NAN) for s in (0, 10, 20)]) == []


def test_a_warning_comes_before_its_error():
    found = fired(made_up.run(5, 100, displacement=lambda step: 3.0 * (step / 100) ** 4), "displacement_speed")
    assert [level for _, level in found] == ["warn", "error"] and found[0][0] < found[1][0]


def test_both_levels_at_one_reading_are_one_error():
    assert fired(made_up.run(5, 20, transport=jump(1.0, 5)), "late_speed") == [(5, "error")]


@pytest.mark.parametrize("rule", [name for name, rule in RULES.items() if rule.limit.error == math.inf])
def test_what_grows_with_the_whole_movement_of_a_run_only_warns(rule):
    assert rule in ("transport_rise", "contraction_drop", "delocalized")
    assert {level for _, level in fired(made_up.run(5, **BROKEN[rule]), rule)} == {"warn"}


LOGS = {
    "a chosen reward of -5": {"rewards/chosen": -5.0, "rewards/margins": 3.8, "loss": 0.4, "beta": 0.1},
    "all of the log-probability lost": {"rewards/chosen": -2.6, "logps/chosen": -520.0, "beta": 0.01},
    "a loss that is not finite": {"loss": NAN},
}


@pytest.mark.parametrize("name", LOGS)
def test_what_the_trainer_logs_raises_no_alert_and_no_level(name):
    """Good models end with such rewards."""
    numbers = LOGS[name]
    assert alerts(made_up.run(5, trainer=lambda step: numbers)) == []
    hot = made_up.run(5, transport=ramp(0.42, 100), trainer=lambda step: numbers)
    assert {a.level for a in alerts(hot)} == {"warn"}


# --- limits, state, replay


def test_other_limits_replace_the_default_ones():
    readings = made_up.run(5, transport=ramp(0.04, 100))
    assert fired(readings, "transport_rise") == []
    assert fired(readings, "transport_rise", limits={"transport_rise": Limit(0.01, 1.0)})


@pytest.mark.parametrize("cut", [1, 3, 4, 5, 8, 15])
@pytest.mark.parametrize("rule", RULES)
def test_it_goes_on_from_its_state_alert_for_alert(rule, cut):
    readings = made_up.run(5, **BROKEN[rule])
    whole = alerts(readings)
    first = Detector(WINDOW)
    before = alerts(readings[:cut], detector=first)
    second = Detector(WINDOW)
    second.restore(json.loads(json.dumps(first.state())))
    assert before + alerts(readings[cut:], detector=second) == whole


def other_version(state):
    state["path"]["points"][0]["unheard_of"] = 1


def other_alarms(state):
    state["alarms"]["late_speed"]["warn"].pop("calm")
    state["alarms"]["late_speed"]["warn"]["sum"] = 1.0


def other_window(state):
    state["path"]["window"] = [2, 4]


@pytest.mark.parametrize("change", [dict.clear, other_version, other_alarms, other_window])
def test_a_state_that_cannot_be_gone_on_from_is_left_aside(change):
    first, second = Detector(WINDOW), Detector(WINDOW)
    alerts(made_up.run(5, **BROKEN["late_speed"]), detector=first)
    state = json.loads(json.dumps(first.state()))
    change(state)
    second.restore(state)
    assert second.state() == Detector(WINDOW).state()


def test_a_rule_that_a_state_does_not_know_begins_anew():
    first, second = Detector(WINDOW), Detector(WINDOW)
    alerts(made_up.run(5, **BROKEN["late_speed"]), detector=first)
    state = json.loads(json.dumps(first.state()))
    state["alarms"]["gone"] = state["alarms"].pop("late_speed")
    second.restore(state)
    assert str(second.state()["path"]) == str(first.state()["path"])  # NaN is not equal to itself
    assert second.state()["alarms"]["late_speed"] == Detector(WINDOW).state()["alarms"]["late_speed"]
    assert "gone" not in second.state()["alarms"]


def test_a_trace_is_replayed_as_the_run_was_judged():
    readings = made_up.run(5, **BROKEN["late_speed"])
    assert replay(Trace(header(), readings)) == alerts(readings)
    assert replay(Trace(header(), readings[:1])) == []


def test_peaks_are_the_greatest_multiples_of_the_warn_limits():
    there_and_back = made_up.trace(5, 20, transport=lambda step: {10: 0.12}.get(step, 0.0), noise=0.0)
    assert peaks(there_and_back)["transport_rise"] == pytest.approx(0.12 / RULES["transport_rise"].limit.warn)
    assert peaks(there_and_back, {"transport_rise": Limit(0.03, 0.1)})["transport_rise"] == pytest.approx(4)
    assert peaks(made_up.trace(nonfinite=lambda step: step))["nonfinite"] == math.inf


@pytest.mark.parametrize("judge", [replay, peaks])
def test_a_trace_that_cannot_be_judged_is_refused(judge):
    with pytest.raises(ValueError, match="the trace has no readings"):
        judge(Trace(header()))
    with pytest.raises(ValueError, match="the trace begins at step 5: the rules need the reading of step 0"):
        judge(Trace(header(), [reading(5)]))
