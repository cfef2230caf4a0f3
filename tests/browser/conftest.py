"""A JupyterLab and a Chromium for the whole session, a page of its own for every test."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from jupyter_server_process import JupyterServer, jupyter_server
from notebook_page import Noticed
from playwright.sync_api import Browser, Page, sync_playwright

HERE = Path(__file__).parent
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


@pytest.fixture(scope="session")
def jupyter(tmp_path_factory: pytest.TempPathFactory) -> Iterator[JupyterServer]:
    with jupyter_server(tmp_path_factory.mktemp("jupyter")) as server:
        yield server


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    path = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, CHROMIUM)), None)
    assert path, "no Chromium: install it (Debian: apt-get install chromium) or give its path in the variable CHROMIUM"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def noticed() -> Noticed:
    return Noticed()


@pytest.fixture
def page(chromium: Browser, noticed: Noticed) -> Iterator[Page]:
    context = chromium.new_context(viewport={"width": 1400, "height": 1000})
    page = context.new_page()
    page.on("request", noticed.request)
    page.on("console", noticed.console)
    page.on("pageerror", lambda error: noticed.problems.append(str(error)))
    page.add_init_script(path=HERE / "notebook_page.js")
    yield page
    context.close()


@pytest.fixture(scope="session")
def output() -> Path:
    """Screenshots, never committed."""
    folder = HERE / "output"
    folder.mkdir(exist_ok=True)
    return folder
