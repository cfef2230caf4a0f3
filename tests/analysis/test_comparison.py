"""Two ablations beside each other, against counts by hand, statsmodels and a simulation of the intervals."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from simulated_study import simulated_study

import unitlab


@pytest.fixture(scope="module")
def study() -> xr.Dataset:
    return simulated_study(20, 6, 900, 3, flip_rate=0.15, specific_unit=4, specific_category=2)


def test_counts_and_drops_are_those_of_the_images(study: xr.Dataset) -> None:
    found = unitlab.compare(study.sel(unit=4), study.sel(unit=9))
    label, before = study.label.values, study.baseline_prediction.values
    lost = {side: (before == label) & (study.prediction.sel(unit=unit).values != label) for side, unit in (("a", 4), ("b", 9))}
    for k in range(6):
        here = label == k
        assert found.n_lost_both[k] == (lost["a"] & lost["b"] & here).sum()
        assert found.n_lost_a[k] == (lost["a"] & ~lost["b"] & here).sum()
        assert found.n_lost_b[k] == (lost["b"] & ~lost["a"] & here).sum()
    total = found.n_lost_both + found.n_lost_a + found.n_lost_b + found.n_lost_neither
    np.testing.assert_array_equal(total, study.n_images)
    assert float(found.jaccard) == (lost["a"] & lost["b"]).sum() / (lost["a"] | lost["b"]).sum()
    drops = study.accuracy_drop.sel(unit=[4, 9]).values
    np.testing.assert_allclose(found.accuracy_drop, drops)
    np.testing.assert_allclose(found.drop_difference, drops[0] - drops[1], atol=1e-12)
    known = unitlab.damage(study)
    np.testing.assert_allclose(found.drop_low, known.drop_low.sel(unit=[4, 9]))
    np.testing.assert_allclose(found.drop_high, known.drop_high.sel(unit=[4, 9]))


def test_the_interval_of_the_difference_is_bonett_and_price_s(study: xr.Dataset) -> None:
    found = unitlab.compare(study.sel(unit=4), study.sel(unit=9))
    label = study.label.values
    right = [study.prediction.sel(unit=unit).values == label for unit in (4, 9)]
    here = label == 2
    n12, n21, n = ((~right[0] & right[1])[here].sum(), (right[0] & ~right[1])[here].sum(), here.sum())
    p12, p21 = (n12 + 1) / (n + 2), (n21 + 1) / (n + 2)
    half = 1.959963984540054 * np.sqrt((p12 + p21 - (p12 - p21) ** 2) / (n + 2))
    assert float(found.difference_low[2]) == pytest.approx(p12 - p21 - half)
    assert float(found.difference_high[2]) == pytest.approx(p12 - p21 + half)
    assert float(found.difference_q[2]) < 0.001 and found.difference_low[2] > 0


def test_two_networks_have_student_s_interval(study: xr.Dataset) -> None:
    other = simulated_study(20, 6, 900, 8, flip_rate=0.15).assign_coords(image=study.image)
    other = other.assign(label=study.label).assign_attrs(
        {name: study.attrs[name] for name in ("fingerprint_images", "fingerprint_labels")}
    )
    found = unitlab.compare(study.sel(unit=4), other.sel(unit=9))
    label = study.label.values
    change = []
    for ds, unit in ((study, 4), (other, 9)):
        before, after = ds.baseline_prediction.values == label, ds.prediction.sel(unit=unit).values == label
        change.append(before.astype(float) - after)
    here = label == 2
    import scipy.stats

    difference = (change[0] - change[1])[here]
    low, high = scipy.stats.t.interval(0.95, here.sum() - 1, difference.mean(), scipy.stats.sem(difference))
    assert (float(found.difference_low[2]), float(found.difference_high[2])) == pytest.approx((low, high))
    assert np.isnan(found.difference_q).all()


def test_a_unit_with_itself_differs_in_nothing(study: xr.Dataset) -> None:
    found = unitlab.compare(study.isel(unit=[4]), study.sel(unit=4))
    assert (found.drop_difference == 0).all() and float(found.jaccard) == 1 and (found.difference_q == 1).all()
    dead = simulated_study(3, 2, 40, dead_units=(0, 1))
    assert np.isnan(unitlab.compare(dead.sel(unit=0), dead.sel(unit=1)).jaccard)


def test_what_cannot_be_compared_is_refused_with_the_field(study: xr.Dataset) -> None:
    one = study.sel(unit=4)
    with pytest.raises(unitlab.UnitlabError, match="b has 20 units; choose one"):
        unitlab.compare(one, study)
    with pytest.raises(unitlab.UnitlabError, match="takes a study with one unit chosen as a"):
        unitlab.compare(study.accuracy_drop, one)
    with pytest.raises(unitlab.UnitlabError, match="fingerprint_images differs"):
        unitlab.compare(one, one.assign_attrs(fingerprint_images="another"))
    with pytest.raises(unitlab.UnitlabError, match="'label' differs"):
        unitlab.compare(one, one.assign(label=one.label[::-1].variable))
    with pytest.raises(unitlab.UnitlabError, match="'image' differs"):
        unitlab.compare(one, one.isel(image=slice(1, None)))
