"""report.py: what the page says, that nothing of a run gets out of its place, and `spinal report` given bad input."""

import dataclasses
import gzip
import html
import json
import math
import random
import re
import time
from html.parser import HTMLParser
from unittest.mock import Mock

import made_up
import pytest
from builders import alert, header, notice, reading, write
from made_up import EVIL, hostile

from spinal_callback import load_trace
from spinal_callback.cli.main import main
from spinal_callback.files import save
from spinal_callback.report.page import check, names, notebook, page, verdict
from spinal_callback.traces import Trace

CALM = Trace(header(), [reading(0), reading(10)])


def with_alerts(*alerts, **config):
    return dataclasses.replace(CALM, header=header(config=config), alerts=list(alerts)).to_json()


def embedded(text):
    (data,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    return json.loads(data, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


class Reader(HTMLParser):
    """The tags of a page, whether they close, and what it would load."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.open, self.loads = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.loads += [value for name, value in attrs if name in ("src", "href", "action", "data") and value]
        if tag not in ("meta", "link", "input", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


# --- the verdict


def test_no_alert_is_healthy():
    assert verdict(CALM.to_json()) == ("healthy", "Healthy", "No alert in 2 readings, steps 0 to 10.")


def test_one_reading_is_too_early_to_judge():
    level, _, says = verdict(Trace(header(), [reading(0)]).to_json())
    assert level == "early" and "no change to judge yet" in says


def test_the_worst_level_gives_the_verdict_and_the_first_of_each_is_named():
    run = with_alerts(alert(10, level="warn", rule="reversal"), alert(20), alert(30, rule="collapse"))
    level, word, says = verdict(run)
    assert (level, word) == ("error", "Unstable: stop")
    assert says.startswith("1 warning, first reversal at step 10; 2 errors, first nonfinite at step 20. 2 readings")


@pytest.mark.parametrize(
    ("stop_on", "level", "step"),
    [("warn", "error", 10), ("error", "error", 20), ("error", "warn", None), (None, "error", None)],
)
def test_a_run_that_was_told_to_stop_says_so(stop_on, level, step):
    run = with_alerts(alert(10, level="warn"), alert(20, level=level, rule="collapse"), stop_on=stop_on)
    _, word, says = verdict(run)
    assert (word == "Stopped") == (f"told to stop at step {step} " in says) == (step is not None)


def test_where_since_when_and_the_last_good_checkpoint_come_from_the_first_alert_of_any_level():
    first = alert(10, level="warn", layers=[2, 3], since=5, last_good="runs/x/checkpoint-5")
    text = page({"run": with_alerts(alert(20, since=15), first)})
    for fact in ("layers 2, 3 moved first", "step 5", "runs/x/checkpoint-5"):
        assert f"<dd>{fact}</dd>" in text
    assert "<dd>none was saved before the first sign</dd>" in page({"run": with_alerts(alert(10))})


def test_every_alert_is_listed_with_its_evidence():
    text = page({"run": with_alerts(alert(10, message="seen this", action="try that"), alert(20, level="warn"))})
    assert text.count("<li class=") == 2 and text.count('<li class="error">') == 1
    assert "<p>seen this.</p><p><b>Try:</b> try that.</p>" in text and "value 7.000, limit 0.000; layers 3, 4" in text


def test_a_notice_is_a_note_and_leaves_the_verdict_healthy():
    run = Trace(header(), [reading(0), reading(10)], [], [notice(10, message="<out> of memory")]).to_json()
    assert verdict(run)[:2] == ("healthy", "Healthy")
    words = "step 10: &lt;out&gt; of memory; training continues."
    assert words in page({"run": run}) and "Notes on the monitor" not in page({"run": CALM.to_json()})


def test_the_change_is_told_with_its_error():
    assert "<dd>+0.001 ± 0.004</dd>" in page({"run": CALM.to_json()})
    delta = {"alpha": math.nan, "alpha_se": math.nan, "transport": -0.25, "transport_se": 0.01}
    text = page({"run": Trace(header(), [reading(0), reading(1, delta=delta)]).to_json()})
    assert "<dd>\u2013 ± \u2013</dd>" in text and "<dd>\u22120.250 ± 0.010 rad</dd>" in text


# --- the numbers


def test_the_numbers_are_the_runs_own_to_five_digits():
    (run,) = embedded(page({"mine": Trace(header(), [reading(0, alpha=[math.nan, 0.123456789, 1e-9, 1.0])]).to_json()}))
    assert run["name"] == "mine" and run["steps"] == [0]
    assert run["alpha"] == [[None, 0.12346, 1e-9, 1.0]]
    assert run["series"]["late_rank"] == [12.5] and run["series"]["displacement"] == [0.125]


def test_a_trainers_key_that_came_late_has_gaps_before():
    (run,) = embedded(page({"run": Trace(header(), [reading(0), reading(5, trainer={"loss": 0.5})]).to_json()}))
    assert run["trainer"] == {"loss": [None, 0.5]}


def test_settings_that_differ_between_runs_are_marked():
    text = page({"a": with_alerts(every=5, seed=0), "b": with_alerts(every=10, seed=0)})
    assert '<tr class="differs"><th scope="row">every</th><td>5</td><td>10</td></tr>' in text
    assert '<tr><th scope="row">seed</th><td>0</td><td>0</td></tr>' in text


def test_eighty_layers_and_a_thousand_readings_are_small_and_quick():
    draw = random.Random(0).gauss
    lists = {"alpha": 80, "alpha_se": 80, "alpha_r2": 80, "effective_rank": 80, "transport": 79, "transport_se": 79}
    readings = [reading(s, **{k: [draw(1, 0.1) for _ in range(n)] for k, n in lists.items()}) for s in range(1000)]
    run = Trace(header(80, (54, 80)), readings)
    begin = time.perf_counter()
    text = page({"large": run.to_json()})
    assert time.perf_counter() - begin < 20
    assert len(text.encode()) < 5e6
    assert len(page({"small": CALM.to_json()})) < 100_000


# --- what a run may not do to the page


def test_no_string_of_a_run_becomes_markup():
    text, plain = (
        page({EVIL: hostile().to_json(), "other": hostile().to_json()}),
        page({"a": CALM.to_json(), "b": CALM.to_json()}),
    )
    seen = Reader(text)
    assert seen.open == [] and "img" not in seen.tags
    assert seen.tags.count("script") == Reader(plain).tags.count("script") == 2
    assert html.escape(EVIL) in text
    data = embedded(text)
    assert data[0]["name"] == data[0]["model"] == data[0]["alerts"][0]["rule"] == EVIL


def test_half_a_character_is_no_reason_to_fail():
    text = page({"run": Trace(header(model="a\ud800b"), [reading(0)]).to_json()})
    assert "<h1>a?b</h1>" in text and text.encode()


def test_the_page_loads_nothing_and_forbids_itself_to():
    text = page({"run": CALM.to_json()})
    assert Reader(text).loads == ["data:,"]
    assert "default-src 'none'" in text
    assert set(re.findall(r"https?://[^\s\"'<>]+", text)) == {"http://www.w3.org/2000/svg"}  # a name, not an address


def test_a_notebook_shows_the_page_in_a_frame_of_its_own():
    text = CALM._repr_html_()
    assert text == notebook(CALM.to_json()) and Reader(text).tags == ["iframe"]
    assert 'sandbox="allow-scripts"' in text and "No alert in 2 readings" in text
    assert Trace(header())._repr_html_() is None


# --- pandas


def test_a_trace_becomes_a_data_frame():
    frame = Trace(header(), [reading(0), reading(5, trainer={"loss": 0.5})]).to_pandas()
    assert list(frame.index) == [0, 5] and frame.index.name == "step"
    assert frame.loc[5, "alpha/layer_2"] == 0.7 and math.isnan(frame.loc[0, "alpha/layer_1"])
    assert frame.loc[5, "transport/layer_2"] == 1.2 and "transport/layer_1" not in frame
    assert frame.loc[5, "late_alpha"] == 0.85 and frame.loc[5, "delta_transport_se"] == 0.003
    assert frame.loc[5, "trainer/loss"] == 0.5 and math.isnan(frame.loc[0, "trainer/loss"])
    assert Trace(header()).to_pandas().empty


def test_pandas_missing_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pandas", None)
    with pytest.raises(ImportError, match="to_pandas needs pandas: pip install pandas"):
        CALM.to_pandas()


# --- the command


def run_report(capsys, *arguments):
    code = main(["report", *map(str, arguments)])
    return code, *capsys.readouterr()


def test_the_command_writes_the_page(tmp_path, capsys):
    write(tmp_path, header(), reading(0), reading(5), alert(5), name="mine/_spinal/trace.jsonl")
    code, out, err = run_report(capsys, tmp_path / "mine", "-o", tmp_path / "report.html")
    assert (code, err) == (0, "")  # the page is there: that it tells of an alert is no failure
    assert re.fullmatch(rf"written to {tmp_path}/report.html \(\d+ kB\): open it in a browser\n", out)
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert text == page({"mine": load_trace(tmp_path / "mine").to_json()})
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["report.html"]


def test_several_traces_are_laid_over_one_another(tmp_path, capsys):
    a, b = (write(tmp_path, header(), reading(0), name=f"{name}.jsonl") for name in "ab")
    packed = tmp_path / "c.jsonl.gz"
    packed.write_bytes(gzip.compress(a.read_bytes()))
    assert run_report(capsys, a, b, packed, "-o", tmp_path / "r.html")[0] == 0
    assert [run["name"] for run in embedded((tmp_path / "r.html").read_text())] == ["a", "b", "c"]


def test_runs_are_named_by_folder_or_file_and_by_path_where_these_agree():
    assert names(["runs/x/", "runs/y/_spinal/trace.jsonl", "z.jsonl.gz"]) == {
        "x": "runs/x/",
        "y": "runs/y/_spinal/trace.jsonl",
        "z": "z.jsonl.gz",
    }
    assert list(names(["a/x", "b/x"])) == ["a/x", "b/x"]
    assert list(names(["x", "x"])) == ["x", "x (2)"]


def test_a_torn_last_line_is_left_out_and_said(tmp_path, capsys):
    path = write(tmp_path, header(), reading(0), '{"kind": "rea')
    code, _, err = run_report(capsys, path, "-o", tmp_path / "r.html")
    assert code == 0 and err == f"spinal report: {path}: skipped the torn last line 3\n"


LINES = {
    "empty": ([], "a trace begins with its header"),
    "no readings": ([header()], "has no readings yet: make the report once the run has probed"),
    "torn": ([header(), '{"kind": "rea', reading(0)], "line 2: "),
    "foreign": (['{"loss": 0.5}'], "line 1: not a record of a trace"),
    "short": ([header(), reading(0), reading(5, layers=3)], "step 5: alpha is not a list of 4 numbers"),
    "words": ([header(), reading(0, alpha=["a"] * 4)], "step 0: alpha has what is no number"),
    "word": ([header(), reading(0, score="high")], "step 0: a field has what is no number"),
    "no list": ([header(), reading(0, transport=3.0)], "transport is not a list of 3 numbers"),
    "odd": ([header(), reading(0, late=[1, 2])], "a record does not hold what a trace's does"),
}


@pytest.mark.parametrize("name", LINES)
def test_a_trace_that_cannot_be_drawn_is_one_line_and_leaves_nothing(tmp_path, capsys, name):
    lines, words = LINES[name]
    path = write(tmp_path, *lines)
    code, out, err = run_report(capsys, path, "-o", tmp_path / "r.html")
    assert (code, out) == (2, "") and err.count("\n") == 1
    assert err.startswith(f"spinal report: {path}") and words in err
    assert list(tmp_path.iterdir()) == [path]


def test_no_trace_there(tmp_path, capsys):
    for path in (tmp_path, tmp_path / "nothing.jsonl"):
        code, out, err = run_report(capsys, path, "-o", tmp_path / "r.html")
        assert (code, out) == (2, "") and err.count("\n") == 1
        assert f"no trace at {path}" in err and "give a trace.jsonl or the output folder of a run" in err


@pytest.mark.parametrize("damage", [lambda b: b[:-9], lambda b: b[:30] + b"\0\0\0\0" + b[34:], lambda b: b"not gzip"])
def test_a_packed_trace_that_is_damaged(tmp_path, capsys, damage):
    path = tmp_path / "x.jsonl.gz"
    path.write_bytes(damage(gzip.compress(write(tmp_path, header(), reading(0)).read_bytes())))
    code, _, err = run_report(capsys, path, "-o", tmp_path / "r.html")
    assert code == 2 and err.count("\n") == 1 and str(path) in err


def test_two_depths_are_refused(tmp_path, capsys):
    a = write(tmp_path, header(), reading(0), name="a.jsonl")
    b = write(tmp_path, header(5), reading(0, layers=5), name="b.jsonl")
    code, _, err = run_report(capsys, a, b, "-o", tmp_path / "r.html")
    assert code == 2 and not (tmp_path / "r.html").exists()
    assert err == (
        "spinal report: b has 5 layers and a 4: only runs of one depth are laid over one another;"
        " make a report of each\n"
    )
    with pytest.raises(ValueError, match="b has 5 layers and a 4"):
        check({"a": CALM.to_json(), "b": Trace(header(5), [reading(0, layers=5)]).to_json()})


def test_a_file_that_is_there_is_kept_unless_forced(tmp_path, capsys):
    trace, output = write(tmp_path, header(), reading(0)), tmp_path / "r.html"
    output.write_text("mine")
    code, _, err = run_report(capsys, trace, "-o", output)
    assert code == 2 and "already exists; choose another -o or use --force" in err
    assert output.read_text() == "mine"
    assert run_report(capsys, trace, "-o", output, "--force")[0] == 0
    assert output.read_text().startswith("<!doctype html>")


def test_the_trace_itself_is_never_replaced(tmp_path, capsys):
    trace = write(tmp_path, header(), reading(0), name="_spinal/trace.jsonl")
    was = trace.read_bytes()
    for named in (trace, tmp_path):
        code, _, err = run_report(capsys, named, "-o", trace, "--force")
        assert code == 2 and "is the trace itself: choose another -o" in err
    assert trace.read_bytes() == was


def test_an_output_that_cannot_be(tmp_path, capsys):
    trace = write(tmp_path, header(), reading(0))
    code, _, err = run_report(capsys, trace, "-o", tmp_path / "no" / "r.html")
    assert code == 2 and f"there is no folder {tmp_path}/no: make it or choose another -o" in err
    code, _, err = run_report(capsys, trace, "-o", tmp_path, "--force")
    assert code == 2 and f"{tmp_path} is a folder: choose a file in it with -o" in err


@pytest.mark.parametrize("failing", ["chmod", "replace"])
def test_a_page_that_fails_halfway_leaves_the_old_one(tmp_path, monkeypatch, failing):
    output = tmp_path / "r.html"
    output.write_text("old")
    monkeypatch.setattr(f"os.{failing}", Mock(side_effect=OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        save(output, "new")
    assert output.read_text() == "old" and list(tmp_path.iterdir()) == [output]


def test_what_the_rules_raise_over_a_made_up_run_is_drawn(tmp_path, capsys):
    from spinal_callback.alerts.detector import replay

    run = made_up.trace(5, transport=lambda step: 0.002 * step)
    run.alerts.extend(replay(run))
    level, _, says = verdict(run.to_json())
    assert level == "error" and "first transport_rise at step" in says
