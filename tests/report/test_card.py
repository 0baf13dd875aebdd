"""card.py: a run as a Markdown section, and where it goes in a document."""

import dataclasses
import re

import pytest
from builders import NAN, SETTINGS, alert, header, notice, reading
from paths import ROOT

from spinal_callback import load_trace
from spinal_callback.alerts.detector import replay
from spinal_callback.report.card import BEGIN, END, card, insert
from spinal_callback.report.verdict import movement, verdict
from spinal_callback.traces import Trace

REAL = ROOT / "scripts" / "stability" / "traces" / "real"
CALM = Trace(header(), [reading(0), reading(10)])


def judged(name):
    """A committed trace of a real run, with the alerts that the rules raise."""
    trace = load_trace(REAL / f"{name}.jsonl.gz")
    return dataclasses.replace(trace, alerts=replay(trace))


def section(trace=CALM, **about):
    return card(dataclasses.replace(trace, header=dataclasses.replace(trace.header, **about)).to_json())


def row(text, title):
    (line,) = [line for line in text.splitlines() if line.startswith(f"| {title}")]
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_a_real_healthy_run():
    trace = judged("healthy-full-hh-s0")
    text, (first, *_, last) = card(trace.to_json()), trace.readings
    assert text.startswith("## SPINAL: Healthy\n\nNo alert in 7 readings, steps 0 to 30.\n\n")
    assert row(text, "Late mean")[0] == "Late mean, layers 21 to 30 of 30"
    for title, key, way in (("Contraction", "alpha", "slowly up"), ("Transport", "transport", "slowly down")):
        change, error = last.delta[key], last.delta[f"{key}_se"]
        cells = [f"{first.late[key]:.3f}", f"{last.late[key]:.3f}", f"{change:+.3f} ± {error:.3f}", way]
        assert row(text, title)[1:] == cells
    assert f"SPINAL score: {last.score:.3f} (the sum of delta_align {last.delta_align:.3f} + coherence" in text
    moved = [b - a for a, b in zip(first.transport, last.transport, strict=True)]
    layer = max(range(29), key=lambda i: abs(moved[i]))
    assert f"(33% of the layers) has {last.localization:.0%} of the change;" in text
    assert f"transport changed most at layer {layer + 2} ({moved[layer]:+.3f} rad)" in text
    assert "**Alerts**: none." in text and "Notes on the monitor" not in text


def test_a_real_run_that_broke():
    run = judged("flip-full-s0").to_json()
    text = card(run)
    assert text.startswith(f"## SPINAL: {verdict(run)[1]}\n\n{verdict(run)[2]}\n\n{movement(run)}\n\n")
    first = run["alerts"][0]
    layers = ", ".join(map(str, first["layers"]))
    sign = f"First sign: where: layers {layers} moved first; since: step {first['since']}; last good checkpoint: none"
    assert layers and sign in text
    assert row(text, str(first["step"]))[1:] == [first["level"], f"`{first['rule']}`", first["message"]]
    assert len(re.findall(r"^\| \d+ \| (?:warn|error) \|", text, re.M)) == len(run["alerts"]) > 1


def test_many_alerts_are_cut_and_counted():
    text = card(dataclasses.replace(CALM, alerts=[alert(step) for step in range(12)]).to_json())
    assert "**Alerts** (the first 10 of 12)." in text and text.count("| `nonfinite` |") == 10


def test_a_notice_is_a_note_and_leaves_the_verdict():
    text = card(dataclasses.replace(CALM, notices=[notice(10)]).to_json())
    assert text.startswith("## SPINAL: Healthy")
    assert "no verdict depends:\n\n- step 10: out of memory at step 10: half as many at a time\n\n" in text


def test_errors_by_layer_are_shown_where_the_trace_has_them():
    last = reading(10, alpha=[NAN, 0.7, 1.3, 0.9], alpha_change_se=[NAN, 0.01, 0.02, 0.03])
    text = card(Trace(header(), [reading(0), last]).to_json())
    assert (
        "contraction changed most at layer 3 (+0.500 ± 0.020); transport changed most at layer 2 (+0.000 rad)" in text
    )


def test_one_reading_has_no_change_to_locate():
    text = card(Trace(header(), [reading(0)]).to_json())
    assert text.startswith("## SPINAL: Too early") and "**Where**: one reading, so no change to locate yet." in text


def test_a_curve_that_was_never_measured_is_left_out():
    text = card(Trace(header(), [reading(step, alpha=[NAN] * 4) for step in (0, 10)]).to_json())
    assert "contraction changed most" not in text and "transport changed most at layer 2" in text


def test_without_a_score_it_says_why():
    trace = Trace(header(layers=9, window=(7, 9), config=SETTINGS | {"gradients": False}), [reading(0, layers=9)])
    assert "No SPINAL score: gradients=False: gradient concentration was not measured; the score needs it." in card(
        trace.to_json()
    )


def test_only_settings_that_are_not_the_defaults_are_named():
    assert "Settings that are not the defaults: none." in section() and "`SpinalCallback()`" in section()
    settings = SETTINGS | {"every": 5, "window": 0.333333, "rules": "/home/me/rules.json", "stop_on": "error"}
    text = section(config=settings)
    assert "`SpinalCallback(every=5, rules='rules.json', stop_on='error')`" not in text  # in the order of the fields
    assert "`SpinalCallback(every=5, stop_on='error', rules='rules.json')`" in text and "/home" not in text
    assert "are not the defaults: `every=5, stop_on='error', rules='rules.json'`." in text


def test_an_audit_says_how_to_measure_it_again():
    text = section(checkpoints=["org/base", "/home/me/runs/checkpoint-20"])
    assert "**Reproduce**: `spinal audit checkpoint-20 --base org/base` measures these checkpoints again." in text
    assert "`spinal audit checkpoint-5 --base checkpoint-5`" in section(checkpoints=["./checkpoint-5"])


def test_what_a_trace_says_is_shown_as_it_is():
    """No string of a trace makes markup, ends a cell, or begins a line."""
    odd = "a|b <!-- spinal card: end -->\n## *x* _y_ [z](http://w) `c` snake_case \ud800"
    text = card(dataclasses.replace(CALM, header=header(model=odd), alerts=[alert(message=odd, rule=odd)]).to_json())
    shown = r"a\|b &lt;!-- spinal card: end --&gt; ## \*x\* \_y\_ \[z\](http://w) \`c\` snake_case ?"
    assert f"on {shown}: 24 prompts" in text and f"| {shown} |" in text
    assert r"`a\|b <!-- spinal card: end --> ## *x* _y_ [z](http://w) 'c' snake_case ?`" in text
    assert [line for line in text.splitlines() if line.startswith("#")] == ["## SPINAL: Unstable: stop"]
    assert insert(insert("", text), text) == insert("", text)


# --- a document


NEW = "## SPINAL\n\nnew\n"
BLOCK = f"{BEGIN}\n## SPINAL\n\nnew\n{END}"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("", f"{BLOCK}\n"),
        ("# Model\n", f"# Model\n\n{BLOCK}\n"),
        ("# Model", f"# Model\n\n{BLOCK}\n"),
        (f"---\na: 1\n---\n{BEGIN}\nold\n{END}\n\nrest  \n", f"---\na: 1\n---\n{BLOCK}\n\nrest  \n"),
        (f"{BEGIN}\n{END}", BLOCK),
        (f"put {BEGIN} and {END} around it\n", f"put {BEGIN} and {END} around it\n\n{BLOCK}\n"),
        (
            "\ufeff# Modell\r\n\r\nä\r\n",
            f"\ufeff# Modell\r\n\r\nä\r\n\r\n{BLOCK}\n".replace("\n", "\r\n").replace("\r\r", "\r"),
        ),
        (f"a\r\n{BEGIN}\r\nold\r\n{END}\r\nb\n", "a\r\n" + BLOCK.replace("\n", "\r\n") + "\r\nb\n"),
    ],
)
def test_the_section_is_put_between_the_markers_and_the_rest_stays(before, after):
    assert insert(before, NEW) == after
    assert insert(after, NEW) == after, "a second time changes nothing"


@pytest.mark.parametrize(
    ("document", "counts"),
    [
        (f"{BEGIN}\n", "1 and 0"),
        (f"{END}\n", "0 and 1"),
        (f"{END}\n{BEGIN}\n", "1 and 1"),
        (f"{BEGIN}\n{END}\n{BEGIN}\n{END}\n", "2 and 2"),
    ],
)
def test_markers_that_are_no_pair_are_refused(document, counts):
    words = (
        rf"^the section's place is not clear: .* but there are {counts} of them; remove them all to have the section"
    )
    with pytest.raises(ValueError, match=words):
        insert(document, NEW)
