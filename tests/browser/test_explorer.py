"""The explorer as a user meets it: its notebook in JupyterLab, clicks, a search, themes, a dead kernel, the report."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import nbformat
import numpy as np
import pytest
import xarray as xr
from chromium import opened_page
from jupyter_server_process import JupyterServer
from notebook_page import NotebookPage, Shown, pixels_of, share_near
from playwright.sync_api import Browser, Page, expect

import unitlab
from unitlab.analysis.correlations import measures
from unitlab.views.findings import points, unit_finding

TABS = ["Lost and won", "Class", "Group", "Made of", "Compare", "Wall", "Try an image", "Definitions", "Take away"]
METADATA = {"kernelspec": {"name": "python3", "display_name": "Python 3"}}


@pytest.fixture(scope="module")
def study() -> xr.Dataset:
    return unitlab.load("vgg_emoji")


@pytest.fixture(scope="module")
def known(study: xr.Dataset) -> xr.Dataset:
    return measures(study)


@pytest.fixture(scope="module")
def notebook(jupyter: JupyterServer, kept_page: Page) -> NotebookPage:
    opened = NotebookPage(kept_page, jupyter.url, "explorer.ipynb")
    opened.run_all()
    return opened


def written(jupyter: JupyterServer, name: str, *cells: str) -> None:
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells], metadata=METADATA)
    nbformat.write(notebook, jupyter.folder / name)


def check_unit(shown: Shown, unit: int, study: xr.Dataset, known: xr.Dataset) -> None:
    """Sentence, bars and images are those of the unit, by the dataset."""
    root, drop = shown.root, np.sort(known.accuracy_drop.sel(unit=unit).values)[::-1]
    expect(root.locator(".ul-headline")).to_have_text(str(unit_finding(known, unit)))
    expect(root.locator(".ul-unit")).to_have_value(str(unit))
    shown_drops = [*drop[:10], *drop[-3:]] if len(drop) > 13 else drop
    expect(root.locator(".ul-classes tbody td:nth-child(3)")).to_have_text([points(value) for value in shown_drops])
    top = study.sel(unit=unit).top_image.values[:12]
    names = study.category.values[study.label.values[top]].astype(str)
    expect(root.locator(".ul-images figcaption span")).to_have_text(names.tolist())
    expect(root.locator(".ul-table tr[aria-current]")).to_have_attribute("data-unit", str(unit))


def test_a_click_changes_sentence_bars_and_images(notebook: NotebookPage, study: xr.Dataset, known: xr.Dataset) -> None:
    shown = Shown(notebook.page)
    pictures = shown.root.locator(".ul-images canvas")
    for unit in shown.lonely(3, but=shown.unit):
        picture = pictures.first.screenshot()
        shown.click(unit)
        check_unit(shown, unit, study, known)
        assert pictures.first.screenshot() != picture
        # the ring is around the point
        across, down = shown.point(unit)
        ring = pixels_of(notebook.page.screenshot(clip={"x": across - 12, "y": down - 12, "width": 24, "height": 24}))
        assert share_near(ring, "#1d2430") > 0.05
    expect(shown.root.locator(".ul-message")).to_be_hidden()


def test_a_click_is_told_to_the_kernel_once(notebook: NotebookPage) -> None:
    page, sent = notebook.page, []
    shown = Shown(page)
    protocol = page.context.new_cdp_session(page)
    protocol.on("Network.webSocketFrameSent", lambda event: sent.append(event["response"]["payloadData"]))
    protocol.send("Network.enable")
    for unit in shown.lonely(2, but=shown.unit):
        shown.click(unit)
        expect(shown.root.locator(".ul-headline")).to_contain_text(f"nit {unit}")
        expect(shown.root.locator("#pictures")).not_to_have_class("ul-stale")
        page.wait_for_function("() => notebookPage.ready()")
    protocol.detach()
    # the new unit; its rows and those beside it, which are asked for together and not again
    assert 2 <= len(sent) <= 8, "the page sends back what the kernel tells it"


def test_python_sets_and_hears(jupyter: JupyterServer, page: Page) -> None:
    heard = "explorer.observe(lambda change: heard.append(change.new), 'unit')"
    written(
        jupyter, "traits.ipynb",
        f"import unitlab\nexplorer = unitlab.explore('vgg_fashion', unit=3)\nheard = []\n{heard}\nexplorer",
        "explorer.unit = 9\nexplorer.category = 'Bag'",
    )  # fmt: skip
    notebook = NotebookPage(page, jupyter.url, "traits.ipynb")
    notebook.run_all()
    shown = Shown(page)
    expect(shown.root.locator(".ul-unit")).to_have_value("9")
    expect(shown.root.locator("#class")).to_have_value("Bag")
    expect(shown.root.locator("#scatter .title").first).to_have_text("↑ accuracy drop of Bag (points)")
    row = shown.root.locator(".ul-table tbody tr").nth(3)
    unit = int(str(row.get_attribute("data-unit")))
    row.click()
    expect(shown.root.locator(".ul-headline b")).to_contain_text("Bag")
    assert notebook.value("[heard, explorer.unit]") == f"[[9, {unit}], {unit}]"


def test_search_sort_step_and_lasso(notebook: NotebookPage, study: xr.Dataset, known: xr.Dataset) -> None:
    shown = Shown(notebook.page)
    root = shown.root
    search = root.locator("#class")
    search.fill("tool")
    search.press("Enter")
    drop = known.accuracy_drop.sel(unit=shown.unit, category="tool").item()
    expect(root.locator(".ul-headline")).to_contain_text("tool")
    expect(root.locator(".ul-headline")).to_contain_text(points(abs(drop)))
    root.get_by_role("button", name="Back to all classes").click()
    root.locator("#heads").get_by_role("button", name="overall, points").click()
    largest = known.unit.values[np.argsort(-known.overall_drop.values, kind="stable")]
    row = root.locator(".ul-table tbody tr").nth(6)
    expect(row).to_have_attribute("data-unit", str(largest[6]))
    row.click(position={"x": 60, "y": row.bounding_box()["height"] - 2})  # low in a row is still that row
    check_unit(shown, int(largest[6]), study, known)
    root.locator(".ul-unit").press("ArrowUp")
    check_unit(shown, (int(largest[6]) + 1) % 64, study, known)
    group = shown.lasso()
    assert 1 < len(group) < 40
    expect(root.locator(".grouped")).to_have_count(len(group))


def test_another_study_and_back(notebook: NotebookPage, study: xr.Dataset, known: xr.Dataset) -> None:
    shown = Shown(notebook.page)
    other = unitlab.load("vgg_fashion")
    opened = shown.unit
    for name, ds, measured in (("vgg_fashion", other, measures(other)), ("vgg_emoji", study, known)):
        shown.root.locator("#study").select_option(name)
        expect(shown.root.locator("#layer")).to_have_value(ds.attrs["layer"])
        worst = int(measured.unit[measured.max_class_drop.values.argmax()])
        # a study that was open before is as it was left
        check_unit(shown, worst if name == "vgg_fashion" else opened, ds, measured)


def test_it_is_whole_in_both_themes_at_every_width(notebook: NotebookPage, output: Path) -> None:
    page = notebook.page
    shown = Shown(page)
    for theme in ("Light", "Dark"):
        notebook.theme(f"JupyterLab {theme}")
        for width, height in ((1000, 1000), (1366, 768), (1400, 1000), (2000, 1100)):
            page.set_viewport_size({"width": width, "height": height})
            page.wait_for_timeout(300)  # ms; the page lays itself out anew after a resize
            shown.root.locator(".ul-bar").scroll_into_view_if_needed()
            page.screenshot(path=output / f"explorer_{theme.lower()}_{width}.png")
            box, cell = shown.root.bounding_box(), page.locator(".jp-Cell-outputArea").first.bounding_box()
            assert box and cell and box["x"] + box["width"] <= cell["x"] + cell["width"] + 1
            wide = shown.root.evaluate(
                "root => [...root.querySelectorAll('.ul-panel')].every(one => one.scrollWidth <= one.clientWidth + 1)"
            )
            assert wide, f"something is cut at {width}"
            if width == 1366:
                heads = shown.root.get_by_role("tablist").bounding_box()
                top = shown.root.locator(".ul-bar").bounding_box()
                assert heads and top and heads["y"] + heads["height"] - top["y"] < 640, "the tabs' heads are out of view"
            units = pixels_of(shown.root.locator(".ul-units").screenshot())
            assert share_near(units, "#0072b2" if theme == "Light" else "#5cb8ee", 60) > 0.001
            ground = units[6, 6]
            assert (ground > 200).all() if theme == "Light" else (ground < 80).all()


def test_every_tab_opens_and_the_report_works_alone(notebook: NotebookPage, jupyter: JupyterServer) -> None:
    page = notebook.page
    shown = Shown(page)
    if shown.tab("Group").get_by_role("button", name="Clear").is_enabled():
        shown.tab("Group").get_by_role("button", name="Clear").click()
    for title in TABS:
        expect(shown.tab(title)).not_to_be_empty()
        expect(shown.root.locator(".ul-message")).to_be_hidden()
    panel = shown.tab("Take away")
    with page.expect_download():
        panel.locator(".ul-write-report").click()
    expect(panel.locator(".ul-files")).to_contain_text("Written to", timeout=60_000)
    report = jupyter.folder / panel.locator(".ul-report-path").input_value()
    with opened_page(page.context.browser) as alone:
        alone.goto(report.as_uri())
        other = alone.locator("#table tbody tr:not([aria-current])").last
        unit = other.get_attribute("data-unit")
        other.click()
        expect(alone.locator("#finding")).to_contain_text(f"nit {unit}")


@pytest.fixture
def restarted(chromium: Browser) -> Iterator[Page]:
    """A page whose kernel restarts, of which JupyterLab's debugger complains."""
    with opened_page(chromium, allowed=("debugger",)) as page:
        yield page


def test_a_reload_restores_and_a_restart_is_said(jupyter: JupyterServer, restarted: Page) -> None:
    page = restarted
    written(jupyter, "reload.ipynb", "import unitlab\nexplorer = unitlab.explore('vgg_fashion', unit=3)\nexplorer")
    notebook = NotebookPage(page, jupyter.url, "reload.ipynb")
    notebook.run_all()
    shown = Shown(page)
    shown.root.locator(".ul-table tbody tr").nth(2).click()
    unit = shown.unit
    page.evaluate("async () => { await jupyterapp.commands.execute('docmanager:save') }")
    page.reload()
    page.wait_for_function("() => notebookPage.ready()", timeout=60_000)
    shown = Shown(page)
    expect(shown.root.locator(".ul-unit")).to_have_value(str(unit))
    page.evaluate("async () => { await notebookPage.panel().sessionContext.session.kernel.restart() }")
    expect(shown.root.locator(".ul-message")).to_contain_text("The kernel is gone: run the cell again")
    shown.root.locator("#x").select_option("l1_norm")
    expect(shown.root.locator("#scatter .title").nth(1)).to_contain_text("norm")


def test_a_cell_that_runs_again_leaves_nothing_behind(jupyter: JupyterServer, page: Page) -> None:
    written(jupyter, "again.ipynb", "import unitlab\nunitlab.explore('vgg_fashion', unit=3)")
    notebook = NotebookPage(page, jupyter.url, "again.ipynb")
    models = "async () => { const kernel = notebookPage.kernel(); return (await kernel.requestCommInfo({})).content.comms }"
    for _ in range(3):
        notebook.run_all()
        Shown(page)
    page.wait_for_function(f"async () => Object.keys(await ({models})()).length === 2")  # the explorer and its layout
    assert page.locator(".ul-explorer").count() == 1


def test_without_its_kernel_a_saved_notebook_shows_the_picture(jupyter: JupyterServer, page: Page) -> None:
    written(jupyter, "saved.ipynb", "import unitlab\nunitlab.explore('vgg_fashion', unit=3)")
    notebook = NotebookPage(page, jupyter.url, "saved.ipynb")
    notebook.run_all()
    Shown(page)
    still = page.locator(".ul-snapshot")
    expect(still).to_have_count(1)
    expect(still).to_be_hidden()
    saved = nbformat.read(jupyter.folder / "saved.ipynb", 4)
    saved.cells[0].outputs = [
        nbformat.from_dict(one) for one in page.evaluate("() => notebookPage.code()[0].model.outputs.toJSON()")
    ]
    nbformat.write(saved, jupyter.folder / "reopened.ipynb")
    NotebookPage(page, jupyter.url, "reopened.ipynb")
    expect(still).to_be_visible()
    expect(still).to_contain_text("Unit 3 costs")
    expect(still.locator("img")).to_have_count(2)
    assert still.locator("img").first.evaluate("image => image.naturalWidth") == 1800
