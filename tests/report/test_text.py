"""text.py: what a person reads, for a made-up run with layers that have no tail; in 80 columns, in any encoding."""

import dataclasses
import math
import shutil

import pytest
from builders import alert, header, notice, reading

from spinal_callback.report.text import (
    alert_line,
    everything,
    for_encoding,
    heading,
    line,
    lines,
    notice_line,
    picture,
    summary,
    table,
)
from spinal_callback.traces import Trace

NAN = math.nan


def trace(*readings, **fields):
    last = reading(20, alpha=[NAN, 0.7, 0.85, NAN], transport=[1.25, 1.3, 1.5])
    return Trace(header(**fields), list(readings) or [reading(0), reading(10, alpha=[9.0] * 4), last])


def cells(text):
    return [line.split() for line in text.splitlines()]


# --- a line each


def test_a_line_for_a_reading():
    delta = {"alpha": 0.0125, "alpha_se": 0.004, "transport": -0.25, "transport_se": 0.003}
    assert line(reading(10, delta=delta, score=-1.5)) == (
        "spinal    10  0.850 +0.013 ± 0.004  1.350 -0.250 ± 0.003  0.125 -1.500   0.5"
    )


def test_the_lines_stand_under_their_heading():
    head, *rows = lines(header(), [reading(0), reading(99_999, seconds=12.34)]).splitlines()[-3:]
    assert len(rows) == 2
    for name, value in (("contraction", "0.850"), ("transport", "1.350")):
        assert {row.index(value) for row in rows} == {head.index(name)}
    ends = [head.index(name) + len(name) for name in ("step", "displ.", "score")]
    assert [rows[1][:end].split()[-1] for end in ends] == ["99999", "0.125", "1.253"]
    assert len(head) == len(rows[0]) == len(rows[1])


WIDEST = {
    "late": {"alpha": 1.35, "transport": 2.5},
    "delta": {"alpha": -0.125, "alpha_se": 0.25, "transport": -0.25, "transport_se": 0.125},
    "displacement": 3.125,
    "score": -1.253,
    "seconds": 99.95,
}


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_usual_lines_fit_into_80_columns(encoding):
    for text in (lines(header(), [reading(12_345, **WIDEST)]), summary(trace())):
        assert max(map(len, for_encoding(text, encoding).splitlines())) <= 80


def test_what_is_missing_is_a_dash():
    holed = {"late": {"alpha": NAN, "transport": 1.35}, "score": NAN}
    delta = {"alpha": NAN, "alpha_se": NAN, "transport": 0.0, "transport_se": NAN}
    text = line(reading(0, delta=delta, **holed))
    assert text.split() == ["spinal", "0", "-", "-", "±", "-", "1.350", "+0.000", "±", "-", "0.125", "-", "0.5"]


@pytest.mark.parametrize("field", ["displacement", "seconds"])
def test_every_number_of_the_line_may_be_missing(field):
    assert "nan" not in line(reading(0, **{field: NAN}))


def test_the_heading_says_why_there_is_no_score():
    told = " ".join(heading(header()).replace("spinal", "").split())
    assert "no score: two late layers have no curvature: coherence and score are not defined" in told
    assert "no score" not in heading(header(window=(2, 4)))


def test_a_line_for_an_alert():
    assert alert_line(alert(10)) == "spinal  ERROR nonfinite: 7 are NaN. Try: stop."
    assert "WARN drift" in alert_line(alert(10, level="warn", rule="drift"))


def test_a_line_for_a_notice():
    assert notice_line(notice(10, message="out of memory", action="if this stays, ask")) == (
        "spinal  NOTE out of memory. If this stays, ask."
    )


def test_everything_is_the_records_in_the_order_of_their_kinds_and_the_summary():
    run = dataclasses.replace(trace(), alerts=[alert(10)], notices=[notice(5)])
    told = [lines(header(), run.readings), alert_line(alert(10)), notice_line(notice(5)), "", summary(run)]
    assert everything(run) == "\n".join(told)


# --- the table and the plot


def test_the_table_sets_the_first_reading_against_the_last():
    rows = cells(table(trace()))
    assert rows[0] == ["contraction", "(alpha)", "transport", "(rad)"]
    assert rows[1] == ["layer", *["step", "0", "step", "20", "change", "step", "0", "step", "20", "change"]]
    assert rows[2] == ["3", "0.800", "0.850", "+0.050", "1.300", "1.300", "+0.000"]
    assert rows[3] == ["4", "0.900", "-", "-", "1.400", "1.500", "+0.100"]
    assert rows[4] == ["late", "mean", "0.850", "0.850", "+0.000", "1.350", "1.350", "+0.000"]
    assert len(rows) == 5


def test_the_summary_tells_the_length_of_the_path_and_the_layer_of_the_greatest_change():
    told = summary(trace()).splitlines()
    assert told[5:8] == [
        "path length 2.700 rad in the late window, 3.900 in all",
        "greatest change of contraction in layer 4, of transport in layer 3",
        "",
    ]
    earlier = dataclasses.replace(trace(), readings=[reading(0, length={}, greatest={})])
    assert "path length" not in summary(earlier) and "greatest" not in summary(earlier)


def test_the_tables_columns_stand_under_each_other():
    assert len({len(line) for line in table(trace(window=(2, 4))).splitlines()[1:]}) == 1


def test_the_table_of_the_first_layer_has_no_transport():
    rows = cells(table(trace(window=(1, 2))))
    assert rows[2] == ["1", "-", "-", "-"]
    assert rows[3] == ["2", "0.700", "0.700", "+0.000", "1.200", "1.250", "+0.050"]


def test_the_picture_shows_both_curves_first_against_last():
    text = picture(trace())
    assert "Contraction (alpha)" in text and "Transport (rad)" in text
    assert text.splitlines()[-1].split() == ["against", "the", "layer:", "..", "step", "0", "⠒⠒", "step", "20"]
    assert "." in text.splitlines()[5] and any("\u2801" <= character <= "\u28ff" for character in text)
    assert text == picture(trace())


def test_the_picture_follows_the_values():
    low, high = (picture(trace(reading(0), reading(20, alpha=[0.1, 0.2, 0.3, x]))) for x in (0.4, 8.0))
    assert low != high


@pytest.mark.parametrize(("columns", "width"), [(20, 60), (80, 80), (100, 100), (300, 110)])
def test_the_picture_is_as_wide_as_the_terminal_within_reason(columns, width, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(columns))
    assert shutil.get_terminal_size().columns == columns
    assert max(map(len, picture(trace()).splitlines())) == width
    assert max(map(len, picture(trace(), width=70).splitlines())) == 70


def test_a_single_reading_is_drawn_once():
    text = picture(trace(reading(0)))
    assert text.splitlines()[-1].split() == ["against", "the", "layer:", "⠒⠒", "step", "0"]
    assert ".." not in text and ".." in picture(trace())


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
    text = summary(trace(*readings))
    assert "late mean" in text and "Contraction (alpha)" in text
    assert "nan" not in text


# --- terminals that cannot show everything


def test_text_is_left_as_it_is_where_the_encoding_has_it():
    text = summary(trace()) + line(reading(0))
    assert for_encoding(text, "utf-8") == for_encoding(text, "UTF-8") == text


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "cp437", None, "no such encoding"])
def test_every_text_of_ours_can_be_encoded(encoding):
    known = encoding if encoding not in (None, "no such encoding") else "ascii"
    shown = for_encoding("\n".join([summary(trace()), line(reading(0)), heading(header(model="モデル"))]), encoding)
    assert shown.encode(known) and "\\" not in shown
    assert "*" in shown and ("±" in shown) == (known != "ascii")


def test_stand_ins_keep_the_picture_in_shape():
    plain, shown = picture(trace()), for_encoding(picture(trace()), "ascii")
    assert [len(line) for line in shown.splitlines()] == [len(line) for line in plain.splitlines()]
    assert for_encoding("┌─┐│┤⠒ ± é", "ascii") == r"+-+|+* +/- \xe9"
    assert for_encoding("± é ⠒\u2800", "latin-1") == "± é * "


def test_a_reading_of_many_steps_does_not_run_into_the_next_word():
    assert line(dataclasses.replace(reading(0), step=12_345_678)).startswith("spinal 12345678  0.850")
