"""The report in Chromium, opened as a file: linked without kernel, server or network."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from explorer_page import CUT
from playwright.sync_api import expect
from simulated_study import simulated_study

import unitlab
from unitlab.analysis.correlations import measures
from unitlab.views.findings import points, unit_finding
from unitlab.views.report import report

BAD = '</script><script>document.title="taken"</script><img src=x onerror="document.title=1">'


@pytest.fixture(scope="module")
def study() -> xr.Dataset:
    ds = simulated_study(24, 40, 1200, 3, flip_rate=0.1, specific_unit=4, specific_category=2, dead_units=(7,))
    names = ds.category.values.copy()
    names[2] = BAD
    return ds.assign_coords(category=names, image=np.array([f"{i}{BAD}" for i in range(1200)], object))


@pytest.fixture(scope="module")
def written(study: xr.Dataset, tmp_path_factory: pytest.TempPathFactory) -> str:
    return report(study, tmp_path_factory.mktemp("report") / "report.html").as_uri()


@pytest.fixture
def tab(chromium: Any) -> Iterator[Any]:
    """A page; whatever it asks for besides the file and whatever it complains of fails the test."""
    page = chromium.new_page(viewport={"width": 1400, "height": 900})
    problems: list[str] = []
    page.on("console", lambda message: problems.append(message.text))
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("request", lambda request: request.url.startswith(("file:", "data:")) or problems.append(request.url))
    yield page
    assert problems == []
    page.close()


def shown_bars(tab: Any) -> list[str]:
    return tab.locator("#bars td:nth-child(3)").all_inner_texts()


def test_names_of_units_are_in_sentence_and_table_and_are_found(tab: Any, study: xr.Dataset, tmp_path: Path) -> None:
    names = pd.DataFrame({"label": ["eyes", BAD], "score": [0.5, 0.2]}, index=pd.Index([11, 20], name="unit"))
    named = unitlab.concepts.labelled(study, names, source="looked at")
    tab.goto(report(named, tmp_path / "report.html").as_uri() + "#unit-11")
    expect(tab.locator("#finding")).to_contain_text("eyes")
    tab.get_by_placeholder("a class or name").fill("eyes")
    rows = tab.locator(".ul-table tbody tr")
    expect(rows).to_have_count(1)
    expect(rows).to_have_attribute("data-unit", "11")
    expect(rows).to_contain_text("eyes")
    tab.goto(tab.url.replace("#unit-11", "#unit-20"))
    expect(tab.locator("#finding")).to_contain_text(BAD)
    assert tab.title() not in ("taken", "1")


def test_a_click_on_a_unit_changes_sentence_bars_and_pictures(tab: Any, written: str, study: xr.Dataset) -> None:
    known = measures(study)
    tab.goto(written)
    expect(tab.locator("#finding")).to_have_text(str(unit_finding(known, 4)))
    assert tab.title() != "taken" and tab.url.endswith("#unit-4")
    before = tab.locator("#pictures canvas").first.evaluate("canvas => canvas.toDataURL()")
    for unit in (11, 20):
        # a point hidden by another one takes a second click
        for _ in range(4):
            tab.locator(f"#scatter circle[data-unit='{unit}']").click(force=True)
            if tab.url.endswith(f"#unit-{unit}"):
                break
        expect(tab.locator("#finding")).to_have_text(str(unit_finding(known, unit)))
        drop = np.sort(known.accuracy_drop.sel(unit=unit).values)[::-1]
        assert shown_bars(tab) == [points(value) for value in [*drop[:10], *drop[-3:]]]
        ids = [str(study.image.values[i]) for i in study.top_image.sel(unit=unit).values]
        expect(tab.locator("#pictures figure").first).to_have_attribute("data-image", ids[0])
        shown = tab.locator("#pictures figure").evaluate_all("all => all.map(each => each.dataset.image)")
        assert shown == ids and tab.locator("#pictures canvas").first.evaluate("canvas => canvas.toDataURL()") != before
        # recall, precision, balanced accuracy and margin of the most damaged class stand side by side
        cell = known.sel(unit=unit).isel(category=int(known.accuracy_drop.sel(unit=unit).argmax("category")))
        names = ("accuracy_drop", "precision_drop", "balanced_accuracy_drop")
        shown = tab.locator("#accuracies tr").first.locator("td").all_inner_texts()
        for text, name in zip(shown, names, strict=False):
            assert abs(float(text.replace("−", "-")) - 100 * float(cell[name])) < 0.06
        assert abs(float(shown[3].replace("−", "-")) - float(cell.margin_drop)) < 0.011
        assert tab.locator("#pictures figure").count() == 6
        assert tab.locator("#table tr[aria-current] a").inner_text() == str(unit)
    tab.go_back()
    expect(tab.locator("#unit")).to_have_value("11")


def test_the_anchor_opens_a_unit(tab: Any, written: str) -> None:
    tab.goto(written + "#unit-7")
    expect(tab.locator("#finding")).to_contain_text("Unit 7 is never active")
    expect(tab.locator("#pictures")).to_contain_text("No image activates unit 7.")
    tab.goto(written + "#unit-9")
    expect(tab.locator("#unit")).to_have_value("9")
    tab.goto(written + "#unit-999")
    expect(tab.locator("#unit")).to_have_value("9")


def test_everything_goes_by_keyboard(tab: Any, written: str, study: xr.Dataset) -> None:
    tab.goto(written)
    expect(tab.locator("#unit")).to_have_value("4")
    tab.locator("#scatter").focus()
    tab.keyboard.press("ArrowLeft")
    expect(tab.locator("#unit")).not_to_have_value("4")
    tab.locator("#unit").fill("13")
    tab.keyboard.press("Enter")
    assert tab.url.endswith("#unit-13")
    tab.locator("#unit").press("ArrowUp")
    assert tab.url.endswith("#unit-14")
    tab.locator("#class").fill("class 17")
    tab.keyboard.press("Enter")
    assert tab.locator("#scatter .title").first.text_content() == "↑ accuracy drop of class 17 (points)"
    tab.locator("#table th button", has_text="overall").press("Enter")
    first = tab.locator("#table tbody tr").first.locator("a").inner_text()
    assert study.overall_drop.sel(unit=int(first)) == study.overall_drop.max()
    tab.locator("#more").press("Enter")
    assert tab.locator("#which").inner_text() == "11–23 of 40"


def test_without_scripts_the_table_holds_every_unit(chromium: Any, written: str) -> None:
    context = chromium.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(written + "#unit-20")
    assert page.locator("#every-unit tbody tr").count() == 24
    assert page.locator("#scatter").is_hidden() and page.locator("noscript .ul-note-message").is_visible()
    context.close()


def test_it_fits_narrow_windows_and_paper(tab: Any, written: str, tmp_path: Path) -> None:
    tab.goto(written)
    for width in (1400, 760, 400):
        tab.set_viewport_size({"width": width, "height": 900})
        assert tab.evaluate("document.documentElement.scrollWidth <= innerWidth"), width
    assert tab.locator("details[open]").count() == 0
    tab.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert tab.locator("details.definitions[open]").count() == 2 and tab.locator("#table tbody tr").count() == 24
    tab.evaluate("dispatchEvent(new Event('afterprint'))")
    assert tab.locator("#table tbody tr").count() == 15
    tab.pdf(path=tmp_path / "report.pdf", format="A4")
    pages = (tmp_path / "report.pdf").read_bytes().count(b"/Type /Page\n")
    assert pages > 2  # with every unit and every definition


def test_the_report_has_the_wall(tab: Any, written: str) -> None:
    tab.goto(written)
    tab.get_by_role("tab", name="Wall").click()
    expect(tab.locator(".ul-wall [data-unit]")).to_have_count(24)
    expect(tab.locator(".ul-wall canvas")).to_have_count(23)  # one unit is dead
    tab.locator(".ul-wall [data-unit='11']").click()
    expect(tab.locator("#unit")).to_have_value("11")


def test_the_report_compares_two_units(tab: Any, written: str, study: xr.Dataset) -> None:
    import unitlab

    tab.goto(written + "#unit-9")
    tab.get_by_role("tab", name="Compare").click()
    panel = tab.locator(".ul-tab[data-title='Compare']")
    panel.get_by_role("button", name="Pin unit 9 as A").click()
    tab.locator("#unit").fill("4")
    tab.keyboard.press("Enter")
    known = unitlab.compare(study.sel(unit=9), study.sel(unit=4))
    both = int(known.n_lost_both.sum())
    expect(panel.get_by_role("button", name="both lose")).to_have_text(f"both lose {both} image{'' if both == 1 else 's'}")
    expect(panel).to_contain_text(f"both lose {100 * float(known.jaccard):.0f} %")
    rows = panel.locator(".ul-dumbbells tr")
    expect(rows).to_have_count(13)
    for row in rows.all():
        k = list(study.category.values).index(row.get_attribute("data-category"))
        difference, low, high = (known[name].values[k] for name in ("drop_difference", "difference_low", "difference_high"))
        assert row.locator("td").last.inner_text() == f"{points(difference)} ({points(low)} to {points(high)})"
    panel.get_by_role("button", name="A alone loses").click()
    alone = int(known.n_lost_a.sum())
    expect(panel.locator("figure.ul-lost")).to_have_count(min(12, alone))
    expect(panel).to_contain_text("Most alike to unit 4")


def test_names_are_whole_in_a_window_of_1000_pixels(tab: Any, tmp_path: Path) -> None:
    tab.goto(report("vgg_emoji", tmp_path / "report.html").as_uri())
    tab.set_viewport_size({"width": 1000, "height": 900})
    tab.wait_for_timeout(300)
    assert tab.locator("#bars").inner_text().startswith("face-neutral-skeptical (61)")
    assert tab.locator("main").evaluate(CUT) == []
