"""Notebooks of plots, run and looked at in JupyterLab."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from jupyter_server_process import JupyterServer
from notebook_page import NotebookPage, Shown, pixels_of
from playwright.sync_api import Page, expect

# these are run here, and not once more without a page: `test_notebooks_run`
NOTEBOOKS = ("damage_of_a_unit", "single_units_hurt_classes", "your_own_view")


def assert_drawn(page: Page, picture: Path) -> None:
    figures = page.locator(".jp-OutputArea-output .bk-Figure")
    assert figures.count() >= 3
    for place in range(figures.count()):
        figures.nth(place).scroll_into_view_if_needed()
        expect(figures.nth(place)).to_be_visible()
        assert pixels_of(figures.nth(place).screenshot()).std() > 5, "an empty figure"
    page.screenshot(path=picture)


def test_plots_are_drawn(jupyter: JupyterServer, page: Page, output: Path) -> None:
    NotebookPage(page, jupyter.url, f"{NOTEBOOKS[1]}.ipynb").run_all()
    assert_drawn(page, output / f"{NOTEBOOKS[1]}.png")


def test_plots_follow_the_theme_and_are_drawn_in_a_page_loaded_again(jupyter: JupyterServer, page: Page, output: Path) -> None:
    """Outputs cleared and saved, the page loaded again, one later cell run: Bokeh comes with it."""
    name = f"{NOTEBOOKS[0]}.ipynb"
    figure = page.locator(".jp-OutputArea-output .bk-Figure").first

    def ground_and_ink() -> tuple[float, float]:
        """Brightness of most of the figure, and of what is farthest from it in grey: axes and their texts."""
        figure.scroll_into_view_if_needed()
        pixels = pixels_of(figure.screenshot())
        grey = pixels[np.ptp(pixels, axis=-1) <= 8].mean(-1)
        ground = float(np.median(grey))
        return ground, float(grey[np.abs(grey - ground).argmax()])

    def wait_until(holds: Callable[[float, float], bool]) -> None:
        for _ in range(100):
            if holds(*ground_and_ink()):
                return
            page.wait_for_timeout(100)
        raise AssertionError(f"ground and ink are {ground_and_ink()}")

    notebook = NotebookPage(page, jupyter.url, name)
    notebook.theme("JupyterLab Light")  # the server may have kept a test's before
    notebook.run_all()
    assert_drawn(page, output / f"{NOTEBOOKS[0]}.png")
    wait_until(lambda ground, ink: ground > 240 and ink < 80)
    notebook.theme("JupyterLab Dark")
    wait_until(lambda ground, ink: ground < 40 and ink > 190)
    edges = pixels_of(figure.screenshot(path=output / "plot_dark.png"))
    assert max(np.ptp(edges[5:-5, 1]), np.ptp(edges[1, 5:-5])) < 8, "a line around the figure"
    notebook.theme("JupyterLab Light")
    wait_until(lambda ground, ink: ground > 240 and ink < 80)

    page.evaluate("() => jupyterapp.commands.execute('editmenu:clear-all')")
    page.wait_for_function("() => notebookPage.code().every(cell => cell.model.outputs.length === 0)")
    page.evaluate("() => jupyterapp.commands.execute('docmanager:save')")
    page.wait_for_function("() => !notebookPage.panel().context.model.dirty")
    NotebookPage(page, jupyter.url, name)
    assert page.evaluate("() => window.Bokeh === undefined")
    page.evaluate("() => { notebookPage.runAgain(2) }")
    figure.wait_for(timeout=60_000)
    wait_until(lambda ground, ink: ground > 240 and ink < 80)


def test_a_view_of_ones_own_follows_the_explorer_and_drives_it(jupyter: JupyterServer, page: Page) -> None:
    notebook = NotebookPage(page, jupyter.url, f"{NOTEBOOKS[2]}.ipynb")
    notebook.run_all()
    shown = Shown(page)
    beside = page.locator(".jp-OutputArea-output .ul-figure")

    def wait_until_drawn(unit: int) -> None:
        page.wait_for_function(
            "title => window.Bokeh?.documents.some(one => [...one.all_models].some(each => each.text?.startsWith?.(title)))",
            arg=f"Unit {unit}: accuracy drop by class",
        )

    def halves() -> list[np.ndarray]:
        """Pixels of the bars and of the top images, painted."""
        pixels = [pixels_of(figure.screenshot()) for figure in beside.locator(".bk-Figure").all()]
        assert len(pixels) == 2 and all(each.std() > 5 for each in pixels), "an empty figure"
        return pixels

    wait_until_drawn(15)
    beside.scroll_into_view_if_needed()
    before = halves()
    [unit] = shown.lonely(1, but=15)
    shown.click(unit)
    wait_until_drawn(unit)
    beside.scroll_into_view_if_needed()
    page.wait_for_timeout(500)
    for here, then in zip(halves(), before, strict=True):
        assert (np.abs(here - then).max(-1) > 60).mean() > 0.02, "the same picture"
    expect(page.locator(".widget-readout")).to_have_text(str(unit))
    notebook.value("setattr(slider, 'value', 7)")
    wait_until_drawn(7)
    expect(shown.root.locator(".ul-headline")).to_contain_text("nit 7")
