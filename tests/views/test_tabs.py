"""The tabs without a browser: what they hold follows the state and is what the study says."""

from __future__ import annotations

import base64
import html
import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from simulated_study import simulated_study

import unitlab

pytest.importorskip("ipywidgets")
pytest.importorskip("jupyter_bokeh")

from unitlab.views.explorer.background import BackgroundWork
from unitlab.views.explorer.tabs.category import Category
from unitlab.views.explorer.tabs.definitions import Definitions
from unitlab.views.explorer.tabs.group import Group
from unitlab.views.explorer.tabs.lost_and_won import LostAndWon
from unitlab.views.explorer.tabs.take_away import TakeAway

BAD = "<script>alert(1)</script>"


@pytest.fixture(scope="module")
def study() -> xr.Dataset:
    ds = simulated_study(20, 6, 300, 3, flip_rate=0.15, specific_unit=4, specific_category=2, dead_units=(7,))
    names = ds.category.values.copy()
    names[5] = BAD
    return ds.assign_coords(category=names)


@pytest.fixture
def explorer(study: xr.Dataset) -> Any:
    return unitlab.explore(study, unit=4)


def text_of(markup: str) -> str:
    return html.unescape(re.sub(r"<[^>]+>", "", markup))


def saved(markup: str) -> bytes:
    found = re.search(r'data-content="([^"]+)"', markup)
    assert found is not None
    return base64.b64decode(found[1])


def test_every_tab_is_built_when_it_is_opened_and_not_before(explorer: Any) -> None:
    assert explorer.tabs.open_title == "" and explorer.tabs.built == set()
    for place, title in enumerate(explorer.tabs.titles):
        explorer.tabs.widget.selected_index = place
        assert title in explorer.tabs.built and explorer._said.value == ""
        assert "ul-tab" in explorer.tabs.pages[place].children[0]._dom_classes
    assert len(explorer.tabs.titles) == 5


def test_lost_and_won_images_are_those_that_the_ablation_changes(explorer: Any, study: xr.Dataset) -> None:
    tab = LostAndWon(explorer)
    label, before = study.label.values, study.baseline_prediction.values
    for unit, category in ((4, ""), (4, "class 2"), (11, "class 0")):
        explorer.state.unit, explorer.state.category = unit, category
        tab.show()
        after = study.prediction.sel(unit=unit).values
        here = np.ones(300, bool) if not category else study.category.values[label] == category
        lost = np.flatnonzero(here & (before == label) & (after != label))
        won = np.flatnonzero(here & (before != label) & (after == label))
        assert sorted(tab.lost.images) == lost.tolist() and sorted(tab.won.images) == won.tolist()
        assert f"{len(lost)} are lost" in text_of(tab.sentence.value) and f"{len(won)} won" in text_of(tab.sentence.value)
        drop = study.label_margin_drop.sel(unit=unit).values
        assert (np.diff(drop[tab.lost.images]) <= 0).all()
        gone = {int(count) for count in re.findall(r"<td>(\d+)</td>", tab.moved.value)}
        counted = unitlab.confusion(study, unit).n_lost.values
        counted = counted if not category else counted[list(study.category.values).index(category)]
        assert max(gone) == counted.max()


def test_images_are_turned_page_by_page(explorer: Any) -> None:
    tab = LostAndWon(explorer)
    assert len(tab.lost.images) > 12 and tab.lost.grid.value.count("<img") == 12
    first = tab.lost.grid.value
    assert tab.lost.back.disabled and not tab.lost.forward.disabled
    tab.lost.forward.click()
    assert tab.lost.grid.value != first and not tab.lost.back.disabled
    tab.lost.back.click()
    assert tab.lost.grid.value == first


def test_a_dead_unit_loses_nothing_and_names_stay_text(explorer: Any, study: xr.Dataset) -> None:
    tab = LostAndWon(explorer)
    explorer.state.unit = 7
    tab.show()
    assert "none of all 300 images changes" in text_of(tab.sentence.value)
    explorer.state.unit, explorer.state.category = 4, BAD
    tab.show()
    assert BAD not in tab.sentence.value + tab.lost.grid.value + tab.moved.value
    without = unitlab.explore(study.drop_vars("thumbnails"), unit=4)
    assert "image-0" in LostAndWon(without).lost.grid.value


def test_the_class_tab_has_accuracy_and_units_of_its_class(explorer: Any, study: xr.Dataset) -> None:
    tab = Category(explorer)
    assert "No class is chosen" in text_of(tab.sentence.value)
    tab.open_worst.click()
    assert explorer.state.category == "class 2"
    tab.show()
    right = study.baseline_prediction.values[study.label.values == 2] == 2
    assert f"{right.sum()} of the {len(right)} images of class 2" in text_of(tab.sentence.value)
    from statsmodels.stats.proportion import proportion_confint

    low, high = proportion_confint(right.sum(), len(right), method="wilson")
    assert f"95 % interval {100 * low:.1f} to {100 * high:.1f}" in text_of(tab.sentence.value)
    drop = study.accuracy_drop.values[:, 2]
    assert tab.shown == np.argsort(-drop, kind="stable")[:10].tolist() and tab.shown[0] == 4
    assert f"{100 * drop[4]:.1f} (" in text_of(tab.bars[0].value)
    tab.buttons[1].click()
    assert explorer.state.unit == tab.shown[1]
    assert "✗" in tab.images.grid.value


def test_the_class_tab_says_what_a_live_curve_needs(explorer: Any) -> None:
    explorer.state.category = "class 1"
    tab = Category(explorer)
    assert tab.curve.compute.layout.display == "none"
    assert "unitlab.ablate_groups(model, images" in text_of(tab.curve.said.value)


def test_a_class_without_images_is_said() -> None:
    explorer = unitlab.explore(simulated_study(5, 4, 60, empty_categories=(1,)), category="class 1")
    assert "no image of class 1" in text_of(Category(explorer).sentence.value)


def test_a_group_is_collected_undone_and_written_as_code(explorer: Any, study: xr.Dataset) -> None:
    tab = Group(explorer)
    tab.add.click()
    explorer.state.unit = 9
    explorer.state.selection = (*explorer.state.selection, 9)
    tab.show()
    assert explorer.state.selection == (4, 9) and tab.units.value == "4, 9"
    drops = 100 * study.overall_drop.sel(unit=[4, 9]).values.sum()
    assert f"One at a time, the 2 units cost {drops:.1f} points" in text_of(tab.sentence.value)
    assert "units = [4, 9]" in text_of(tab.code.value)
    summed = 100 * study.accuracy_drop.sel(unit=[4, 9]).values.sum(0)
    assert f"{summed.max():.1f}" in text_of(tab.table.value)
    tab.undo.click()
    assert explorer.state.selection == (4,)
    tab.undo.click()
    assert explorer.state.selection == () and tab.undo.disabled
    explorer.state.selection = (1, 2)
    later = Group(explorer)  # the tab is opened after the lasso
    assert not later.undo.disabled
    later.undo.click()
    assert explorer.state.selection == ()
    tab.units.value = "3, 10-12"
    assert explorer.state.selection == (3, 10, 11, 12)
    tab.units.value = "3, x"
    assert "not a list of units" in text_of(tab.said.value) and tab.units.value == "3, 10, 11, 12"
    tab.units.value = "99"
    assert "no unit 99" in text_of(tab.said.value) and explorer.state.selection == (3, 10, 11, 12)
    tab.clear.click()
    assert explorer.state.selection == ()


def test_one_unit_together_is_what_the_study_holds(explorer: Any) -> None:
    explorer.state.selection = (4,)
    tab = Group(explorer)
    assert "silenced together" in text_of(tab.sentence.value)
    cell = explorer.study.measures.sel(unit=4).isel(category=2)
    assert f"{100 * float(cell.accuracy_drop):.1f} ({100 * float(cell.drop_low):.1f} to" in text_of(tab.table.value)


def test_a_study_without_a_recipe_says_what_a_group_needs(explorer: Any) -> None:
    explorer.state.selection = (4, 9)
    tab = Group(explorer)
    assert tab.measure.layout.display == "none"
    assert "does not say how its network is built" in text_of(tab.said.value)


def test_definitions_are_searched_by_words(explorer: Any) -> None:
    tab = Definitions(explorer)
    everything = tab.found.value.count("<dt>")
    assert everything > 50
    tab.search.value = "chance max class"
    assert 0 < tab.found.value.count("<dt>") < everything and "max_class_drop_null" in tab.found.value
    tab.search.value = "zebra"
    assert "No definition" in tab.found.value


def test_tables_are_taken_away_as_csv(explorer: Any, study: xr.Dataset) -> None:
    tab = TakeAway(explorer)
    tab.units_csv.click()
    table = pd.read_csv(io.BytesIO(saved(tab.files.value)), index_col="unit")
    assert len(table) == 20
    np.testing.assert_allclose(table["overall_drop"], study.overall_drop)
    explorer.state.selection = (9, 4)
    tab.show()
    assert "2 units of the group" in text_of(tab.which.value)
    tab.cells_csv.click()
    cells = pd.read_csv(io.BytesIO(saved(tab.files.value))).set_index(["unit", "class"])
    assert len(cells) == 12 and cells.index[0][0] == 9
    found = unitlab.damage(study)
    assert cells.loc[(4, "class 2"), "q_value"] == pytest.approx(float(found.q_value.sel(unit=4, category="class 2")))


def test_code_and_report_are_taken_away(explorer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    tab = TakeAway(explorer)
    assert explorer.code() in text_of(tab.code.value)
    tab.write_report.click()
    written = tmp_path / "simulated_conv5_3_zero.html"
    assert str(written) in text_of(tab.files.value) and saved(tab.files.value) == written.read_bytes()
    tab.path.value = "nowhere/report.html"
    tab.write_report.click()
    assert "There is no folder" in text_of(tab.files.value)


def test_more_than_512_units_need_a_group(tmp_path: Path) -> None:
    explorer = unitlab.explore(simulated_study(513, 2, 12, thumbnails=False))
    tab = TakeAway(explorer)
    assert tab.write_report.disabled and "at most 512 units" in text_of(tab.files.value)
    explorer.state.selection = (3, 500)
    tab.show()
    assert not tab.write_report.disabled


def test_background_work_tells_ends_and_fails() -> None:
    work, told, failed = BackgroundWork(), [], []

    def count(progress: Any) -> int:
        assert "ul-preparing" in work.widget._dom_classes
        progress(3, 3)
        assert "ul-preparing" not in work.widget._dom_classes
        told.append((work.bar.value, work.bar.max, work.running))
        return 5

    work.start("counting", count, told.append, failed.append)
    assert told == [(3, 3, True), 5] and not work.running and work.widget.layout.display == "none"
    work.start("failing", lambda progress: unitlab.load("vgg_fashon"), told.append, failed.append)
    assert len(failed) == 1 and "Did you mean 'vgg_fashion'" in failed[0]

    def stopped(progress: Any) -> None:
        work.stop()
        progress(1, 3)

    work.start("stopped", stopped, told.append, failed.append)
    assert len(told) == 2 and len(failed) == 1

    def stopped_by_the_reader(progress: Any) -> None:
        work.stop_button.click()
        progress(1, 3)

    work.start("stopped by the reader", stopped_by_the_reader, told.append, failed.append)
    assert len(told) == 2 and failed[1:] == ["Stopped; nothing of it was kept."] and not work.running
