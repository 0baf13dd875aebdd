"""`show`: opens a report in a real browser, at the width of a desk and of a phone."""

import pytest
from chromium import chromium

from spinal_callback.report.page import page

WIDTHS = [1280, 390]


@pytest.fixture(scope="session")
def browser():
    path, playwright = chromium()
    with playwright.sync_playwright() as driver:
        running = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield running
        running.close()


@pytest.fixture(params=WIDTHS)
def show(browser, tmp_path, request):
    """Opens a page of runs, all of it unfolded unless `folded`.

    At the end of the test: no word in the console, and nothing was asked for but the file.
    """
    said, asked, opened = [], [], []

    def open_it(runs, folded=False, **options):
        path = tmp_path / "report.html"
        path.write_text(page({name: run.to_json() for name, run in runs.items()}), encoding="utf-8")
        tab = browser.new_page(viewport={"width": request.param, "height": 900}, **options)
        opened.append(tab)
        tab.set_default_timeout(10_000)
        tab.on("console", lambda message: said.append(message.text))
        tab.on("pageerror", lambda error: said.append(str(error)))
        tab.on("request", lambda call: asked.append(call.url))
        tab.goto(path.as_uri())
        if not folded:
            tab.evaluate("document.querySelectorAll('details.part').forEach((part) => { part.open = true; })")
        tab.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")  # and drawn
        return tab

    yield open_it
    for tab in opened:
        tab.close()
    assert said == []
    assert [url for url in asked if not url.startswith(("data:", "file:"))] == []
