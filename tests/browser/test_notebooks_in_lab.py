"""Notebooks of plots, run and looked at in JupyterLab."""

from __future__ import annotations

from pathlib import Path

import pytest
from jupyter_server_process import JupyterServer
from notebook_page import NotebookPage, pixels_of
from playwright.sync_api import Page, expect


@pytest.mark.parametrize("name", ["damage_of_a_unit", "single_units_hurt_classes"])
def test_plots_are_drawn(name: str, jupyter: JupyterServer, page: Page, output: Path) -> None:
    notebook = NotebookPage(page, jupyter.url, f"{name}.ipynb")
    notebook.run_all()
    figures = page.locator(".jp-OutputArea-output .bk-Figure")
    assert figures.count() >= 3
    for place in range(figures.count()):
        figures.nth(place).scroll_into_view_if_needed()
        expect(figures.nth(place)).to_be_visible()
        assert pixels_of(figures.nth(place).screenshot()).std() > 5, "an empty figure"
    page.screenshot(path=output / f"{name}.png")
