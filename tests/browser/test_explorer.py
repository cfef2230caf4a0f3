"""The explorer as a user meets it: its notebook in JupyterLab, a click, a search, a lasso, each tab, the report."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import nbformat
import numpy as np
import pytest
import xarray as xr
from chromium import opened_page
from jupyter_server_process import JupyterServer
from notebook_page import Figure, NotebookPage, pixels_of, repainted, share_near
from PIL import Image
from playwright.sync_api import Locator, Page, expect

import unitlab
from unitlab.views.look import ORANGE

TABS = ["Lost and won", "Class", "Group", "Definitions", "Take away"]


@pytest.fixture(scope="module")
def study() -> xr.Dataset:
    return unitlab.load("vgg_emoji")


@pytest.fixture(scope="module")
def damage(study: xr.Dataset) -> xr.Dataset:
    return unitlab.damage(study)


@pytest.fixture(scope="module")
def notebook(jupyter: JupyterServer, kept_page: Page) -> NotebookPage:
    opened = NotebookPage(kept_page, jupyter.url, "explorer.ipynb")
    opened.run_all()
    return opened


def points(value: float) -> str:
    return f"{100 * value:.1f}".replace("-0.0", "0.0").replace("-", "−")


def units_to_click(figure: Figure, count: int, but: int) -> list[tuple[int, float, float]]:
    """(unit, x, y) of units, except one, whose points have no near neighbour."""
    shown = figure.columns("Scatter", having="unit")
    place = np.c_[shown["x"], shown["y"]]
    scaled = (place - place.min(0)) / np.ptp(place, axis=0)
    distance = np.hypot(*(scaled[:, None] - scaled[None]).T)
    np.fill_diagonal(distance, np.inf)
    lonely = [at for at in np.argsort(-distance.min(0)) if shown["unit"][at] != but]
    return [(int(shown["unit"][at]), *place[at]) for at in lonely[:count]]


def check_unit(page: Page, explorer: Locator, unit: int, study: xr.Dataset, damage: xr.Dataset) -> None:
    """Sentence, bars and images are those of the unit, by the dataset."""
    row = damage.sel(unit=unit)
    drop = row.accuracy_drop.values
    order = np.argsort(-drop, kind="stable")
    headline = explorer.locator(".ul-headline")
    expect(headline).to_contain_text(f"Unit {unit}")
    worst = str(damage.category.values[order[0]])
    low, high = (points(float(row[limit][order[0]])) for limit in ("drop_low", "drop_high"))
    for part in (f"costs {worst}", f"{points(drop[order[0]])} points", f"{low} to {high}"):
        expect(headline).to_contain_text(part)
    expect(headline).to_contain_text(f"overall {points(float(row.overall_drop))}")
    expect(explorer.locator(".ul-unit input")).to_have_value(str(unit))
    Figure(page, "classes").expect_column("HBar", "drop", 100 * drop[[*order[:10], *order[10:][-3:]]])
    top = study.sel(unit=unit).top_image.values[:12]
    names = study.category.values[study.label.values[top]].astype(str)
    captions = explorer.locator(".ul-images figcaption")
    expect(captions).to_have_text(names.tolist())
    expect(explorer.locator(".ul-table tr[aria-current]")).to_contain_text(str(unit))


# kinds of the models that are on the page in an element of this class when it is taken away
FIRST_FIGURES = """() => {
  window.firstFigures = [];
  const hear = changes => {
    for (const {removedNodes} of changes)
      for (const node of removedNodes)
        if (node.className === "ul-first-figure") firstFigures.push(...window.drawnFirst);
    const place = document.querySelector(".ul-first-figure");
    if (place?.firstChild) window.drawnFirst = [...place.children].map(child => child.className.replace("bk-", ""));
  };
  new MutationObserver(hear).observe(document.body, {childList: true, subtree: true});
}"""


def test_an_outline_stands_until_the_explorer_does(jupyter: JupyterServer, page: Page) -> None:
    cell = nbformat.v4.new_code_cell("import unitlab\nunitlab.explore('vgg_fashion')")
    metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3"}}
    nbformat.write(nbformat.v4.new_notebook(cells=[cell], metadata=metadata), jupyter.folder / "outline.ipynb")
    NotebookPage(page, jupyter.url, "outline.ipynb")
    page.evaluate(FIRST_FIGURES)
    page.evaluate("() => { jupyterapp.commands.execute('notebook:run-all-cells') }")
    outline = page.locator(".ul-waiting")
    expect(outline).to_contain_text("Opening vgg_fashion")
    Figure(page, "units")
    expect(outline).to_have_count(0)
    # one figure was drawn while Python imported, and only the explorer's two are left
    assert page.evaluate("() => firstFigures") == ["Figure"]
    figures = page.evaluate("() => Bokeh.documents.flatMap(one => one.roots()).map(root => root.name)")
    assert sorted(figures) == ["classes", "units"]
    # what is saved with the notebook: nothing where the outline was, BokehJS, the explorer
    outputs = page.evaluate("() => notebookPage.code()[0].model.outputs.toJSON().map(output => Object.keys(output.data ?? {}))")
    widget = "application/vnd.jupyter.widget-view+json"
    assert [set(kinds) - {"text/plain"} for kinds in outputs] == [{"text/html"}, {"application/javascript"}, {widget}]


def test_a_click_changes_sentence_bars_and_images(notebook: NotebookPage, study: xr.Dataset, damage: xr.Dataset) -> None:
    page = notebook.page
    explorer = page.locator(".ul-explorer").first
    units, classes = Figure(page, "units"), Figure(page, "classes")
    pictures = explorer.locator(".ul-images img")
    present = int(explorer.locator(".ul-unit input").input_value())
    for unit, x, y in units_to_click(units, 3, but=present):
        bars, picture = classes.painted(), pictures.first.screenshot()
        units.click(x, y)
        check_unit(page, explorer, unit, study, damage)
        assert repainted(classes, bars) and share_near(classes.painted(), ORANGE) > 0.001
        assert pictures.first.screenshot() != picture
        # the picture on the screen is the one that came, and the ring is around the point
        sent = base64.b64decode(str(pictures.first.get_attribute("src")).partition(",")[2])
        seen = pixels_of(pictures.first.screenshot())
        side = min(seen.shape[:2])
        seen = seen[:, (seen.shape[1] - side) // 2 :][:side, :side]
        expected = np.asarray(Image.open(io.BytesIO(sent)).convert("RGB").resize((side, side), Image.Resampling.BILINEAR))
        assert np.abs(seen - expected).mean() < 12
        across, down = units.pixel(x, y)
        ring = pixels_of(page.screenshot(clip={"x": across - 12, "y": down - 12, "width": 24, "height": 24}))
        assert share_near(ring, ORANGE) > 0.05
    expect(explorer.locator(":scope > .ul-message")).to_be_hidden()


def test_a_click_is_one_message_to_the_kernel(notebook: NotebookPage) -> None:
    page, sent = notebook.page, []
    units = Figure(page, "units")
    before = int(page.locator(".ul-unit input").first.input_value())
    protocol = page.context.new_cdp_session(page)
    protocol.on("Network.webSocketFrameSent", lambda event: sent.append(event["response"]["payloadData"]))
    protocol.send("Network.enable")
    for unit, x, y in units_to_click(units, 2, but=before):
        units.click(x, y)
        expect(page.locator(".ul-unit input").first).to_have_value(str(unit))
        expect(page.locator(".ul-status").first).to_contain_text(f"unit {unit} of")
        units.expect_column("Scatter", "x", np.array([x]))
        page.wait_for_function("() => notebookPage.ready()")
    protocol.detach()
    assert len(sent) == 2, "the page sends back what the kernel tells it"


def test_search_sort_filter_step_and_lasso(notebook: NotebookPage, study: xr.Dataset, damage: xr.Dataset) -> None:
    page = notebook.page
    explorer = page.locator(".ul-explorer").first
    units = Figure(page, "units")

    search = explorer.locator(".ul-class input")
    search.fill("tool")
    search.press("Enter")
    unit = int(explorer.locator(".ul-unit input").input_value())
    drop = damage.accuracy_drop.sel(unit=unit, category="tool").item()
    expect(explorer.locator(".ul-headline")).to_contain_text("tool")
    expect(explorer.locator(".ul-headline")).to_contain_text(f"{points(abs(drop))} points")
    search.fill("")
    search.press("Enter")

    explorer.locator("button.ul-column-overall").click()
    largest = damage.unit.values[np.argsort(-damage.overall_drop.values, kind="stable")[:8]]
    numbers = explorer.locator(".ul-table tbody tr td:first-child, .ul-table tr:not(:has(th)) td:first-child")
    expect(numbers).to_have_text([str(number) for number in largest])
    explorer.locator(".ul-table-buttons button").nth(2).click(force=True)
    check_unit(page, explorer, int(largest[2]), study, damage)

    box = explorer.locator(".ul-unit input")
    box.press("ArrowUp")
    box.press("Enter")
    check_unit(page, explorer, (int(largest[2]) + 1) % 64, study, damage)

    found = explorer.locator(".ul-table .ul-caption")
    text = explorer.locator(".ul-filter input")
    text.fill("overall>0.5 max<20")
    text.press("Enter")
    kept = (100 * damage.overall_drop.values > 0.5) & (100 * damage.max_class_drop.values < 20)
    assert 0 < kept.sum() < 64
    expect(found).to_contain_text(f"of {kept.sum()}")
    expect(numbers.first).to_have_text(str(damage.unit.values[kept][np.argmax(damage.overall_drop.values[kept])]))
    text.fill("")
    text.press("Enter")
    expect(found).to_contain_text("of 64")

    group = units.lasso()
    assert 5 < len(group) < 30
    expect(explorer.locator(".ul-status")).to_contain_text(f"{len(group)} units in the group")


def test_another_study_and_back(notebook: NotebookPage, study: xr.Dataset, damage: xr.Dataset) -> None:
    page = notebook.page
    explorer = page.locator(".ul-explorer").first
    units, choice = Figure(page, "units"), explorer.locator(".ul-study select")
    other = unitlab.load("vgg_fashion")
    for name, ds, measured in (("vgg_fashion", other, unitlab.damage(other)), ("vgg_emoji", study, damage)):
        choice.select_option(name)
        expect(explorer.locator(".ul-status")).to_contain_text(f"of {ds.sizes['unit']} in {ds.attrs['layer']}")
        units.expect_column("Scatter", "x", 100 * ds.overall_drop.values)
        worst = int(measured.unit[measured.max_class_drop.values.argmax()])
        check_unit(page, explorer, worst, ds, measured)
        expect(explorer.locator(".ul-status")).not_to_contain_text("in the group")


def test_another_layer(notebook: NotebookPage) -> None:
    page = notebook.page
    explorer = page.locator(".ul-explorer").nth(1)
    explorer.locator(".ul-layer select").select_option("conv2")
    ds = unitlab.load("alexnet_fashion", layer="conv2")
    expect(explorer.locator(".ul-status")).to_contain_text(f"of {ds.sizes['unit']} in conv2")
    Figure(page, "units", place=1).expect_column("Scatter", "x", 100 * ds.overall_drop.values)
    expect(explorer.locator(".ul-unit input")).to_have_value("46" if 46 in ds.unit.values else str(int(ds.unit[0])))


def test_it_is_whole_in_both_themes_at_every_width(notebook: NotebookPage, output: Path) -> None:
    page = notebook.page
    explorer = page.locator(".ul-explorer").first
    for theme in ("Light", "Dark"):
        notebook.theme(f"JupyterLab {theme}")
        for width in (1000, 1400, 2000):
            page.set_viewport_size({"width": width, "height": 1000})
            units = Figure(page, "units")
            page.evaluate("() => notebookPage.frame('units', 0)")
            page.wait_for_timeout(300)  # ms; the page lays itself out anew after a resize
            explorer.screenshot(path=output / f"explorer_{theme.lower()}_{width}.png")
            box, cell = explorer.bounding_box(), page.locator(".jp-Cell-outputArea").first.bounding_box()
            assert box and cell and box["x"] + box["width"] <= cell["x"] + cell["width"] + 1
            assert share_near(units.painted(), "#0072b2", 60) > 0.001
            ground = units.painted()[3, 3]
            assert (ground > 200).all() if theme == "Light" else (ground < 80).all()


def test_the_box_at_the_pointer_has_the_colours_of_the_page(notebook: NotebookPage) -> None:
    page, units = notebook.page, Figure(notebook.page, "units")
    [(unit, x, y)] = units_to_click(units, 1, but=-1)
    for theme in ("Light", "Dark"):
        notebook.theme(f"JupyterLab {theme}")
        box = page.locator(".bk-Tooltip").filter(has_text="overall drop")
        for _ in range(20):  # a figure that is being laid out hears no pointer
            across, down = units.pixel(x, y)
            page.mouse.move(across + 60, down)
            page.mouse.move(across, down, steps=3)
            page.wait_for_timeout(250)
            if box.is_visible():
                break
        expect(box).to_contain_text(f"unit{unit}")
        color = [int(part) for part in box.evaluate("box => getComputedStyle(box).backgroundColor").strip("rgb()").split(", ")]
        assert min(color) > 200 if theme == "Light" else max(color) < 80


def test_every_tab_opens_and_the_report_works_alone(notebook: NotebookPage, jupyter: JupyterServer) -> None:
    page = notebook.page
    explorer = page.locator(".ul-explorer").first
    tabs = explorer.locator(".ul-tabs")
    for title in TABS:
        tabs.get_by_role("tab", name=title).click()
        shown = tabs.locator(".widget-tab-contents > :not(.lm-mod-hidden)")
        expect(shown).not_to_contain_text("Building this view", timeout=20_000)
        expect(shown).not_to_be_empty()
        expect(explorer.locator(":scope > .ul-message")).to_be_hidden()

    explorer.locator(".ul-write-report").click()
    expect(explorer.locator(".ul-files")).to_contain_text("Written to", timeout=60_000)
    report = jupyter.folder / explorer.locator(".ul-report-path input").input_value()
    with opened_page(page.context.browser) as alone:
        alone.goto(report.as_uri())
        other = alone.locator("#table tr:not([aria-current]) a").last
        unit = other.inner_text()
        other.click()
        expect(alone.locator("#finding")).to_contain_text(f"nit {unit}")
        expect(alone.locator("#unit")).to_have_value(unit)
