"""First steps of the explorer in Notebook 7 and in Voilà, served beside JupyterLab."""

from __future__ import annotations

import numpy as np
from chromium import opened_page
from jupyter_server_process import JupyterServer
from notebook_page import Figure, repainted, share_near
from playwright.sync_api import Browser, Page, expect

from unitlab.views.look import BLUE, ORANGE

# Voilà's own page asks a CDN for icons and MathJax, and complains of JupyterLab extensions that are not made for it
OF_VOILA = ("fontawesome", "mathjax", "/labextensions/")
# Notebook 7 asks for a file browser that a page with one notebook has not
OF_NOTEBOOK = ("filebrowser:open-path", "reading 'schema'")


def first_steps(page: Page) -> None:
    """Plots are painted, and a click on a unit far from the others is answered in the browser and by Python."""
    explorer = page.locator(".ul-explorer").first
    units, classes = Figure(page, "units", timeout=90_000), Figure(page, "classes")
    page.wait_for_timeout(500)  # ms; the cells below are still finding their place
    assert share_near(units.painted(), BLUE) > 0.001 and share_near(classes.painted(), ORANGE) > 0.001
    shown = units.columns("Scatter", having="unit")
    far = int(np.argsort(np.array(shown["x"]) + np.array(shown["y"]) / 20)[-2])
    before, unit = classes.painted(), str(shown["unit"][far])
    units.click(shown["x"][far], shown["y"][far])
    expect(explorer.locator(".ul-unit input")).to_have_value(unit)
    expect(explorer.locator(".ul-headline")).to_contain_text(f"Unit {unit}")
    expect(explorer.locator(".ul-images img")).to_have_count(12)
    assert repainted(classes, before)


def test_notebook_7(jupyter: JupyterServer, chromium: Browser) -> None:
    with opened_page(chromium, allowed=OF_NOTEBOOK) as page:
        page.goto(f"{jupyter.url}/notebooks/explorer.ipynb")
        page.wait_for_function("() => window.jupyterapp && notebookPage.ready()", timeout=60_000)
        page.evaluate("() => { jupyterapp.commands.execute('notebook:run-all-cells') }")
        first_steps(page)


def test_voila(jupyter: JupyterServer, chromium: Browser) -> None:
    with opened_page(chromium, allowed=OF_VOILA) as page:
        page.goto(f"{jupyter.url}/voila/render/explorer.ipynb", timeout=90_000)
        first_steps(page)
