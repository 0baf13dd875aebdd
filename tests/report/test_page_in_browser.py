"""The report in a real browser: no error, no request, and the slider, the pointer, the keys and the overlay at work."""

import math
import shutil

import made_up
import pytest
from builders import alert, header, reading
from made_up import EVIL, hostile

from spinal_callback.report.page import page
from spinal_callback.traces import Trace

playwright = pytest.importorskip("playwright.sync_api", reason="no browser driver: pip install playwright")
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
if BROWSER is None:
    pytest.skip("no browser: apt-get install chromium", allow_module_level=True)
WIDTHS = [1280, 390]


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as driver:
        running = driver.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield running
        running.close()


@pytest.fixture(params=WIDTHS)
def show(browser, tmp_path, request):
    """Opens a page of runs; at the end of the test: no word in the console, and nothing was asked for but the file."""
    said, asked, opened = [], [], []

    def open_it(runs, **options):
        path = tmp_path / "report.html"
        path.write_text(page({name: run.to_json() for name, run in runs.items()}), encoding="utf-8")
        tab = browser.new_page(viewport={"width": request.param, "height": 900}, **options)
        opened.append(tab)
        tab.set_default_timeout(10_000)
        tab.on("console", lambda message: said.append(message.text))
        tab.on("pageerror", lambda error: said.append(str(error)))
        tab.on("request", lambda call: asked.append(call.url))
        tab.goto(path.as_uri())
        return tab

    yield open_it
    for tab in opened:
        tab.close()
    assert said == []
    assert [url for url in asked if not url.startswith(("data:", "file:"))] == []


def drifting(slope=0.002, **fields):
    """Alpha of the layers climbs with the steps, so that every picture has something to show."""
    run = made_up.run(10, alpha=lambda step: slope * step, **fields)
    return [reading(**{**vars(r), "alpha": [math.nan, 0.7 + slope * r.step, 0.8, 0.9], "step": r.step}) for r in run]


ONE = Trace(header(), drifting(), [alert(30, level="warn", rule="late_speed"), alert(50)])
OTHER = Trace(header(), drifting(-0.001, steps=60))


def lines(tab, host):
    """How each curve of the first chart in `host` runs."""
    return tab.eval_on_selector_all(
        f"#{host} figure:first-child path.curve", "all => all.map(one => one.getAttribute('d'))"
    )


def cut(tab):
    return tab.evaluate("document.documentElement.scrollWidth - innerWidth")


def test_every_picture_is_there_and_nothing_is_cut_off(show):
    tab = show({"one": ONE})
    assert tab.locator("figure").count() == 2 + 2 + 4 + 4 + 6
    assert tab.locator("#maps image").count() == 4
    assert tab.eval_on_selector_all("figure svg", "all => all.every(one => one.getBoundingClientRect().width > 150)")
    assert cut(tab) <= 0
    assert tab.locator("h2").first.inner_text() == "■ Unstable: stop"


def test_alerts_are_marked_on_every_curve_against_steps(show):
    tab = show({"one": ONE})
    for host, charts in (("late", 2), ("score", 4), ("more", 6), ("maps", 4)):
        assert tab.locator(f"#{host} .mark.warn").count() == tab.locator(f"#{host} .mark.error").count() == charts


def test_the_slider_moves_the_depth_trace_and_leaves_the_start(show):
    tab = show({"one": ONE})
    start, last = lines(tab, "depth")
    tab.locator("#step").focus()
    for key, step in (("ArrowLeft", 90), ("Home", 0), ("End", 100), ("PageDown", None)):
        tab.keyboard.press(key)
        if step is not None:
            assert tab.locator("#at").inner_text() == f"{step}"
            assert tab.locator("#step").get_attribute("aria-valuetext") == f"step {step}"
        if step == 0:
            assert lines(tab, "depth") == [start, start]
        elif step == 100:
            assert lines(tab, "depth") == [start, last] and start != last
    assert tab.eval_on_selector("#step", "one => getComputedStyle(one).outlineStyle") == "solid"


def test_the_change_since_the_start_is_flat_at_the_start(show):
    tab = show({"one": ONE})
    level = lines(tab, "depth")
    tab.get_by_label("change since the start").check()
    assert lines(tab, "depth")[1] != level[1]
    tab.locator("#step").fill("0")
    start, now = lines(tab, "depth")
    assert start == now and len({point.split(" ")[1].split("h")[0] for point in now.strip("M").split("L")}) == 1


def test_a_missing_value_is_a_gap_not_a_zero(show):
    readings = [reading(s, score=math.nan if s == 20 else 1.0 + s) for s in range(0, 50, 10)]
    tab = show({"one": Trace(header(), readings)})
    (curve,) = lines(tab, "score")
    assert curve.count("M") == 2 and curve.count("L") == 2
    assert "NaN" not in tab.locator("main").inner_html()
    tab.locator("#step").fill("2")
    assert tab.locator("#score .now").first.inner_text() == "\u2013"


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


def test_runs_are_laid_over_one_another_and_taken_off(show):
    tab = show({"one": ONE, "other": OTHER})
    assert len(lines(tab, "late")) == 2 and len(lines(tab, "depth")) == 4
    assert tab.locator(".verdict").count() == 2 and cut(tab) <= 0
    colours = tab.eval_on_selector_all(
        "#late figure:first-child path.curve", "all => all.map(one => one.style.cssText)"
    )
    assert len(set(colours)) == 2
    tab.get_by_label("one", exact=True).uncheck()
    assert len(lines(tab, "late")) == 1 and tab.locator("#late .mark").count() == 0
    tab.get_by_label("other", exact=True).uncheck()
    assert tab.locator("#late").inner_text().count("no values in this trace") == 2
    tab.get_by_label("one", exact=True).check()
    tab.get_by_label("Run of the maps").select_option("other")
    assert tab.locator("#maps .mark").count() == 0


def test_runs_of_different_prompts_are_not_compared_without_a_word(show):
    tab = show({"one": ONE, "other": Trace(header(probe="cd" * 32, window=(2, 4)), OTHER.readings)})
    assert tab.locator("#notes").inner_text() == (
        "The runs were probed with different prompts: compare changes, not levels. "
        "The late windows differ; the shaded one is that of one."
    )
    assert show({"one": ONE, "other": OTHER}).locator("#notes").is_hidden()


def test_the_numbers_are_in_tables_too(show):
    tab = show({"one": ONE})
    tab.get_by_text("Every layer at the step").click()
    tab.locator("#step").fill("3")
    tab.locator("#layers-table tbody tr").first.wait_for()
    assert tab.locator("#layers-table caption").inner_text() == "one, step 30"
    assert tab.locator("#layers-table tbody tr").nth(1).inner_text().split() == [
        "2",
        "0.760",
        "0.010",
        "+0.060",
        "1.200",
        "0.020",
        "0",
    ]
    assert tab.locator("#steps-table tr").count() == 0
    tab.get_by_text("Every reading").click()
    tab.locator("#steps-table tbody tr").first.wait_for()
    assert tab.locator("#steps-table tbody tr").count() == 11 and cut(tab) <= 0


def test_one_reading_without_a_single_value_is_drawn(show):
    nothing = reading(0, **dict.fromkeys(("score", "entropy", "displacement", "coherence", "seconds"), math.nan))
    tab = show({"bare": Trace(header(), [nothing])})
    assert tab.locator("#step").is_disabled() and tab.locator("h2").first.inner_text() == "○ Too early"
    assert tab.locator("#score").inner_text().count("no values in this trace") >= 1


def test_strings_of_a_run_stay_strings(show):
    tab = show({EVIL: hostile(), "calm": hostile()})
    tab.get_by_text("Every reading").click()
    chart = tab.locator("#late svg").first
    for x in range(50, 300, 10):
        chart.hover(position={"x": x, "y": 100})
    assert tab.locator("img").count() == 0 and tab.title() == f"SPINAL report: {EVIL}"
    assert tab.locator("h1").inner_text() == EVIL


def test_dark_and_light_and_paper_differ(show):
    paper = "getComputedStyle(document.body).backgroundColor"
    tab = show({"one": ONE}, color_scheme="dark")
    night, maps = tab.evaluate(paper), tab.locator("#maps image").last.get_attribute("href")
    tab.emulate_media(color_scheme="light")
    assert tab.evaluate(paper) != night and tab.locator("#maps image").last.get_attribute("href") != maps
    day = tab.locator("#maps image").last.get_attribute("href")
    tab.emulate_media(color_scheme="dark", media="print")
    assert tab.locator("#maps image").last.get_attribute("href") == day
    assert tab.evaluate(paper) == "rgb(255, 255, 255)" and tab.locator("#step").is_hidden()


def test_a_large_trace_stays_smooth(show):
    readings = [reading(s, 80, transport=[1.0 + i / 80 + s / 1e3 for i in range(79)]) for s in range(1000)]
    tab = show({"large": Trace(header(80, (54, 80)), readings)})
    took = tab.evaluate("""() => {
        const slider = document.getElementById("step"), begin = performance.now();
        for (let i = 0; i < 50; i++) {
            slider.value = i * 20;
            slider.dispatchEvent(new Event("input"));
            document.body.offsetHeight;
        }
        return (performance.now() - begin) / 50;
    }""")
    assert took < 100  # ms for a move of the slider, laid out; some 5 on an idle machine
