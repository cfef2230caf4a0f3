"""First steps of the explorer in Notebook 7 and in Voilà, served beside JupyterLab."""

from __future__ import annotations

from typing import Any

import holoviews as hv
from bokeh.resources import Resources
from chromium import opened_page
from jupyter_server_process import JupyterServer
from notebook_page import Shown, pixels_of, share_near
from playwright.sync_api import Browser, Page, expect

from unitlab.views.bokeh_loading import FIGURES, LiveFigure
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
    # a bar that was shown, where computing took so long, may have ended before the page came to draw it
    with opened_page(chromium, allowed=(*OF_NOTEBOOK, "widget model not found")) as page:
        page.goto(f"{jupyter.url}/notebooks/explorer.ipynb")
        page.wait_for_function("() => window.jupyterapp && notebookPage.ready()", timeout=60_000)
        page.evaluate("() => { jupyterapp.commands.execute('notebook:run-all-cells') }")
        first_steps(page)


def test_voila(jupyter: JupyterServer, chromium: Browser) -> None:
    with opened_page(chromium, allowed=OF_VOILA) as page:
        page.goto(f"{jupyter.url}/voila/render/explorer.ipynb", timeout=90_000)
        first_steps(page)


def test_a_view_of_ones_own_lives_in_voila(jupyter: JupyterServer, chromium: Browser) -> None:
    # a bar that was shown, where computing took so long, has closed its widgets
    with opened_page(chromium, allowed=(*OF_VOILA, "Comm not found")) as page:
        page.goto(f"{jupyter.url}/voila/render/your_own_view.ipynb", timeout=90_000)
        shown = Shown(page, timeout=90_000)
        figure = page.locator(".ul-figure")
        titled = "title => Bokeh.documents.some(one => [...one.all_models].some(each => each.text?.startsWith?.(title)))"
        shown.root.locator("#unit").fill("19")
        shown.root.locator("#unit").press("Enter")
        page.wait_for_function(titled, arg="Unit 19: accuracy drop by class")
        expect(page.locator(".widget-readout")).to_have_text("19")
        page.locator(".noUi-handle").press("ArrowRight")
        page.wait_for_function(titled, arg="Unit 20: accuracy drop by class")
        expect(shown.root.locator("#unit")).to_have_value("20")
        assert pixels_of(figure.screenshot()).std() > 20


def test_a_live_figure_needs_a_page_and_nothing_of_jupyter(page: Page) -> None:
    stream = hv.streams.Stream.define("At", x=1)()
    live = LiveFigure(hv.DynamicMap(lambda x: hv.Points([(x, 2)], label=f"at {x}"), streams=[stream]))
    sent: list[Any] = []
    live.send = sent.append
    live._handle_custom_msg("open", [])
    for script in (*Resources(mode="inline", components=["bokeh"]).js_raw, FIGURES.read_text("utf-8")):
        page.add_script_tag(content=script)
    imported = "import(URL.createObjectURL(new Blob([code], { type: 'text/javascript' })))"
    model = "{ on: (_, hear) => { window.hear = hear; }, send: () => {} }"
    render = f"code => {imported}.then(one => one.default.render({{ model: {model}, el: document.body }})).then(() => null)"
    page.evaluate(render, str(live._esm))
    at = "x => [...Bokeh.documents[0].all_models].some(each => each.type === 'ColumnDataSource' && [...each.data.x][0] === x)"
    for x in (1, 5):
        stream.event(x=x)
        while sent:
            page.evaluate("message => hear(message)", sent.pop(0))
        page.wait_for_function(at, arg=x)
