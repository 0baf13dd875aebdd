"""records.py: every check of the configuration, JSON there and back, and traces that are torn, foreign or mixed up."""

import dataclasses
import gzip
import json
import math
import re

import pytest
from builders import NAN, alert, header, reading, write

from spinal_callback import Alert, Reading, SpinalConfig, load_trace
from spinal_callback.records import SCHEMA, Header, dump_record, parse_record

# --- one record


@pytest.mark.parametrize("record", [header(), reading(5), alert()], ids=lambda r: r.kind)
def test_a_record_comes_back_as_it_was(record):
    line = dump_record(record)
    back = parse_record(line)
    assert type(back) is type(record)
    assert repr(back) == repr(record)  # repr: NaN differs from itself
    assert "\n" not in line and json.loads(line)["kind"] == record.kind


@pytest.mark.parametrize("record", [header(), reading(5), alert()], ids=lambda r: r.kind)
def test_a_changed_field_comes_back_changed(record):
    first = {Header: {"layers": 9}, Reading: {"score": 9.0}, Alert: {"value": 9.0}}[type(record)]
    assert repr(parse_record(dump_record(dataclasses.replace(record, **first)))) != repr(record)


@pytest.mark.parametrize("bad", [NAN, math.inf, -math.inf])
def test_what_json_has_no_number_for_is_null_and_reads_as_nan(bad):
    line = dump_record(reading(alpha=[bad, 0.7], score=bad, delta={"alpha": bad}))
    data = json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert data["alpha"] == [None, 0.7] and data["score"] is None and data["delta"] == {"alpha": None}
    back = parse_record(line)
    assert math.isnan(back.alpha[0]) and math.isnan(back.score) and math.isnan(back.delta["alpha"])
    assert back.alpha[1] == 0.7
    assert math.isnan(parse_record(dump_record(alert(value=bad))).value)


def test_a_headers_null_stays_null():
    assert parse_record(dump_record(header())).config["top_k"] is None
    assert parse_record(dump_record(header())).window == (3, 4)


def test_fields_of_a_later_version_are_ignored():
    line = json.dumps({**json.loads(dump_record(alert())), "colour": "red"})
    assert parse_record(line) == alert()


@pytest.mark.parametrize("line", ['{"kind": "cat"}', "{}", "[1, 2]", "3", "null"])
def test_what_is_no_record_is_refused(line):
    with pytest.raises(ValueError, match="not a record of a trace .*header, reading, alert.*" + re.escape(line)):
        parse_record(line)


@pytest.mark.parametrize(("record", "field"), [(header(), "probe"), (reading(), "late"), (alert(), "rule")])
def test_a_missing_field_is_named(record, field):
    data = json.loads(dump_record(record))
    del data[field]
    with pytest.raises(ValueError, match=f"{record.kind} without {field}$"):
        parse_record(json.dumps(data))


def test_a_field_with_a_default_may_be_missing():
    data = json.loads(dump_record(reading()))
    del data["overhead"], data["trainer"], data["interval"]
    again = parse_record(json.dumps(data))
    assert math.isnan(again.overhead) and again.trainer == {} and again.interval == 0


# --- the trace


@pytest.mark.filterwarnings("error")
def test_a_trace_is_read_from_its_file_or_its_runs_folder(tmp_path):
    path = write(tmp_path, header(), reading(0), reading(10), alert(10), name="_spinal/trace.jsonl")
    for place in (path, str(path), tmp_path, str(tmp_path)):
        trace = load_trace(place)
        assert trace.header == header()
        assert [r.step for r in trace.readings] == [0, 10]
        assert trace.alerts == [alert(10)]
    whole = json.dumps(trace.to_json(), allow_nan=False)
    assert json.loads(whole)["readings"][1]["alpha"][0] is None


def test_no_trace_there(tmp_path):
    for place in (tmp_path, tmp_path / "trace.jsonl"):
        with pytest.raises(FileNotFoundError, match=r"trace\.jsonl"):
            load_trace(place)


def test_a_step_that_was_run_again_keeps_its_latest_reading_and_alert(tmp_path):
    again = [reading(10, score=2.0), alert(10, message="again"), alert(10, rule="other"), reading(20)]
    trace = load_trace(write(tmp_path, header(), reading(0), reading(10), alert(10), reading(20), *again))
    assert [(r.step, r.score) for r in trace.readings] == [(0, 1.253), (10, 2.0), (20, 1.253)]
    assert [(a.rule, a.message) for a in trace.alerts] == [("nonfinite", "again"), ("other", "7 are NaN")]


def test_alerts_come_in_the_order_of_their_steps(tmp_path):
    trace = load_trace(write(tmp_path, header(), reading(10), alert(20), reading(20), alert(10)))
    assert [a.step for a in trace.alerts] == [10, 20]


def test_an_alert_that_was_raised_a_level_at_its_step_keeps_both(tmp_path):
    trace = load_trace(write(tmp_path, header(), reading(10), alert(10, level="warn"), alert(10)))
    assert [a.level for a in trace.alerts] == ["error", "warn"]


def test_a_packed_trace_is_read(tmp_path):
    path = write(tmp_path, header(), reading(0), alert(0))
    packed = tmp_path / "trace.jsonl.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    assert load_trace(packed).to_json() == load_trace(path).to_json()


@pytest.mark.parametrize("length", [1, 30, 200, -1])
def test_a_torn_last_line_is_skipped_with_a_warning(tmp_path, length):
    path = write(tmp_path, header(), reading(0), dump_record(reading(10))[:length])
    with pytest.warns(UserWarning, match=re.escape(f"{path}: skipped the torn last line 3")) as caught:
        assert [r.step for r in load_trace(path).readings] == [0]
    assert len(caught) == 1


def test_a_torn_line_before_the_last_is_an_error(tmp_path):
    path = write(tmp_path, header(), dump_record(reading(0))[:40], reading(10))
    with pytest.raises(ValueError, match=re.escape(f"{path}, line 2: ")):
        load_trace(path)


LATER = dump_record(header()).replace(f'"schema": {SCHEMA}', f'"schema": {SCHEMA + 1}')
BROKEN = {
    "empty": ([], r"line 1: a trace begins with its header"),
    "no header": ([reading(0)], r"line 1: a trace begins with its header"),
    "header second": ([reading(0), header()], r"line 1: a trace begins with its header"),
    "torn header": (['{"kind": "hea'], r"line 1: "),
    "other schema": ([LATER, reading(0)], rf": schema {SCHEMA + 1}, this version reads schema {SCHEMA}"),
    "two traces": ([header(), reading(0), header()], r"line 3: a second header: two traces in one file"),
    "unordered": ([header(), reading(0), reading(9), reading(5)], r"line 4: step 5 comes after step 9: the steps are"),
    "unknown kind": ([header(), '{"kind": "cat"}', reading(0)], r"line 2: not a record .*cat"),
    "missing field": ([header(), '{"kind": "alert", "step": 1}', reading(0)], r"line 2: alert without action, layers"),
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_trace_is_refused_by_file_and_line(tmp_path, name):
    lines, words = BROKEN[name]
    path = write(tmp_path, *lines)
    with pytest.raises(ValueError, match=re.escape(str(path)) + ".*" + words):
        load_trace(path)


# --- the configuration


FLAGS = ("save_on_alert", "gradients", "log_prompts")
COUNT = "must be a whole number >= "
WINDOW = r"window must be \(first, last\) with 1 <= first <= last, got "
SHARE = r"window must be a share of the depth in \(0, 1\] or \(first, last\), got "
TAIL = r"tail must be \(low, high\) shares with 0 <= low < high <= 1, got "
WRONG = [
    *(("every", x, rf'every {COUNT}1 or "auto", got ') for x in (0, -5, "often", True, None, 2.0)),
    *(("overhead", x, r"overhead must be a share of wall time in \(0, 1\], got ") for x in (0, 1.1, NAN, "1", True)),
    *(("num_prompts", x, f"num_prompts {COUNT}2, got ") for x in (1, 0, 2.5, "64", True)),
    *(("max_prompt_tokens", x, f"max_prompt_tokens {COUNT}1, got ") for x in (0, None, 1.5)),
    *(("position", x, "position must be one of 'last', 'response', got ") for x in ("first", None, 0)),
    *(("window", x, WINDOW) for x in ((0, 2), (3, 2), (1,), (1, 2, 3), (1.0, 2), (True, 2), ("1", 2), ())),
    *(("window", x, SHARE) for x in (0, -0.5, 1.5, 21, NAN, "late", None, True)),
    *(("tail", x, TAIL) for x in ((0.9, 0.1), (0.1, 0.1), (-0.1, 0.9), (0.1, 1.1), (0.1,), (0.1, NAN), 0.5, None)),
    *(("tail", x, TAIL) for x in (("0.1", 0.9), (False, 0.9), (0.1, 0.5, 0.9))),
    *(("top_k", x, f"top_k {COUNT}1 or None for the whole vocabulary, got ") for x in (0, 1.5, "all", True)),
    *(("rules", x, "rules must be the path of a file made by spinal calibrate, or None, got ") for x in (1, ["a"])),
    *(("stop_on", x, "stop_on must be one of None, 'warn', 'error', got ") for x in ("fatal", True, "", ["warn"])),
    *((f, x, f"{f} must be True or False, got ") for f in FLAGS for x in (1, "no", None)),
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
    "position": ("last", "response"),
    "window": (1, 0.01, (1, 1), (21, 30)),
    "tail": ((0, 1), (0.5, 1.0)),
    "top_k": (None, 1),
    "stop_on": (None, "warn", "error"),
    "rules": (None, "rules.json"),
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
    with pytest.raises(ValueError, match=r"window must lie in layers 1\.\.11 of this model, got \(5, 12\)"):
        SpinalConfig(window=(5, 12)).late_window(11)


def test_the_late_window_is_never_empty():
    assert SpinalConfig(window=1e-12).late_window(30) == (30, 30)
