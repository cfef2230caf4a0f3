"""Chromium, and pages in it that notice what a user would not want."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from notebook_page import Noticed
from playwright.sync_api import Browser, Page, sync_playwright

CHROMIUM = ("chromium", "chromium-browser", "google-chrome", "chrome")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@contextmanager
def started_chromium() -> Iterator[Browser]:
    """Debian's Chromium, or the one whose path the variable CHROMIUM gives."""
    path = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, CHROMIUM)), None)
    assert path, "no Chromium: install it (Debian: apt-get install chromium) or give its path in the variable CHROMIUM"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS, headless="UNITLAB_VISIBLE" not in os.environ)
        yield browser
        browser.close()


@contextmanager
def opened_page(browser: Browser, allowed: tuple[str, ...] = ()) -> Iterator[Page]:
    """An empty page in a context of its own; at the end, what it did that a user would not want is an error.

    Requests and complaints that have one of ``allowed`` in them are let pass.
    """
    context = browser.new_context(viewport={"width": 1400, "height": 1000})
    page = context.new_page()
    noticed = Noticed(page, allowed)
    page.add_init_script(path=Path(__file__).parent / "notebook_page.js")
    yield page
    context.close()
    assert noticed.problems == [] and noticed.outside == [], [*noticed.problems, *noticed.outside]
