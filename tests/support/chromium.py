"""A real browser for tests that need one; without one they are skipped, and say what to install."""

import shutil

import pytest


def chromium():
    """Path of Chromium and the module that drives it."""
    driver = pytest.importorskip("playwright.sync_api", reason="no browser driver: pip install playwright")
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        pytest.skip("no browser: apt-get install chromium")
    return found, driver
