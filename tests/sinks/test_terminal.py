"""terminal.py: what a person reads, for a made-up run with layers that have no tail."""

import dataclasses
import math
import re

import pytest
from builders import alert, header, notice, reading

from spinal_callback.report import text as text_of
from spinal_callback.sinks import terminal
from spinal_callback.traces import Trace

NAN = math.nan


def trace(*readings, **fields):
    last = reading(20, alpha=[NAN, 0.7, 0.85, NAN], transport=[1.25, 1.3, 1.5])
    return Trace(header(**fields), list(readings) or [reading(0), reading(10, alpha=[9.0] * 4), last])


def cells(text):
    return [line.split() for line in text.splitlines()]


def test_a_line_for_a_reading():
    delta = {"alpha": 0.0125, "alpha_se": 0.004, "transport": -0.25, "transport_se": 0.003}
    assert text_of.line(reading(10, delta=delta, score=-1.5)) == (
        "spinal  step 10    contraction 0.850 (+0.013 ± 0.004)  transport 1.350 (-0.250 ± 0.003)"
        "  displacement 0.125  score -1.500  0.5 s"
    )


def test_what_is_not_to_be_had_is_a_dash():
    holed = {"late": {"alpha": NAN, "transport": 1.35}, "score": NAN}
    delta = {"alpha": NAN, "alpha_se": NAN, "transport": 0.0, "transport_se": NAN}
    text = text_of.line(reading(0, delta=delta, **holed))
    assert "contraction - (- ± -)" in text and "score -  " in text
    assert "transport 1.350 (+0.000 ± -)" in text
    assert "nan" not in text


@pytest.mark.parametrize("field", ["displacement", "seconds"])
def test_every_number_of_the_line_may_be_missing(field):
    assert "nan" not in text_of.line(reading(0, **{field: NAN}))


def test_a_line_for_an_alert():
    assert text_of.alert_line(alert(10)) == "spinal  ERROR nonfinite: 7 are NaN. Try: stop."
    assert "WARN drift" in text_of.alert_line(alert(10, level="warn", rule="drift"))


def test_a_line_for_a_notice():
    assert text_of.notice_line(notice(10, message="out of memory", action="if this stays, ask")) == (
        "spinal  NOTE out of memory. If this stays, ask."
    )


def test_the_table_sets_the_first_reading_against_the_last():
    rows = cells(text_of.table(trace()))
    assert rows[0] == ["contraction", "(alpha)", "transport", "(rad)"]
    assert rows[1] == ["layer", *["step", "0", "step", "20", "change", "step", "0", "step", "20", "change"]]
    assert rows[2] == ["3", "0.800", "0.850", "+0.050", "1.300", "1.300", "+0.000"]
    assert rows[3] == ["4", "0.900", "-", "-", "1.400", "1.500", "+0.100"]
    assert rows[4] == ["late", "mean", "0.850", "0.850", "+0.000", "1.350", "1.350", "+0.000"]
    assert len(rows) == 5


def test_the_tables_columns_stand_under_each_other():
    lines = text_of.table(trace(window=(2, 4))).splitlines()[1:]
    assert len({len(line) for line in lines}) == 1


def test_the_table_of_the_first_layer_has_no_transport():
    rows = cells(text_of.table(trace(window=(1, 2))))
    assert rows[2] == ["1", "-", "-", "-"]
    assert rows[3] == ["2", "0.700", "0.700", "+0.000", "1.200", "1.250", "+0.050"]


def test_the_picture_shows_both_curves_first_against_last():
    text = text_of.picture(trace())
    assert "contraction alpha" in text and "transport, rad" in text
    assert text.count("step 0") == text.count("step 20") == 2
    assert "step 10" not in text
    assert "\x1b" not in text  # plain text: it may go into a file
    assert max(map(len, text.splitlines())) <= 110
    assert re.search("[\u2801-\u28ff]", text)


def test_the_picture_follows_the_values():
    low, high = (text_of.picture(trace(reading(0), reading(20, alpha=[0.1, 0.2, 0.3, x]))) for x in (0.4, 8.0))
    assert low != high
    assert text_of.picture(trace()) == text_of.picture(trace())  # nothing is left of the one before


@pytest.mark.parametrize(
    "readings",
    [
        [reading(0)],
        [reading(0, alpha=[NAN] * 4, transport=[NAN] * 3), reading(5)],
        [reading(5), reading(10, alpha=[NAN] * 4, transport=[NAN] * 3)],
        [reading(0, alpha=[NAN] * 4, transport=[NAN] * 3)],
        [reading(0, alpha=[1.0] * 4, transport=[1.0] * 3)],
    ],
)
def test_a_summary_is_made_of_whatever_there_is(readings):
    text = text_of.summary(trace(*readings))
    assert "late mean" in text and "contraction alpha" in text
    assert "nan" not in text


def test_the_sink_prints_as_records_come_and_sums_up_at_the_end(capsys, tmp_path):
    path = tmp_path / "trace.jsonl"
    sink = terminal.TerminalSink()
    sink.begin(path, tmp_path / "report.html")
    told = []
    for record in (header(), reading(0), alert(5), notice(5), reading(10)):
        sink.write(record)
        told.append(capsys.readouterr().out)
    assert told[0] == "spinal  made-up: 4 layers, late window 3-4, 24 prompts\n"
    lines = (text_of.line(reading(0)), text_of.alert_line(alert(5)), text_of.notice_line(notice(5)))
    assert told[1:] == [f"{text}\n" for text in (*lines, text_of.line(reading(10)))]
    sink.close()
    end = capsys.readouterr().out
    assert "late mean" in end and "step 10" in end
    assert f"spinal show {path}" in end


def test_a_run_without_readings_has_no_summary(capsys):
    sink = terminal.TerminalSink()
    sink.close()
    sink.write(header())
    capsys.readouterr()
    sink.close()
    assert capsys.readouterr().out == ""
    sink.write(reading(0))
    sink.close()
    assert "trace    " not in capsys.readouterr().out  # no path, no pointer to it


def test_a_readings_step_of_many_digits_does_not_run_into_the_next_word():
    assert "step 1234567 contraction" in text_of.line(dataclasses.replace(reading(0), step=1234567)).replace("  ", " ")
