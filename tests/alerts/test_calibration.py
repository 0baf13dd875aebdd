"""calibration.py: limits fitted to healthy runs, the file that keeps them, and every word about a bad one."""

import json

import made_up
import pytest
from builders import alert, header

from spinal_callback.alerts.calibration import LEAST, MARGIN, calibrate, check_enough, dump_rules, load_rules, loosened
from spinal_callback.alerts.detector import replay
from spinal_callback.alerts.rules import RULES, Limit
from spinal_callback.traces import Trace

LIVELY = {"transport": lambda step: 0.002 * step, "alpha": lambda step: -0.001 * step}
CALM = {"transport": lambda step: -0.0001 * step}
FITTED = [name for name in RULES if name != "nonfinite"]


def test_healthy_runs_that_alarm_at_the_defaults_are_silent_afterwards():
    runs = {f"{seed}.jsonl": made_up.trace(5, 100 + seed, noise=0.001, **LIVELY) for seed in range(0, 20, 5)}
    assert all(replay(run) for run in runs.values())
    limits = calibrate(runs)
    assert all(replay(run, limits) == [] for run in runs.values())


def test_a_limit_is_the_margin_times_the_worst_of_the_runs():
    hot = made_up.trace(5, 100, noise=0.0, transport=lambda step: 0.002 * step)
    limits = calibrate({"calm": made_up.trace(**CALM), "hot": hot})
    assert limits["transport_rise"].warn == pytest.approx(MARGIN * 0.2)
    before = RULES["transport_rise"].limit
    assert limits["transport_rise"].error == pytest.approx(MARGIN * 0.2 * before.error / before.warn)
    assert set(limits) == set(FITTED)


def test_runs_that_hardly_move_make_no_hair_trigger():
    limits = calibrate({"calm": made_up.trace(noise=0.0)})
    assert limits == {name: Limit(LEAST * RULES[name].limit.warn, LEAST * RULES[name].limit.error) for name in FITTED}


def test_limits_far_above_the_defaults_are_named():
    hot = made_up.trace(5, 100, noise=0.0, transport=lambda step: 0.01 * step)
    factors = loosened(calibrate({"hot": hot}))
    assert set(factors) == {"late_speed", "transport_rise"}  # 0.01 a step is 0.2 in 20 steps, and 1 in 100
    assert factors["transport_rise"] == pytest.approx(MARGIN * 1 / RULES["transport_rise"].limit.warn)
    assert loosened(calibrate({"calm": made_up.trace(noise=0.0)})) == {}


def test_limits_come_back_from_their_file(tmp_path):
    limits = calibrate({"hot": made_up.trace(**LIVELY)})
    (tmp_path / "rules.json").write_text(dump_rules(limits))
    again = load_rules(tmp_path / "rules.json")
    for name in FITTED:
        assert again[name].warn == pytest.approx(limits[name].warn, rel=1e-3)
        assert again[name].error == pytest.approx(limits[name].error, rel=1e-3)


def test_a_rule_that_is_left_out_is_left_out(tmp_path):
    (tmp_path / "rules.json").write_text('{"rules": {"collapse": {"warn": 1, "error": 2}}}')
    assert load_rules(tmp_path / "rules.json") == {"collapse": Limit(1.0, 2.0)}


def test_a_rule_that_only_warns_may_be_given_an_error(tmp_path):
    (tmp_path / "rules.json").write_text('{"rules": {"transport_rise": {"warn": 0.1, "error": 0.2}}}')
    assert load_rules(tmp_path / "rules.json") == {"transport_rise": Limit(0.1, 0.2)}
    (tmp_path / "rules.json").write_text('{"rules": {"transport_rise": {"warn": 0.1}}}')
    assert load_rules(tmp_path / "rules.json") == {"transport_rise": Limit(0.1)}


# --- what can be trusted


def healthy(count=5, readings=5):
    """Traces of runs that differ."""
    return {f"run{i}": made_up.trace(5, 5 * (readings - 1), score=lambda step, i=i: float(i)) for i in range(count)}


def test_five_runs_of_five_readings_are_enough():
    check_enough(healthy())


def test_fewer_runs_are_not_and_the_words_say_how_many_are():
    words = "^limits fitted to 4 of your runs would warn in many other healthy ones: give at least 5 traces$"
    with pytest.raises(ValueError, match=words):
        check_enough(healthy(4))


def test_fewer_readings_are_not_and_the_words_say_how_many_are():
    with pytest.raises(ValueError, match=r"^run0 has 4 readings: at least 5 are needed$"):
        check_enough(healthy(readings=4))


def test_one_run_does_not_count_twice():
    with pytest.raises(ValueError, match=r"^copy and run0 are the same run: give traces of different runs$"):
        check_enough(healthy() | {"copy": healthy()["run0"]})


def test_a_run_with_alerts_is_taken_only_if_they_were_false():
    traces = healthy()
    traces["run3"].alerts.append(alert(10, rule="late_speed"))
    words = "^run3 has 1 alerts, the first late_speed at step 10: leave it out, or give --alerts-were-false if the run"
    with pytest.raises(ValueError, match=words):
        check_enough(traces)
    check_enough(traces, alerts_were_false=True)


# --- what is refused


def test_nothing_to_calibrate_with_is_refused():
    with pytest.raises(ValueError, match=r"no traces to calibrate with: give at least one healthy run's trace\.jsonl"):
        calibrate({})
    with pytest.raises(ValueError, match=r"^bad: the trace begins at step 5"):
        calibrate({"good": made_up.trace(), "bad": Trace(header(), made_up.run()[1:])})
    with pytest.raises(ValueError, match=r"^bad has NaN or Inf in its readings: that run was not healthy"):
        calibrate({"good": made_up.trace(), "bad": made_up.trace(nonfinite=lambda step: int(step == 50))})
    other = Trace(header(model="other"), made_up.run())
    with pytest.raises(ValueError, match=r"calibrate for one at a time, got a of made-up, b of other"):
        calibrate({"a": made_up.trace(), "b": other})


BAD = {
    "no json": ("{", "not a rules file"),
    "no rules": ("{}", "not a rules file"),
    "a list": ("[]", "not a rules file"),
    "rules as a list": ('{"rules": []}', "not a rules file"),
    "unknown": (
        '{"rules": {"speed": {"warn": 1, "error": 2}}}',
        "unknown rule 'speed': the rules with limits are late_",
    ),
    "without limits": ('{"rules": {"nonfinite": {"warn": 1, "error": 2}}}', "unknown rule 'nonfinite'"),
    "a number": ('{"rules": {"collapse": 1}}', r'collapse must be \{"warn": x, "error": y\}, got 1'),
    "no limit": ('{"rules": {"transport_rise": {}}}', r'transport_rise must be \{"warn": x\} or \{"warn": x, "error"'),
    "one level": ('{"rules": {"collapse": {"warn": 1}}}', r"collapse must be .*, got an object"),
    "wrong sign": ('{"rules": {"collapse": {"warn": -1, "error": 2}}}', r"collapse\.warn must be a number > 0, got -1"),
    "zero": ('{"rules": {"collapse": {"warn": 1, "error": 0}}}', r"collapse\.error must be a number > 0, got 0"),
    "NaN": ('{"rules": {"collapse": {"warn": NaN, "error": 1}}}', r"collapse\.warn must be a number > 0, got NaN"),
    "a word": ('{"rules": {"collapse": {"warn": "1", "error": 1}}}', r"collapse\.warn must be a number > 0, got .1."),
    "truth": ('{"rules": {"collapse": {"warn": true, "error": 1}}}', r"collapse\.warn must be a number > 0, got true"),
    "upside down": (
        '{"rules": {"collapse": {"warn": 2, "error": 1}}}',
        r"collapse\.error must be at least collapse\.warn = 2, got 1",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_rules_file_is_refused_by_rule_and_field(tmp_path, name):
    text, words = BAD[name]
    path = tmp_path / "rules.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=words) as caught:
        load_rules(path)
    assert str(caught.value).startswith(f"{path}: ")


def test_no_rules_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"rules\.json"):
        load_rules(tmp_path / "rules.json")


def test_what_is_saved_is_plain_json(tmp_path):
    (tmp_path / "rules.json").write_text(dump_rules({"collapse": Limit(0.123456, 2.0)}))
    assert json.loads((tmp_path / "rules.json").read_text()) == {"rules": {"collapse": {"warn": 0.1235, "error": 2.0}}}
