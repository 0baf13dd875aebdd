"""labels.py: numbers, and the reasons for those that are missing."""

import dataclasses
import math

import pytest
from builders import header

from spinal_callback.report.labels import change, number, why_missing


@pytest.mark.parametrize("missing", [None, math.nan, math.inf, -math.inf])
def test_what_is_missing_is_a_dash(missing):
    assert number(missing) == "-"
    assert change(missing, missing) == "- ± -"
    assert change(0.5, missing) == "+0.500 ± -"


def test_a_number_has_three_decimals_unless_another_form_is_asked_for():
    assert number(-1.23456) == "-1.235" and number(7) == "7.000"
    assert number(0.25, "+.1f") == "+0.2"
    assert change(-0.0123, 0.004) == "-0.012 ± 0.004"


def missing(**fields):
    return why_missing(dataclasses.asdict(header(9, **fields)))


NO_CURVATURE = "no curvature: coherence and score are not defined"


@pytest.mark.parametrize(
    ("window", "late"),
    [
        ((9, 9), "one late layer has"),
        ((8, 9), "two late layers have"),
        ((1, 3), "two late transport steps have"),
        ((1, 1), "one late layer has"),
    ],
)
def test_a_late_window_that_is_too_short_has_neither_coherence_nor_score(window, late):
    assert missing(window=window) == dict.fromkeys(("coherence", "score"), f"{late} {NO_CURVATURE}")


@pytest.mark.parametrize("window", [(7, 9), (2, 4), (1, 4), (1, 9)])
def test_three_late_layers_and_steps_are_enough(window):
    assert missing(window=window) == {}


def test_an_audit_has_gradients_only_of_pairs():
    assert missing(window=(7, 9), checkpoints=["base"], pairs=32) == {}
    why = missing(window=(7, 9), checkpoints=["base", "checkpoint-20"])
    assert why == {
        "gradient_concentration": "gradient concentration needs preference pairs (--pairs)",
        "score": "gradient concentration needs preference pairs (--pairs); the score needs it",
    }
    assert missing(window=(8, 9), checkpoints=["base"])["score"] == f"two late layers have {NO_CURVATURE}"


def test_a_run_without_gradients_says_so():
    why = missing(window=(7, 9), config={"gradients": False})
    assert why["score"] == "gradients=False: gradient concentration was not measured; the score needs it"
    assert missing(window=(7, 9), config={"gradients": True}) == {}
