"""First steps of the explorer in Notebook 7 and in Voilà, served beside JupyterLab."""

from __future__ import annotations

from chromium import opened_page
from jupyter_server_process import JupyterServer
from notebook_page import Shown, pixels_of, share_near
from playwright.sync_api import Browser, Page, expect

from unitlab.views.look import BLUE

# Voilà's own page asks a CDN for icons and MathJax, and complains of JupyterLab extensions that are not made for it
OF_VOILA = ("fontawesome", "mathjax", "/labextensions/")
# Notebook 7 asks for a file browser that a page with one notebook has not
OF_NOTEBOOK = ("filebrowser:open-path", "reading 'schema'")


def first_steps(page: Page) -> None:
    """Views are painted, and a click on a unit far from the others is answered by the page and by Python."""
    shown = Shown(page, timeout=90_000)
    page.wait_for_timeout(500)  # ms; the cells below are still finding their place
    painted = pixels_of(shown.root.locator(".ul-units").screenshot())
    assert max(share_near(painted, blue) for blue in (BLUE, "#5cb8ee")) > 0.001  # by the theme
    [unit] = shown.lonely(1, but=shown.unit)
    bars, before = shown.root.locator("#bars"), shown.root.locator("#bars").inner_text()
    shown.click(unit)
    expect(shown.root.locator(".ul-unit")).to_have_value(str(unit))
    expect(shown.root.locator(".ul-headline")).to_contain_text(f"nit {unit}")
    expect(shown.root.locator(".ul-images [data-image]")).to_have_count(12)
    expect(bars).not_to_have_text(before)
    # what only Python knows
    expect(shown.tab("Lost and won")).to_contain_text(f"Without unit {unit}, of all")


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
