"""The charts in a real browser: no error, no request, and the slider, the pointer, the keys and the overlay at work."""

import math

import pytest
from builders import alert, header, reading
from made_up import EVIL, drifting, hostile

from spinal_callback.traces import Trace

ONE = Trace(header(), drifting(), [alert(30, level="warn", rule="late_speed"), alert(50)])
OTHER = Trace(header(), drifting(-0.001, steps=60))
ERRORS = {"alpha_change_se": [math.nan, 0.01, 0.02, 0.03], "transport_change_se": [0.1, 0.1, 0.1]}
PAIRED = Trace(header(), drifting(**ERRORS))


def curves(tab, host):
    """How each curve of the first chart in `host` runs."""
    return tab.eval_on_selector_all(
        f"#{host} figure:first-child path.curve", "all => all.map(one => one.getAttribute('d'))"
    )


def heights(path):
    return {point.split(" ")[1].split("h")[0] for point in path.strip("M").split("L")}


def cut(tab):
    """By how many pixels the page is wider than the window."""
    return tab.evaluate("document.documentElement.scrollWidth - innerWidth")


def test_every_chart_is_there_and_nothing_is_cut_off(show):
    tab = show({"one": ONE})
    assert tab.locator("figure").count() == 2 + 2 + 4 + 4 + 3 + 6
    assert tab.locator("#maps image").count() == 4
    assert tab.eval_on_selector_all("figure svg", "all => all.every(one => one.getBoundingClientRect().width > 150)")
    assert cut(tab) <= 0
    assert tab.locator("h2").first.inner_text() == "■ Unstable: stop"


def test_alerts_are_marked_on_every_curve_against_steps(show):
    tab = show({"one": ONE})
    for host, charts in (("late", 2), ("score", 4), ("more", 6), ("maps", 4)):
        assert tab.locator(f"#{host} .mark.warn").count() == tab.locator(f"#{host} .mark.error").count() == charts


# --- the depth trace


def test_the_change_since_the_start_is_what_is_seen_first_and_it_is_flat_at_the_start(show):
    tab = show({"one": ONE})
    assert tab.get_by_label("change since the start").is_checked()
    (now,) = curves(tab, "depth")
    assert len(heights(now)) > 1
    tab.locator("#step").fill("0")
    (start,) = curves(tab, "depth")
    assert len(heights(start)) == 1


def test_the_caption_promises_the_band_that_is_drawn(show):
    words, bands = "Band: one standard error of the change, paired by prompt.", "#depth path.band"
    tab = show({"one": PAIRED})
    assert words in tab.locator("#depth-words").inner_text()
    assert tab.locator(bands).count() == 2 and tab.locator(bands).first.get_attribute("d").count("L") == 5
    tab = show({"one": ONE})
    assert "No band: this trace has no standard errors of the changes" in tab.locator("#depth-words").inner_text()
    assert [
        path for path in tab.eval_on_selector_all(bands, "all => all.map(one => one.getAttribute('d'))") if path
    ] == []
    tab = show({"one": ONE, "paired": PAIRED})
    assert f"{words[:-1]}; not recorded in one." in tab.locator("#depth-words").inner_text()
    tab.get_by_label("level", exact=True).check()
    assert "one standard error of the layer's own value" in tab.locator("#depth-words").inner_text()
    assert tab.locator(bands).count() == 4


def test_the_slider_moves_the_levels_and_leaves_the_start(show):
    tab = show({"one": ONE})
    tab.get_by_label("level", exact=True).check()
    start, last = curves(tab, "depth")
    tab.locator("#step").focus()
    for key, step in (("ArrowLeft", 90), ("Home", 0), ("End", 100), ("PageDown", None)):
        tab.keyboard.press(key)
        if step is not None:
            assert tab.locator("#at").inner_text() == f"{step}"
            assert tab.locator("#step").get_attribute("aria-valuetext") == f"step {step}"
        if step == 0:
            assert curves(tab, "depth") == [start, start]
        elif step == 100:
            assert curves(tab, "depth") == [start, last] and start != last
    assert tab.eval_on_selector("#step", "one => getComputedStyle(one).outlineStyle") == "solid"


def test_of_an_audit_the_slider_names_the_checkpoint(show):
    names = ["base", "checkpoint-20"]
    tab = show({"audit": Trace(header(checkpoints=names), [reading(0), reading(1)])})
    assert tab.locator("#at").inner_text() == "1: checkpoint-20"
    tab.locator("#step").fill("0")
    assert tab.locator("#at").inner_text() == "0: base"


def test_one_reading_is_shown_as_it_is(show):
    nothing = reading(0, **dict.fromkeys(("score", "entropy", "displacement", "coherence", "seconds"), math.nan))
    tab = show({"bare": Trace(header(window=(2, 4)), [nothing])})
    assert tab.get_by_label("level", exact=True).is_checked()
    assert tab.locator("#step").is_disabled() and tab.locator("h2").first.inner_text() == "○ Too early"
    assert tab.locator("#score").inner_text().count("no values in this trace") == 2


# --- against steps


def test_a_missing_value_is_a_gap_not_a_zero(show):
    readings = [reading(s, score=math.nan if s == 20 else 1.0 + s) for s in range(0, 50, 10)]
    tab = show({"one": Trace(header(), readings)})
    (curve,) = curves(tab, "score")
    assert curve.count("M") == 2 and curve.count("L") == 2
    assert "NaN" not in tab.locator("main").inner_html()
    tab.locator("#step").fill("2")
    assert tab.locator("#score .now").first.inner_text() == "\u2013"


def test_a_chart_without_values_says_why(show):
    short = [reading(s, score=math.nan, coherence=math.nan) for s in (0, 10)]
    tab = show({"short": Trace(header(), short)})
    words = "two late layers have no curvature: coherence and score are not defined"
    told = tab.locator("#score .empty")
    assert [told.nth(i).inner_text() for i in range(4)] == [words, "", words, ""]
    tab = show({"short": Trace(header(), short), "one": ONE})
    assert tab.locator("#score .empty").first.inner_text() == ""
    tab.get_by_label("one", exact=True).uncheck()
    assert tab.locator("#score .empty").first.inner_text() == words


def test_the_trainers_numbers_stand_at_their_own_step(show):
    logs = [{}, {"loss": 0.7, "step": 25.0}, {"loss": 0.7, "step": 25.0}, {"loss": 0.5, "step": 75.0}]
    readings = [reading(s, trainer=log) for s, log in zip((0, 50, 60, 100), logs, strict=True)]
    tab = show({"one": Trace(header(), readings)})
    (loss,) = tab.eval_on_selector_all(
        "#more figure:last-child path.curve", "all => all.map((d) => d.getAttribute('d'))"
    )
    (first, last) = (float(point.split(" ")[0]) for point in loss.strip("M").split("L"))
    width = tab.eval_on_selector("#more figure:last-child svg", "one => one.viewBox.baseVal.width")
    left, right = 46 + 4, width - 12 - 4
    assert first == pytest.approx(left + 0.25 * (right - left), abs=0.2)
    assert last == pytest.approx(left + 0.75 * (right - left), abs=0.2)


def test_the_pointer_reads_values_and_alerts(show):
    tab = show({"one": ONE})
    chart = tab.locator("#late svg").first
    box = chart.bounding_box()
    mark = tab.locator("#late .mark.error line").first.get_attribute("x1")
    chart.hover(position={"x": float(mark), "y": box["height"] / 2})
    tip = tab.locator("#tip").inner_text()
    assert tip.splitlines()[0] == "step 50" and "+0.080 ± 0.002" in tip and "■ nonfinite (error)" in tip
    tab.locator("h1").hover()
    assert tab.locator("#tip").is_hidden()


# --- maps


def test_a_map_is_read_by_layer_and_takes_the_slider_there(show):
    tab = show({"one": ONE})
    picture = tab.locator("#maps svg").nth(2)
    size = picture.bounding_box()
    picture.hover(position={"x": size["width"] - 20, "y": 16 + (size["height"] - 48) * 0.6})
    assert tab.locator("#tip").inner_text() == "step 100, layer 2\nContraction (alpha), change: +0.200"
    picture.click(position={"x": 60, "y": size["height"] / 2})
    assert tab.locator("#at").inner_text() == "0"
    picture.hover(position={"x": size["width"] / 2, "y": size["height"] - 40})
    assert tab.locator("#tip").inner_text().endswith("change: \u2013")  # layer 1 has no tail


def test_the_steps_of_a_map_end_with_the_run(show):
    tab = show({"one": Trace(header(), [reading(s) for s in (0, 15, 30)])})
    texts = tab.locator("#maps svg").first.locator("text[text-anchor=middle]")
    assert [texts.nth(i).text_content() for i in (0, -1)] == ["0", "30"]
    cursor, image = (tab.locator(f"#maps svg {what}").first for what in (".cursor", "image"))
    right = float(image.get_attribute("x")) + float(image.get_attribute("width"))
    assert float(cursor.get_attribute("x1")) == pytest.approx(right)


# --- several runs


def test_runs_are_laid_over_one_another_and_taken_off(show):
    tab = show({"one": ONE, "other": OTHER})
    assert len(curves(tab, "late")) == 2 and len(curves(tab, "depth")) == 2
    assert tab.locator(".verdict").count() == 2 and cut(tab) <= 0
    tab.get_by_label("one", exact=True).uncheck()
    assert len(curves(tab, "late")) == 1 and tab.locator("#late .mark").count() == 0
    tab.get_by_label("other", exact=True).uncheck()
    assert tab.locator("#late").inner_text().count("no values in this trace") == 2
    tab.get_by_label("one", exact=True).check()
    tab.get_by_label("Run of the maps").select_option("other")
    assert tab.locator("#maps .mark").count() == 0


def test_a_dash_means_the_run_and_nothing_else(show):
    tab = show({"one": ONE, "other": OTHER})
    tab.get_by_label("level", exact=True).check()
    drawn = tab.eval_on_selector_all(
        "#depth figure:first-child path.curve",
        "all => all.map((one) => getComputedStyle(one)).map((s) => [s.strokeDasharray, s.stroke, s.strokeWidth])",
    )
    start, now, other_start, other = drawn
    assert start[:2] == now[:2] and other_start[:2] == other[:2] and start[2] == other_start[2] != now[2] == other[2]
    assert now[0] == "none" != other[0] and now[1] != other[1]


def test_runs_of_different_prompts_are_not_compared_without_a_word(show):
    tab = show({"one": ONE, "other": Trace(header(probe="cd" * 32, window=(2, 4)), OTHER.readings)})
    assert tab.locator("#notes").inner_text() == (
        "The runs were probed with different prompts: compare changes, not levels. "
        "The late windows differ; the shaded one is that of one."
    )
    assert show({"one": ONE, "other": OTHER}).locator("#notes").is_hidden()


def test_strings_of_a_run_stay_strings(show):
    tab = show({EVIL: hostile(), "calm": hostile()})
    tab.get_by_text("Every reading").click()
    chart = tab.locator("#late svg").first
    for x in range(50, 300, 10):
        chart.hover(position={"x": x, "y": 100})
    assert tab.locator("img").count() == 0 and tab.title() == f"SPINAL report: {EVIL}"
    assert tab.locator("h1").inner_text() == EVIL


# --- answers of preference pairs


def test_the_answers_are_drawn_where_a_run_has_read_them(show):
    none = dict.fromkeys(("chosen_nll", "margin", "accuracy"), math.nan)
    assert show({"one": ONE}).locator("#answers figure path.curve").count() == 3
    assert show({"one": Trace(header(), drifting(**none))}).locator("#answers").count() == 0
