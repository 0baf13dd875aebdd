"""traces.py: traces read back from their files, also torn, foreign or mixed up ones."""

import gzip
import json
import math
import re

import pytest
from builders import alert, header, notice, reading, write

from spinal_callback import load_trace
from spinal_callback.records import SCHEMA, dump_record
from spinal_callback.traces import Trace


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
    "other schema": (
        [LATER, reading(0)],
        rf": schema {SCHEMA + 1}; this version of spinal_callback reads schemas 1 and {SCHEMA}",
    ),
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


def test_notices_are_no_alerts(tmp_path):
    same = [notice(5, event="sink_failed", message=name) for name in ("one sink", "another")]
    trace = load_trace(write(tmp_path, header(), reading(0), notice(10), alert(10), *same, notice(10)))
    assert trace.alerts == [alert(10)]
    assert trace.notices == [same[1], same[0], notice(10)]
    assert [n["event"] for n in trace.to_json()["notices"]] == ["sink_failed", "sink_failed", "probe_memory"]


@pytest.mark.filterwarnings("error")
def test_a_trace_of_schema_1_is_read_with_its_notices(tmp_path):
    old = alert(5, rule="probe_failed", level="warn", message="no reading")
    trace = load_trace(write(tmp_path, header(schema=1), reading(0), old, alert(10)))
    assert (trace.header.schema, trace.alerts) == (1, [alert(10)])
    assert [(n.step, n.event, n.message) for n in trace.notices] == [(5, "probe_failed", "no reading")]


# --- pandas


def test_a_trace_becomes_a_data_frame():
    frame = Trace(header(), [reading(0), reading(5, trainer={"loss": 0.5})]).to_pandas()
    assert list(frame.index) == [0, 5] and frame.index.name == "step"
    assert frame.loc[5, "alpha/layer_2"] == 0.7 and math.isnan(frame.loc[0, "alpha/layer_1"])
    assert frame.loc[5, "transport/layer_2"] == 1.2 and "transport/layer_1" not in frame
    assert frame.loc[5, "late_alpha"] == 0.85 and frame.loc[5, "delta_transport_se"] == 0.003
    assert frame.loc[5, "trainer/loss"] == 0.5 and math.isnan(frame.loc[0, "trainer/loss"])
    assert Trace(header()).to_pandas().empty


def test_the_errors_of_the_changes_are_columns_where_a_trace_has_them():
    frame = Trace(
        header(), [reading(0, transport_change_se=[0.0] * 3), reading(5, transport_change_se=[0.1] * 3)]
    ).to_pandas()
    assert frame.loc[5, "transport_change_se/layer_4"] == 0.1 and "alpha_change_se/layer_1" not in frame


def test_pandas_missing_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pandas", None)
    with pytest.raises(ImportError, match="to_pandas needs pandas: pip install pandas"):
        Trace(header(), [reading(0)]).to_pandas()
