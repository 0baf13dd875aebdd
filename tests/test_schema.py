"""Dataclasses from JSON: what fits comes through, what does not is named; generated values of every kind."""

import json
import math
import re
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spinal_callback.schema import LARGEST, build, load_json


@dataclass
class Everything:
    text: str
    count: int
    share: float
    on: bool
    level: Literal["warn", "error"]
    curve: list[float]
    window: tuple[int, int]
    late: dict[str, float]
    config: dict[str, Any]
    later: list[str] = field(default_factory=list)


GOOD = {
    "text": "a",
    "count": 3,
    "share": 0.5,
    "on": True,
    "level": "warn",
    "curve": [0.5, None, 2],
    "window": [1, 2],
    "late": {"alpha": 1.5},
    "config": {"every": "auto", "deep": [[{"a": None}]]},
}


def test_what_fits_comes_through():
    made = build(Everything, GOOD | {"colour": "red"})
    assert (made.text, made.count, made.on, made.level, made.window) == ("a", 3, True, "warn", (1, 2))
    assert made.curve[0] == 0.5 and math.isnan(made.curve[1]) and type(made.curve[2]) is float
    assert made.config == GOOD["config"] and made.later == []


@pytest.mark.parametrize("name", GOOD)
def test_a_missing_field_is_named(name):
    with pytest.raises(ValueError, match=f"^Everything without {name}$"):
        build(Everything, {key: value for key, value in GOOD.items() if key != name})


WRONG = {
    "text": (None, "text must be a text, got null"),
    "count": (1.0, "count must be a whole number of at most 64 bits, got 1.0"),
    "share": ("x" * 50, f'share must be a number up to 1e+100 or null, got "{"x" * 36}...'),
    "on": (0, "on must be true or false, got 0"),
    "level": (["warn"], "level must be one of 'warn', 'error', got a list"),
    "curve": ([0.5, True], "curve[1] must be a number up to 1e+100 or null, got true"),
    "window": ([1, 2, 3], "window must be a list of 2, got a list"),
    "late": ({"alpha": {}}, "late.alpha must be a number up to 1e+100 or null, got an object"),
    "config": ({"a": [1e101]}, "config.a[0] must be a number up to 1e+100 or null, got 1e+101"),
    "later": ("abc", 'later must be a list, got "abc"'),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_does_not_fit_is_named(name):
    value, words = WRONG[name]
    with pytest.raises(ValueError, match=f"^{re.escape(words)}$"):
        build(Everything, GOOD | {name: value})


@pytest.mark.parametrize("value", [LARGEST + 1, -LARGEST - 1, 10**5000], ids=["above", "below", "digits"])
def test_a_number_too_large_to_hold_is_refused_without_writing_it(value):
    with pytest.raises(ValueError, match=r"^count must be .* 64 bits, got a larger number$"):
        build(Everything, GOOD | {"count": value})
    with pytest.raises(ValueError, match=r"^share must be .*, got a larger number$"):
        build(Everything, GOOD | {"share": value})


def test_what_may_be_anything_may_not_be_endless():
    config: Any = 1
    for _ in range(12):
        config = [config]
    with pytest.raises(ValueError, match=r"^config\.a(\[0\]){10} is nested more than 10 levels deep$"):
        build(Everything, GOOD | {"config": {"a": config}})


NO_JSON = {
    "{": "Expecting property name",
    "[" * 100_000: "brackets are nested too deeply",
    '{"a":' * 100_000: "brackets are nested too deeply",
    "1" * 5000: "a number has too many digits",
}


@pytest.mark.parametrize("text", NO_JSON, ids=lambda text: text[:5])
def test_what_is_not_json_is_a_value_error(text):
    with pytest.raises(ValueError, match=NO_JSON[text]):
        load_json(text)


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=500, deadline=None)
@given(name=st.sampled_from(sorted(GOOD)), value=ANYTHING)
def test_any_value_fits_or_is_named(name, value):
    """500 values, each in one of the fields: nothing but a ValueError that begins with the field's name."""
    try:
        made = build(Everything, GOOD | {name: value})
    except ValueError as error:
        assert re.match(rf"{name}[\[. ]", str(error)) and len(str(error)) < 300
    else:
        json.dumps(getattr(made, name))
