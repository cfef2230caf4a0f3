"""The units of a class are those of `unitlab.damage`, sorted, with whether they prefer it."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from simulated_study import simulated_study

import unitlab


@pytest.fixture(scope="module")
def study() -> xr.Dataset:
    ds = simulated_study(
        12, 5, 900, 2, flip_rate=0.08, specific_unit=4, specific_category=2, baseline_accuracy=0.5, empty_categories=(3,)
    )
    sevens = {name: 7 * ds[name] for name in ("label", "baseline_prediction", "prediction")}
    return ds.assign(sevens).assign_coords(category_index=7 * ds.category_index)


def test_units_are_sorted_and_say_what_damage_says(study: xr.Dataset) -> None:
    found, damage, known = unitlab.units_of(study, "class 2"), unitlab.damage(study), unitlab.attributes(study)
    assert sorted(found.unit.values) == list(range(12)) and found.unit[0] == 4 and str(found.category.values) == "class 2"
    assert (np.diff(found.accuracy_drop.values) <= 0).all()
    for name in ("accuracy_drop", "drop_low", "q_value", "margin_specific", "margin_specific_q_value", "n_changed"):
        np.testing.assert_array_equal(found[name], damage[name].values[found.unit.values, 2])
        assert found[name].attrs["comment"]
    selectivity = known.class_selectivity_by_class.values
    for unit in found.unit.values:
        row, own = found.sel(unit=unit), selectivity[unit]
        assert row.selectivity_rank == 1 + (own > own[2]).sum()
        assert bool(row.selective) == (np.nanargmax(own) == 2)
        assert row.class_selectivity_by_class == own[2]
    assert bool(found.damaged.sel(unit=4)) and not found.helped.any()
    xr.testing.assert_identical(unitlab.units_of(study, 14), found)


def test_units_without_which_a_class_does_better_come_last() -> None:
    ds = simulated_study(12, 5, 900, 2, flip_rate=0.03, baseline_accuracy=0.5)
    label, after = ds.label.values, ds.prediction.values.copy()
    wrong = (ds.baseline_prediction.values != label) & (label == 1)
    after[7, wrong] = 1
    right, now = ds.baseline_prediction.values == label, after == label
    counts = {
        name: (("unit", "category"), np.stack([[(some[u] & (label == k)).sum() for k in range(5)] for u in range(12)]))
        for name, some in (("n_broken", right & ~now), ("n_fixed", ~right & now))
    }
    drop = (counts["n_broken"][1] - counts["n_fixed"][1]) / ds.n_images.values
    overall = (right.sum() - now.sum(1)) / 900
    n_predicted = np.stack([np.bincount(row, minlength=5) for row in after])
    ds = ds.assign(
        prediction=ds.prediction.copy(data=after), accuracy_drop=ds.accuracy_drop.copy(data=drop),
        overall_drop=ds.overall_drop.copy(data=overall), n_predicted=ds.n_predicted.copy(data=n_predicted), **counts,
    )  # fmt: skip
    found = unitlab.units_of(ds, 1)
    assert found.unit[-1] == 7 and bool(found.helped[-1]) and not found.damaged[-1]
    assert "wins without 1 unit (7)" in found.attrs["finding"]


def test_too_few_images_are_said_in_words_and_bad_classes_refused(study: xr.Dataset) -> None:
    few = unitlab.units_of(simulated_study(6, 6, 60, 1), 0)
    assert few.attrs["n_tested"] == 0 and few.attrs["tested"].startswith("Too few images: 0 of 6 units can be tested")
    assert "loses accuracy without none" in few.attrs["finding"]
    with pytest.raises(unitlab.UnitlabError, match=r"no class 'clas 2'. Did you mean 'class 2'"):
        unitlab.units_of(study, "clas 2")
    with pytest.raises(unitlab.UnitlabError, match="no class number 2; its 5 are 0, 7, 14"):
        unitlab.units_of(study, 2)
    with pytest.raises(unitlab.UnitlabError, match=r"by its name or number; given: 1\.5"):
        unitlab.units_of(study, 1.5)  # type: ignore[arg-type]
    with pytest.raises(unitlab.UnitlabError, match="no image of 'class 3'"):
        unitlab.units_of(study, "class 3")
