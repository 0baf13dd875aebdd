"""config.py: every value of the configuration is checked when it is made."""

import copy
import dataclasses
import inspect
import json
import pickle
import re

import pytest
from builders import NAN

from spinal_callback import SpinalConfig

FLAGS = ("layer_entropy", "save_on_alert", "gradients", "log_prompts")
COUNT = "must be a whole number >= "
WINDOW = r"window must be \(first, last\) with 1 <= first <= last, got "
SHARE = r'window must be a share of the depth in \(0, 1\], \(first, last\) or "paper", got '
LAYERS = "must be one of 'scalars', 'table', 'off'"
TAIL = r"tail must be \(low, high\) shares with 0 <= low < high <= 1, got "
WRONG = [
    *(("every", x, rf'every {COUNT}1 or "auto", got ') for x in (0, -5, "often", True, None, 2.0)),
    *(("overhead", x, r"overhead must be a share of wall time in \(0, 1\], got ") for x in (0, 1.1, NAN, "1", True)),
    *(("num_prompts", x, f"num_prompts {COUNT}2, got ") for x in (1, 0, 2.5, "64", True)),
    *(("max_prompt_tokens", x, f"max_prompt_tokens {COUNT}1, got ") for x in (0, None, 1.5)),
    *(("position", x, "position must be one of 'last', 'response', 'prompt', got ") for x in ("first", None, 0)),
    *(("window", x, WINDOW) for x in ((0, 2), (3, 2), (1,), (1, 2, 3), (1.0, 2), (True, 2), ("1", 2), ())),
    *(("window", x, SHARE) for x in (0, -0.5, 1.5, 21, NAN, "late", None, True)),
    *(("tail", x, TAIL) for x in ((0.9, 0.1), (0.1, 0.1), (-0.1, 0.9), (0.1, 1.1), (0.1,), (0.1, NAN), 0.5, None)),
    *(("tail", x, TAIL) for x in (("0.1", 0.9), (False, 0.9), (0.1, 0.5, 0.9))),
    *(("group", x, f"group {COUNT}2 or None for one fit to all prompts, got ") for x in (1, 64.0, "64", True)),
    *(("top_k", x, f"top_k {COUNT}1 or None for the whole vocabulary, got ") for x in (0, 1.5, "all", True)),
    *(("rules", x, "rules must be the path of a file made by spinal calibrate, or None, got ") for x in (1, ["a"])),
    *(("stop_on", x, "stop_on must be one of None, 'warn', 'error', got ") for x in ("fatal", True, "", ["warn"])),
    *((f, x, f"{f} must be True or False, got ") for f in FLAGS for x in (1, "no", None)),
    *(("layer_logging", x, f"layer_logging {LAYERS}, got ") for x in ("all", None, True)),
    *(("seed", x, f"seed {COUNT}0, got ") for x in (-1, 1.0, None)),
]  # fmt: skip


@pytest.mark.parametrize(("field", "value", "words"), WRONG, ids=lambda x: str(x)[:20])
def test_a_bad_value_is_refused_by_name(field, value, words):
    with pytest.raises(ValueError, match="^" + words + re.escape(repr(value))):
        SpinalConfig(**{field: value})


RIGHT = {
    "every": ("auto", 1, 1000),
    "overhead": (1, 1e-6),
    "num_prompts": (10, 1000),
    "max_prompt_tokens": (1,),
    "position": ("last", "response", "prompt"),
    "window": ("paper", 1, 0.01, (1, 1), (21, 30)),
    "tail": ((0, 1), (0.5, 1.0)),
    "group": (None, 10, 64, 1000),
    "top_k": (None, 1),
    "stop_on": (None, "warn", "error"),
    "rules": (None, "rules.json"),
    "layer_logging": ("scalars", "table", "off"),
    "gradients": (False,),
    "seed": (0, 10**12),
}


@pytest.mark.parametrize(("field", "value"), [(f, v) for f, values in RIGHT.items() for v in values])
def test_a_good_value_is_taken_as_it_is(field, value):
    assert getattr(SpinalConfig(**{field: value}), field) == value


def test_lists_from_json_are_taken_for_tuples():
    config = SpinalConfig(window=[21, 30], tail=[0.2, 0.8])
    assert config == SpinalConfig(window=(21, 30), tail=(0.2, 0.8))
    assert SpinalConfig(**json.loads(json.dumps(config.to_json()))) == config
    with pytest.raises(ValueError, match=WINDOW):
        SpinalConfig(window=[30, 21])


@pytest.mark.parametrize(
    ("given", "right"), [("evry", "every"), ("num_prompt", "num_prompts"), ("stopon", "stop_on"), ("windw", "window")]
)
def test_an_unknown_field_is_answered_with_the_nearest(given, right):
    words = rf"^there is no setting {given} \(got {given}=5\): did you mean {right}\?$"
    with pytest.raises(ValueError, match=words):
        SpinalConfig(**{given: 5})
    with pytest.raises(ValueError, match=words):
        dataclasses.replace(SpinalConfig(), **{given: 5})
    with pytest.raises(ValueError, match=words):
        SpinalConfig.of(None, {"seed": 1, given: 5})


def test_an_unknown_field_that_is_near_none_is_answered_with_all():
    names = ", ".join(field.name for field in dataclasses.fields(SpinalConfig))
    words = re.escape(f"there is no setting colour (got colour='red'): the settings are {names}")
    with pytest.raises(ValueError, match=f"^{words}$"):
        SpinalConfig(colour="red")


def test_an_argument_of_the_function_may_be_what_was_meant():
    with pytest.raises(ValueError, match=r"no setting prompt \(got prompt=1\): did you mean prompts\?$"):
        SpinalConfig.of(None, {"prompt": 1}, ("prompts",))
    with pytest.raises(ValueError, match=r"no setting prompt \(got prompt=1\): did you mean num_prompts\?$"):
        SpinalConfig.of(None, {"prompt": 1})


def test_settings_come_as_an_object_or_as_keywords():
    config = SpinalConfig(every=5)
    assert SpinalConfig.of(config, {}) is config
    assert SpinalConfig.of(None, {"every": 5}) == config
    assert SpinalConfig.of(None, {}) == SpinalConfig()
    with pytest.raises(ValueError, match=r"^give config or its fields, not both: config and every, seed$"):
        SpinalConfig.of(config, {"every": 5, "seed": 1})


@pytest.mark.parametrize("given", [25, {"every": 5}, {}, "every", 0, SpinalConfig])
def test_what_is_no_configuration_is_refused(given):
    words = re.escape(
        f"config must be a SpinalConfig or None, got {given!r}: give its fields as keywords (every=25), or unpack a"
        " dictionary of them (**settings)"
    )
    with pytest.raises(ValueError, match=f"^{words}$"):
        SpinalConfig.of(given, {})


def test_editors_see_the_fields():
    assert list(inspect.signature(SpinalConfig).parameters) == [
        field.name for field in dataclasses.fields(SpinalConfig)
    ]


def test_a_configuration_can_be_copied_and_sent():
    config = SpinalConfig(every=5, window=(2, 3))
    assert copy.deepcopy(config) == config
    assert pickle.loads(pickle.dumps(config)) == config


def test_the_configuration_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        SpinalConfig().every = 5


@pytest.mark.parametrize(("tail", "prompts"), [((0.1, 0.9), 9), ((0.1, 0.9), 4), ((0.1, 0.9), 2), ((0.5, 0.7), 30)])
def test_too_few_prompts_for_the_tail_says_how_many_it_takes(tail, prompts):
    with pytest.raises(
        ValueError, match=rf"num_prompts={prompts} gives, .*at least 8: use num_prompts >= \d+"
    ) as caught:
        SpinalConfig(tail=tail, num_prompts=prompts)
    need = int(re.search(r">= (\d+)", str(caught.value)).group(1))
    SpinalConfig(tail=tail, num_prompts=need)
    with pytest.raises(ValueError, match=rf">= {need} "):  # and not one fewer
        SpinalConfig(tail=tail, num_prompts=need - 1)


def test_with_every_token_of_the_answer_few_prompts_may_do():
    assert SpinalConfig(num_prompts=4, position="response").num_prompts == 4  # its rows are tokens


def test_tail_ranks():
    config = SpinalConfig()
    assert config.tail_ranks(64, 576) == (7, 56)  # r = 63
    assert SpinalConfig(tail=(0.28, 0.58)).tail_ranks(51, 576) == (14, 29)  # 0.58 * 50 is 28.999999999999996
    assert config.tail_ranks(200, 20) == (2, 18)  # r = 20: the width
    assert SpinalConfig(tail=(0, 1)).tail_ranks(64, 576) == (1, 63)
    assert config.tail_ranks(6, 576, least=2) == (1, 4)
    with pytest.raises(ValueError, match=r"leaves 4 of the 5 ranks .* at least 8: use a wider tail$"):
        config.tail_ranks(64, 5)  # no number of prompts makes up for the width
    with pytest.raises(ValueError, match=r"leaves 6 of the 7 ranks .*: use num_prompts >= 10 or a wider tail$"):
        config.tail_ranks(8, 576)


def test_late_window():
    assert SpinalConfig().late_window(30) == (21, 30)
    assert SpinalConfig().late_window(32) == (22, 32)  # ceil(32 / 3) = 11 layers
    assert SpinalConfig(window=0.28).late_window(25) == (19, 25)  # 0.28 * 25 is 7.000000000000001
    assert SpinalConfig(window=1).late_window(12) == (1, 12)
    assert SpinalConfig(window=(5, 12)).late_window(12) == (5, 12)
    assert [SpinalConfig(window="paper").late_window(n) for n in (30, 32, 41)] == [(21, 30)] * 3
    assert [SpinalConfig(window="paper").late_window(n) for n in (1, 9, 18, 28)] == [(1, 1), (7, 9), (13, 18), (19, 28)]
    assert SpinalConfig(window="paper").late_window(42) == (29, 42)  # 21 to 30 would begin in the first half
    with pytest.raises(ValueError, match=r"window must lie in layers 1\.\.11 of this model, got \(5, 12\)"):
        SpinalConfig(window=(5, 12)).late_window(11)


def test_the_late_window_is_never_empty():
    assert SpinalConfig(window=1e-12).late_window(30) == (30, 30)
