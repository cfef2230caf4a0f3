"""Every notebook, run and looked at in JupyterLab."""

from __future__ import annotations

from pathlib import Path

import pytest
from jupyter_server_process import JupyterServer
from notebook_page import NotebookPage
from playwright.sync_api import Page


@pytest.mark.parametrize("name", ["damage_of_a_unit"])
def test_plots_are_drawn(name: str, jupyter: JupyterServer, page: Page, output: Path) -> None:
    notebook = NotebookPage(page, jupyter.url, f"{name}.ipynb")
    notebook.run_all()
    page.screenshot(path=output / f"{name}.png")
