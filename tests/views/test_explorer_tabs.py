"""What the explorer's tabs are told: images that an ablation changes, a class, groups, definitions, files to take away."""

from __future__ import annotations

import asyncio
import io
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from explorer_answers import ask
from simulated_study import simulated_study

import unitlab
from unitlab.errors import UnitlabError

pytest.importorskip("anywidget")

from unitlab.views.explorer.background import BackgroundWork, Stopped

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


@pytest.mark.parametrize(("unit", "category"), [(4, ""), (4, "class 2"), (11, "class 0"), (7, ""), (4, BAD)])
def test_lost_and_won_images_are_those_that_the_ablation_changes(
    explorer: Any, study: xr.Dataset, unit: int, category: str
) -> None:
    found = ask(explorer, "moved", unit=unit, category=category)
    label, before = study.label.values, study.baseline_prediction.values
    after = study.prediction.sel(unit=unit).values
    here = np.ones(300, bool) if not category else study.category.values[label] == category
    lost, won = here & (before == label) & (after != label), here & (before != label) & (after == label)
    assert sorted(found["lost"]) == np.flatnonzero(lost).tolist() and sorted(found["won"]) == np.flatnonzero(won).tolist()
    assert found["of"] == here.sum() and found["swapped"] == (here & (before != after)).sum() - lost.sum() - won.sum()
    drop = study.label_margin_drop.sel(unit=unit).values
    assert (np.diff(drop[found["lost"]]) <= 0).all() and (np.diff(drop[found["won"]]) >= 0).all()
    np.testing.assert_array_equal(found["lost_after"], after[found["lost"]])
    np.testing.assert_allclose(found["lost_margin"] - found["lost_margin_after"], drop[found["lost"]], atol=1e-5)
    counted = unitlab.confusion(study, unit).n_lost.values
    counted = counted if not category else counted[list(study.category.values).index(category)]
    assert sum(row[2] for row in found["pairs"]) + found["rest"] == lost.sum()
    assert max((row[2] for row in found["pairs"]), default=0) == counted.max()


def test_pictures_come_a_page_at_a_time(explorer: Any, study: xr.Dataset) -> None:
    from PIL import Image

    found = ask(explorer, "tiles", images=[5, 9, 200])
    assert found["ids"] == study.image.values[[5, 9, 200]].tolist()
    sheet = np.asarray(Image.open(io.BytesIO(found["sheet"].tobytes())))
    width, height = found["laid_out"]["width"], found["laid_out"]["height"]
    assert sheet.shape[:2] == (height, 3 * width)
    shown = study.thumbnails.values[9]
    assert np.abs(sheet[:, width : 2 * width].astype(int).mean() - shown.mean()) < 12
    without = unitlab.explore(study.drop_vars("thumbnails"), unit=4)
    assert "sheet" not in ask(without, "tiles", images=[5]) and ask(without, "tiles", images=[5])["ids"] == [
        study.image.values[5]
    ]


def test_a_class_has_its_accuracy_and_its_images(explorer: Any, study: xr.Dataset) -> None:
    from statsmodels.stats.proportion import proportion_confint

    found = ask(explorer, "class_images", category="class 2")
    right = study.baseline_prediction.values[study.label.values == 2] == 2
    assert (found["right"], found["of"]) == (right.sum(), len(right))
    low, high = proportion_confint(right.sum(), len(right), method="wilson")
    assert (found["low"], found["high"]) == pytest.approx((low, high))
    assert (np.diff(found["margin"]) >= 0).all() and (study.label.values[found["images"]] == 2).all()
    np.testing.assert_array_equal(found["before"], study.baseline_prediction.values[found["images"]])
    empty = unitlab.explore(simulated_study(5, 4, 60, empty_categories=(1,)), category="class 1")
    assert ask(empty, "class_images", category="class 1")["of"] == 0


def test_a_picture_says_which_units_lose_it(explorer: Any, study: xr.Dataset) -> None:
    found = ask(explorer, "losers", image=17)
    after = study.prediction.values[:, 17]
    assert sorted(row[0] for row in found["units"]) == np.flatnonzero(after != study.baseline_prediction.values[17]).tolist()
    assert all(after[unit] == k for unit, k in found["units"]) and found["label"] == study.label.values[17]


def test_one_unit_together_is_what_the_study_holds(explorer: Any) -> None:
    found, row = ask(explorer, "together", units=[4]), explorer.measures.sel(unit=4)
    np.testing.assert_allclose(found["drop"], 100 * row.accuracy_drop, rtol=1e-6)
    np.testing.assert_allclose(found["low"], 100 * row.drop_low, rtol=1e-6)
    assert found["lost"] == row.n_broken.sum() and found["overall"] == pytest.approx(100 * float(row.overall_drop))


def test_a_study_without_a_recipe_says_what_a_run_needs(explorer: Any) -> None:
    for refused in (
        ask(explorer, "at_hand"),
        ask(explorer, "together", units=[4, 9]),
        ask(explorer, "curve", category="class 1"),
    ):
        assert "does not say how its network is built" in refused["error"]
        assert refused["command"].startswith("unitlab.ablate_groups(model, images")


def test_every_definition_is_the_schema_s(explorer: Any) -> None:
    from unitlab.schema import VARIABLES

    rows = ask(explorer, "definitions")["rows"]
    assert len(rows) > 50
    for name, _, comment in rows:
        assert VARIABLES[name.partition("(")[0]].comment == comment


def test_tables_are_taken_away_as_csv(explorer: Any, study: xr.Dataset) -> None:
    found = ask(explorer, "units_csv", units=[])
    table = pd.read_csv(io.BytesIO(found["content"].tobytes()), index_col="unit")
    assert len(table) == 20 and found["name"] == "simulated_conv5_3_zero_units.csv"
    np.testing.assert_allclose(table["overall_drop"], study.overall_drop)
    cells = ask(explorer, "cells_csv", units=[9, 4])["content"].tobytes()
    table = pd.read_csv(io.BytesIO(cells)).set_index(["unit", "class"])
    assert len(table) == 12 and table.index[0][0] == 9
    damage = unitlab.damage(study)
    assert table.loc[(4, "class 2"), "q_value"] == pytest.approx(float(damage.q_value.sel(unit=4, category="class 2")))


def test_code_and_report_are_taken_away(explorer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert ask(explorer, "code")["code"] == explorer.code()
    found = ask(explorer, "report", units=[], unit=4)
    written = tmp_path / "simulated_conv5_3_zero.html"
    assert str(written) in found["said"] and found["content"].tobytes() == written.read_bytes()
    assert found["progress"][-1] == [20, 20]
    assert "give a file name in a folder that exists" in ask(explorer, "report", units=[], path="nowhere/report.html")["error"]


def test_a_run_is_told_of_and_stopped(explorer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from unitlab.views.explorer.long_work import LONG

    sent: list[dict[str, Any]] = []
    explorer.send = lambda content, buffers=None: sent.append(content)

    def endless(_study: Any, _given: Any, progress: Any) -> Any:
        while True:
            progress(1, 5)
            time.sleep(0.01)

    monkeypatch.setitem(LONG, "curve", endless)

    async def run() -> None:
        explorer._asked(explorer, {"asks": [{"id": "a 1", "kind": "curve"}]}, [])
        while not sent:
            await asyncio.sleep(0.01)
        assert sent[0] == {"id": "a 1", "progress": [1, 5]}
        explorer._asked(explorer, {"asks": [{"id": "a 2", "kind": "stop", "of": "curve"}]}, [])
        await asyncio.sleep(0.2)

    asyncio.run(run())
    assert sent[-1]["id"] == "a 1" and sent[-1]["error"].startswith("Stopped")


def test_background_work_tells_ends_and_fails() -> None:
    work, told, done, failed = BackgroundWork(), [], [], []

    def count(progress: Any) -> int:
        progress(3, 3)
        return 5

    work.start(count, lambda *given: told.append(given), done.append, failed.append)
    assert told == [(3, 3)] and done == [5]
    work.start(lambda progress: unitlab.load("vgg_fashon"), told.append, done.append, failed.append)
    assert len(failed) == 1 and isinstance(failed[0], UnitlabError)

    def stopped(progress: Any) -> None:
        work.stop()
        progress(1, 3)

    work.start(stopped, told.append, done.append, failed.append)
    assert len(done) == 1 and len(failed) == 2 and isinstance(failed[1], Stopped)


def test_two_units_are_compared_as_python_compares_them(explorer: Any, study: xr.Dataset) -> None:
    a = {"study": explorer.study, "layer": explorer.layer, "ablation": explorer.ablation, "unit": 9}
    found, known = ask(explorer, "compare", a=a, unit=4), unitlab.compare(study.sel(unit=9), study.sel(unit=4))
    np.testing.assert_allclose(found["difference"], 100 * known.drop_difference, rtol=1e-6)
    np.testing.assert_allclose(found["low"], 100 * known.difference_low, rtol=1e-6)
    np.testing.assert_allclose(found["b_high"], 100 * known.drop_high[1], rtol=1e-6)
    assert found["jaccard"] == pytest.approx(float(known.jaccard)) and found["neither"] == known.n_lost_neither.sum()
    for name in ("both", "a", "b"):
        assert len(found[f"{name}_images"]) == known[f"n_lost_{name}"].sum()
        np.testing.assert_array_equal(study.label.values[found[f"{name}_images"]], found[f"{name}_class"])
    nothing = ask(explorer, "compare", a=a | {"unit": 7}, unit=7)
    assert nothing["jaccard"] is None
    refused = ask(explorer, "compare", a=a | {"study": "vgg_fashion"}, unit=4)
    assert "error" in refused


def test_units_that_lose_the_same_images_are_alike(explorer: Any, study: xr.Dataset) -> None:
    found = ask(explorer, "alike", unit=4)["units"]
    label, before = study.label.values, study.baseline_prediction.values
    lost = (before == label) & (study.prediction.values != label)
    overlap = (lost & lost[4]).sum(1) / (lost | lost[4]).sum(1)
    overlap[4] = -1
    assert [unit for unit, _ in found] == np.argsort(-overlap, kind="stable")[:8].tolist()
    assert [share for _, share in found] == pytest.approx(np.sort(overlap)[::-1][:8].tolist())


def test_the_wall_has_each_unit_s_best_image(explorer: Any, study: xr.Dataset) -> None:
    found = ask(explorer, "best", units=[9, 7, 4])
    assert [tile and tile["image"] for tile in found["tiles"]] == [
        study.top_image.values[9, 0],
        None,
        study.top_image.values[4, 0],
    ]
    maps = found["maps"].reshape(2, *found["mapped"])
    kept = study.top_map.values[[9, 4], 0].astype(float)
    np.testing.assert_allclose(maps, 255 * kept / kept.max((1, 2), keepdims=True), atol=0.6)
    bare = unitlab.explore(study.drop_vars("thumbnails"))
    assert ask(bare, "best", units=[3])["tiles"] == [None]
