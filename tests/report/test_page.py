"""page.py: what the page says, and that nothing of a run gets out of its place."""

import dataclasses
import html
import json
import math
import re
from html.parser import HTMLParser

import pytest
from builders import alert, header, notice, reading
from made_up import EVIL, hostile

from spinal_callback.report.page import check_same_depth, names, notebook, page
from spinal_callback.traces import Trace

CALM = Trace(header(), [reading(0), reading(10)])


def with_alerts(*alerts, **config):
    return dataclasses.replace(CALM, header=header(config=config), alerts=list(alerts)).to_json()


def embedded(text):
    (data,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    return json.loads(data)["runs"]


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


# --- verdict, alerts, notices, settings


def test_where_since_when_and_the_last_good_checkpoint_come_from_the_first_alert_of_any_level():
    first = alert(10, level="warn", layers=[2, 3], since=5, last_good="runs/x/checkpoint-5")
    text = page({"run": with_alerts(alert(20, since=15), first)})
    for fact in ("layers 2, 3 moved first", "step 5", "runs/x/checkpoint-5"):
        assert f"<dd>{fact}</dd>" in text
    assert "<dd>none was saved before the first sign</dd>" in page({"run": with_alerts(alert(10))})
    assert "<dd>layer 3 moved first</dd>" in page({"run": with_alerts(alert(10, layers=[3]))})
    assert "<dd>no single layer stands out</dd>" in page({"run": with_alerts(alert(10, layers=[]))})


def test_a_verdict_that_is_not_healthy_says_that_speed_counts_in_either_direction():
    assert "Moving too fast counts in either direction" in page({"run": with_alerts(alert(10, level="warn"))})
    assert "Moving too fast" not in page({"run": CALM.to_json()})


def test_every_alert_is_listed_and_nothing_of_it_twice():
    seen = alert(10, message="7 of 3 (limit 2); layers 3, 4", action="try that")
    text = page({"run": with_alerts(seen, alert(20, level="warn"))})
    assert text.count("<li class=") == 2 and text.count('<li class="error">') == 1
    (item,) = re.findall(r'<li class="error">(.*?)</li>', text)
    assert item.endswith("<p>7 of 3 (limit 2); layers 3, 4.</p><p><b>Try:</b> try that.</p>")
    assert "No rule raised an alert." not in text and "No rule raised an alert." in page({"run": CALM.to_json()})


def test_a_notice_is_a_note_below_the_alerts():
    told = notice(10, message="<out> of memory", action="training continues")
    text = page({"run": dataclasses.replace(CALM, notices=[told]).to_json()})
    assert "<li>step 10: &lt;out&gt; of memory. Training continues.</li>" in text and "No rule raised" in text
    assert "Notes on the monitor" in text and "Notes on the monitor" not in page({"run": CALM.to_json()})


def test_the_change_is_told_with_its_error():
    assert "<dd>+0.001 ± 0.004</dd>" in page({"run": CALM.to_json()})
    delta = {"alpha": math.nan, "alpha_se": math.nan, "transport": -0.25, "transport_se": 0.01}
    text = page({"run": Trace(header(), [reading(0), reading(1, delta=delta)]).to_json()})
    assert "<dd>\u2013 ± \u2013</dd>" in text and "<dd>\u22120.250 ± 0.010 rad</dd>" in text


def test_a_score_that_is_not_defined_gives_its_reason():
    why = "No SPINAL score: two late layers have no curvature: coherence and score are not defined."
    assert why in page({"run": CALM.to_json()})
    assert "No SPINAL score" not in page({"run": dataclasses.replace(CALM, header=header(window=(2, 4))).to_json()})


def test_settings_that_differ_between_runs_are_marked():
    text = page({"a": with_alerts(every=5, seed=0), "b": with_alerts(every=10, seed=0)})
    assert '<tr class="differs"><th scope="row">every</th><td>5</td><td>10</td></tr>' in text
    assert '<tr><th scope="row">seed</th><td>0</td><td>0</td></tr>' in text


# --- several runs


def test_runs_are_named_by_folder_or_file_and_by_path_where_these_agree():
    assert names(["runs/x/", "runs/y/_spinal/trace.jsonl", "z.jsonl.gz"]) == {
        "x": "runs/x/",
        "y": "runs/y/_spinal/trace.jsonl",
        "z": "z.jsonl.gz",
    }
    assert list(names(["a/x", "b/x"])) == ["a/x", "b/x"]
    assert list(names(["x", "x"])) == ["x", "x (2)"]


def test_runs_of_different_depth_are_refused():
    runs = {"a": CALM.to_json(), "b": Trace(header(5), [reading(0, layers=5)]).to_json()}
    for refuse in (check_same_depth, page):
        with pytest.raises(ValueError, match=r"b has 5 layers and a 4: .* make a report of each"):
            refuse(runs)
    check_same_depth({"a": CALM.to_json(), "b": CALM.to_json()})


# --- what a run may not do to the page


def test_no_string_of_a_run_becomes_markup():
    text = page({EVIL: hostile().to_json(), "other": hostile().to_json()})
    plain = page({"a": CALM.to_json(), "b": CALM.to_json()})
    seen = Reader(text)
    assert seen.open == [] and "img" not in seen.tags
    assert seen.tags.count("script") == Reader(plain).tags.count("script") == 2
    assert html.escape(EVIL) in text
    first, _ = embedded(text)
    assert first["name"] == first["model"] == first["alerts"][0]["rule"] == EVIL


def test_half_a_character_is_no_reason_to_fail():
    text = page({"run": Trace(header(model="a\ud800b"), [reading(0)]).to_json()})
    assert "<h1>a?b</h1>" in text and text.encode()


def test_the_page_loads_nothing_and_forbids_itself_to():
    text = page({"run": CALM.to_json()})
    assert Reader(text).loads == ["data:,"] and len(text) < 100_000
    assert "default-src 'none'" in text
    assert set(re.findall(r"https?://[^\s\"'<>]+", text)) == {"http://www.w3.org/2000/svg"}  # a name, not an address


def test_a_notebook_shows_the_page_in_a_frame_of_its_own():
    text = CALM._repr_html_()
    assert text == notebook(CALM.to_json()) and Reader(text).tags == ["iframe"]
    assert 'sandbox="allow-scripts"' in text and "No alert in 2 readings" in text
    assert Trace(header())._repr_html_() is None
