"""records.py: each record as one line of JSON, there and back; what is no record is refused."""

import dataclasses
import json
import math
import re

import pytest
from builders import NAN, alert, header, notice, reading

from spinal_callback import Alert, Notice, Reading
from spinal_callback.records import EVENTS, Header, dump_record, parse_record


@pytest.mark.parametrize("record", [header(), reading(5), alert(), notice()], ids=lambda r: r.kind)
def test_a_record_comes_back_as_it_was(record):
    line = dump_record(record)
    back = parse_record(line)
    assert type(back) is type(record)
    assert repr(back) == repr(record)  # repr: NaN differs from itself
    assert "\n" not in line and json.loads(line)["kind"] == record.kind


@pytest.mark.parametrize("record", [header(), reading(5), alert(), notice()], ids=lambda r: r.kind)
def test_a_changed_field_comes_back_changed(record):
    first = {Header: {"layers": 9}, Reading: {"score": 9.0}, Alert: {"value": 9.0}, Notice: {"event": "x"}}[
        type(record)
    ]
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


def test_the_hash_of_the_prompts_has_a_name_that_says_so():
    assert header(probe="cd" * 32).prompts_hash == "cd" * 32


def test_fields_of_a_later_version_are_ignored():
    line = json.dumps({**json.loads(dump_record(alert())), "colour": "red"})
    assert parse_record(line) == alert()


@pytest.mark.parametrize("line", ['{"kind": "cat"}', "{}", "[1, 2]", "3", "null"])
def test_what_is_no_record_is_refused(line):
    with pytest.raises(
        ValueError, match="not a record of a trace .*header, reading, alert, notice.*" + re.escape(line)
    ):
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


@pytest.mark.parametrize("event", EVENTS)
def test_what_schema_1_wrote_as_an_alert_of_the_monitor_is_read_as_a_notice(event):
    old = alert(10, rule=event, level="warn", layers=[], value=NAN, threshold=NAN, message="what", action="do")
    assert parse_record(dump_record(old)) == Notice(10, event, "what", "do")


def test_an_alert_of_a_rule_stays_an_alert():
    assert parse_record(dump_record(alert(rule="nonfinite"))) == alert(rule="nonfinite")


@pytest.mark.parametrize("schema", [1, 2])
def test_headers_of_schema_1_and_2_are_read(schema):
    assert parse_record(dump_record(header(schema=schema))).schema == schema


@pytest.mark.parametrize("schema", [0, 3, None, "1"])
def test_another_schema_is_refused(schema):
    words = f"^schema {json.dumps(schema)}; this version of spinal_callback reads schemas 1 and 2$"
    with pytest.raises(ValueError, match=words):
        parse_record(dump_record(header(schema=schema)))
