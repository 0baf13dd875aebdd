"""page_data.py: the numbers that the page's script draws."""

import json
import math
import random
import sys

import pytest
from builders import alert, header, reading

from spinal_callback.report.page_data import embedded
from spinal_callback.traces import Trace


def data(*readings, **fields):
    """What is embedded of one run."""
    text = embedded({"mine": Trace(header(**fields), list(readings), [alert(10)]).to_json()})
    return json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


def run(*readings, **fields):
    return data(*readings, **fields)["runs"][0]


def test_the_numbers_are_the_runs_own_to_five_digits():
    one = run(reading(0, alpha=[math.nan, 0.123456789, 1e-9, 1.0], effective_rank=[math.nan, 2.0, 4.0, 8.0]))
    assert one["name"] == "mine" and one["steps"] == [0]
    assert one["alpha"] == [[None, 0.12346, 1e-9, 1.0]]
    assert one["series"]["late_rank"] == [6.0] and one["series"]["displacement"] == [0.125]
    assert one["series"]["delta_alpha_se"] == [0.004]
    assert one["alerts"] == [{"step": 10, "rule": "nonfinite", "level": "error"}]


def test_errors_have_two_digits():
    one = run(reading(0, alpha_se=[math.nan, 0.0123456, 0.1, 0.2], transport_change_se=[0.0345678, 0.1, 0.2]))
    assert one["alpha_se"] == [[None, 0.012, 0.1, 0.2]]
    assert one["transport_change_se"] == [[0.035, 0.1, 0.2]] and one["alpha_change_se"] == [[]]


def test_the_labels_are_there_once():
    labels = data(reading(0))["labels"]
    assert labels["curves"]["transport"]["title"] == "Transport (rad)" and labels["curves"]["transport"]["first"] == 2
    assert set(labels["score"]) | set(labels["more"]) <= set(run(reading(0))["series"])


def test_the_trainers_numbers_stand_at_the_step_at_which_they_were_logged():
    logs = [{}, {"step": 4.0, "loss": 0.7}, {"step": 4.0, "loss": 0.7}, {"step": 8.0, "loss": 0.5, "grad_norm": 1.25}]
    one = run(*(reading(step, trainer=log) for step, log in zip((0, 5, 7, 10), logs, strict=True)))
    assert one["trainer"] == {"loss": {"x": [4, 8], "y": [0.7, 0.5]}, "grad_norm": {"x": [8], "y": [1.25]}}


def test_a_trace_that_does_not_say_when_the_trainer_logged_has_its_numbers_at_the_readings():
    one = run(reading(0), reading(5, trainer={"loss": 0.7}), reading(10, trainer={"loss": math.nan}))
    assert one["trainer"] == {"loss": {"x": [5, 10], "y": [0.7, None]}}


def test_a_short_late_window_gives_its_reason():
    assert run(reading(0))["missing"]["coherence"].startswith("two late layers have no curvature")
    assert run(reading(0), window=(2, 4))["missing"] == {}


def test_no_string_can_end_the_element():
    text = embedded({"</script>&": Trace(header(model="<!--"), [reading(0)]).to_json()})
    assert not set("<>&") & set(text) and json.loads(text)["runs"][0]["name"] == "</script>&"


# --- large runs


def large(count):
    """A run of 80 layers."""
    draw = random.Random(0).gauss
    lists = dict.fromkeys(("alpha", "alpha_se", "alpha_r2", "effective_rank", "alpha_change_se"), 80)
    lists |= dict.fromkeys(("transport", "transport_se", "transport_change_se"), 79)
    readings = [reading(s, **{k: [draw(1, 0.1) for _ in range(n)] for k, n in lists.items()}) for s in range(count)]
    return {"large": Trace(header(80, (54, 80)), readings).to_json()}


def calls(work):
    """How many functions are called by `work`, Python's and C's."""
    count = 0

    def profile(frame, event, argument):
        nonlocal count
        count += event.endswith("call")

    before = sys.getprofile()
    sys.setprofile(profile)
    try:
        work()
    finally:
        sys.setprofile(before)
    return count


def test_a_thousand_readings_of_eighty_layers_are_small():
    assert len(embedded(large(1000))) < 4e6


def test_work_grows_no_faster_than_the_readings():
    some, twice = large(20), large(40)
    assert calls(lambda: embedded(twice)) < 2.1 * calls(lambda: embedded(some))
