"""Two ablations beside each other, against counts by hand, statsmodels and a simulation of the intervals."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from simulated_study import simulated_study, study_of_predictions

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
    with pytest.raises(unitlab.UnitlabError, match="b has 20 units and the other side one; choose one"):
        unitlab.compare(one, study)
    with pytest.raises(unitlab.UnitlabError, match="takes a study as a, or one with a unit chosen"):
        unitlab.compare(study.accuracy_drop, one)
    with pytest.raises(unitlab.UnitlabError, match="fingerprint_images differs"):
        unitlab.compare(one, one.assign_attrs(fingerprint_images="another"))
    with pytest.raises(unitlab.UnitlabError, match="'label' differs"):
        unitlab.compare(one, one.assign(label=one.label[::-1].variable))
    with pytest.raises(unitlab.UnitlabError, match="'image' differs"):
        unitlab.compare(one, one.isel(image=slice(1, None)))


@pytest.fixture(scope="module", params=[None, 120])
def studies(request: pytest.FixtureRequest) -> tuple[xr.Dataset, xr.Dataset]:
    """Two kinds of ablation of the same units, of images alone and in clusters; the second one costs more."""
    options = {"specific_unit": 4, "specific_category": 2, "clusters": request.param}
    one, other = (simulated_study(20, 6, 900, 3, flip_rate=rate, **options) for rate in (0.15, 0.25))
    return one, other.assign_attrs(ablation="mean")


def flips_of(ds: xr.Dataset) -> np.ndarray:
    right = ds.baseline_prediction.values == ds.label.values
    return right.astype(int) - (ds.prediction.values == ds.label.values)


def test_classes_of_two_studies_have_student_s_interval_of_the_mean_over_units(studies: tuple[xr.Dataset, xr.Dataset]) -> None:
    import scipy.stats

    one, other = studies
    found = unitlab.compare(one, other, progress=False)
    np.testing.assert_allclose(found.accuracy_drop, [ds.accuracy_drop.mean("unit") for ds in studies], atol=1e-12)
    means = [flips_of(ds).mean(0) for ds in studies]
    here = one.label.values == 1
    for values, name, at in (
        (means[0], "drop", {"side": 0}),
        (means[1], "drop", {"side": 1}),
        (means[0] - means[1], "difference", {}),
    ):
        some = values[here]
        if "cluster" in one:
            sums = np.array(
                [(some - some.mean())[one.cluster.values[here] == c].sum() for c in np.unique(one.cluster.values[here])]
            )
            error, degrees = np.sqrt((sums**2).sum() * len(sums) / (len(sums) - 1)) / len(some), len(sums) - 1
        else:
            error, degrees = scipy.stats.sem(some), len(some) - 1
        expected = scipy.stats.t.interval(0.95, degrees, some.mean(), error)
        limits = [float(found[f"{name}_{end}"].isel(at)[1]) for end in ("low", "high")]
        np.testing.assert_allclose(limits, expected, rtol=1e-9)


def test_the_same_units_are_paired(studies: tuple[xr.Dataset, xr.Dataset]) -> None:
    one, other = studies
    found = unitlab.compare(one, other, progress=False)
    np.testing.assert_allclose(found.unit_drop, [ds.overall_drop for ds in studies])
    np.testing.assert_allclose(found.unit_difference, one.overall_drop - other.overall_drop, atol=1e-12)
    assert (found.unit_difference_low < found.unit_difference).all() and (
        found.unit_difference < found.unit_difference_high
    ).all()
    if "cluster" not in one:
        from scipy.stats import binomtest
        from statsmodels.stats.multitest import multipletests

        after = [ds.prediction.values == ds.label.values for ds in studies]
        lost, won = (~after[0] & after[1]).sum(1), (after[0] & ~after[1]).sum(1)
        n = 900
        p12, p21 = (lost + 1) / (n + 2), (won + 1) / (n + 2)
        half = 1.959963984540054 * np.sqrt((p12 + p21 - (p12 - p21) ** 2) / (n + 2))
        np.testing.assert_allclose(found.unit_difference_low, p12 - p21 - half)
        exact = [binomtest(int(a), int(a + b)).pvalue for a, b in zip(lost, won, strict=True)]
        # the adjustment knows which p each test can have, so that it is no larger than Benjamini and Hochberg's
        assert (found.unit_difference_q.values <= multipletests(exact, method="fdr_bh")[1] + 1e-12).all()
    for row, name in enumerate(("overall_drop", "max_class_drop_crossfit")):
        means = [float(unitlab.damage(ds)[name].mean()) for ds in studies]
        np.testing.assert_allclose(found.mean_drop[:, row], means)
        np.testing.assert_allclose(found.mean_difference[row], means[0] - means[1])
    assert (found.mean_difference_high.sel(measure="overall_drop") < 0).all(), "more flips cost more"


def test_correlations_of_two_studies_are_scipys_and_within_their_intervals(studies: tuple[xr.Dataset, xr.Dataset]) -> None:
    import scipy.stats

    one, other = studies
    found = unitlab.compare(one, other, progress=False).set_index(correlated="correlated")
    drops = [ds.accuracy_drop.values for ds in studies]
    expected = {
        "overall_drop of units": (one.overall_drop, other.overall_drop),
        "accuracy_drop of cells": [drop.ravel() for drop in drops],
        "mean accuracy_drop of classes": [drop.mean(0) for drop in drops],
    }
    for name, columns in expected.items():
        row = found.sel(correlated=name)
        assert float(row.spearman) == pytest.approx(scipy.stats.spearmanr(*columns).statistic)
        assert float(row.pearson) == pytest.approx(scipy.stats.pearsonr(*columns).statistic)
        assert row.spearman_low < row.spearman < row.spearman_high and row.pearson_low < row.pearson < row.pearson_high
        assert str(row.sampling.values) == ("classes and images" if "classes" in name else "units and images")
    same = unitlab.compare(one, one, progress=False)
    assert (same.unit_difference == 0).all() and (same.difference_q == 1).all() and (same.mean_difference_p == 1).all()
    assert np.allclose(same.spearman, 1) and np.isnan(same.spearman_low).all(), "1 has no z"


def test_two_networks_and_two_layers_are_compared_by_class(study: xr.Dataset) -> None:
    other = simulated_study(14, 6, 900, 3, flip_rate=0.3).assign_attrs(layer="conv4_3")
    found = unitlab.compare(study, other, progress=False)
    assert "unit_drop" not in found and list(found.correlated.values) == ["mean accuracy_drop of classes"]
    assert found.attrs["a"].startswith("simulated conv5_3") and found.attrs["b"].startswith("simulated conv4_3")
    another = simulated_study(20, 6, 900, 8, flip_rate=0.15).assign_coords(image=study.image).assign(label=study.label)
    images = {name: study.attrs[name] for name in ("fingerprint_images", "fingerprint_labels")}
    assert "unit_drop" not in unitlab.compare(study, another.assign_attrs(images), progress=False)


def test_the_interval_of_the_mean_difference_covers() -> None:
    """Images drawn anew: the units and what they do to an image are fixed."""
    rates = np.random.default_rng(0).uniform(0.02, 0.3, (2, 8, 4))
    truth, covered = (rates[0] - rates[1]).mean(), 0
    for seed in range(25):
        random = np.random.default_rng(seed)
        label = np.arange(240) % 4
        sides = []
        for rate in rates:
            broken = random.random((8, 240)) < rate[:, label]
            sides.append(study_of_predictions(label, label, np.where(broken, (label + 1) % 4, label), 4))
        found = unitlab.compare(*sides, progress=False).sel(measure="overall_drop")
        covered += bool(found.mean_difference_low <= truth <= found.mean_difference_high)
    assert covered >= 21  # of 25, where 95 % intervals have fewer in 1 of 150 seeds


@pytest.mark.parametrize("units", [2, 5])
def test_empty_classes_and_dead_units_have_no_numbers_and_warn_of_nothing(units: int) -> None:
    options = {"empty_categories": (3,), "dead_units": (1,), "clusters": 40}
    one, other = (simulated_study(units, 5, 200, 1, flip_rate=rate, **options) for rate in (0.1, 0.2))
    found = unitlab.compare(one, other, progress=False)
    for name in ("accuracy_drop", "drop_difference", "difference_q"):
        assert found[name].sel(category="class 3").isnull().all()
        assert found[name].drop_sel(category="class 3").notnull().all()
    assert found.unit_difference.sel(unit=1) == 0 and found.unit_difference_q.sel(unit=1) == 1
    assert int(found.n_correlated[-1]) == 4 and found.mean_difference.notnull().all()
    assert len(found.correlated) == (1 if units == 2 else 4), "a correlation over units needs three"
