"""The page around the charts in a real browser: tables, folding, dark and paper, the cost of moving the slider."""

import math

import pytest
from builders import alert, header, reading
from made_up import drifting

from spinal_callback.traces import Trace

ONE = Trace(header(), drifting(), [alert(30, level="warn", rule="late_speed"), alert(50)])
NEXT_FRAME = "new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))"


def hint(tab, table):
    """What is said above a table of what of it is out of sight; empty if all is in sight."""
    box = tab.locator(f"#{table} .hint")
    return box.inner_text() if box.is_visible() else ""


def hidden(tab, table):
    """By how many pixels a table is larger than what is seen of it, across and down."""
    return tab.eval_on_selector(
        f"#{table} .scroll", "box => [box.scrollWidth - box.clientWidth, box.scrollHeight - box.clientHeight]"
    )


def test_the_numbers_are_in_tables_too(show):
    tab = show({"one": ONE})
    tab.get_by_text("Every layer at the step").click()
    tab.locator("#step").fill("3")
    tab.locator("#layers-table tbody tr").first.wait_for()
    assert tab.locator("#layers-table caption").inner_text() == "one, step 30"
    row = tab.locator("#layers-table tbody tr").nth(1).inner_text().split()
    assert row == ["2", "0.760", "0.010", "+0.060", "\u2013", "1.200", "0.020", "0", "\u2013"]
    assert tab.locator("#steps-table tr").count() == 0
    tab.get_by_text("Every reading").click()
    tab.locator("#steps-table tbody tr").first.wait_for()
    assert tab.locator("#steps-table tbody tr").count() == 11


def test_a_table_that_is_larger_than_its_box_says_so(show):
    tab = show({"one": ONE})
    tab.get_by_text("Every reading").click()
    tab.locator("#steps-table tbody tr").first.wait_for()
    across, down = hidden(tab, "steps-table")
    assert across > 0 and hint(tab, "steps-table").startswith("Scroll to the right")
    assert ("downwards" in hint(tab, "steps-table")) == (down > 0)
    assert tab.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
    first = tab.locator("#steps-table tbody th").first
    before = first.bounding_box()["x"]
    tab.eval_on_selector("#steps-table .scroll", "box => { box.scrollLeft = 200; }")
    assert first.bounding_box()["x"] == before  # the step stays in sight


def test_no_setting_is_out_of_sight(show):
    tab = show({"one": ONE})
    across, down = hidden(tab, "settings-table")
    assert down <= 0 and (across <= 0) == (hint(tab, "settings-table") == "")
    assert tab.locator("#settings-table tr").last.is_visible()


def test_on_a_phone_what_follows_the_alerts_is_folded_and_opens_drawn(show):
    tab = show({"one": ONE}, folded=True)
    on_a_phone = tab.viewport_size["width"] < 560
    assert tab.locator("#maps").is_visible() != on_a_phone
    if on_a_phone:
        assert tab.evaluate("document.documentElement.scrollHeight") < 4000
        tab.get_by_text("Layers over steps").click()
        tab.evaluate(NEXT_FRAME)
        assert tab.locator("#maps svg").first.bounding_box()["width"] > 250
        box = tab.eval_on_selector("#maps svg", "one => one.viewBox.baseVal.width / one.getBoundingClientRect().width")
        assert box == pytest.approx(1, abs=0.02)  # drawn for the width that it has


def test_paper_shows_what_is_folded(show):
    tab = show({"one": ONE}, folded=True)
    tab.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert tab.locator("#maps").is_visible() and tab.locator("#score").is_visible()


def test_dark_and_light_and_paper_differ(show):
    paper = "getComputedStyle(document.body).backgroundColor"
    tab = show({"one": ONE}, color_scheme="dark")

    def seen(**media):
        tab.emulate_media(**media)
        tab.evaluate(NEXT_FRAME)
        return tab.evaluate(paper), tab.locator("#maps image").last.get_attribute("href")

    night, day = seen(color_scheme="dark"), seen(color_scheme="light")
    assert night[0] != day[0] and night[1] != day[1]
    print_of_night = seen(color_scheme="dark", media="print")
    assert print_of_night == ("rgb(255, 255, 255)", day[1]) and tab.locator("#step").is_hidden()


def test_a_map_of_changes_is_neutral_where_nothing_changed_in_the_dark_too(show):
    still = Trace(header(), [reading(s) for s in (0, 10)])
    colour = """one => new Promise((done) => {
        const image = new Image();
        image.onload = () => {
            const canvas = document.createElement("canvas"), context = canvas.getContext("2d");
            context.drawImage(image, 0, 0);
            done([...context.getImageData(2, 0, 1, 1).data].slice(0, 3));
        };
        image.src = one.getAttribute("href");
    })"""
    for scheme, light in (("light", True), ("dark", False)):
        tab = show({"still": still}, color_scheme=scheme)
        zero = tab.eval_on_selector_all("#maps image", "all => all[2].id = 'change'") and tab.eval_on_selector(
            "#change", colour
        )
        assert max(zero) - min(zero) < 12, "as good as grey"
        assert (min(zero) > 200) if light else (min(zero) > 30 and max(zero) < 70)


def changed_nodes(tab):
    """How many nodes of the page a move of the slider adds, removes or changes."""
    return tab.evaluate("""() => new Promise((done) => {
        let count = 0;
        const observer = new MutationObserver((all) => {
            for (const one of all) count += one.addedNodes.length + one.removedNodes.length;
            count += all.filter((one) => one.type === "attributes").length;
        });
        observer.observe(document.body, { childList: true, subtree: true, attributes: true });
        const slider = document.getElementById("step");
        slider.value = 1;
        slider.dispatchEvent(new Event("input"));
        requestAnimationFrame(() => { observer.disconnect(); done(count); });
    })""")


def test_a_move_of_the_slider_costs_no_more_in_a_long_run(show):
    def long(steps):
        readings = [reading(s, 80, transport=[1.0 + i / 80 + s / 1e3 for i in range(79)]) for s in range(steps)]
        return Trace(header(80, (54, 80)), readings)

    short, large = (changed_nodes(show({"large": long(steps)})) for steps in (10, 1000))
    assert math.isclose(large, short, rel_tol=0.1) and short > 0
