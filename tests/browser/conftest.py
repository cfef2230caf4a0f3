"""A JupyterLab and a Chromium for the whole session, a page of its own for every test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from chromium import opened_page, started_chromium
from jupyter_server_process import JupyterServer, jupyter_server
from playwright.sync_api import Browser, Page

HERE = Path(__file__).parent


@pytest.fixture(scope="session")
def jupyter(tmp_path_factory: pytest.TempPathFactory) -> Iterator[JupyterServer]:
    with jupyter_server(tmp_path_factory.mktemp("jupyter")) as server:
        yield server


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    with started_chromium() as browser:
        yield browser


@pytest.fixture
def page(chromium: Browser) -> Iterator[Page]:
    with opened_page(chromium) as page:
        yield page


@pytest.fixture(scope="module")
def kept_page(chromium: Browser) -> Iterator[Page]:
    """A page for all tests of a module, which go on from one another."""
    with opened_page(chromium) as page:
        yield page


@pytest.fixture(scope="session")
def output() -> Path:
    """Screenshots, never committed."""
    folder = HERE / "output"
    folder.mkdir(exist_ok=True)
    return folder
