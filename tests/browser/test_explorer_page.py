"""The explorer's page against a kernel that is the test itself: every view, pointer and keyboard."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from axe_playwright_python.sync_playwright import Axe
from chromium import opened_page
from explorer_page import CUT, ExplorerPage, at_once
from PIL import Image
from playwright.sync_api import Browser, Page, expect
from simulated_study import simulated_study

import unitlab
from unitlab.views.findings import points, unit_finding

BAD = '</script><script>document.title="taken"</script><img src=x onerror="document.title=1">'
Show = Callable[..., ExplorerPage]


@pytest.fixture(scope="module")
def study() -> xr.Dataset:
    ds = simulated_study(24, 40, 1200, 3, flip_rate=0.1, specific_unit=4, specific_category=2, dead_units=(7,))
    names = ds.category.values.copy()
    names[5], names[6], names[7], names[8] = BAD, "alpine hut", "beach hut", "حديقة"
    return ds.assign_coords(category=names, image=np.array([f"{i}{BAD}" for i in range(1200)], object))


@pytest.fixture(scope="module")
def known(study: xr.Dataset) -> xr.Dataset:
    return unitlab.damage(study)


@pytest.fixture
def show(chromium: Browser, tmp_path: Path) -> Iterator[Show]:
    """Show an explorer; what the page fetches from outside or complains of is an error at the end."""
    with opened_page(chromium) as page:
        page.set_viewport_size({"width": 1300, "height": 1000})

        def shown(ds: xr.Dataset | str, **given: Any) -> ExplorerPage:
            with at_once():
                explorer = unitlab.explore(ds, **given)
            return ExplorerPage(page, explorer, tmp_path)

        yield shown


def rows(shown: ExplorerPage) -> list[int]:
    return [int(text) for text in shown.root.locator("#table tbody th").all_inner_texts()]


def bars(shown: ExplorerPage) -> list[str]:
    return shown.root.locator(".ul-classes tbody td:nth-child(3)").all_inner_texts()


def test_a_click_changes_sentence_bars_images_and_python(show: Show, study: xr.Dataset, known: xr.Dataset) -> None:
    shown = show(study, unit=4)
    expect(shown.root.locator(".ul-headline")).to_have_text(str(unit_finding(shown.explorer.measures, 4)))
    for unit in (11, 20):
        shown.page.mouse.click(*shown.point(unit))
        expect(shown.root.locator(".ul-headline")).to_have_text(str(unit_finding(shown.explorer.measures, unit)))
        drop = np.sort(known.accuracy_drop.sel(unit=unit).values)[::-1]
        assert bars(shown) == [points(value) for value in [*drop[:10], *drop[-3:]]]
        ids = [str(study.image.values[image]) for image in study.top_image.sel(unit=unit).values]
        expect(shown.root.locator(".ul-images [data-image]").first).to_have_attribute("data-image", ids[0])
        assert shown.root.locator(".ul-images [data-image]").evaluate_all("all => all.map(one => one.dataset.image)") == ids
        expect(shown.root.locator(".ul-table tr[aria-current]")).to_have_attribute("data-unit", str(unit))
        assert shown.explorer.unit == unit
    shown.explorer.unit = 9
    shown.sync()
    expect(shown.root.locator("#unit")).to_have_value("9")
    expect(shown.root.locator(".ul-headline")).to_contain_text("nit 9")
    assert shown.page.title() == "explorer"


def test_pictures_are_the_study_s_and_bright_inside_the_map(show: Show, study: xr.Dataset) -> None:
    shown = show(study, unit=3, image_style="none")
    read = "canvas => canvas.toDataURL('image/png')"
    canvas = shown.root.locator(".ul-images canvas").first

    def pixels() -> np.ndarray[Any, Any]:
        sent = base64.b64decode(canvas.evaluate(read).partition(",")[2])
        return np.asarray(Image.open(io.BytesIO(sent)).convert("RGB"))

    plain = pixels().astype(int)
    kept = study.thumbnails.values[study.top_image.values[3, 0]]
    large = np.repeat(np.repeat(kept, plain.shape[0] // kept.shape[0], 0), plain.shape[1] // kept.shape[1], 1)
    assert np.abs(plain.mean((0, 1)) - large.mean((0, 1))).max() < 12  # JPEG
    shown.explorer.image_style = "outline"
    shown.sync()
    outlined = pixels().astype(int)
    share = study.top_map.values[3, 0].astype(float)
    from unitlab.views.gallery import own_thresholds, picture_with_map

    # above the unit's own threshold
    least = own_thresholds(study, [3])[0][0] / study.top_activation.values[3, 0]
    bright = picture_with_map(np.full((*plain.shape[:2], 3), 200, np.uint8), share, least=least)[..., 0] == 200
    expect(shown.root.get_by_title("exceeds somewhere on")).to_contain_text("Threshold")
    same = np.abs(outlined - plain).max(2) == 0
    assert (same == bright).mean() > 0.97 and outlined[~bright].mean() < plain[~bright].mean()


def test_a_stack_of_points_is_gone_through(show: Show, study: xr.Dataset) -> None:
    twin = study.isel(unit=[4, 4, 9, 11]).assign_coords(unit=[4, 5, 9, 11])
    shown = show(twin, unit=9)
    for expected in (4, 5, 4):
        shown.page.mouse.click(*shown.point(5))
        expect(shown.root.locator("#unit")).to_have_value(str(expected))


def test_steps_wrap_and_gaps_are_stepped_over(show: Show, study: xr.Dataset) -> None:
    shown = show(study.isel(unit=[2, 5, 9]), unit=2)
    box = shown.root.locator("#unit")
    for key, expected in (("ArrowDown", "9"), ("ArrowUp", "2"), ("ArrowUp", "5"), ("ArrowUp", "9"), ("ArrowUp", "2")):
        box.press(key)
        expect(box).to_have_value(expected)
    box.fill("3")
    box.press("Enter")
    expect(box).to_have_value("5")


def test_a_class_is_found_by_part_of_its_name_and_drives_everything(show: Show, study: xr.Dataset, known: xr.Dataset) -> None:
    shown = show(study, unit=4)
    field, found = shown.root.locator("#class"), shown.root.locator("#found")
    for typed, said in (("hut", "2 classes: alpine hut, beach hut"), ("zebra", "no such class")):
        field.fill(typed)
        field.press("Enter")
        expect(found).to_have_text(said)
    assert shown.explorer.category == ""
    field.fill("ALPINE")
    field.press("Enter")
    expect(field).to_have_value("alpine hut")
    # vertical axis, table, sentence and images
    expect(shown.root.locator("#scatter .title").first).to_have_text("↑ accuracy drop of alpine hut (points)")
    drop = known.accuracy_drop.values[:, 6]
    assert rows(shown) == np.argsort(-drop, kind="stable")[: len(rows(shown))].tolist()
    expect(shown.root.locator(".ul-headline b")).to_have_text("alpine hut")
    expect(shown.root.locator("#top-of")).to_have_value("class")
    expect(shown.root.locator(".ul-images figcaption span").first).to_have_text("alpine hut")
    assert (shown.explorer.category, shown.explorer.y) == ("alpine hut", "accuracy_drop")
    # units that help it are as near as those that hurt
    shown.root.get_by_role("button", name="help it most").click()
    assert rows(shown)[0] == drop.argmin()
    shown.root.get_by_role("button", name="Back to all classes").click()
    expect(shown.root.locator("#scatter .title").first).to_have_text("↑ max class drop, cross-fitted (points)")
    expect(shown.root.locator("#top-of")).to_have_value("all")
    assert shown.explorer.category == "" and shown.explorer.y == "max_class_drop_crossfit"
    row = shown.root.locator(".ul-classes [data-category]").nth(2)
    name = row.get_attribute("data-category")
    row.click(position={"x": 300, "y": 1})  # the row's edge is the row
    expect(field).to_have_value(str(name))


def test_the_table_sorts_filters_and_opens(show: Show, study: xr.Dataset, known: xr.Dataset) -> None:
    shown = show(study, unit=4)
    heads = shown.root.locator("#heads")
    heads.get_by_role("button", name="overall, points").click()
    assert rows(shown) == np.argsort(-study.overall_drop.values, kind="stable")[: len(rows(shown))].tolist()
    heads.get_by_role("button", name="overall, points").click()
    assert rows(shown)[0] == study.overall_drop.values.argmin()
    height = shown.root.locator("#table tbody tr").nth(2).bounding_box()["height"]
    for place, y in ((2, 1), (6, height - 2), (7, 1)):  # low and high in a row is that row
        unit = rows(shown)[place]
        shown.root.locator("#table tbody tr").nth(place).click(position={"x": 60, "y": y})
        expect(shown.root.locator("#unit")).to_have_value(str(unit))
        assert shown.explorer.unit == unit
    field, where, wrong = (shown.root.locator(name) for name in ("#filter", "#rows", "#wrong"))
    p = known.p_specific.values
    largest, selective = 100 * known.max_class_drop.values, shown.explorer.measures.class_selectivity.values
    named = [study.category.values[k].startswith("class 2") for k in known.max_class.values]
    for written, kept in (
        ("p<=5e-2", p <= 0.05),
        ("p <= .05", p <= 0.05),
        ("unit>=3, max>4", (np.arange(24) >= 3) & (largest > 4)),
        ("class_selectivity>0.5", selective > 0.5),
        ("class 2 max>0", named & (largest > 0)),
    ):
        field.fill(written)
        kept = np.flatnonzero(kept)
        expect(where).to_have_text(f"1–{min(8, len(kept))} of {len(kept)}" if len(kept) else "no unit passes the filter")
        assert set(rows(shown)) <= set(kept.tolist())
        dimmed = shown.root.locator("circle.dimmed").evaluate_all("all => all.map(one => Number(one.dataset.unit))")
        assert not set(dimmed) & set(kept.tolist())
    field.fill("unit>20")
    shown.root.get_by_role("button", name="make it the group").click()
    expect(shown.root.locator(".grouped")).to_have_count(3)
    assert shown.explorer.group == (21, 22, 23)
    for written, said in (
        ("p<", "compares with no number"),
        ("max>.", "compares with no number"),
        ("speed>3", "no numbers called “speed”"),
    ):
        field.fill(written)
        expect(wrong).to_contain_text(said)
    field.fill("zebra")
    expect(where).to_have_text("no unit passes the filter")


def test_columns_are_chosen(show: Show, study: xr.Dataset) -> None:
    shown = show(study, unit=4)
    shown.root.get_by_text("Columns", exact=True).click()
    shown.root.locator("#columns").get_by_label("mutual information").check()
    shown.root.locator("#columns").get_by_label("p, specific").uncheck()
    heads = shown.root.locator("#heads th").evaluate_all("all => all.map(one => one.dataset.sort)")
    assert "mutual_information" in heads and "p_specific" not in heads


def test_a_lasso_fills_the_group_and_a_drag_zooms(show: Show, study: xr.Dataset) -> None:
    shown = show(study, unit=4)
    mouse = shown.page.mouse

    def drag(*, zooming: bool, beside: float = 0) -> list[int]:
        """Units in the rectangle drawn, or so many pixels ``beside`` it; what is written above may move the figure."""
        box = shown.root.locator("#scatter").bounding_box()
        left, right = (box["x"] + share * box["width"] for share in (0.3, 0.95))
        top, bottom = (box["y"] + share * box["height"] for share in (0.2, 0.75))
        places = {unit: shown.point(unit) for unit in range(24)}
        corners = [(left, top), (right, top), (right, bottom), (left, bottom)]
        mouse.move(*corners[0])
        mouse.down()
        for corner in corners[1:3] if zooming else [*corners[1:], corners[0]]:
            mouse.move(*corner, steps=6)
        mouse.up()
        return [
            unit for unit, (x, y) in places.items() if left - beside < x < right + beside and top - beside < y < bottom + beside
        ]

    inside = drag(zooming=False)
    expect(shown.root.locator(".grouped")).to_have_count(len(inside))
    assert 1 < len(inside) < 24 and list(shown.explorer.group) == inside
    shown.root.get_by_role("button", name="zoom", exact=True).click()
    # points at the edge, of which a part is in view, are drawn too
    around = drag(zooming=True, beside=5)
    expect(shown.root.locator("circle.point")).not_to_have_count(24)
    seen = shown.root.locator("circle.point").evaluate_all("all => all.map(one => Number(one.dataset.unit))")
    assert set(inside) <= set(seen) <= set(around)
    shown.root.get_by_role("button", name="Zoom out to all units").click()
    expect(shown.root.locator("circle.point")).to_have_count(24)


def test_axes_colour_line_and_the_band_of_chance(show: Show, study: xr.Dataset) -> None:
    shown = show(study.assign(blank=("unit", np.full(24, np.nan))), unit=4)
    known = shown.explorer.measures
    sure = shown.root.locator("circle.sure").evaluate_all("all => all.map(one => Number(one.dataset.unit))")
    assert sorted(sure) == np.flatnonzero(known.p_specific.values <= 0.05).tolist()
    expect(shown.root.locator(".chance")).to_have_count(1)
    shown.root.locator("#color").select_option("class_selectivity")
    strokes = shown.root.locator("circle.point").evaluate_all("all => all.map(one => getComputedStyle(one).stroke)")
    assert len(set(strokes)) > 10 and shown.explorer.color == "class_selectivity"
    shown.root.locator("#line").check()
    expect(shown.root.locator(".fit")).to_have_count(1)
    expect(shown.root.locator("#chance")).to_contain_text("Spearman")
    shown.root.locator("#x").select_option("blank")
    expect(shown.root.locator("#instead")).to_contain_text("No unit of conv5_3 has a value of “blank”")
    shown.root.locator("#x").select_option("l1_norm")
    expect(shown.root.locator("#instead")).to_be_hidden()
    expect(shown.root.locator(".chance")).to_have_count(1)
    assert shown.explorer.x == "l1_norm" and shown.explorer.line


def test_every_class_is_on_one_page(show: Show, study: xr.Dataset) -> None:
    shown, seen = show(study, unit=4), []
    for _ in range(5):
        seen += shown.root.locator(".ul-classes [data-category]").evaluate_all("all => all.map(one => one.dataset.category)")
        further = shown.root.get_by_role("button", name="Further classes")
        if further.is_disabled():
            break
        further.click()
    assert sorted(seen) == sorted(map(str, study.category.values))


def test_back_and_forward_go_over_units_and_classes(show: Show, study: xr.Dataset) -> None:
    shown = show(study, unit=4)
    box = shown.root.locator("#unit")
    for unit in ("9", "11"):
        box.fill(unit)
        box.press("Enter")
    shown.root.locator(".ul-classes [data-category]").first.click()
    box.press("Alt+ArrowLeft")
    expect(shown.root.locator("#class")).to_have_value("")
    expect(box).to_have_value("11")
    shown.root.get_by_role("button", name="Back to what was open before").click()
    expect(box).to_have_value("9")
    box.press("Alt+ArrowRight")
    expect(box).to_have_value("11")
    assert shown.explorer.unit == 11


def test_lost_and_won_images_and_where_they_go(show: Show, study: xr.Dataset) -> None:
    shown = show(study, unit=4)
    panel = shown.tab("Lost and won")
    label, before, after = study.label.values, study.baseline_prediction.values, study.prediction.values[4]
    lost = ((before == label) & (after != label)).sum()
    expect(panel.locator(".ul-sentence")).to_contain_text(f"{lost} are lost")
    expect(panel.locator("figure.ul-lost")).to_have_count(12)
    first = panel.locator("figure.ul-lost").first.get_attribute("data-image")
    panel.get_by_role("button", name="The next images").first.click()
    expect(panel.locator("figure.ul-lost").first).not_to_have_attribute("data-image", str(first))
    shown.explorer.unit = 7
    shown.sync()
    expect(panel.locator(".ul-sentence")).to_have_text("Without unit 7, the prediction of none of all 1,200 images changes.")
    shown.explorer.unit, shown.explorer.category = 4, BAD
    shown.sync()
    expect(panel.locator(".ul-sentence")).to_contain_text(BAD)
    assert shown.page.title() == "explorer"
    # names written from the right stand by themselves
    shown.explorer.category = ""
    shown.sync()
    expect(panel.locator("bdi").first).to_be_visible()


def test_the_class_tab(show: Show, study: xr.Dataset, known: xr.Dataset) -> None:
    shown = show(study, unit=4)
    panel = shown.tab("Class")
    expect(panel).to_contain_text("No class is chosen")
    panel.get_by_role("button", name="Open class 2").click()
    right = study.baseline_prediction.values[study.label.values == 2] == 2
    expect(panel.locator(".ul-sentence")).to_contain_text(f"{right.sum()} of the {len(right)} images of class 2")
    order = np.argsort(-known.accuracy_drop.values[:, 2], kind="stable")[:10]
    shown_units = panel.locator(".ul-unit-bars tr").evaluate_all("all => all.map(one => Number(one.dataset.unit))")
    assert shown_units[:10] == order.tolist() and order[0] == 4
    panel.locator(".ul-unit-bars tr").nth(1).click()
    assert shown.explorer.unit == order[1]
    expect(panel.locator(".ul-note-message")).to_contain_text("unitlab.ablate_groups(model, images")
    expect(panel.get_by_text("✗").first).to_be_visible()
    expect(panel.get_by_role("button", name="Compute the curve")).to_be_hidden()
    can = int((known.n_changed[:, 2] >= 6).sum())
    assert f"{can} of {study.sizes['unit']} units can be tested" in panel.inner_text()


def test_the_group_tab(show: Show, study: xr.Dataset) -> None:
    shown = show(study, unit=4)
    panel = shown.tab("Group")
    field, undo = panel.locator(".ul-group-units"), panel.get_by_role("button", name="Undo")
    panel.get_by_role("button", name="Add unit 4").click()
    expect(field).to_have_value("4")
    expect(panel.locator(".ul-sentence")).to_contain_text("silenced together")  # one unit: the study holds it
    field.fill("4, 9")
    field.press("Enter")
    drops = 100 * study.overall_drop.sel(unit=[4, 9]).values.sum()
    expect(panel.locator(".ul-sentence")).to_contain_text(f"the 2 units cost {drops:.1f}".replace("-", "−"))
    expect(panel.locator(".ul-code")).to_contain_text("units = [4, 9]")
    summed = 100 * study.accuracy_drop.sel(unit=[4, 9]).values.sum(0)
    expect(panel.locator(".ul-group-table tbody tr").first).to_contain_text(f"{summed.max():.1f}")
    expect(panel.locator(".ul-note-message")).to_contain_text("does not say how its network is built")
    undo.click()
    expect(field).to_have_value("4")
    undo.click()
    expect(undo).to_be_disabled()
    field.fill("3, 10-12")
    field.press("Enter")
    assert shown.explorer.group == (3, 10, 11, 12)
    for typed, said in (("3, x", "not a list of units"), ("99", "no unit 99")):
        field.fill(typed)
        field.press("Enter")
        expect(panel.locator(".ul-note-message")).to_contain_text(said)
        expect(field).to_have_value("3, 10, 11, 12")
    panel.get_by_role("button", name="Clear").click()
    assert shown.explorer.group == ()


def test_definitions_are_searched_by_words(show: Show, study: xr.Dataset) -> None:
    panel = show(study, unit=4).tab("Definitions")
    everything = panel.locator("dt").count()
    panel.locator(".ul-search").fill("chance max class")
    assert 0 < panel.locator("dt").count() < everything
    expect(panel).to_contain_text("max_class_drop_null")
    panel.locator(".ul-search").fill("zebra")
    expect(panel).to_contain_text("No definition has these words.")


def test_what_is_taken_away(show: Show, study: xr.Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shown = show(study, unit=4)
    panel, page = shown.tab("Take away"), shown.page
    expect(panel.locator(".ul-code")).to_contain_text(shown.explorer.code())
    shown.root.locator("#filter").fill("unit>20")
    expect(panel).to_contain_text("3 units that pass the filter")
    with page.expect_download() as taken:
        panel.get_by_role("button", name="CSV of units", exact=True).click()
    text = Path(taken.value.path()).read_text()
    assert taken.value.suggested_filename == "simulated_conv5_3_zero_units.csv" and len(text.splitlines()) == 4
    for kind in ("PNG", "SVG"):
        with (
            page.expect_download(lambda one: "_units" in one.suggested_filename) as units,
            page.expect_download(lambda one: "_classes" in one.suggested_filename) as classes,
        ):
            panel.get_by_role("button", name=kind).click()
        saved = [units.value, classes.value]
        assert all(one.suggested_filename.endswith(f".{kind.lower()}") for one in saved)
        for one in saved:
            content = Path(one.path()).read_bytes()
            if kind == "SVG":
                assert b"filled" in content and b"<title" not in content
            else:
                picture = Image.open(io.BytesIO(content))
                assert picture.width > 1000 and np.asarray(picture.convert("L")).std() > 10
    panel.get_by_role("button", name="Copy").click()
    expect(panel.get_by_text("Copied")).to_be_visible()
    shown.root.locator("#filter").fill("")
    with page.expect_download() as taken:
        panel.get_by_role("button", name="Write HTML report").click()
    expect(panel.locator(".ul-files")).to_contain_text("Written to")
    assert (tmp_path / taken.value.suggested_filename).read_bytes() == Path(taken.value.path()).read_bytes()


def test_a_page_without_its_kernel_says_so_and_goes_on(show: Show, study: xr.Dataset) -> None:
    shown = show(study, unit=4)
    known = shown.root.locator("#table tbody tr").nth(1).get_attribute("data-unit")  # fetched ahead
    shown.page.wait_for_timeout(300)
    shown.page.evaluate("die()")
    expect(shown.root.locator(".ul-message")).to_contain_text("kernel is gone: run the cell again")
    shown.root.locator("#table tbody tr").nth(1).click()
    expect(shown.root.locator(".ul-headline")).to_contain_text(f"nit {known}")
    shown.root.locator("#x").select_option("l1_norm")
    expect(shown.root.locator("#scatter .title").nth(1)).to_contain_text("norm")


def test_another_layer_from_the_page(show: Show, page: Page) -> None:
    shown = show("alexnet_fashion")
    first = shown.explorer.unit
    shown.root.locator("#layer").select_option("conv2")
    expect(shown.root.locator("#layer")).to_have_value("conv2")
    expect(shown.root.locator(".ul-headline")).to_contain_text(f"nit {shown.explorer.unit}")
    assert shown.explorer.layer == "conv2"
    shown.root.get_by_role("button", name="Back to what was open before").click()
    expect(shown.root.locator("#layer")).to_have_value("conv5")
    expect(shown.root.locator("#unit")).to_have_value(str(first))
    shown.root.locator("#study").select_option("vgg_fashion")
    expect(shown.root.locator(".ul-headline")).to_contain_text(
        str(unit_finding(shown.explorer.measures, shown.explorer.unit))[:30]
    )
    assert shown.explorer.study == "vgg_fashion"


def test_a_pinned_unit_is_compared_with_the_next(show: Show, study: xr.Dataset) -> None:
    shown = show(study, unit=4)
    panel, known = shown.tab("Compare"), unitlab.compare(study.sel(unit=4), study.sel(unit=9))
    expect(panel).to_contain_text("Pin a unit as A")
    panel.get_by_role("button", name="Pin unit 4 as A").click()
    shown.root.locator("#unit").fill("9")
    shown.root.locator("#unit").press("Enter")
    expect(panel.locator(".ul-sentence")).to_contain_text(f"both lose {100 * float(known.jaccard):.0f} %")
    k = int(np.abs(known.drop_difference.values).argmax())
    first = panel.locator(".ul-dumbbells tr").first
    expect(first).to_have_attribute("data-category", str(study.category.values[k]))
    limits = [points(float(known[name][k])) for name in ("drop_difference", "difference_low", "difference_high")]
    expect(first).to_contain_text(f"{limits[0]} ({limits[1]} to {limits[2]})")
    expect(panel.locator(".ul-equality circle")).to_have_count(40)
    expect(shown.root.locator(".pin")).to_have_count(1)
    number = int(known.n_lost_a.sum())
    panel.get_by_role("button", name=f"A alone loses {number} images").click()
    expect(panel.locator(".ul-lost")).to_have_count(min(12, number))
    panel.get_by_role("button", name="Open A, pin B").click()
    expect(shown.root.locator("#unit")).to_have_value("4")
    expect(panel.locator(".ul-sentence")).to_contain_text("A is unit 9")
    panel.get_by_role("button", name="Unpin").click()
    expect(panel.locator(".ul-sentence")).to_contain_text("Pin a unit as A")


def test_layers_are_compared_and_other_images_refused(show: Show) -> None:
    shown = show("alexnet_fashion")
    panel, a = shown.tab("Compare"), shown.explorer.unit
    panel.get_by_role("button", name=f"Pin unit {a} as A").click()
    shown.root.locator("#layer").select_option("conv2")
    expect(panel.locator(".ul-sentence")).to_contain_text("Of the images that either loses, both lose")
    shown.root.locator("#study").select_option("vgg_emoji")
    expect(panel.locator(".ul-sentence")).to_contain_text("of other images")


def test_the_wall_is_sorted_and_filtered_like_the_table(show: Show, study: xr.Dataset) -> None:
    shown = show(study, unit=4)
    wall = shown.root.locator(".ul-wall")
    shown.tab("Wall")
    tiles = wall.locator("[data-unit]")
    expect(tiles).to_have_count(24)
    order = tiles.evaluate_all("all => all.map(one => Number(one.dataset.unit))")
    assert order[: len(rows(shown))] == rows(shown)
    shown.root.locator("#filter").fill("unit>20")
    expect(tiles).to_have_count(3)
    tiles.nth(1).click()
    assert shown.explorer.unit in (21, 22, 23)
    expect(wall.locator("[aria-current]")).to_have_attribute("data-unit", str(shown.explorer.unit))


def test_a_clicked_picture_says_which_units_lose_it(show: Show, study: xr.Dataset) -> None:
    shown = show(study, unit=4)
    figure = shown.tab("Lost and won").locator("figure.ul-lost").first
    image = list(study.image.values).index(figure.get_attribute("data-image"))
    figure.click()
    panel = shown.root.locator(".ul-try")
    label = study.label.values[image]
    lost = np.flatnonzero(study.prediction.values[:, image] != label)
    assert 4 in lost
    expect(panel).to_contain_text(f"{len(lost)} unit")
    units = panel.locator("[data-loser]").evaluate_all("all => all.map(one => Number(one.dataset.loser))")
    assert sorted(units) == lost.tolist()
    # without its network, what the study holds of it is all there is
    expect(panel.locator(".ul-note-message")).to_contain_text("does not say how its network is built")


def test_a_picture_goes_through_the_network(show: Show, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    shown = show("vgg_emoji", unit=15)
    figure = shown.root.locator(".ul-images [data-image]").first
    figure.click()
    panel = shown.root.locator(".ul-try")
    sentence, table = panel.locator(".ul-sentence"), panel.locator(".ul-unit-bars th")
    expect(sentence).to_contain_text("With every unit as it is", timeout=30_000)  # torch is imported
    expect(panel.locator("canvas")).to_be_visible()
    chip = panel.locator(".ul-chips [data-unit]").first
    unit, before = int(str(chip.get_attribute("data-unit"))), table.all_inner_texts()
    chip.click()
    expect(sentence).to_contain_text(f"With unit {unit} silenced")
    # chips, group and squares are one state; rows stay where they were
    assert shown.explorer.group == (unit,)
    expect(shown.root.locator(".grouped")).to_have_count(1)
    kept = [name for name in table.all_inner_texts() if name in before]
    assert kept == [name for name in before if name in kept]
    panel.get_by_role("slider", name="strength of the chosen units").fill("1.5")
    expect(sentence).to_contain_text("at 1.5×")
    panel.get_by_role("button", name="Reset").click()
    expect(sentence).to_contain_text("With every unit as it is")
    picture = tmp_path / "own.png"
    Image.fromarray(np.full((90, 120, 3), 200, np.uint8)).save(picture)
    panel.get_by_label("a picture of your own").set_input_files(picture)
    expect(panel.locator("canvas")).to_have_attribute("height", "90")
    shown.explorer.image = str(shown.explorer.ds.image.values[5])
    shown.sync()
    expect(panel.locator("canvas")).to_have_attribute("height", "128")


def test_two_views_of_one_explorer_follow_each_other(show: Show, study: xr.Dataset) -> None:
    shown = show(study, unit=4)
    shown.page.evaluate("showAgain()")
    other = shown.page.locator("#again .ul-explorer")
    expect(other.locator(".ul-images canvas").first).to_be_visible()
    other.locator(".ul-table tbody tr").nth(2).click()
    unit = shown.explorer.unit
    for root in (shown.root, other):
        expect(root.locator("#unit")).to_have_value(str(unit))
        expect(root.locator(".ul-headline")).to_contain_text(f"nit {unit}")
        ids = [str(study.image.values[image]) for image in study.top_image.sel(unit=unit).values]
        expect(root.locator(".ul-images [data-image]").first).to_have_attribute("data-image", ids[0])


def test_what_drops_are_made_of(show: Show, study: xr.Dataset, known: xr.Dataset) -> None:
    shown = show(study, unit=4)
    cells = shown.tab("Made of").locator("#accuracies tr").first.locator("td").all_inner_texts()
    row = known.sel(unit=4).isel(category=int(known.accuracy_drop.sel(unit=4).argmax("category")))
    assert cells[:3] == [points(float(row[name])) for name in ("accuracy_drop", "precision_drop", "balanced_accuracy_drop")]
    assert float(cells[3].replace("−", "-")) == pytest.approx(float(row.margin_drop), abs=0.006)


SERIOUS = ("serious", "critical")


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_axe_finds_nothing_serious(show: Show, study: xr.Dataset, theme: str) -> None:
    shown = show(study, unit=4, category="class 2", selection=[3, 5])
    shown.page.emulate_media(color_scheme=theme)
    shown.page.add_style_tag(content="html { color-scheme: light dark; background: light-dark(#fff, #111); }")
    expect(shown.root).to_have_css("color", {"light": "rgb(29, 36, 48)", "dark": "rgb(231, 235, 240)"}[theme])
    shown.tab("Compare").get_by_role("button", name="Pin unit 4 as A").click()
    shown.root.locator("#unit").fill("9")
    shown.root.locator("#unit").press("Enter")
    for title in ("Lost and won", "Class", "Group", "Made of", "Compare", "Wall", "Try an image", "Definitions", "Take away"):
        if shown.root.get_by_role("tab", name=title, exact=True).get_attribute("aria-selected") != "true":
            shown.tab(title)
        shown.page.wait_for_timeout(200)
        found = [one for one in Axe().run(shown.page).response["violations"] if one["impact"] in SERIOUS]
        assert not found, [(one["id"], one["nodes"][0]["html"][:200], one["nodes"][0]["failureSummary"]) for one in found]


def test_chosen_names_are_whole(show: Show) -> None:
    shown = show("vgg_emoji", unit=15)
    expect(shown.root.locator("#y")).to_have_value("max_class_drop_crossfit")
    tall = []
    for width in (1000, 1200, 1366, 1400, 2000):
        shown.page.set_viewport_size({"width": width, "height": 900})
        shown.page.wait_for_timeout(200)
        assert shown.root.evaluate(CUT) == [], width
        tall.append(shown.root.locator("#scatter").evaluate("svg => svg.clientHeight"))
    assert min(tall) >= 220, tall


def test_one_tab_stop_a_view_and_arrows_inside(show: Show, study: xr.Dataset) -> None:
    shown = show(study, unit=4)
    box = shown.root.locator("#unit")
    shown.root.locator("#scatter").focus()
    shown.page.keyboard.press("ArrowLeft")
    expect(box).not_to_have_value("4")
    for view, stops in ((".ul-classes tbody", 1), ("#table tbody", 1), ("#tab-heads", 1)):
        assert shown.root.locator(f"{view} [tabindex='0'], {view} button[role=tab]:not([tabindex='-1'])").count() >= stops
        assert shown.root.locator(f"{view} [tabindex='0']").count() == stops
    # every bar by arrows, and a class by the space key
    first = shown.root.locator(".ul-classes [role=button][tabindex='0']")
    first.focus()
    for _ in range(3):
        shown.page.keyboard.press("ArrowDown")
    name = shown.root.locator(".ul-classes [data-category]").nth(3).get_attribute("data-category")
    shown.page.keyboard.press(" ")
    expect(shown.root.locator("#class")).to_have_value(str(name))
    shown.root.locator("#table tr[tabindex='0']").focus()
    opened = box.input_value()
    shown.page.keyboard.press("ArrowDown")
    expect(box).not_to_have_value(opened)
    # the ring is the project's own
    ring = shown.root.locator("#table tr[tabindex='0']").evaluate(
        "row => getComputedStyle(row).outlineColor + getComputedStyle(row).outlineWidth"
    )
    assert ring.startswith("rgb(0, 114, 178)") and ring.endswith("2px")


def test_units_are_called_by_their_names(show: Show, study: xr.Dataset) -> None:
    names = pd.DataFrame({"label": ["snow", BAD], "score": [0.31, np.nan]}, index=[4, 9])
    named = unitlab.concepts.labelled(study, names, source="looked at").assign(iou=("unit", np.linspace(0, 1, 24)))
    shown = show(named, unit=4)
    expect(shown.root.locator(".ul-headline")).to_contain_text("Its name: snow, from looked at, score 0.31.")
    cell = shown.root.locator("#table tr[data-unit='4'] .name").first
    expect(cell).to_have_text("snow")
    expect(cell).to_have_attribute("title", "snow, from looked at, score 0.31")
    shown.page.mouse.move(*shown.point(4))
    expect(shown.root.locator("#tip")).to_contain_text("snow, from looked at")
    shown.root.locator("#y").select_option("iou")
    expect(shown.root.locator("#scatter .title").first).to_have_text("↑ intersection over union")
    for written, kept in (("SNO", [4]), ("iou>0.9", [21, 22, 23])):
        shown.root.locator("#filter").fill(written)
        expect(shown.root.locator("#rows")).to_contain_text(f"of {len(kept)}")
        assert sorted(rows(shown)) == kept
    assert shown.page.title() == "explorer"


def test_chosen_columns_are_remembered_for_the_study(show: Show, study: xr.Dataset) -> None:
    shown = show(study, unit=4)
    shown.root.get_by_text("Columns", exact=True).click()
    shown.root.locator("#columns").get_by_label("p, specific").uncheck()
    heads = "all => all.map(one => one.dataset.sort)"
    kept = shown.root.locator("#heads th").evaluate_all(heads)
    shown.page.evaluate("showAgain()")
    other = shown.page.locator("#again .ul-explorer")
    expect(other.locator("#heads th")).to_have_count(len(kept))
    assert other.locator("#heads th").evaluate_all(heads) == kept and "p_specific" not in kept


def test_a_brush_on_the_picture_silences_there_alone(show: Show) -> None:
    pytest.importorskip("torch")
    shown = show("vgg_emoji", unit=15, selection=[15, 16])
    shown.root.locator(".ul-images [data-image]").first.click()
    panel, mouse = shown.root.locator(".ul-try"), shown.page.mouse
    sentence = panel.locator(".ul-sentence")
    expect(sentence).to_contain_text("With units 15, 16 silenced", timeout=30_000)
    panel.locator(".ul-brush").scroll_into_view_if_needed()
    box = panel.locator(".ul-brush canvas").bounding_box()
    assert box is not None
    mouse.move(box["x"] + 0.1 * box["width"], box["y"] + 0.2 * box["height"])
    mouse.down()
    mouse.move(box["x"] + 0.6 * box["width"], box["y"] + 0.7 * box["height"], steps=4)
    mouse.up()
    expect(sentence).to_contain_text("in the brushed part")
    expect(panel.locator(".ul-region")).to_be_visible()
    asks = shown.page.evaluate("told.flatMap(one => one.asks ?? []).filter(one => one.kind === 'try')")
    assert asks[-1]["region"] == pytest.approx([0.1, 0.2, 0.6, 0.7], abs=0.02)
    panel.get_by_role("button", name="Everywhere").click()
    expect(sentence).not_to_contain_text("brushed")
