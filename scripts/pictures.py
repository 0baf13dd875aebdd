"""Makes the README's pictures anew from two saved runs: `python scripts/pictures.py HEALTHY WARNED`.

HEALTHY is the output folder of `./scripts/quickstart`, WARNED a run that raised alerts, or a trace of the stability
suite: those have no alerts of their own, and are shown with what the rules say of them.
Needs Chromium, and playwright, Pillow and trackio (`pip install 'spinal_callback[dev]'`).
"""

from __future__ import annotations

import argparse
import dataclasses
import html
import os
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

from spinal_callback import load_trace
from spinal_callback.alerts.detector import replay
from spinal_callback.report.images import heatmaps
from spinal_callback.report.page import page
from spinal_callback.report.text import everything
from spinal_callback.traces import Trace

PICTURES = Path(__file__).parents[1] / "recipes" / "pictures"
WIDTH = 960  # pixels: about the width of a README, and enough for two charts side by side
SHOWN = "late_|displacement|score"  # trackio: the charts of these names
TERMINAL = """<style>
body { margin: 0 } i { display: inline-block; width: 1ch; font-style: normal; overflow: hidden; vertical-align: bottom }
pre { display: inline-block; margin: 0; padding: 16px 20px; font: 14px/1.25 "DejaVu Sans Mono", monospace }
pre { background: #fbfaf8; color: #1c1f24; border: 1px solid #e2e0dc; border-radius: 6px } b { color: #0072b2 }
</style><pre>"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("healthy", help="output folder or trace of a run without alerts")
    parser.add_argument("warned", help="output folder or trace of a run with alerts")
    parser.add_argument("--output", type=Path, default=PICTURES, help="folder of the pictures")
    args = parser.parse_args()
    healthy, warned = load_trace(args.healthy), load_trace(args.warned)
    if not warned.alerts:
        warned = dataclasses.replace(warned, alerts=replay(warned))
    args.output.mkdir(parents=True, exist_ok=True)
    heatmaps(healthy).save(args.output / "heatmaps.png")
    from playwright.sync_api import sync_playwright

    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        terminal(browser, healthy, f"spinal show {args.healthy}", args.output / "terminal.png")
        report(browser, warned, args.output / "report.png")
        trackio(browser, healthy, args.output / "trackio.png")
        browser.close()


def terminal(browser: Any, trace: Trace, command: str, path: Path) -> None:
    """What `spinal show` prints in 80 columns."""
    os.environ["COLUMNS"] = "80"
    text = html.escape(everything(trace))
    text = re.sub("([\u2800-\u28ff])", r"<i>\1</i>", text)  # few fonts have these as wide as the rest
    tab = browser.new_page(viewport={"width": WIDTH, "height": 800}, device_scale_factor=1.25)
    tab.set_content(f"{TERMINAL}<b>$ {html.escape(command)}</b>\n{text}</pre>")
    tab.locator("pre").screenshot(path=path)


def report(browser: Any, trace: Trace, path: Path) -> None:
    """The page down to the alerts, on light paper."""
    tab = browser.new_page(viewport={"width": WIDTH, "height": 900}, color_scheme="light")
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "report.html"
        place.write_text(page({"run": trace.to_json()}), encoding="utf-8")
        tab.goto(place.as_uri())
        tab.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
        alerts = tab.locator("section[aria-labelledby=alerts-title]").bounding_box()
        shown = {"x": 0, "y": 0, "width": WIDTH, "height": alerts["y"] + alerts["height"] + 20}
        tab.screenshot(path=path, full_page=True, clip=shown)


def trackio(browser: Any, trace: Trace, path: Path) -> None:
    """Trackio's own dashboard with what `TrackioSink` logs of the trace."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ["TRACKIO_DIR"] = folder  # before trackio is imported: it must not touch the user's own runs
        import trackio

        from spinal_callback.sinks.trackio import TrackioSink

        trackio.init("dpo", name="quickstart", embed=False, auto_log_cpu=False, auto_log_gpu=False)
        sink = TrackioSink()
        sink.write(trace.header)
        for reading in trace.readings:
            sink.write(reading)
        sink.complete()
        trackio.finish()
        shown = trackio.show(project="dpo", open_browser=False, block_thread=False, share=False)
        app, address = shown[0], next(part for part in shown if isinstance(part, str))
        size = {"width": 1200, "height": 880}  # its charts need the room
        tab = browser.new_page(viewport=size, device_scale_factor=WIDTH / 1200, color_scheme="light")
        tab.goto(address)
        tab.get_by_placeholder("loss|").fill(SHOWN)
        tab.locator("input[type=range]").fill("0")  # smoothing
        tab.get_by_text("late_transport").first.wait_for()
        tab.wait_for_timeout(3000)  # its charts are drawn bit by bit
        tab.screenshot(path=path)
        app.close()


if __name__ == "__main__":
    main()
